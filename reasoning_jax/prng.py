"""Random keys by purpose, round and example: a key is a pure function of what it is for, never of what ran before."""

from __future__ import annotations

import zlib

import jax


def key(seed: int, purpose: str, round: int = 0) -> jax.Array:
    """The key of one purpose ("init", "collect", "validation", ...) in one round of the run with this seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF), round)


def row_keys(key: jax.Array, ids: jax.Array, indices: jax.Array) -> jax.Array:
    """One key a row: fold_in(key, example id, sample index). ids, indices: [B] int32. Returns [B] keys."""
    return jax.vmap(lambda i, j: jax.random.fold_in(jax.random.fold_in(key, i), j))(ids, indices)


def at_position(keys: jax.Array, position: jax.Array) -> jax.Array:
    """The rows' keys for one position of their completions. keys: [B]; position: scalar int32."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, position)
