"""Rotary position embedding (RoFormer, arXiv:2104.09864), with the variants of published models.

Letters of shapes: B sequences, S tokens, H head size, R half of the numbers of a head that turn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reasoning_jax.model.config import ModelConfig, RopeScaling

CosSin = tuple[jax.Array, jax.Array]


def angles(
    positions: Int[Array, "B S"], cfg: ModelConfig, local: bool = False
) -> tuple[Float[Array, "B S R"], Float[Array, "B S R"]]:
    """cos and sin of position * theta^(-i/R), in float32.

    local: of the layers that see a window, whose base is their own and is not scaled.
    """
    size = cfg.rotary_dim or cfg.head_dim
    theta = cfg.rope_theta
    if local and cfg.local_rope_theta:
        theta = cfg.local_rope_theta
    frequencies = theta ** -(jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    if cfg.rope_scaling is not None and not local:
        frequencies = _scaled(frequencies, cfg.rope_scaling)
    turned = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(turned), jnp.sin(turned)


def _scaled(frequencies: Float[Array, " R"], scaling: RopeScaling) -> Float[Array, " R"]:
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed
    wavelengths = 2 * jnp.pi / frequencies
    periods = scaling.original_length / wavelengths  # in the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = jnp.clip((periods - low) / (high - low), 0.0, 1.0)
    return (1 - kept) * slowed + kept * frequencies


def rotate(
    x: Float[Array, "B S *heads H"],
    cos: Float[Array, "B S R"],
    sin: Float[Array, "B S R"],
    style: str,
) -> Float[Array, "B S *heads H"]:
    """Each pair of numbers of a head turned by its angle (RoFormer, eq. 34).

    style: ``ModelConfig.rotary``. The first 2 R numbers of a head turn, the others stay.
    """
    if style == "none":
        return x
    size = 2 * cos.shape[-1]
    heads = (1,) * (x.ndim - cos.ndim)
    shape = (*cos.shape[:2], *heads, cos.shape[-1])
    cos = cos.reshape(shape).astype(x.dtype)
    sin = sin.reshape(shape).astype(x.dtype)
    turning, rest = x[..., :size], x[..., size:]
    if style == "interleaved":
        first, second = turning[..., ::2], turning[..., 1::2]
    else:
        first, second = jnp.split(turning, 2, axis=-1)
    pair = first * cos - second * sin, second * cos + first * sin
    if style == "interleaved":
        turned = jnp.stack(pair, axis=-1).reshape(turning.shape)
    else:
        turned = jnp.concatenate(pair, axis=-1)
    if rest.shape[-1] == 0:
        return turned
    return jnp.concatenate([turned, rest], axis=-1)
