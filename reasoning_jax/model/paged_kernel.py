"""Attention to pages by a kernel for TPUs: jax.experimental's ragged_paged_attention.

It reads each page from HBM as the table of pages says; nothing is gathered. It takes heads of a
multiple of 128 numbers, to which others are padded with zeros, as TPU's memory would pad them; and
its own order of the cache: keys and values of a head side by side.

Letters of shapes: B sequences, S tokens of this call, J pages of a sequence at most, N pages, T
tokens of a page, L layers, K key-value heads, G query heads of each, H head size, W of it padded.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.sharding import platform, spec

LANES = 128  # of a TPU
SUBLANES = 8
QUERIES_A_BLOCK = 32
PAGES_A_BLOCK = 16


@struct.dataclass(kw_only=True)
class KernelCache:
    """The keys and values of all layers: head k's keys are entry 2 k, its values entry 2 k + 1."""

    pages: Float[Array, "L N T 2*K W"]


def fits(cfg: ModelConfig) -> bool:
    """Whether this model attends to pages by the kernel, on the mesh that is set."""
    chosen = cfg.attention == "splash" or (cfg.attention == "auto" and platform() == "tpu")
    return chosen and _is_tileable(cfg)


def _is_tileable(cfg: ModelConfig) -> bool:
    """Whether a device's keys and values of a token fill the tiles of its memory."""
    heads = cfg.num_kv_heads
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and splits_heads(heads):
        heads //= mesh.shape["tensor"]
    rows = 2 * heads // (4 // jnp.dtype(cfg.dtype).itemsize)  # of 4 bytes a lane
    return rows in (1, 2, 4) or (rows > 0 and rows % SUBLANES == 0)


def padded(head_dim: int) -> int:
    """The size of a head in the cache."""
    return -(-head_dim // LANES) * LANES


def splits_heads(num_kv_heads: int) -> bool:
    """Whether the mesh splits the key-value heads."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and spec((num_kv_heads,), ("kv_heads",))[0] is not None


def write(
    cache: KernelCache,
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    layer: Int[Array, ""],
    pages: Int[Array, "B S"],
    slots: Int[Array, "B S"],
) -> KernelCache:
    """The cache with these tokens; pages from N on are not written."""
    B, S, K, H = k.shape
    both = jnp.stack([k, v], axis=3).reshape(B, S, 2 * K, H).astype(cache.pages.dtype)
    both = _padded(both)
    return KernelCache(pages=cache.pages.at[layer, pages, slots].set(both, mode="drop"))


def attend(
    q: Float[Array, "B S K G H"],
    cache: KernelCache,
    layer: Int[Array, ""],
    tables: Int[Array, "B J"],
    starts: Int[Array, " B"],
    window: int = 0,
    is_local: Bool[Array, ""] | None = None,
    softcap: float = 0.0,
) -> Float[Array, "B S K G H"]:
    """Attention of S tokens, which are written, to their sequences; on one device.

    tables: the sequences' pages; starts: tokens before these. The others as of
    ``paged_attention.write_and_attend``.
    """
    # Importing it takes half a second, and only this function needs it.
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    B, S, K, G, H = q.shape
    layers, num_pages = cache.pages.shape[:2]
    call = partial(
        ragged_paged_attention,
        _padded(q.reshape(B * S, K * G, H)),
        cache.pages.reshape(layers * num_pages, *cache.pages.shape[2:]),
        starts + S,
        tables + layer * num_pages,
        S * jnp.arange(B + 1, dtype=jnp.int32),
        jnp.array([B], jnp.int32),
        soft_cap=softcap or None,
        num_kv_pages_per_block=min(PAGES_A_BLOCK, tables.shape[1]),
        num_queries_per_block=min(QUERIES_A_BLOCK, B * S),
    )
    if is_local is None:
        out = call(sliding_window=window or None)
    else:
        out = jax.lax.cond(is_local, lambda: call(sliding_window=window), lambda: call())
    return out[..., :H].reshape(q.shape)


def _padded(x: Float[Array, "*batch H"]) -> Float[Array, "*batch W"]:
    """x with zeros to the size of a head in the cache."""
    head_dim = x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padded(head_dim) - head_dim)])
