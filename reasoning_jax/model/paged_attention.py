"""A cache of keys and values in pages, and attention to it.

A sequence's tokens lie in pages of PAGE tokens each, in whatever order its table of pages says, as
in PagedAttention (arXiv:2309.06180). Attention computes pairs of a sequence and one of its pages,
a chunk of pairs at a time, and merges what a sequence's pages give (Flash-Decoding). So the work is
that of the pages in use, however uneven the lengths are, and a page may belong to many sequences.

On TPU a kernel does this (paged_kernel.py). Each device keeps the pages of its own sequences, and
the indices of pages count within a device. Letters of shapes:
B sequences, S tokens of this call, J pages of a sequence at most, N pages, T tokens of a page,
L layers, K key-value heads, G query heads of each, H head size; M pairs at most, C of a chunk, and
D devices that split the sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree

from reasoning_jax.model import paged_kernel
from reasoning_jax.model.attention import KEYS, QUERIES
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.flash_attention import MASKED
from reasoning_jax.model.paged_kernel import KernelCache
from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import platform, shard, spec

PAGE = 32  # tokens
CHUNK = 32  # pairs that are computed together on a CPU, whose caches hold so many
LARGE_CHUNK = 1024  # elsewhere

NO_PAGE = 2**31 - 1  # out of bounds, so that a write is dropped

EACH: Names = ("batch",)
ROWS: Names = ("batch", None)


@struct.dataclass(kw_only=True)
class ProductCache:
    """The keys and values of all layers, in an order that products take as it is."""

    keys: Float[Array, "L N K H T"]
    values: Float[Array, "L N K T H"]


Cache = ProductCache | KernelCache


@struct.dataclass(kw_only=True)
class Places:
    """Where the tokens of a call go: each sequence's next ``counts`` <= S tokens."""

    tables: Int[Array, "B J"]  # the pages of a sequence, in order
    starts: Int[Array, " B"]  # tokens that are in the cache already
    counts: Int[Array, " B"]  # tokens of this call; what is beyond them is padding


@struct.dataclass(kw_only=True)
class PagedMask:
    """``Places`` as attention takes them: a token sees its sequence up to itself."""

    positions: Int[Array, "B S"]
    write_pages: Int[Array, "B S"]  # NO_PAGE for padding, which is not written
    tables: Int[Array, "B J"]
    starts: Int[Array, " B"]
    ranks: Int[Array, " B"]  # among the sequences that have pairs; without any, that before or -1
    num_pairs: Int[Array, " D"]
    pair_sequences: Int[Array, " M"]
    pair_pages: Int[Array, " M"]
    pair_starts: Int[Array, " M"]  # the position of a page's first token


def init(cfg: ModelConfig, num_pages: int) -> Cache:
    """An empty cache; ``num_pages`` over all devices."""
    shapes = cache_shapes(cfg, num_pages)
    names = dimensions(shapes)
    return jax.tree.map(lambda x: shard(jnp.zeros(x.shape, x.dtype), *names), shapes)


def cache_shapes(cfg: ModelConfig, num_pages: int) -> Cache:
    """Shapes of ``init``'s result."""
    K, H = cfg.num_kv_heads, cfg.head_dim
    both = (cfg.num_layers, num_pages)
    array = partial(jax.ShapeDtypeStruct, dtype=cfg.dtype)
    if paged_kernel.fits(cfg):
        return KernelCache(pages=array((*both, PAGE, 2 * K, H)))
    return ProductCache(keys=array((*both, K, H, PAGE)), values=array((*both, K, PAGE, H)))


