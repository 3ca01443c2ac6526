"""int8 quantization for sampling: half of what a step of decoding reads in bfloat16.

Each output channel of a matrix has its own scale, its largest absolute weight over 127: absmax
quantization, a vector at a time (LLM.int8(), arXiv:2208.07339, sections 2.1 and 3.1). Keys and
values may have 8 bits too (paged_products.py); activations and sums do not.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from reasoning_jax.model.parameters import BLOCK_MATRICES, PARAMETERS, num_inputs
from reasoning_jax.model.sharding import shard

LARGEST = 127

Quantized = tuple[Int8[Array, "..."], Float[Array, "..."]]  # an array, and its scales


def quantize(w: Float[Array, ...], axes: tuple[int, ...]) -> Quantized:
    """w in the nearest of 255 levels, -127 to 127, of its scale; and the scales.

    axes: the dimensions that share a scale, which the scales do not have: a matrix's inputs.
    """
    w = w.astype(jnp.float32)
    scale = jnp.max(jnp.abs(w), axis=axes, keepdims=True) / LARGEST
    scale = jnp.where(scale == 0, 1.0, scale)
    return jnp.round(w / scale).astype(jnp.int8), jnp.squeeze(scale, axes)


def quantize_layers(
    layers: dict[str, Array],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Stacked layers with their matrices in 8 bits, and the scales of each by its name."""
    new, scales = dict(layers), {}
    for name in BLOCK_MATRICES:  # in the same order in every process
        if name not in layers:
            continue
        inputs = tuple(range(1, 1 + num_inputs(name)))  # dimension 0 is the layer
        new[name], scale = quantize(layers[name], inputs)
        # Sharded like the product that it multiplies.
        scales[name] = shard(scale, None, *PARAMETERS[f"{name}_bias"])
    return new, scales
