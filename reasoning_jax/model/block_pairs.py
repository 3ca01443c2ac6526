"""Which blocks of queries and of keys attention to a sequence needs.

Letters of shapes: N sequences that are computed together, S slots; P pairs, each of R queries and
T keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from reasoning_jax.model.sharding import platform

BLOCK = 64  # slots; elsewhere than on a CPU at least
MOST_BLOCKS = 8  # elsewhere than on a CPU


class Pairs(NamedTuple):
    """Which blocks meet."""

    size: int  # slots of a block
    queries: Int[Array, " P"]  # the number of a pair's block
    keys: Int[Array, " P"]
    count: int | Int[Array, ""]  # the first so many pairs are computed
    # Of the numbers of two blocks: which keys the queries see, [N, R, T], or [N, T, R].
    visible: Callable[[jax.Array, jax.Array], jax.Array]


def block_size(length: int) -> int:
    """Slots of a block in sequences of this length."""
    if platform() == "cpu":
        return min(BLOCK, length)
    return min(max(BLOCK, -(-length // MOST_BLOCKS)), length)


def make(
    segment_ids: Int[Array, "N S"],
    prefix_ids: Int[Array, "N S"],
    window: int,
    size: int,
    keys_first: bool,
) -> Pairs:
    """The pairs in which the causal mask and the window let a query see a key.

    On a CPU, those in which the segments do too come first and count alone. keys_first: of
    ``visible``'s results.
    """
    length = segment_ids.shape[1]
    queries, keys = np.tril_indices(length // size)
    if window:
        near = (queries - keys - 1) * size + 1 < window
        queries, keys = queries[near], keys[near]
    slots = jnp.arange(length)

    def visible(i: jax.Array, j: jax.Array) -> jax.Array:
        own, prefix, query = [
            block(x, i, size)[..., None] for x in (segment_ids, prefix_ids, slots[None])
        ]
        other, key = [block(x, j, size)[:, None] for x in (segment_ids, slots[None])]
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

    # A loop makes the mask of the one sequence, so that XLA keeps it as an array. Otherwise XLA
    # computes it again with the logits of every head, which takes ten times as long as their
    # exponentials do.
    every = segment_ids[0], prefix_ids[0], slots

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

    distance: slots from the key to the query.
    """
    seen = ((own == other) | (prefix == other)) & (own > 0) & (distance >= 0)
    return seen & (distance < window) if window else seen


def block(x: jax.Array, number: jax.Array, size: int, axis: int = 1) -> jax.Array:
    """A block of slots, which are at ``axis``."""
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def with_block(x: jax.Array, new: jax.Array, number: jax.Array, size: int, axis: int) -> jax.Array:
    """``x`` with a block of slots replaced by ``new``."""
    return jax.lax.dynamic_update_slice_in_dim(x, new, number * size, axis)
