"""A cache of keys and values in pages (pages.py), and attention to it.

On TPU a kernel attends to pages (paged_kernel.py), where it fits and numbers do not have 8 bits;
else products do (paged_products.py). The two keep keys and values in orders of their own.

Letters of shapes: B sequences, S tokens of this call, N pages, T tokens of a page, L layers,
K key-value heads, G query heads of each, H head size.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from reasoning_jax.model import paged_kernel, paged_products
from reasoning_jax.model.attention import KEYS, QUERIES
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.paged_kernel import KernelCache
from reasoning_jax.model.paged_products import ProductCache
from reasoning_jax.model.pages import PAGE, ROWS, PagedMask, has_mesh, on_each_device
from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import shard, spec

Cache = ProductCache | KernelCache


def init(cfg: ModelConfig, num_pages: int, in_int8: bool = False) -> Cache:
    """An empty cache; ``num_pages`` over all devices; in_int8: of numbers in 8 bits."""
    shapes = cache_shapes(cfg, num_pages, in_int8)
    names = dimensions(shapes)
    return jax.tree.map(lambda x: shard(jnp.zeros(x.shape, x.dtype), *names[: x.ndim]), shapes)


def cache_shapes(cfg: ModelConfig, num_pages: int, in_int8: bool = False) -> Cache:
    """Shapes of ``init``'s result."""
    K, H = cfg.num_kv_heads, cfg.head_dim
    both = (cfg.num_layers, num_pages)
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.int8 if in_int8 else cfg.dtype)
    if paged_kernel.fits(cfg) and not in_int8:
        return KernelCache(pages=array((*both, PAGE, 2 * K, paged_kernel.padded(H))))
    scales = jax.ShapeDtypeStruct((*both, K, PAGE), jnp.float32) if in_int8 else None
    return ProductCache(
        keys=array((*both, K, H, PAGE)),
        values=array((*both, K, PAGE, H)),
        key_scales=scales,
        value_scales=scales,
    )


def token_bytes(cfg: ModelConfig, in_int8: bool = False) -> float:
    """Bytes of a token in the cache, as it is laid out on the mesh that is set."""
    page = cache_shapes(cfg, num_pages=1, in_int8=in_int8)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(page)) / PAGE


def dimensions(cache: Cache) -> Names:
    """The names of the dimensions of its arrays."""
    if isinstance(cache, ProductCache):
        return (None, "batch", "kv_heads", None, None)
    heads = "kv_heads" if paged_kernel.splits_heads(cache.pages.shape[3] // 2) else None
    return (None, "batch", None, heads, None)


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
        cache = paged_products.write(cache, k, v, layer, mask.write_pages, slots)
        seen = _seen(window, is_local)
        return paged_products.attend(q, cache, layer, mask, seen, softcap), cache

    ins = outs = P()
    if has_mesh():
        queries, new = spec(q.shape, QUERIES), spec(k.shape, KEYS)
        names = dimensions(cache)
        pages = jax.tree.map(lambda x: spec(x.shape, names[: x.ndim]), cache)
        masks = jax.tree.map(lambda x: spec(x.shape, ROWS[: x.ndim]), mask)
        ins, outs = (queries, new, new, pages, P(), masks, P()), (queries, pages)
    return on_each_device(on_one_device, ins, outs)(q, k, v, cache, layer, mask, is_local)


def _seen(window: int, is_local: jax.Array | None) -> jax.Array:
    """How many tokens a token of this layer sees at most."""
    everything = jnp.asarray(jnp.iinfo(jnp.int32).max)
    if not window:
        return everything
    if is_local is None:
        return jnp.asarray(window, everything.dtype)
    return jnp.where(is_local, window, everything)
