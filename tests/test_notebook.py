"""The notebooks run from top to bottom, and are committed without what they printed."""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from compiling import XLA_FLAGS
from published import chat_model, gsm8k_of_one_length

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("quickstart", "your_model")
each = pytest.mark.parametrize("name", NAMES)


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def execute(name, tmp_path, monkeypatch):
    """Runs it with the smallest settings, as from a fresh clone; text and data by cell."""
    for part in ("reasoning_jax", "configs", "requirements.txt"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REASONING_NOTEBOOK_SETTINGS", "smoke")
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAGS)  # one device, as on Colab
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    book = read(name)
    folder = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=folder).execute()

    text, data = {}, {}
    for cell in book.cells:
        if cell.cell_type == "code":
            text[cell.id] = "".join(output.get("text", "") for output in cell.outputs)
            data[cell.id] = [output.data for output in cell.outputs if "data" in output]
    assert "nothing, all was there" in text["install"]
    assert any("image/png" in d for d in data["train"])
    return text, data


@each
def test_it_is_committed_clean(name):
    book = read(name)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(name))
    parameters = [
        cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(parameters) == 1 and '"demo")' in parameters[0].source


@each
def test_it_leaves_the_jax_of_a_runtime_alone(name):
    """Whatever installs packages is held by a constraint, upgrades nothing, never asks for jax."""
    [installing] = [cell.source for cell in code_cells(name) if "pip" in cell.source]
    assert "--constraint" in installing and 'startswith("jax")' in installing
    for cell in code_cells(name):
        assert not re.search(r"(^|[\s\"'])(-U|--upgrade|--force-reinstall)\b", cell.source)
        assert not re.search(r"pip install(?!.*--constraint).*\bjax", cell.source)


@pytest.mark.slow
def test_quickstart_runs(tmp_path, monkeypatch):
    """No cell fails, and the plot, the table, samples and an answer are there."""
    text, data = execute("quickstart", tmp_path, monkeypatch)
    assert re.search(r"accuracy, %.*digits 1.*digits 2.*all", text["table"])
    assert re.search(r"validation, round 2 .*\d+\.\d ± \d", text["table"])
    assert "test, base" in text["table"]
    assert re.search(r"^pass@4: \d+\.\d ± \d", text["votes"], re.MULTILINE)
    assert len(data["samples"]) == 2 and "samples of round 1" in data["samples"][0]["text/html"]
    assert re.search(r"^answer: (\d+|none)", text["ask"], re.MULTILINE)
    assert "report.html" in data["report"][0]["text/html"]
    assert (tmp_path / "runs" / "quickstart_smoke" / "report.html").exists()


@pytest.mark.slow
def test_your_model_runs(tmp_path, monkeypatch, data_dir):
    """On a random model: it answers before and after, and is exported with its adapter."""
    monkeypatch.setenv("REASONING_NOTEBOOK_MODEL", str(chat_model(tmp_path / "model")))
    shard = gsm8k_of_one_length(data_dir / "gsm8k", tmp_path / "gsm8k")
    monkeypatch.setenv("REASONING_NOTEBOOK_DATA", str(shard))
    text, _ = execute("your_model", tmp_path, monkeypatch)
    for cell in ("before", "after"):
        assert re.search(r"^answer: (\d+|None)", text[cell], re.MULTILINE)
        assert re.search(r"^accuracy on 4 questions: \d+\.\d ± \d", text[cell], re.MULTILINE)
    adapter, merged = re.findall(r"^\[.*\]$", text["export"], re.MULTILINE)
    assert "adapter_config.json" in adapter and "adapter_model.safetensors" in adapter
    assert "model.safetensors" in merged and "tokenizer_config.json" in merged


@each
def test_it_trains_in_the_kernel_and_may_stop_early(name):
    """The package is imported and not run as a command; training is a loop over its events."""
    source = "\n".join(cell.source for cell in code_cells(name))
    assert "import reasoning_jax as rj" in source
    assert "for event in rj.train(cfg, WORKDIR):" in source
    assert "reasoning_jax.main" not in source and "Popen" not in source
