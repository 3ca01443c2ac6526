"""The documentation: what a page says is done, and links and keys lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE_BLOCK = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_configs_and_keys_that_a_page_names_exist(page):
    from reasoning_jax import algorithms, default, tasks, workdir

    text = page.read_text()
    for name in re.findall(r"configs/(\w+)\.py", text):
        made_there = (f"`configs/{name}.py`:\n" in text) or name in ("X",)
        assert made_there or (ROOT / "configs" / f"{name}.py").exists(), name
    configs = [default.get_config(name) for name in algorithms.names()]
    configs += [default.get_config(task=name) for name in tasks.names()]
    configs.append(default.get_config(grader="rewards"))
    configs += [default.get_config(forward=name) for name in ("pause", "coconut", "quiet_star")]
    configs += [default.get_config(system=name) for name in ("cove", "s2a", "bsm")]
    keys = {key for cfg in configs for key in workdir.flat(cfg.to_dict())}
    for key in re.findall(r"--config\.([a-z_]{2,}\.[a-z_.]+?)[=\s`]", text):
        assert key in keys or key.endswith(".name"), key


def test_the_configuration_page_is_what_the_code_says():
    command = [sys.executable, str(ROOT / "docs" / "make_configuration.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_method_is_added_as_the_page_says(tmp_path):
    """The page's three files, in a copy of the code: its command trains, and its test passes."""
    for name in ("reasoning_jax", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    blocks = FILE_BLOCK.findall((ROOT / "docs" / "add_a_method.md").read_text())
    assert [path for path, _ in blocks] == [
        "reasoning_jax/algorithms/shortest.py",
        "configs/shortest_addition.py",
        "tests/test_shortest.py",
    ]
    for path, content in blocks:
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(content)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = [sys.executable, "-m", "reasoning_jax.main", f"--workdir={tmp_path / 'run'}"]
    run.append("--config=configs/shortest_addition.py:smoke")
    test = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_shortest.py",
    ]
    for command in (run, test):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "report.html").exists()
