"""The layers of a decoder-only transformer of the Llama family, as Flax Linen modules.

Letters of shapes: B sequences, S tokens of this call, T cached tokens, D width, K key-value heads,
G query heads of each, H head size (half: H / 2), M MLP width, V vocabulary, L layers.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reasoning_jax.model import attention
from reasoning_jax.model.attention import Mask
from reasoning_jax.model.config import REMAT, ModelConfig
from reasoning_jax.model.linear import dot
from reasoning_jax.model.sharding import PARAMETERS, Names, shard

KeysAndValues = tuple[jax.Array, jax.Array]  # of all layers, each [L, B, T, K, H]
Carry = tuple[jax.Array, KeysAndValues | None, jax.Array]  # x [B, S, D], the cache, layer index


def rms_norm(
    x: Float[Array, "B S D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "B S D"]:
    """x / rms(x) * scale over the last dimension, in float32 (Zhang & Sennrich 2019, eq. 4)."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (normed * scale).astype(x.dtype)


def rotary_angles(
    positions: Int[Array, "B S"], head_dim: int, theta: float
) -> tuple[Float[Array, "B S half"], Float[Array, "B S half"]]:
    """cos and sin of position * theta^(-2i/H), in float32."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B S *heads H"], cos: Float[Array, "B S half"], sin: Float[Array, "B S half"]
) -> Float[Array, "B S *heads H"]:
    """Rotary embedding, the two halves of H being the pairs (RoFormer, eq. 34)."""
    heads = (1,) * (x.ndim - cos.ndim)
    shape = (*cos.shape[:2], *heads, cos.shape[-1])
    cos = cos.reshape(shape).astype(x.dtype)
    sin = sin.reshape(shape).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    cfg: ModelConfig
    reads_cache: bool  # attention is to the cache, not only among the tokens of this call

    @nn.compact
    def __call__(
        self, carry: Carry, cos: jax.Array, sin: jax.Array, mask: Mask, slot: jax.Array
    ) -> tuple[Carry, None]:
        cfg = self.cfg
        x, cache, layer = carry
        D, H, M = cfg.width, cfg.head_dim, cfg.mlp_dim
        K, G = cfg.num_kv_heads, cfg.num_heads // cfg.num_kv_heads

        def project(
            name: str, equation: str, x: jax.Array, shape: tuple[int, ...], std: float, out: Names
        ) -> jax.Array:
            w = self.param(name, nn.initializers.normal(std), shape, jnp.float32)
            return dot(equation, x, w, PARAMETERS[name], out)

        def scale(name: str) -> jax.Array:
            return self.param(name, nn.initializers.ones, (D,), jnp.float32)

        std = D**-0.5
        depth = (2 * cfg.num_layers) ** 0.5
        # What is added to the residual stream starts small, as in GPT-2.
        mixed_std = (K * G * H * depth**2) ** -0.5
        down_std = (M * depth**2) ** -0.5
        hidden_names = ("batch", None, None)
        mlp_names = ("batch", None, "mlp")

        h = rms_norm(x, scale("attention_norm"), cfg.norm_eps)
        q = project("query", "bsd,dkgh->bskgh", h, (D, K, G, H), std, attention.QUERIES)
        k = project("key", "bsd,dkh->bskh", h, (D, K, H), std, attention.KEYS)
        v = project("value", "bsd,dkh->bskh", h, (D, K, H), std, attention.KEYS)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            cache = _write(cache, (k, v), layer, slot)
        if self.reads_cache:
            mixed = attention.cached(q, *cache, layer, slot + x.shape[1], mask.visible)
        else:
            mixed = attention.attend(q, k, v, mask, cfg.window)
        mixed = shard(mixed, *attention.QUERIES)
        shape = (K, G, H, D)
        x = x + project("attention_out", "bskgh,kghd->bsd", mixed, shape, mixed_std, hidden_names)

        h = rms_norm(x, scale("mlp_norm"), cfg.norm_eps)
        gate = project("gate", "bsd,dm->bsm", h, (D, M), std, mlp_names)
        up = project("up", "bsd,dm->bsm", h, (D, M), std, mlp_names)
        h = nn.silu(gate) * up
        x = x + project("down", "bsm,md->bsd", h, (M, D), down_std, hidden_names)
        return (x, cache, layer + 1), None


def _write(
    cache: KeysAndValues, new: KeysAndValues, layer: jax.Array, slot: jax.Array
) -> KeysAndValues:
    """The cache with a layer's keys and values of this call's tokens at their slots."""
    at = (layer, 0, slot, 0, 0)
    keys = jax.lax.dynamic_update_slice(cache[0], new[0][None].astype(cache[0].dtype), at)
    values = jax.lax.dynamic_update_slice(cache[1], new[1][None].astype(cache[1].dtype), at)
    return keys, values


class Transformer(nn.Module):
    """Scanned layers and the final norm; returns hidden states [B, S, D], keys and values.

    The embedding and the output matrix are declared here, so that all parameters are made together,
    and used by ``embed`` and ``logits``.
    """

    cfg: ModelConfig
    reads_cache: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cos: jax.Array,
        sin: jax.Array,
        mask: Mask,
        cache: KeysAndValues | None,
        slot: jax.Array,
    ) -> tuple[jax.Array, KeysAndValues | None]:
        cfg = self.cfg
        # Linen counts the calls of ``param`` for each one's key: their order is part of a seed.
        normal = nn.initializers.normal(cfg.width**-0.5)
        self.param("embedding", normal, (cfg.vocab_size, cfg.width), jnp.float32)
        if not cfg.tied:
            self.param("unembedding", normal, (cfg.width, cfg.vocab_size), jnp.float32)
        block = Block
        if cfg.remat != "none":
            block = nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            length=cfg.num_layers,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
        )
        carry = x, cache, jnp.zeros((), jnp.int32)
        scanned = layers(cfg, self.reads_cache, name="layers")
        (x, cache, _), _ = scanned(carry, cos, sin, mask, slot)
        scale = self.param("final_norm", nn.initializers.ones, (cfg.width,), jnp.float32)
        return rms_norm(x, scale, cfg.norm_eps), cache
