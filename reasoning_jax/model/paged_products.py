"""Attention to pages of a cache by products, wherever the kernel of TPUs is not used.

Off the CPU small tables are gathered whole. Else a sequence's pages of its own are computed as
pairs of a sequence and a page, a chunk of pairs at a time, so the work is that of the pages in use,
however uneven the lengths are; and pages that all sequences begin with, as those of few-shot
prompts, are read once for all of them, as in cascade inference and Hydragen (arXiv:2402.05099).
What each gives is merged by its logits' logsumexp, as in Flash-Decoding. Numbers must be finite: a
NaN in one sequence's pages can reach the others.

Letters of shapes: B sequences, S tokens of this call, N pages, T tokens of a page, L layers,
K key-value heads, G query heads of each, H head size; C pairs or pages of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from reasoning_jax.model import int8
from reasoning_jax.model.flash_attention import MASKED
from reasoning_jax.model.pages import PAGE, PagedMask
from reasoning_jax.model.sharding import platform

CHUNK = 32  # pairs that are computed together on a CPU, whose caches hold so many
LARGE_CHUNK = 1024  # elsewhere
# Off the CPU, tables of so many pages are gathered whole: a GPU waits at each turn of a loop.
MOST_AT_ONCE = 8192
SHARED_CHUNK = 8  # shared pages that are computed together


@struct.dataclass(kw_only=True)
class ProductCache:
    """The keys and values of all layers, in an order that products take as it is."""

    keys: Shaped[Array, "L N K H T"]
    values: Shaped[Array, "L N K T H"]
    # Of keys and values in 8 bits, one for each token and head; else None.
    key_scales: Float[Array, "L N K T"] | None = None
    value_scales: Float[Array, "L N K T"] | None = None


class _Attention(NamedTuple):
    """What is asked of the pages of a layer, heads first."""

    queries: Float[Array, "B K S*G H"]
    positions: Int[Array, "B S*G"]
    cache: ProductCache
    layer: Int[Array, ""]
    mask: PagedMask
    window: Int[Array, ""]
    softcap: float


class Sums(NamedTuple):
    """Attention of queries to some of the keys, of which B sequences have K heads of S G each."""

    largest: Float[Array, "*queries"]  # logit
    total: Float[Array, "*queries"]  # of exp(logit - largest)
    mixed: Float[Array, "*queries H"]  # the same, times the values


def write(
    cache: ProductCache,
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    layer: Int[Array, ""],
    pages: Int[Array, "B S"],
    slots: Int[Array, "B S"],
) -> ProductCache:
    """The cache with these tokens; pages from N on are not written."""
    new = {}
    if cache.key_scales is None:
        k, v = k.astype(cache.keys.dtype), v.astype(cache.values.dtype)
    else:
        k, key_scales = int8.quantize(k, (3,))
        v, value_scales = int8.quantize(v, (3,))
        for name, scales in (("key_scales", key_scales), ("value_scales", value_scales)):
            at_scales = getattr(cache, name).at[layer, pages, :, slots]
            new[name] = at_scales.set(scales, mode="drop")
    new["keys"] = cache.keys.at[layer, pages, :, :, slots].set(k, mode="drop")
    new["values"] = cache.values.at[layer, pages, :, slots].set(v, mode="drop")
    return cache.replace(**new)


def attend(
    q: Float[Array, "B S K G H"],
    cache: ProductCache,
    layer: Int[Array, ""],
    mask: PagedMask,
    window: Int[Array, ""],
    softcap: float,
) -> Float[Array, "B S K G H"]:
    """Attention of tokens, which are written, to their sequences; on one device.

    window: how many tokens are seen at most, the query's own included.
    """
    B, S, K, G, H = q.shape
    x = _Attention(
        queries=jnp.einsum("bskgh->bksgh", q).reshape(B, K, S * G, H),
        positions=jnp.repeat(mask.positions, G, axis=1),
        cache=cache,
        layer=layer,
        mask=mask,
        window=window,
        softcap=softcap,
    )
    if platform() != "cpu" and mask.tables.size <= MOST_AT_ONCE:
        out = _whole_tables(x)
    else:
        own = _own_pages(x)
        has_shared = mask.num_shared[0] > 0
        sums = jax.lax.cond(has_shared, lambda: _merged(_shared_pages(x), own), lambda: own)
        total = jnp.where(sums.total == 0, 1.0, sums.total)  # padding sees nothing
        out = sums.mixed / total[..., None]
    return jnp.einsum("bksgh->bskgh", out.reshape(B, K, S, G, H)).astype(q.dtype)


def _whole_tables(x: _Attention) -> Float[Array, "B K S*G H"]:
    """Attention to all pages of the tables at once, also to those that are not in use yet."""
    B, K, _, H = x.queries.shape
    tokens = x.mask.tables.shape[1] * PAGE
    k, v = _read(x, x.mask.tables)
    k = jnp.moveaxis(k, 1, 3).reshape(B, K, H, tokens)
    v = jnp.moveaxis(v, 1, 2).reshape(B, K, tokens, H)
    logits = _capped(_product("bkqh,bkht->bkqt", x.queries, k), x.softcap)
    distance = x.positions[..., None] - jnp.arange(tokens)
    visible = ((distance >= 0) & (distance < x.window))[:, None]
    weights = jax.nn.softmax(jnp.where(visible, logits, MASKED), axis=-1)
    return _product("bkqt,bkth->bkqh", weights.astype(v.dtype), v)


def _merged(a: Sums, b: Sums) -> Sums:
    """Attention to the keys of both."""
    largest = jnp.maximum(a.largest, b.largest)
    of_a, of_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return Sums(
        largest=largest,
        total=a.total * of_a + b.total * of_b,
        mixed=a.mixed * of_a[..., None] + b.mixed * of_b[..., None],
    )


def _shared_pages(x: _Attention) -> Sums:
    """Attention to the pages that all sequences begin with."""
    B, K, Q, H = x.queries.shape
    num_shared = x.mask.num_shared[0]
    shared = x.mask.shared[0]
    pages = jnp.pad(shared, (0, -len(shared) % SHARED_CHUNK))
    tokens = SHARED_CHUNK * PAGE
    # One product a key-value head, of the queries of all sequences.
    queries = jnp.swapaxes(x.queries, 0, 1).reshape(K, B * Q, H)
    positions = x.positions.reshape(B * Q, 1)

    def add_chunk(i: jax.Array, sums: Sums) -> Sums:
        chunk = jax.lax.dynamic_slice(pages, (i * SHARED_CHUNK,), (SHARED_CHUNK,))
        k, v = _read(x, chunk)
        k = jnp.moveaxis(k, 0, 2).reshape(K, H, tokens)
        v = jnp.moveaxis(v, 0, 1).reshape(K, tokens, H)
        logits = _capped(_product("kqh,kht->kqt", queries, k), x.softcap)
        token = i * tokens + jnp.arange(tokens)
        visible = (positions - token < x.window) & (token < num_shared * PAGE)
        logits = jnp.where(visible, logits, MASKED)
        largest = jnp.maximum(sums.largest, jnp.max(logits, axis=-1))
        weights = jnp.where(visible, jnp.exp(logits - largest[..., None]), 0.0)
        rescale = jnp.exp(sums.largest - largest)
        mixed = _product("kqt,kth->kqh", weights.astype(v.dtype), v)
        return Sums(
            largest=largest,
            total=sums.total * rescale + jnp.sum(weights, axis=-1),
            mixed=sums.mixed * rescale[..., None] + mixed,
        )

    num_chunks = -(-num_shared // SHARED_CHUNK)
    sums = jax.lax.fori_loop(0, num_chunks, add_chunk, _nothing(queries.shape))
    return Sums(*[jnp.swapaxes(y.reshape(K, B, Q, *y.shape[2:]), 0, 1) for y in sums])


def _own_pages(x: _Attention) -> Sums:
    """Attention to each sequence's pages that are not shared."""
    B = len(x.queries)
    mask = x.mask
    most = len(mask.pair_pages)
    size = min(most, CHUNK if platform() == "cpu" else LARGE_CHUNK)
    span = min(size, B)  # sequences that a chunk's pairs are of, at most
    # A slice of so many may begin at any sequence: JAX moves one that would not fit.
    rows = B if span == B else B + span
    padding = -most % size
    pairs = [mask.pair_sequences, mask.pair_pages, mask.pair_starts]
    pairs = [jnp.pad(y, (0, padding)) for y in pairs]
    num_pairs = mask.num_pairs[0]

    def add_chunk(i: jax.Array, sums: Sums) -> Sums:
        first = i * size
        sequence, page, start = [jax.lax.dynamic_slice(y, (first,), (size,)) for y in pairs]
        k, v = _read(x, page)  # [C, K, H, T] and [C, K, T, H]
        logits = _capped(_product("ckqh,ckht->ckqt", x.queries[sequence], k), x.softcap)
        distance = x.positions[sequence][..., None] - (start[:, None] + jnp.arange(PAGE))[:, None]
        is_pair = (first + jnp.arange(size) < num_pairs)[:, None, None]
        visible = ((distance >= 0) & (distance < x.window) & is_pair)[:, None]
        logits = jnp.where(visible, logits, MASKED)
        # The ranks of the chunk's sequences follow each other.
        first_rank = mask.ranks[sequence[0]] if span < B else 0
        ranks = mask.ranks[sequence] - first_rank
        before = Sums(*[jax.lax.dynamic_slice_in_dim(y, first_rank, span) for y in sums])
        largest = before.largest.at[ranks].max(jnp.max(logits, axis=-1))
        weights = jnp.where(visible, jnp.exp(logits - largest[ranks][..., None]), 0.0)
        values = _product("ckqt,ckth->ckqh", weights.astype(v.dtype), v)
        # As products: adding up scattered rows is slow on a CPU.
        belongs = jax.nn.one_hot(ranks, span, dtype=jnp.float32)
        rescale = jnp.exp(before.largest - largest)
        total = _exact_product("cb,ckq->bkq", belongs, jnp.sum(weights, axis=-1))
        mixed = _exact_product("cb,ckqh->bkqh", belongs, values)
        after = Sums(
            largest=largest,
            total=before.total * rescale + total,
            mixed=before.mixed * rescale[..., None] + mixed,
        )
        return Sums(
            *[
                jax.lax.dynamic_update_slice_in_dim(y, new, first_rank, axis=0)
                for y, new in zip(sums, after, strict=True)
            ]
        )

    sums = _nothing((rows, *x.queries.shape[1:]))
    sums = jax.lax.fori_loop(0, -(-num_pairs // size), add_chunk, sums)
    return Sums(*[y[mask.ranks] for y in sums])


def _read(
    x: _Attention, pages: Int[Array, ...]
) -> tuple[Float[Array, "*pages K H T"], Float[Array, "*pages K T H"]]:
    """The keys and values of these pages, in the dtype of the queries."""
    cache, dtype = x.cache, x.queries.dtype
    k, v = cache.keys[x.layer, pages], cache.values[x.layer, pages]
    if cache.key_scales is not None:  # products in float32, and rounded once
        k = k * cache.key_scales[x.layer, pages][..., None, :]
        v = v * cache.value_scales[x.layer, pages][..., None]
    return k.astype(dtype), v.astype(dtype)


def _nothing(shape: tuple[int, ...]) -> Sums:
    zeros = jnp.zeros(shape[:-1], jnp.float32)
    return Sums(largest=zeros + MASKED, total=zeros, mixed=jnp.zeros(shape, jnp.float32))


def _capped(logits: jax.Array, softcap: float) -> jax.Array:
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _exact_product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST)
