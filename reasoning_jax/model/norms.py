"""Norms over the last dimension, computed in float32."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reasoning_jax.model.config import ModelConfig


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], eps: float, offset: bool = False
) -> Float[Array, "*batch D"]:
    """x / rms(x) * scale (Zhang & Sennrich 2019, eq. 4).

    offset: the factor is 1 + scale.
    """
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    factor = scale.astype(jnp.float32)
    if offset:
        factor = 1.0 + factor  # in bfloat16 it would round the scale
    return (normed * factor).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float
) -> Float[Array, "*batch D"]:
    """(x - mean) / std * scale + bias (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps) * scale + bias).astype(x.dtype)


class WithNorms(nn.Module):
    """The base of Block and Transformer: vectors as parameters, and norms."""

    cfg: ModelConfig

    @nn.nowrap
    def vector(self, name: str, shape: tuple[int, ...], initial: float) -> jax.Array:
        """A float32 parameter that begins as a constant."""
        return self.param(name, nn.initializers.constant(initial), shape, jnp.float32)

    @nn.nowrap
    def norm(self, name: str, x: jax.Array) -> jax.Array:
        """The norm of x [..., D] with the parameters of this name."""
        cfg = self.cfg
        shape = x.shape[-1:]
        scale = self.vector(name, shape, 0.0 if cfg.norm_offset else 1.0)
        if cfg.norm == "rms":
            return rms_norm(x, scale, cfg.norm_eps, cfg.norm_offset)
        return layer_norm(x, scale, self.vector(f"{name}_bias", shape, 0.0), cfg.norm_eps)
