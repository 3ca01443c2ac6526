"""Checkpoints by themselves: names of older versions, damaged ones, full disks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from reasoning_jax import errors
from reasoning_jax.training import checkpoint

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


def test_parameters_are_read_without_the_rest(tmp_path):
    rest = {"memory": OldMemory(*arrays(3))}
    checkpoint.save(tmp_path, 1, PARAMS, rest, {"round": 1}, 2)
    restored = checkpoint.restore(tmp_path, abstract(PARAMS))
    assert restored is not None and restored.rest is None
    assert restored.params["w"].tolist() == [0, 1, 2, 3]


def test_a_checkpoint_without_its_position_is_not_taken_for_a_beginning(tmp_path, capsys):
    """Orbax reads a damaged metadata file as an empty one."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, PARAMS, None, {"round": step}, 2)
    (tmp_path / "2" / checkpoint.CHECKSUMS).unlink()
    (tmp_path / "2" / "_CHECKPOINT_METADATA").write_text('{"custom')
    restored = checkpoint.restore(tmp_path, abstract(PARAMS))
    assert restored is not None and restored.meta == {"round": 1}
    assert "checkpoint 2" in capsys.readouterr().err


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

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables", fail)
    with pytest.raises(errors.FullDiskError, match=f"{tmp_path}: no space left for checkpoint 3"):
        checkpoint.save(tmp_path, 3, {"w": np.zeros(2)}, None, {"round": 0}, 2)
    assert issubclass(errors.FullDiskError, OSError)
