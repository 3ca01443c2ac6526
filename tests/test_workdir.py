"""workdir.py: who may go on in a work directory, and what a round leaves there."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from reasoning_jax import workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import CORRECT, Example


def same(config: dict) -> dict:
    return config


def config(**changes) -> ConfigDict:
    cfg = ConfigDict({"seed": 0, "rounds": {"count": 2, "examples": 8}, "mesh": {"data": -1}})
    cfg.update(changes)
    return cfg


def test_a_run_goes_on_with_its_own_config(tmp_path):
    run = tmp_path / "run"
    workdir.claim(config(), run, same)
    assert workdir.read_config(run) == config().to_dict()
    workdir.claim(config(seed=1), run, same)  # nothing was computed with the first one
    (run / "metrics.jsonl").touch()
    workdir.claim(config(seed=1, rounds={"count": 5}, mesh={"data": 2}), run, same)
    assert workdir.read_config(run)["rounds"]["count"] == 5
    changed = config(seed=1, rounds={"examples": 9})
    with pytest.raises(UserError, match=r"another config: rounds\.examples was 8 and is now 9; "):
        workdir.claim(changed, run, same)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="is not empty and not the work directory of a run"):
        workdir.claim(config(), run, same)
    with pytest.raises(UserError, match="is not empty and not the work directory of a run"):
        workdir.claim(config(), run / "metrics.jsonl", same)


def test_the_config_of_an_older_version_is_upgraded_before_it_is_compared(tmp_path):
    old = {"seed": 0, "algorithm": {"num_rounds": 2, "examples_per_round": 8}}
    (tmp_path / "config.json").write_text(json.dumps(old | {"mesh": {"data": -1}}))
    (tmp_path / "metrics.jsonl").touch()

    def upgrade(config: dict) -> dict:
        section = config.pop("algorithm")
        counts = {"count": section["num_rounds"], "examples": section["examples_per_round"]}
        return config | {"rounds": counts}

    with pytest.raises(UserError, match="rounds.examples was 8 and is now 9"):
        workdir.claim(config(rounds={"examples": 9}), tmp_path, upgrade)
    workdir.claim(config(), tmp_path, upgrade)
    assert workdir.read_config(tmp_path) == config().to_dict()


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(MissingFileError, match=r"it has no config\.json"):
        workdir.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: this is not the config of a run"):
        workdir.read_config(tmp_path)


def test_rows_and_memory_are_read_as_they_were_written(tmp_path):
    rows = [
        {"tokens": np.arange(n, dtype=np.int32), "weights": np.full(n, n / 3, np.float32)}
        for n in (3, 1, 5)
    ]
    memory = (np.arange(4.0), {"a": np.ones((2, 2), bool)})
    path = tmp_path / "rows.npz"
    workdir.write_rows(path, rows, memory)
    read, (first, second) = workdir.read_rows(path, memory)
    assert len(read) == 3 and all(list(row) == ["tokens", "weights"] for row in read)
    for row, expected in zip(read, rows, strict=True):
        for key, array in expected.items():
            assert row[key].dtype == array.dtype and np.array_equal(row[key], array)
    assert np.array_equal(first, memory[0]) and np.array_equal(second["a"], memory[1]["a"])
    workdir.write_rows(path, [], ())
    assert workdir.read_rows(path, ()) == ([], ())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"rows\.npz: .* is damaged"):
        workdir.read_rows(path, ())


def test_rows_of_an_older_version_get_the_names_of_today(tmp_path):
    path, arrays = tmp_path / "rows.npz", {"lengths": np.array([2, 1])}
    for i, key in enumerate(("tokens", "share", "part", "place", "ref")):
        arrays[f"row_{key}"] = np.arange(3) + 10 * i
    workdir.write_arrays(path, arrays)
    (first, second), _ = workdir.read_rows(path, ())
    assert list(first) == ["tokens", "normaliser", "side", "position", "ref"]
    assert first["normaliser"].tolist() == [10, 11] and second["position"].tolist() == [32]


@pytest.mark.parametrize("difficulty", [None, ("digits", 3)])
def test_samples_are_written_a_line_each(tmp_path, difficulty):
    task = types.SimpleNamespace(difficulty=lambda example: difficulty)
    fields = {"text": "é\n2", "answer": "2", "verdict": CORRECT, "wrong_line": None}
    samples = [
        types.SimpleNamespace(
            example=Example(id=7, question="1+1", answer="2"),
            hinted=hinted,
            tokens=np.zeros(4, np.int32),
            key=(7, 0, hinted),
            **fields,
        )
        for hinted in (False, True)
    ]
    path = tmp_path / "samples.jsonl"
    workdir.write_samples(path, samples, {(7, 0, True)}, task)
    first, second = workdir.read_lines(path)
    assert first == {
        "id": 7,
        "question": "1+1",
        "rationale": "é\n2",
        "answer": "2",
        "gold": "2",
        "verdict": "correct",
        "hinted": False,
        "kept": False,
        "wrong_line": None,
        "tokens": 4,
        "difficulty": None if difficulty is None else ["digits", 3],
    }
    assert second == first | {"hinted": True, "kept": True}
