"""A command that trains asks for huge pages by starting itself again, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasoning_jax import huge_pages

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def support(tmp_path, monkeypatch):
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "SUPPORT", path)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "glibc.malloc.hugetlb=1"), ("a.b=2", "a.b=2:glibc.malloc.hugetlb=1")],
)
def test_it_starts_the_same_command_with_the_setting(support, monkeypatch, before, after):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    huge_pages.use()
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    assert os.environ["GLIBC_TUNABLES"] == after
    huge_pages.use()
    assert len(started) == 1


def test_where_there_are_none_nothing_happens(support, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execv", lambda *command: pytest.fail("started again"))
    support.write_text("always madvise [never]\n")
    huge_pages.use()
    support.unlink()
    huge_pages.use()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.skipif(not huge_pages.SUPPORT.exists(), reason="no transparent huge pages here")
def test_a_command_keeps_its_arguments_and_its_exit_code(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    config, workdir = "--config=no such/file.py", f"--workdir={tmp_path / 'run'}"
    command = [sys.executable, "-m", "reasoning_jax.main", config, workdir]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1
    assert "no such/file.py" in done.stderr
    assert "Traceback" not in done.stderr
