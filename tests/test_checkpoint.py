"""Checkpoints by themselves: names of older versions, damaged ones, full disks."""

from __future__ import annotations

import errno
import json
import pathlib
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from reasoning_jax import errors
from reasoning_jax.training import checkpoint, checkpoint_folders

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARAMS = {"w": jax.numpy.arange(4.0)}


class OldMemory(NamedTuple):
    """A method's memory, as versions wrote it in which ``fingerprints`` had another name."""

    ids: np.ndarray
    prints: np.ndarray
    tokens: np.ndarray


class Memory(NamedTuple):
    ids: np.ndarray
    fingerprints: np.ndarray
    tokens: np.ndarray


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def arrays(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.arange(count, dtype=np.int32)
    return ids, ids.astype(np.uint32) + 4_000_000_000, np.ones((count, 2), np.int32)


@pytest.mark.parametrize("memory_type", [OldMemory, Memory])
def test_a_field_s_old_name_is_read_as_the_new_one(tmp_path, memory_type):
    ids, fingerprints, tokens = arrays(3)
    rest = {"memory": memory_type(ids, fingerprints, tokens), "counters": (jax.numpy.int32(7), ())}
    checkpoint.save(tmp_path, 1, PARAMS, rest, {"round": 1}, 2)
    wanted = {
        "memory": Memory(*(np.zeros_like(x) for x in arrays(3))),
        "counters": (abstract(jax.numpy.int32(0)), ()),
    }
    restored = checkpoint.restore(tmp_path, abstract(PARAMS), wanted)
    assert restored is not None and restored.meta == {"round": 1}
    memory = restored.rest["memory"]
    assert isinstance(memory, Memory) and memory.fingerprints.dtype == np.uint32
    assert memory.ids.tolist() == ids.tolist() and memory.tokens.tolist() == tokens.tolist()
    assert memory.fingerprints.tolist() == fingerprints.tolist()
    assert int(restored.rest["counters"][0]) == 7 and restored.rest["counters"][1] == ()
    assert restored.params["w"].tolist() == [0, 1, 2, 3]


def test_an_old_name_does_not_hide_another_shape(tmp_path):
    rest = {"memory": OldMemory(*arrays(3))}
    checkpoint.save(tmp_path, 1, PARAMS, rest, {"round": 1}, 2)
    with pytest.raises(errors.UserError, match=r"other data: rest\.memory\.ids is \(3,\) there"):
        checkpoint.restore(tmp_path, abstract(PARAMS), {"memory": Memory(*arrays(4))})


def test_arrays_that_nobody_asks_for_are_another_model(tmp_path):
    checkpoint.save(tmp_path, 1, PARAMS | {"pause": jax.numpy.zeros(3)}, None, {"round": 1}, 2)
    with pytest.raises(errors.UserError, match=r"params\.pause is \(3,\) there and missing here"):
        checkpoint.restore(tmp_path, abstract(PARAMS))


def test_parameters_are_read_without_the_rest(tmp_path):
    rest = {"memory": OldMemory(*arrays(3))}
    checkpoint.save(tmp_path, 1, PARAMS, rest, {"round": 1}, 2)
    restored = checkpoint.restore(tmp_path, abstract(PARAMS))
    assert restored is not None and restored.rest is None
    assert restored.params["w"].tolist() == [0, 1, 2, 3]


def write_former(directory, step: int, meta: dict) -> None:
    """A checkpoint as the former version wrote it: Orbax's own manager, a record without a step."""
    with ocp.training.Checkpointer(directory) as checkpointer:
        checkpointer.save_checkpointables(step, {"params": PARAMS}, custom_metadata=meta)
    folder = directory / str(step)
    record = json.dumps(checkpoint_folders._checksums(folder))
    (folder / checkpoint_folders.RECORD).write_text(record)


def save_three(directory) -> None:
    """Checkpoints 1 to 3, each with other numbers; none of them is removed."""
    for step in (1, 2, 3):
        params = {"w": jax.numpy.arange(4.0) + step}
        checkpoint.save(directory, step, params, None, {"round": step}, 3)


def restored_step(directory) -> int:
    """The checkpoint that is restored; its numbers must be its own."""
    restored = checkpoint.restore(directory, abstract(PARAMS))
    assert restored.params["w"].tolist() == [restored.meta["round"] + x for x in range(4)]
    return restored.meta["round"]


def test_a_checkpoint_of_the_former_version_is_read_and_checked(tmp_path, capsys):
    for step in (1, 2):
        write_former(tmp_path, step, {"round": step})
    assert checkpoint.restore(tmp_path, abstract(PARAMS)).meta == {"round": 2}
    assert capsys.readouterr().err == ""
    (tmp_path / "2" / "more").write_text("not in the record")
    assert checkpoint.restore(tmp_path, abstract(PARAMS)).meta == {"round": 1}
    assert "its file more does not belong to it" in capsys.readouterr().err
    (tmp_path / "1" / checkpoint_folders.RECORD).unlink()
    with pytest.raises(errors.UserError, match=r"^Nothing saved can be used: checkpoint 2 in "):
        checkpoint.restore(tmp_path, abstract(PARAMS))


@pytest.mark.parametrize("meta", [None, {}, {"round": "3"}, {"round": True}])
def test_a_checkpoint_without_its_position_is_not_taken_for_a_beginning(tmp_path, meta, capsys):
    checkpoint.save(tmp_path, 1, PARAMS, None, {"round": 1}, 2)
    checkpoint.save(tmp_path, 2, PARAMS, None, meta, 2)
    assert checkpoint.restore(tmp_path, abstract(PARAMS)).meta == {"round": 1}
    assert "checkpoint 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "it was not saved to its end"),
        ("", "checksums.json is damaged"),
        ("[]", "checksums.json is damaged"),
        ('{"a": "b"}', "checksums.json is damaged"),
        ('{"step": "3", "directory": "best", "files": {}}', "checksums.json is damaged"),
        ('{"step": 3, "directory": null, "files": {}}', "checksums.json is damaged"),
        ("{}", "does not belong to it"),
        ('{"step": 3, "directory": "best", "files": {}}', "does not belong to it"),
    ],
)
def test_a_checkpoint_without_its_record_is_none(tmp_path, record, reason, capsys):
    save_three(tmp_path)
    path = tmp_path / "3" / checkpoint_folders.RECORD
    path.unlink() if record is None else path.write_text(record)
    assert restored_step(tmp_path) == 2
    warning = capsys.readouterr().err
    assert warning.startswith(f"WARNING: checkpoint 3 in {tmp_path} cannot be used (")
    assert reason in warning and warning.endswith("); going on from checkpoint 2.\n")


