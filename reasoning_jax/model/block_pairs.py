"""Which blocks of queries and of keys attention to a sequence needs.

Letters of shapes: N sequences that are computed together (1 on a CPU), S positions; P pairs, each
of R queries and T keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from reasoning_jax.model.sharding import platform

BLOCK = 64  # positions of a block on a CPU; elsewhere a multiple of it
LARGE_BLOCK = 512  # elsewhere, in all but the longest sequences
MOST_BLOCKS = 8  # of a sequence, elsewhere than on a CPU


class Pairs(NamedTuple):
    """Which blocks meet."""

    size: int  # positions of a block
    queries: Int[Array, " P"]  # the index of a pair's block of queries
    keys: Int[Array, " P"]  # and of keys
    count: int | Int[Array, ""]  # the first ``count`` pairs are computed
    # Of the indices of two blocks: which keys the queries see, [N, R, T], or [N, T, R].
    visible: Callable[[jax.Array, jax.Array], jax.Array]


def block_size(length: int) -> int:
    """Positions of a block in sequences of this length."""
    if platform() == "cpu":
        return min(BLOCK, length)
    num_blocks = min(-(-length // LARGE_BLOCK), MOST_BLOCKS)
    return min(BLOCK * -(-length // (num_blocks * BLOCK)), length)


def make(
    segment_ids: Int[Array, "N S"],
    prefix_ids: Int[Array, "N S"],
    window: int,
    size: int,
    keys_first: bool,
) -> Pairs:
    """The pairs in which the causal mask and the window let a query see a key.

    On a CPU those that segments allow too are sorted first, and ``count`` is of these alone. S is a
    multiple of size. keys_first: ``visible`` returns [N, T, R]. ValueError for several sequences on
    a CPU.
    """
    length = segment_ids.shape[1]
    queries, keys = np.tril_indices(length // size)
    if window:
        near = (queries - keys - 1) * size + 1 < window
        queries, keys = queries[near], keys[near]
    positions = jnp.arange(length)

    def visible(i: jax.Array, j: jax.Array) -> jax.Array:
        own, prefix, query = [
            block(x, i, size)[..., None] for x in (segment_ids, prefix_ids, positions[None])
        ]
        other, key = [block(x, j, size)[:, None] for x in (segment_ids, positions[None])]
        seen = _sees(own, prefix, other, query - key, window)
        return seen.mT if keys_first else seen

    if platform() != "cpu":
        return Pairs(
            size=size,
            queries=jnp.asarray(queries),
            keys=jnp.asarray(keys),
            count=len(queries),
            visible=visible,
        )

    if len(segment_ids) > 1:
        raise ValueError(f"{len(segment_ids)} sequences together: a CPU takes one after another.")
    # A loop makes the mask of the one sequence, so that XLA keeps it as an array. Otherwise XLA
    # computes it again with the logits of every head, which takes ten times as long as their
    # exponentials do.
    every = segment_ids[0], prefix_ids[0], positions

    def line(one: tuple[jax.Array, ...]) -> jax.Array:
        (own, prefix, query), (other, _, key) = (every, one) if keys_first else (one, every)
        return _sees(own, prefix, other, query - key, window)

    mask = jax.lax.map(line, every, batch_size=size)
    meets = mask.reshape(length // size, size, length // size, size).any((1, 3))
    is_needed = meets[keys, queries] if keys_first else meets[queries, keys]
    order = jnp.argsort(~is_needed, stable=True)

    def visible_of_mask(i: jax.Array, j: jax.Array) -> jax.Array:
        first, second = (j, i) if keys_first else (i, j)
        return jax.lax.dynamic_slice(mask, (first * size, second * size), (size, size))[None]

    return Pairs(
        size=size,
        queries=jnp.asarray(queries)[order],
        keys=jnp.asarray(keys)[order],
        count=jnp.sum(is_needed),
        visible=visible_of_mask,
    )


def _sees(
    own: jax.Array, prefix: jax.Array, other: jax.Array, distance: jax.Array, window: int
) -> jax.Array:
    """Whether a query of the segments ``own`` and ``prefix`` sees a key of ``other``.

    distance: positions from the key to the query.
    """
    is_text = (own > 0) & (other > 0)
    seen = ((own == other) | (prefix == other)) & is_text & (distance >= 0)
    return seen & (distance < window) if window else seen


def block(x: jax.Array, index: jax.Array, size: int, axis: int = 1) -> jax.Array:
    """The block of this index, of positions that are at ``axis``."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis)


def with_block(x: jax.Array, new: jax.Array, index: jax.Array, size: int, axis: int) -> jax.Array:
    """``x`` with the block of this index replaced by ``new``."""
    return jax.lax.dynamic_update_slice_in_dim(x, new, index * size, axis)
