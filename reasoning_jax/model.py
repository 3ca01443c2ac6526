"""One decoder-only transformer of the Llama family, as three pure functions: init, apply, init_cache.

Letters of shapes: B rows, S tokens of this call, T cached tokens, D width, K key-value heads, G query heads of each,
H head size, M MLP width, V vocabulary, L layers. Rows are padded on the right; a row may hold several segments (packing).
A token sees those of its own segment whose position is not after its own; segment 0 is padding and is seen by nobody.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from reasoning_jax import attention
from reasoning_jax.sharding import PARAMETERS, Names, dot, lookup, shard

Params = dict[str, Any]

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Static shape of a model; hashable, so that it can be a static argument of jit."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = True  # the output matrix is the embedding, transposed
    window: int = 0  # a token sees so many tokens at most, itself included; 0 = all before it
    dtype: str = "float32"  # of the computation; parameters are always float32
    remat: str = "none"  # "none", "full" (recompute each layer) or "dots" (keep the matrix products)
    attention: str = "auto"  # "plain", "splash" (a TPU kernel, for rows of a multiple of 128 tokens) or "auto"

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"config.model: num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}.")
        if self.head_dim % 2:
            raise ValueError(f"config.model.head_dim: rotary embedding needs an even size, got {self.head_dim}.")
        if self.window < 0:
            raise ValueError(f"config.model.window: {self.window} is less than 0.")
        if self.remat not in REMAT:
            raise ValueError(f"config.model.remat: {self.remat!r} is not one of {', '.join(REMAT)}.")
        if self.attention not in ("auto", "plain", "splash"):
            raise ValueError(f"config.model.attention: {self.attention!r} is not auto, plain or splash.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"config.model.dtype: {self.dtype!r} is not float32 or bfloat16.")


@struct.dataclass
class Cache:
    """Keys and values of the tokens so far; slots fill from the left, the same slot in every row."""

    keys: jax.Array  # [L, B, T, K, H]
    values: jax.Array  # [L, B, T, K, H]
    positions: jax.Array  # [B, T] int32
    segment_ids: jax.Array  # [B, T] int32; 0 = an empty slot
    length: jax.Array  # scalar int32: slots written


def init_cache(cfg: ModelConfig, batch: int, length: int, dtype: Any = None) -> Cache:
    """An empty cache of ``length`` slots for ``batch`` rows."""
    shape = (cfg.num_layers, batch, length, cfg.num_kv_heads, cfg.head_dim)
    zeros = shard(jnp.zeros(shape, dtype or cfg.dtype), None, "batch", None, "kv_heads", None)
    slots = shard(jnp.zeros((batch, length), jnp.int32), "batch", None)
    return Cache(zeros, zeros, slots, slots, jnp.zeros((), jnp.int32))


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last dimension, in float32."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (normed * scale).astype(x.dtype)


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin [B, S, H/2] of position * theta^(-2i/H), in float32."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary embedding of x [B, S, ..., H], the two halves of H being the pairs (RoFormer, eq. 34)."""
    extra = (1,) * (x.ndim - cos.ndim)
    cos, sin = (a.reshape(*a.shape[:2], *extra, a.shape[-1]).astype(x.dtype) for a in (cos, sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)). Carries (x, keys and values of all layers, layer index)."""

    cfg: ModelConfig
    alone: bool  # the tokens see one another only, not the cache

    @nn.compact
    def __call__(self, carry: tuple, cos: jax.Array, sin: jax.Array, visible: jax.Array, slot: jax.Array) -> tuple:
        cfg = self.cfg
        x, cache, layer = carry
        D, K, G, H, M = cfg.width, cfg.num_kv_heads, cfg.num_heads // cfg.num_kv_heads, cfg.head_dim, cfg.mlp_dim

        def project(equation: str, x: jax.Array, name: str, shape: tuple[int, ...], fan_in: int, out: Names) -> jax.Array:
            w = self.param(name, nn.initializers.normal(fan_in**-0.5), shape, jnp.float32)
            return dot(equation, x, w, PARAMETERS[name], out)

        def scale(name: str) -> jax.Array:
            return self.param(name, nn.initializers.ones, (D,), jnp.float32)

        depth = (2 * cfg.num_layers) ** 0.5  # what is added to the residual stream starts small (GPT-2)
        h = rms_norm(x, scale("attention_norm"), cfg.norm_eps)
        q = project("bsd,dkgh->bskgh", h, "query", (D, K, G, H), D, attention.QUERIES)
        k = project("bsd,dkh->bskh", h, "key", (D, K, H), D, attention.KEYS)
        v = project("bsd,dkh->bskh", h, "value", (D, K, H), D, attention.KEYS)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:  # write this call's tokens at the slot
            cache = tuple(
                jax.lax.dynamic_update_slice(a, new[None].astype(a.dtype), (layer, 0, slot, 0, 0))
                for a, new in zip(cache, (k, v), strict=True)
            )
        if not self.alone:
            mixed = attention.cached(q, *cache, layer, slot + x.shape[1], visible)
        else:
            by_kernel = visible.ndim == 2
            mixed = attention.splash(q, k, v, visible, cfg.window) if by_kernel else attention.plain(q, k, v, visible)
        mixed = shard(mixed, *attention.QUERIES)
        fan_in = K * G * H * depth**2
        x = x + project("bskgh,kghd->bsd", mixed, "attention_out", (K, G, H, D), fan_in, ("batch", None, None))

        h = rms_norm(x, scale("mlp_norm"), cfg.norm_eps)
        gate = project("bsd,dm->bsm", h, "gate", (D, M), D, ("batch", None, "mlp"))
        up = project("bsd,dm->bsm", h, "up", (D, M), D, ("batch", None, "mlp"))
        h = nn.silu(gate) * up
        x = x + project("bsm,md->bsd", h, "down", (M, D), M * depth**2, ("batch", None, None))
        return (x, cache, layer + 1), None


class Transformer(nn.Module):
    """Embedding, scanned layers, final norm. Returns hidden states [B, S, D] and the keys and values."""

    cfg: ModelConfig
    alone: bool  # the tokens see one another only, not the cache

    @nn.compact
    def __call__(self, tokens: jax.Array, cos: jax.Array, sin: jax.Array, visible: jax.Array, cache: Any, slot: Any) -> tuple:
        cfg = self.cfg
        table = self.param("embedding", nn.initializers.normal(cfg.width**-0.5), (cfg.vocab_size, cfg.width), jnp.float32)
        if not cfg.tied:
            self.param("unembedding", nn.initializers.normal(cfg.width**-0.5), (cfg.width, cfg.vocab_size), jnp.float32)
        x = lookup(table, tokens, cfg.dtype)
        block = Block if cfg.remat == "none" else nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=False)
        layers = nn.scan(
            block, length=cfg.num_layers, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast
        )
        carry = x, cache, jnp.zeros((), jnp.int32)
        (x, cache, _), _ = layers(cfg, self.alone, name="layers")(carry, cos, sin, visible, slot)
        scale = self.param("final_norm", nn.initializers.ones, (cfg.width,), jnp.float32)
        return rms_norm(x, scale, cfg.norm_eps), cache


def init(key: jax.Array, cfg: ModelConfig) -> Params:
    """Float32 parameters as a nested dict. Run it under jit with out_shardings, so that they are born sharded."""
    ones = jnp.ones((1, 1), jnp.int32)
    cos, sin = rotary_angles(ones, cfg.head_dim, cfg.rope_theta)
    return Transformer(cfg, True).init(key, ones, cos, sin, ones[..., None] > 0, None, jnp.zeros((), jnp.int32))["params"]


def apply(
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    cache: Cache | None = None,
    *,
    cfg: ModelConfig,
    prefill: bool = False,
) -> tuple[jax.Array, Cache | None]:
    """Hidden states [B, S, D] after the final norm, and the cache with these tokens added.

    tokens, positions, segment_ids: [B, S] int32. With a cache the S tokens take its next S slots. ``prefill``: the cache is
    empty, and they see one another only.
    """
    alone = cache is None or prefill
    slot = jnp.zeros((), jnp.int32) if alone else cache.length
    key_positions, key_segments = positions, segment_ids
    if cache is not None:
        stored_positions = jax.lax.dynamic_update_slice(cache.positions, positions, (0, slot))
        stored_segments = jax.lax.dynamic_update_slice(cache.segment_ids, segment_ids, (0, slot))
        if not alone:
            key_positions, key_segments = stored_positions, stored_segments
    if alone and attention.fits_splash(cfg.attention, tokens.shape[1]):
        visible = segment_ids
    else:  # one mask [B, S, T] for all layers and heads
        visible = (segment_ids[:, :, None] == key_segments[:, None]) & (segment_ids[:, :, None] > 0)
        back = positions[:, :, None] - key_positions[:, None]
        visible &= (back >= 0) & (back < cfg.window) if cfg.window else back >= 0
    cos, sin = rotary_angles(positions, cfg.head_dim, cfg.rope_theta)
    stored = None if cache is None else (cache.keys, cache.values)
    hidden, stored = Transformer(cfg, alone).apply({"params": params}, tokens, cos, sin, visible, stored, slot)
    if cache is None:
        return hidden, None
    return hidden, Cache(*stored, stored_positions, stored_segments, slot + tokens.shape[1])


def for_decoding(params: Params, cfg: ModelConfig) -> Params:
    """The parameters to call ``apply`` and ``logits`` with many times: matrices once in the dtype of the computation, and the
    output matrix once split by its vocabulary, so that no step gathers it."""
    params = jax.tree_util.tree_map_with_path(lambda path, x: x.astype(cfg.dtype) if path[-1].key in PARAMETERS else x, params)
    return params | {"output": _output(params, cfg)}


def _output(params: Params, cfg: ModelConfig) -> jax.Array:
    return shard(params["embedding"], "output", None) if cfg.tied else shard(params["unembedding"], None, "output")


def logits(params: Params, hidden: jax.Array, cfg: ModelConfig) -> jax.Array:
    """Float32 logits [B, S, V] of hidden states [B, S, D]; for a few positions at once: see logprobs.py."""
    matrix = params["output"] if "output" in params else _output(params, cfg)
    equation, names = ("bsd,vd->bsv", ("output", None)) if cfg.tied else ("bsd,dv->bsv", (None, "output"))
    # The few hidden states move to the parts of the matrix, not the matrix to them.
    hidden = shard(hidden, "rows", None, None)
    out = dot(equation, hidden, matrix, names, ("rows", None, "output"), dtype=jnp.float32)
    # First rows for columns, then the columns of these rows alone: in one step XLA would gather all logits of all rows.
    return shard(shard(out, "batch", None, "vocab"), "batch", None, None)


def num_params(params: Params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