def test_checkpoints_that_changed_names_are_not_read(tmp_path, capsys):
    save_three(tmp_path)
    (tmp_path / "3").rename(tmp_path / "x")
    (tmp_path / "2").rename(tmp_path / "3")
    (tmp_path / "x").rename(tmp_path / "2")
    assert restored_step(tmp_path) == 1
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and "it is checkpoint 2 under another name" in warnings[0]


def test_directories_that_changed_names_are_not_read(tmp_path):
    save_three(tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "best")
    with pytest.raises(errors.UserError, match=r"\(it is one of base\)"):
        checkpoint.restore(tmp_path / "best", abstract(PARAMS))
    (tmp_path / "best").rename(tmp_path / "my model")
    assert restored_step(tmp_path / "my model") == 3


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_has_a_checkpoint_s_name_is_not_passed_over_in_silence(tmp_path, kind, capsys):
    save_three(tmp_path)
    path = tmp_path / "12"
    if kind == "file":
        path.write_text("")
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    (tmp_path / "012").mkdir()
    assert restored_step(tmp_path) == 3
    assert capsys.readouterr().err.startswith("WARNING: checkpoint 12 ")
    checkpoint.save(tmp_path, 12, {"w": jax.numpy.arange(4.0) + 12}, None, {"round": 12}, 3)
    assert restored_step(tmp_path) == 12 and capsys.readouterr().err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["012", "12", "2", "3"]


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    path = tmp_path / "checkpoints"
    path.write_text("")
    with pytest.raises(errors.UserError, match="checkpoints: this is not a folder"):
        checkpoint.restore(path, abstract(PARAMS))
    with pytest.raises(errors.UserError, match="checkpoints: this is not a folder"):
        checkpoint.save(path, 1, PARAMS, None, {"round": 1}, 2)


