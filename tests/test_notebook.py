"""The notebook runs from top to bottom, and is committed without what it printed."""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells():
    return [cell for cell in read().cells if cell.cell_type == "code"]


def test_it_is_committed_clean():
    book = read()
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells())
    parameters = [cell for cell in code_cells() if "parameters" in cell.metadata.get("tags", ())]
    assert len(parameters) == 1 and '"demo")' in parameters[0].source


def test_it_leaves_the_jax_of_a_runtime_alone():
    """Whatever installs packages is held by a constraint, upgrades nothing, never asks for jax."""
    [installing] = [cell.source for cell in code_cells() if "pip" in cell.source]
    assert "--constraint" in installing and 'startswith("jax")' in installing
    for cell in code_cells():
        assert not re.search(r"(^|[\s\"'])(-U|--upgrade|--force-reinstall)\b", cell.source)
        assert not re.search(r"pip install(?!.*--constraint).*\bjax", cell.source)


def test_it_runs(tmp_path, monkeypatch):
    """With the smallest settings, as from a fresh clone.

    No cell fails, and the plot, the table, samples and an answer are there.
    """
    for name in ("reasoning_jax", "configs", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REASONING_NOTEBOOK_SETTINGS", "smoke")
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as on Colab
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    book = read()
    folder = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=folder).execute()

    text, data = {}, {}
    for cell in book.cells:
        if cell.cell_type == "code":
            text[cell.id] = "".join(output.get("text", "") for output in cell.outputs)
            data[cell.id] = [output.data for output in cell.outputs if "data" in output]
    assert "nothing, all was there" in text["install"]
    assert any("image/png" in d for d in data["train"])
    assert re.search(r"accuracy, %.*digits 1.*digits 2.*all", text["table"])
    assert re.search(r"validation, round 2 .*\d+\.\d ± \d", text["table"])
    assert "test, base" in text["table"]
    assert re.search(r"^pass@4: \d+\.\d ± \d", text["votes"], re.MULTILINE)
    assert len(data["samples"]) == 2 and "samples of round 1" in data["samples"][0]["text/html"]
    assert re.search(r"^answer: (\d+|none)", text["ask"], re.MULTILINE)
    assert "report.html" in data["report"][0]["text/html"]
    assert (tmp_path / "runs" / "quickstart_smoke" / "report.html").exists()


def test_it_trains_in_the_kernel_and_may_stop_early():
    """The package is imported and not run as a command; training is a loop over its events."""
    source = "\n".join(cell.source for cell in code_cells())
    assert "import reasoning_jax as rj" in source
    assert "for event in rj.train(cfg, WORKDIR):" in source
    assert "reasoning_jax.main" not in source and "Popen" not in source
