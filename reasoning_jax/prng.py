"""Random keys by purpose, round and example: a key depends on what it is for, not on what ran."""

from __future__ import annotations

import zlib

import jax


def key(seed: int, purpose: str, round: int = 0) -> jax.Array:
    """The key of one purpose ("init", "collect", "validation", ...) in one round of a run."""
    return jax.random.fold_in(for_purpose(jax.random.key(seed), purpose), round)


def for_purpose(key: jax.Array, purpose: str) -> jax.Array:
    """The key of one purpose among those that this key is for."""
    return jax.random.fold_in(key, text_id(purpose))


def text_id(text: str) -> int:
    """A number below 2^31 that names the random stream of a text."""
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def sample_keys(key: jax.Array, ids: jax.Array, indices: jax.Array) -> jax.Array:
    """One key for each sequence [B]: fold_in(key, example id, sample index).

    ids, indices: [B] int32.
    """

    def one(example_id: jax.Array, sample_index: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, example_id), sample_index)

    return jax.vmap(one)(ids, indices)


def at_positions(keys: jax.Array, positions: jax.Array) -> jax.Array:
    """The sequences' keys [B], each for one position of its completion; positions: [B] int32."""
    return jax.vmap(jax.random.fold_in)(keys, positions)