def test_a_save_removes_what_earlier_ones_left_and_nothing_newer(tmp_path):
    save_three(tmp_path)
    for name in ("4.tmp", "4.old.tmp", "4.orbax-checkpoint-tmp", "5.tmp.orbax-checkpoint-tmp-17"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "notes.tmp").write_text("the user's")
    assert restored_step(tmp_path) == 3
    (tmp_path / "3" / "_CHECKPOINT_METADATA").write_text("damaged")
    checkpoint.save(tmp_path, 2, {"w": jax.numpy.arange(4.0) + 2}, None, {"round": 2}, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3", "notes.tmp"]
    assert restored_step(tmp_path) == 2


def test_a_save_that_is_broken_off_leaves_the_checkpoint_that_it_replaces(tmp_path, monkeypatch):
    save_three(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(checkpoint_folders, "_checksums", lambda folder: 1 / 0)
        checkpoint.save(tmp_path, 3, PARAMS, None, {"round": 7}, 3)
    assert restored_step(tmp_path) == 3


def test_a_hundred_damages_are_never_read_in_silence(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import damage

    whole = tmp_path / "whole"
    save_three(whole / "checkpoints")
    rng = np.random.default_rng(0)
    ends = []
    for number in range(120):
        kind = damage.KINDS[number % len(damage.KINDS)]
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        what = damage.damage(copy, kind, rng)
        try:
            step = restored_step(copy / "checkpoints")
            warnings = capsys.readouterr().err
            assert step == 3 or warnings.startswith("WARNING: checkpoint 3 in "), (kind, what)
            ends.append("warned" if warnings else "whole")
        except errors.UserError as error:
            assert str(error).startswith("Nothing saved can be used: "), (kind, what)
            ends.append("refused")
        shutil.rmtree(copy)
    # Most damages are to what is not read, as checkpoint 3 is whole.
    assert ends.count("warned") > 20 and ends.count("whole") > 40
    assert len(ends) == 120


def test_nothing_and_nothing_whole(tmp_path):
    assert checkpoint.restore(tmp_path / "absent", abstract(PARAMS)) is None
    with pytest.raises(errors.MissingFileError, match="there is no checkpoint"):
        checkpoint.load_params(tmp_path / "absent", abstract(PARAMS))
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, PARAMS, None, {"round": step}, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with pytest.raises(
        errors.UserError, match=r"^Nothing saved .*checkpoint 3 .*w is \(4,\) there"
    ):
        checkpoint.restore(tmp_path, abstract({"w": jax.numpy.arange(5.0)}))


def test_a_full_disk_is_told_from_other_failures(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: writing a shard: No space left on device")

    monkeypatch.setattr(ocp, "save_checkpointables", fail)
    with pytest.raises(errors.FullDiskError, match=f"{tmp_path}: no space left for checkpoint 3"):
        checkpoint.save(tmp_path, 3, {"w": np.zeros(2)}, None, {"round": 0}, 2)
    assert issubclass(errors.FullDiskError, OSError)


def test_a_full_disk_is_one_sentence_where_threads_still_write(tmp_path, monkeypatch):
    def fail(folder, *_, **__):
        folder.mkdir()
        raise RuntimeError("RESOURCE_EXHAUSTED: writing a shard: No space left on device")

    def rmtree(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr(ocp, "save_checkpointables", fail)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folders.shutil, "rmtree", rmtree)
        with pytest.raises(errors.FullDiskError, match="no space left for checkpoint 3"):
            checkpoint.save(tmp_path, 3, PARAMS, None, {"round": 0}, 2)
    monkeypatch.undo()
    checkpoint.save(tmp_path, 3, PARAMS, None, {"round": 0}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
