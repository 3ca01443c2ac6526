"""The notebook runs from top to bottom, and is committed without what it printed."""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def code_cells():
    return [
        cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"
    ]


def test_it_is_committed_clean():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (
        4,
        5,
    ) and book.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells())
    parameters = [cell for cell in code_cells() if "parameters" in cell.metadata.get("tags", ())]
    assert len(parameters) == 1 and '"demo")' in parameters[0].source


def test_it_leaves_the_jax_of_a_runtime_alone():
    """Whatever installs packages is held by a constraint, upgrades nothing, and never asks for jax."""
    installing = [cell.source for cell in code_cells() if "pip" in cell.source]
    assert (
        len(installing) == 1
        and "--constraint" in installing[0]
        and 'startswith("jax")' in installing[0]
    )
    for cell in code_cells():
        assert not re.search(r"(^|[\s\"'])(-U|--upgrade|--force-reinstall)\b", cell.source)
        assert not re.search(r"pip install(?!.*--constraint).*\bjax", cell.source)


def test_it_runs(tmp_path, monkeypatch):
    """With the smallest settings, as from a fresh clone: no cell fails, and the table and an answer are there."""
    for name in ("reasoning_jax", "configs", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REASONING_NOTEBOOK_SETTINGS", "smoke")
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as on Colab
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    book = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()

    outputs = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    said = {name: "".join(o.get("text", "") for o in parts) for name, parts in outputs.items()}
    data = {name: [o.data for o in parts if "data" in o] for name, parts in outputs.items()}
    assert "nothing, all was there" in said["install"]
    assert any("image/png" in d for d in data["train"])
    assert re.search(r"accuracy, %.*digits 1.*digits 2.*all", said["table"])
    assert (
        re.search(r"validation, round 2 .*\d+\.\d ± \d", said["table"])
        and "test, base" in said["table"]
    )
    assert len(data["samples"]) == 2 and "samples of round 1" in data["samples"][0]["text/html"]
    assert re.search(r"^answer: (\d+|none)", said["ask"], re.MULTILINE)
    assert "report.html" in data["report"][0]["text/html"]
    assert (tmp_path / "runs" / "quickstart_smoke" / "report.html").exists()
