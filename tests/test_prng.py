"""Keys: a pure function of what they are for."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from reasoning_jax import prng


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_a_key_is_the_same_in_every_process():
    """A run is resumed by another process: nothing of Python's salted hash() may enter.

    Numbers from the first version.
    """
    assert bits(prng.key(0, "init")).tolist() == [3447753273, 4156854448]
    assert bits(prng.key(7, "collect", 3)).tolist() == [3579354080, 34633921]


def test_seed_purpose_and_round_all_matter():
    purposes = ("init", "collect", "evaluate validation", "evaluate test")
    keys = [tuple(bits(prng.key(*of))) for of in itertools.product(range(4), purposes, range(5))]
    assert len(set(keys)) == 4 * len(purposes) * 5


def test_sample_keys_depend_on_their_own_id_and_index_only():
    key = prng.key(0, "collect", 1)
    ids = np.array([5, 0, 30_000_001, 5, 1], np.int32)
    indices = np.array([0, 5, 0, 1, 0], np.int32)
    keys = bits(prng.sample_keys(key, ids, indices))
    order = np.array([3, 1, 4, 0, 2])
    assert np.array_equal(bits(prng.sample_keys(key, ids[order], indices[order])), keys[order])
    expected = [
        bits(jax.random.fold_in(jax.random.fold_in(key, i), j))
        for i, j in zip(ids, indices, strict=True)
    ]
    assert np.array_equal(keys, expected)
    assert len({tuple(k) for k in keys}) == 5  # (5, 0) is not (0, 5)


def test_positions_have_keys_of_their_own():
    keys = prng.sample_keys(prng.key(0, "collect"), np.arange(3), np.arange(3))
    by_position = [bits(prng.at_positions(keys, np.full(3, p))) for p in range(4)]
    assert len({tuple(k) for at_one in by_position for k in at_one}) == 12
    assert np.array_equal(by_position[2][1], bits(jax.random.fold_in(keys[1], 2)))