def dimensions(cache: Cache) -> Names:
    """The names of the dimensions of its arrays."""
    if isinstance(cache, ProductCache):
        return (None, "batch", "kv_heads", None, None)
    heads = "kv_heads" if paged_kernel.splits_heads(cache.pages.shape[3] // 2) else None
    return (None, "batch", None, heads, None)


def mask(places: Places, num_tokens: int) -> PagedMask:
    """The mask of a call with S = ``num_tokens``."""
    each = rows = P()
    if _has_mesh():
        each, rows = spec(places.starts.shape, EACH), spec(places.tables.shape, ROWS)
    ins = Places(tables=rows, starts=each, counts=each)
    outs = PagedMask(
        positions=rows,
        write_pages=rows,
        tables=rows,
        starts=each,
        ranks=each,
        num_pairs=each,
        pair_sequences=each,
        pair_pages=each,
        pair_starts=each,
    )
    return _on_each_device(partial(_mask, num_tokens=num_tokens), (ins,), outs)(places)


def _mask(places: Places, num_tokens: int) -> PagedMask:
    """``mask`` of one device's sequences."""
    count, most = places.tables.shape
    token = jnp.arange(num_tokens)
    positions = places.starts[:, None] + token
    written = jnp.take_along_axis(places.tables, jnp.minimum(positions // PAGE, most - 1), axis=1)
    is_token = token < places.counts[:, None]
    lengths = jnp.where(places.counts > 0, places.starts + places.counts, 0)
    in_use = -(-lengths // PAGE)
    ends = jnp.cumsum(in_use)
    pair = jnp.arange(count * most)
    sequences = jnp.minimum(jnp.searchsorted(ends, pair, side="right"), count - 1)
    page = pair - (ends - in_use)[sequences]
    page = jnp.clip(page, 0, most - 1)
    return PagedMask(
        positions=positions,
        write_pages=jnp.where(is_token, written, NO_PAGE),
        tables=places.tables,
        starts=places.starts,
        ranks=jnp.cumsum(in_use > 0) - 1,
        num_pairs=ends[-1:],
        pair_sequences=sequences,
        pair_pages=places.tables[sequences, page],
        pair_starts=page * PAGE,
    )


def write_and_attend(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    cache: Cache,
    layer: Int[Array, ""],
    mask: PagedMask,
    window: int = 0,
    is_local: Bool[Array, ""] | None = None,
    softcap: float = 0.0,
) -> tuple[Float[Array, "B S K G H"], Cache]:
    """Attention of tokens to their sequences, these tokens included; and the cache with them.

    Queries come scaled. window: how many tokens are seen at most, the query's own included, in
    the layers where is_local (None: in all); 0 = all.
    """

    def on_one_device(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        cache: Cache,
        layer: jax.Array,
        mask: PagedMask,
        is_local: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        slots = mask.positions % PAGE
        if isinstance(cache, KernelCache):
            cache = paged_kernel.write(cache, k, v, layer, mask.write_pages, slots)
            out = paged_kernel.attend(
                q, cache, layer, mask.tables, mask.starts, window, is_local, softcap
            )
            return out, cache
        cache = _write(cache, k, v, layer, mask.write_pages, slots)
        return _attend(q, cache, layer, mask, _seen(window, is_local), softcap), cache

    ins = outs = P()
    if _has_mesh():
        queries, new = spec(q.shape, QUERIES), spec(k.shape, KEYS)
        names = dimensions(cache)
        pages = jax.tree.map(lambda x: spec(x.shape, names), cache)
        masks = jax.tree.map(lambda x: spec(x.shape, ROWS[: x.ndim]), mask)
        ins, outs = (queries, new, new, pages, P(), masks, P()), (queries, pages)
    return _on_each_device(on_one_device, ins, outs)(q, k, v, cache, layer, mask, is_local)


def _seen(window: int, is_local: jax.Array | None) -> jax.Array:
    """How many tokens a token of this layer sees at most."""
    everything = jnp.asarray(jnp.iinfo(jnp.int32).max)
    if not window:
        return everything
    if is_local is None:
        return jnp.asarray(window, everything.dtype)
    return jnp.where(is_local, window, everything)


def _write(
    cache: ProductCache,
    k: jax.Array,
    v: jax.Array,
    layer: jax.Array,
    pages: Int[Array, "B S"],
    slots: Int[Array, "B S"],
) -> ProductCache:
    k, v = k.astype(cache.keys.dtype), v.astype(cache.values.dtype)
    at_keys = cache.keys.at[layer, pages, :, :, slots]
    at_values = cache.values.at[layer, pages, :, slots]
    return ProductCache(keys=at_keys.set(k, mode="drop"), values=at_values.set(v, mode="drop"))


def _attend(
    q: Float[Array, "B S K G H"],
    cache: ProductCache,
    layer: jax.Array,
    mask: PagedMask,
    window: jax.Array,
    softcap: float,
) -> Float[Array, "B S K G H"]:
    B, S, K, G, H = q.shape
    queries = jnp.einsum("bskgh->bksgh", q).reshape(B, K, S * G, H)
    positions = jnp.repeat(mask.positions, G, axis=1)  # [B, S G]
    most = len(mask.pair_pages)
    size = min(most, CHUNK if platform() == "cpu" else LARGE_CHUNK)
    span = min(size, B)  # sequences that a chunk's pairs are of, at most
    rows = B if span == B else B + span
    padding = -most % size
    pairs = [mask.pair_sequences, mask.pair_pages, mask.pair_starts]
    pairs = [jnp.pad(x, (0, padding)) for x in pairs]
    num_pairs = mask.num_pairs[0]

    def add_chunk(i: jax.Array, sums: tuple) -> tuple:
        """Merges the chunk's pairs into (the largest logit, the sums over exponentials)."""
        first = i * size
        sequence, page, start = [jax.lax.dynamic_slice(x, (first,), (size,)) for x in pairs]
        k = cache.keys[layer, page].astype(q.dtype)  # [C, K, H, T]
        v = cache.values[layer, page].astype(q.dtype)  # [C, K, T, H]
        logits = _product("ckqh,ckht->ckqt", queries[sequence], k)
        if softcap:
            logits = softcap * jnp.tanh(logits / softcap)
        distance = positions[sequence][..., None] - (start[:, None] + jnp.arange(PAGE))[:, None]
        exists = (first + jnp.arange(size) < num_pairs)[:, None, None]
        visible = ((distance >= 0) & (distance < window) & exists)[:, None]
        logits = jnp.where(visible, logits, MASKED)
        # The ranks of the chunk's sequences follow each other.
        first_rank = mask.ranks[sequence[0]] if span < B else 0
        ranks = mask.ranks[sequence] - first_rank
        top, total, mixed = [jax.lax.dynamic_slice_in_dim(x, first_rank, span) for x in sums]
        new_top = top.at[ranks].max(jnp.max(logits, axis=-1))
        weights = jnp.where(visible, jnp.exp(logits - new_top[ranks][..., None]), 0.0)
        values = _product("ckqt,ckth->ckqh", weights.astype(q.dtype), v)
        # As products: a CPU adds up scattered rows slowly.
        belongs = jax.nn.one_hot(ranks, span, dtype=jnp.float32)
        rescale = jnp.exp(top - new_top)
        total = total * rescale + _exact_product("cb,ckq->bkq", belongs, jnp.sum(weights, axis=-1))
        mixed = mixed * rescale[..., None] + _exact_product("cb,ckqh->bkqh", belongs, values)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(x, new, first_rank, axis=0)
            for x, new in zip(sums, (new_top, total, mixed), strict=True)
        )

    zeros = jnp.zeros((rows, K, S * G), jnp.float32)
    sums = zeros + MASKED, zeros, jnp.zeros((rows, *queries.shape[1:]), jnp.float32)
    _, total, mixed = jax.lax.fori_loop(0, -(-num_pairs // size), add_chunk, sums)
    mixed = mixed / jnp.where(total == 0, 1.0, total)[..., None]  # padding sees nothing
    out = mixed[mask.ranks].reshape(B, K, S, G, H)
    return jnp.einsum("bksgh->bskgh", out).astype(q.dtype)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _exact_product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST)


def _has_mesh() -> bool:
    return not jax.sharding.get_abstract_mesh().empty


def _on_each_device(function: Callable, ins: PyTree, outs: PyTree) -> Callable:
    """``function`` of each device's part; ins, outs: how arguments and results are split."""
    if not _has_mesh():
        return function
    return jax.shard_map(function, in_specs=ins, out_specs=outs, check_vma=False)
