"""workdir.py: who may go on in a work directory, and what a round leaves there."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from reasoning_jax import rows_file, workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.run_lock import RunLock
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
    for text in ("{", "", "[1]", "5", "null", '""', '{"a":' * 10_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json: this is not the config of a run"):
            workdir.read_config(tmp_path)


def test_rows_and_memory_are_read_as_they_were_written(tmp_path):
    rows = [
        {"tokens": np.arange(n, dtype=np.int32), "weights": np.full(n, n / 3, np.float32)}
        for n in (3, 1, 5)
    ]
    memory = (np.arange(4.0), {"a": np.ones((2, 2), bool)})
    path = tmp_path / "rows.npz"
    rows_file.write_rows(path, rows, memory)
    read, (first, second) = rows_file.read_rows(path, memory)
    assert len(read) == 3 and all(list(row) == ["tokens", "weights"] for row in read)
    for row, expected in zip(read, rows, strict=True):
        for key, array in expected.items():
            assert row[key].dtype == array.dtype and np.array_equal(row[key], array)
    assert np.array_equal(first, memory[0]) and np.array_equal(second["a"], memory[1]["a"])
    rows_file.write_rows(path, [], ())
    assert rows_file.read_rows(path, ()) == ([], ())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"rows\.npz: .* is damaged"):
        rows_file.read_rows(path, ())


def damaged_rows():
    """Members of a rows.npz, each with a value that it must not have; None: it is not there."""
    good = {
        "round": np.int64(2),
        "lengths": np.array([2, 1]),
        "row_tokens": np.arange(3, dtype=np.int32),
        "row_weights": np.ones(3, np.float32),
        "memory_0": np.zeros((2, 2), np.float32),
    }
    changes = [("round", np.int64(3)), ("round", np.zeros(2)), ("lengths", np.array([2, 2]))]
    changes += [("lengths", np.array([4, -1])), ("lengths", np.array([2.0, 1.0]))]
    changes += [("lengths", np.array([[2, 1]])), ("memory_0", np.zeros((2, 3), np.float32))]
    changes += [(name, None) for name in good if name != "round"]
    changes += [(name, np.arange(3)) for name in ("row_tokens", "row_weights", "memory_0")]
    changes += [("row_weights", np.ones((3, 1), np.float32))]
    changes += [("row_tokens", np.array(["a", None, {}], object))]
    return good, changes


@pytest.mark.parametrize("number", range(len(damaged_rows()[1])))
def test_rows_of_other_types_or_lengths_are_one_sentence(tmp_path, number):
    good, changes = damaged_rows()
    path, keys = tmp_path / "rows.npz", {"tokens", "weights"}
    workdir.write_arrays(path, good)
    rows, _ = rows_file.read_rows(path, good["memory_0"], 2, keys)
    assert [len(row["tokens"]) for row in rows] == [2, 1]
    name, value = changes[number]
    arrays = {**good, name: value}
    workdir.write_arrays(path, {key: x for key, x in arrays.items() if x is not None})
    with pytest.raises(UserError, match=r"rows\.npz: this file, the round's rows to train on, "):
        rows_file.read_rows(path, good["memory_0"], 2, keys)


@pytest.mark.parametrize("kind", ["folder", "empty", "text", "npy", "pickle"])
def test_what_is_no_rows_file_is_one_sentence(tmp_path, kind):
    path = tmp_path / "rows.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.write_bytes({"empty": b"", "text": b"rows", "pickle": pickle.dumps([1])}[kind])
    with pytest.raises(UserError, match="is damaged"):
        rows_file.read_rows(path, ())


def test_rows_of_an_older_version_get_the_names_of_today(tmp_path):
    path, arrays = tmp_path / "rows.npz", {"lengths": np.array([2, 1])}
    for i, key in enumerate(("tokens", "share", "part", "place", "ref")):
        kind = np.float32 if key in ("share", "ref") else np.int32
        arrays[f"row_{key}"] = np.arange(3, dtype=kind) + kind(10 * i)
    workdir.write_arrays(path, arrays)
    (first, second), _ = rows_file.read_rows(path, ())
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
            calls=(),
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


# ---- writing -------------------------------------------------------------------------------------


def test_a_link_in_the_way_is_replaced_and_its_target_left(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text("the user's")
    for name in ("report.html", "report.html.tmp"):
        (tmp_path / name).symlink_to(target)
    workdir.write(tmp_path / "report.html", b"new")
    assert target.read_text() == "the user's"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "report.html"]
    (tmp_path / "report.html.tmp").mkdir()
    with pytest.raises(OSError, match="report.html'"):
        workdir.write(tmp_path / "report.html", b"newer")
    assert (tmp_path / "report.html").read_bytes() == b"new"


# ---- one run at a time ---------------------------------------------------------------------------


def test_a_directory_is_locked_until_the_run_ends(tmp_path):
    folder = tmp_path / "run"
    first, second = RunLock(folder), RunLock(folder)
    first.acquire()
    with pytest.raises(UserError) as refused:
        second.acquire()
    host = socket.gethostname()
    assert str(refused.value) == f"{folder} is in use by process {os.getpid()} on {host}."
    second.release()  # it holds nothing, and takes nothing away
    with pytest.raises(UserError, match="is in use by"):
        second.acquire()
    first.release()
    assert os.listdir(folder) == []
    second.acquire()
    second.release()
    (folder / "run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"run\.lock: this is a folder or a link"):
        first.acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_process_that_was_killed_leaves_no_lock(tmp_path):
    script = """if True:
        import pathlib, sys, time
        from reasoning_jax.run_lock import RunLock
        RunLock(pathlib.Path(sys.argv[1])).acquire()
        print("locked", flush=True)
        time.sleep(60)
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"is in use by process {process.pid} on "):
        RunLock(tmp_path).acquire()
    process.kill()
    process.communicate()
    assert (tmp_path / "run.lock").exists()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
