"""Pages of a cache: where a sequence's tokens lie, and which pages a call's tokens see.

A sequence's tokens lie in pages of PAGE tokens each, in whatever order its table of pages says, as
in PagedAttention (arXiv:2309.06180), so a page may belong to many sequences. Each device keeps the
pages of its own sequences, and the indices of pages count within a device.

Letters of shapes: B sequences, S tokens of this call, J pages of a sequence at most, M pairs of a
sequence and one of its pages at most, D devices that split the sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import spec

PAGE = 32  # tokens

NO_PAGE = 2**31 - 1  # out of bounds, so that a write is dropped

# The names of the dimensions of [B], and of [B, ...].
EACH: Names = ("batch",)
ROWS: Names = ("batch", None)


@struct.dataclass(kw_only=True)
class Places:
    """Where the tokens of a call go: each sequence's next ``counts`` <= S tokens."""

    tables: Int[Array, "B J"]  # the pages of a sequence, in order
    starts: Int[Array, " B"]  # tokens that are in the cache already
    counts: Int[Array, " B"]  # tokens of this call; what is beyond them is padding


@struct.dataclass(kw_only=True)
class PagedMask:
    """``Places`` as attention takes them: a token sees its sequence up to itself.

    Pages at the beginning that all sequences have in common are ``shared``; of the others there
    are pairs.
    """

    positions: Int[Array, "B S"]
    write_pages: Int[Array, "B S"]  # NO_PAGE for padding, which is not written
    tables: Int[Array, "B J"]
    starts: Int[Array, " B"]
    num_shared: Int[Array, " D"]
    shared: Int[Array, "D J"]  # the shared pages are the first num_shared of these
    ranks: Int[Array, " B"]  # the number of a sequence among those with pairs; of others, anything
    num_pairs: Int[Array, " D"]
    pair_sequences: Int[Array, " M"]
    pair_pages: Int[Array, " M"]
    pair_starts: Int[Array, " M"]  # the position of a page's first token


def mask(places: Places, num_tokens: int) -> PagedMask:
    """The mask of a call with S = ``num_tokens``; B is a multiple of the devices that split it."""
    each = rows = P()
    if has_mesh():
        each, rows = spec(places.starts.shape, EACH), spec(places.tables.shape, ROWS)
    ins = Places(tables=rows, starts=each, counts=each)
    outs = PagedMask(
        positions=rows,
        write_pages=rows,
        tables=rows,
        starts=each,
        num_shared=each,
        shared=rows,
        ranks=each,
        num_pairs=each,
        pair_sequences=each,
        pair_pages=each,
        pair_starts=each,
    )
    return on_each_device(partial(_mask, num_tokens=num_tokens), (ins,), outs)(places)


def _mask(places: Places, num_tokens: int) -> PagedMask:
    """``mask`` of one device's sequences."""
    count, most = places.tables.shape
    token = jnp.arange(num_tokens)
    positions = places.starts[:, None] + token
    written = jnp.take_along_axis(places.tables, jnp.minimum(positions // PAGE, most - 1), axis=1)
    is_token = token < places.counts[:, None]
    is_used = places.counts > 0
    shared = places.tables[jnp.argmax(is_used)]
    num_shared = _num_shared(places, shared)
    lengths = places.starts + places.counts
    num_own = jnp.where(is_used, -(-lengths // PAGE) - num_shared, 0)
    # Pairs are in the order of their sequences, whose last ones end before ``ends``.
    ends = jnp.cumsum(num_own)
    pair = jnp.arange(count * most)
    sequences = jnp.minimum(jnp.searchsorted(ends, pair, side="right"), count - 1)
    page = pair - (ends - num_own)[sequences] + num_shared
    page = jnp.clip(page, 0, most - 1)
    return PagedMask(
        positions=positions,
        write_pages=jnp.where(is_token, written, NO_PAGE),
        tables=places.tables,
        starts=places.starts,
        num_shared=num_shared[None],
        shared=shared[None],
        ranks=jnp.cumsum(num_own > 0) - 1,
        num_pairs=ends[-1:],
        pair_sequences=sequences,
        pair_pages=places.tables[sequences, page],
        pair_starts=page * PAGE,
    )


def _num_shared(places: Places, candidate: Int[Array, " J"]) -> Int[Array, ""]:
    """How many pages all sequences of this call begin with, and had filled before it.

    candidate: the table of one of them. 0 where there is one sequence, or where less than half of
    the rows are in use: products with the shared pages are of all rows.
    """
    is_used = places.counts > 0
    is_same = jnp.all((places.tables == candidate) | ~is_used[:, None], axis=0)
    num_full = jnp.min(jnp.where(is_used, places.starts // PAGE, len(candidate)))
    is_shared = is_same & (jnp.arange(len(candidate)) < num_full)
    in_use = jnp.sum(is_used)
    worth = (in_use > 1) & (2 * in_use >= len(is_used))
    return jnp.where(worth, jnp.sum(jnp.cumprod(is_shared)), 0)


def has_mesh() -> bool:
    return not jax.sharding.get_abstract_mesh().empty


def on_each_device(function: Callable, ins: PyTree, outs: PyTree) -> Callable:
    """``function`` of each device's part; ins, outs: how arguments and results are split."""
    if not has_mesh():
        return function
    return jax.shard_map(function, in_specs=ins, out_specs=outs, check_vma=False)
