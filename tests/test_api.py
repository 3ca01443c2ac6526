"""What a notebook imports: training as an iterator, and a run on disk as an object."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from cluster import TINY
from orbax.checkpoint import v1 as ocp

import reasoning_jax as rj
from reasoning_jax import api
from reasoning_jax import config as configuration
from reasoning_jax.errors import MissingFileError

ROOT = Path(__file__).resolve().parent.parent
STAR = str(ROOT / "configs" / "star_addition.py:smoke")
SMALL = TINY | {
    "rounds.updates": 5,
    "rounds.increment": 1,
    "checkpoint.every": 16,
    "eval.test_every": 4,
}


def config():
    return rj.load_config(STAR, **SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a whole run, and what it yielded. Not to be changed."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return folder, [*rj.train(config(), folder)]


def saved(folder):
    """Every array of the newest checkpoint, bit by bit."""
    checkpoints = (folder / "checkpoints").resolve()
    newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    quiet = warnings.catch_warnings(action="ignore")
    with ocp.training.Checkpointer(checkpoints) as checkpointer, quiet:
        tree = checkpointer.load_checkpointables(newest)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def without_clocks(lines):
    clocks = ("time", "seconds", "per_second", "compilations")
    return [{k: v for k, v in line.items() if not k.endswith(clocks)} for line in lines]


# ---- training ----------------------------------------------------------------------------------


def test_events_are_the_lines_of_the_log(run):
    folder, events = run
    lines = rj.open(folder).metrics
    assert {event.phase for event in events} == {"collect", "update", "eval"}
    assert len(events) == len(lines)
    for event, line in zip(events, lines, strict=True):
        assert (event.phase, event.round, event.step) == (
            line["phase"],
            line["round"],
            line["step"],
        )
        assert event.split == line.get("split")
        for name, value in event.values.items():
            assert line[name] == value
        others = {"step", "round", "phase", "time", "split", "samples"}
        assert set(line) - others == set(event.values)
    assert (folder / "report.html").exists()


def test_whoever_stops_early_goes_on_to_the_same_bits(run, tmp_path):
    """In every phase. And the run may be asked while it trains."""
    whole, _ = run
    folder = tmp_path / "run"
    stops = [
        lambda e: (e.phase, e.round, e.step) == ("update", 0, 20),
        lambda e: (e.phase, e.round) == ("eval", 0),
        lambda e: (e.phase, e.round) == ("collect", 1),
        lambda e: (e.phase, e.split, e.round) == ("eval", "validation", 2),
    ]
    answers = []
    for stop in stops:
        stopped = False
        for event in rj.train(config(), folder):
            if stop(event):
                stopped = True
                break
            if event.split == "test":
                answers += rj.open(folder).sample(["1+2"])
        assert stopped
    assert len(answers) == 1
    assert not (folder / "report.html").exists()
    events = [*rj.train(config(), folder)]
    assert events and (folder / "report.html").exists()
    assert saved(folder) == saved(whole)
    logged = rj.open(folder).metrics
    assert without_clocks(logged) == without_clocks(rj.open(whole).metrics)


def test_a_finished_run_yields_nothing_more(run, capsys):
    folder, _ = run
    before = (folder / "metrics.jsonl").read_bytes()
    assert [*rj.train(config(), folder)] == []
    assert "this run is finished" in capsys.readouterr().out
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_mistake_raises(run, tmp_path):
    folder, _ = run
    cfg = config()
    cfg.optim.learning_rate = 0.5
    with pytest.raises(rj.UserError, match="optim.learning_rate was 0.001 and is now 0.5"):
        next(rj.train(cfg, folder))
    cfg.batch_size = 0
    with pytest.raises(rj.UserError, match="config.batch_size: 0"):
        next(rj.train(cfg, tmp_path / "new"))
    with pytest.raises(rj.UserError, match=r"config\.rounds\.cuont"):
        rj.load_config(STAR, **{"rounds.cuont": 3})
    with pytest.raises(rj.UserError, match="missing.py"):
        rj.load_config(str(tmp_path / "missing.py"))


# ---- a run on disk -----------------------------------------------------------------------------


def test_the_records_of_a_run(run):
    folder, _ = run
    saved_run = rj.open(str(folder))
    assert repr(saved_run) == f"SavedRun({str(folder)!r})"
    assert saved_run.config == config()
    for n in (1, 2):
        samples = saved_run.samples(n)
        text = (folder / f"rounds/000{n}/samples.jsonl").read_text()
        assert samples == [json.loads(line) for line in text.splitlines()]
        assert len(samples) >= 16
        assert {"question", "rationale", "answer", "gold", "verdict", "hinted"} <= set(samples[0])
    with pytest.raises(MissingFileError, match="the samples of round 3 are not written"):
        saved_run.samples(3)


def test_evaluating_gives_what_was_logged_and_writes_a_file(run):
    folder, _ = run
    saved_run = rj.open(folder)
    values = saved_run.evaluate(split="validation", samples=2, temperature=1.0)
    evaluations = [
        line
        for line in saved_run.metrics
        if line["phase"] == "eval" and line["split"] == "validation"
    ]
    [logged] = [line for line in evaluations if line["round"] == values["round"]]
    assert logged["eval/accuracy"] == max(line["eval/accuracy"] for line in evaluations)
    for name in ("eval/accuracy", "eval/accuracy_stderr", "eval/truncated", "eval/count"):
        assert values[name] == logged[name]
    assert values["split"] == "validation" and values["samples"] == 2
    assert 0 <= values["eval/pass_at_1"] <= values["eval/pass_at_2"] <= 1
    path = folder / "evaluation_validation.json"
    assert saved_run.evaluation_path("validation") == path
    assert json.loads(path.read_text()) == values
    cfg = configuration.rebuild(folder)
    cfg.eval.num_examples = 3  # the file says what was changed
    assert api.SavedRun(folder, cfg).evaluate(split="validation")["eval/count"] == 3
    assert json.loads(path.read_text())["config"] == {"eval.num_examples": 3}
    with pytest.raises(rj.UserError, match="no split 'tst'"):
        saved_run.evaluate(split="tst")
    with pytest.raises(rj.UserError, match="temperature"):
        saved_run.evaluate(samples=2, temperature=0.0)


def test_asking_gives_records(run):
    folder, _ = run
    saved_run = rj.open(folder)
    first, second = saved_run.sample(["1+2", "3 + 4 = ?"])
    assert (first["question"], second["question"]) == ("1+2", "3+4")
    for record in (first, second):
        assert set(record) == {"question", "rationale", "answer", "finished"}
        assert record["finished"] or record["answer"] is None
    assert saved_run.sample(["1+2"]) == [first]  # the most likely one, again
    drawn = saved_run.sample(["1+2"] * 4, temperature=3.0)
    assert len({record["rationale"] for record in drawn}) > 1
    for question, words in (("", "empty"), ("what?", "alphabet"), ("1" * 120, "too long")):
        with pytest.raises(rj.UserError, match=words):
            saved_run.sample([question])


def test_asking_and_evaluating_leave_the_mesh_of_the_process_alone(run):
    folder, _ = run
    saved_run = rj.open(folder)
    before = jax.sharding.get_mesh()
    saved_run.sample(["1+2"])
    saved_run.evaluate(split="validation")
    assert jax.sharding.get_mesh() == before


def test_a_folder_that_holds_no_run_is_named(run, tmp_path):
    with pytest.raises(MissingFileError, match=f"{tmp_path}.*config.json"):
        rj.open(tmp_path)
    (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
    empty = rj.open(tmp_path)
    with pytest.raises(rj.UserError, match="no checkpoint"):
        empty.evaluate()
    with pytest.raises(rj.UserError, match="no checkpoint"):
        empty.sample(["1+2"])
    with pytest.raises(MissingFileError, match="metrics.jsonl"):
        _ = empty.metrics


# ---- the package -------------------------------------------------------------------------------


def test_importing_the_package_does_not_wait_for_jax():
    script = """if True:
        import sys
        import reasoning_jax as rj
        assert {"train", "open", "load_config", "get_config", "UserError"} <= set(rj.__all__)
        rj.UserError
        assert "jax" not in sys.modules
        try:
            rj.traim
        except AttributeError as error:
            assert "traim" in str(error)
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rj.get_config(task="gsm8k").grader.name == "math"
