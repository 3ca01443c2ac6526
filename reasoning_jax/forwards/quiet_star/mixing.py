"""The mixing head: how much a prediction takes from the hidden state after a thought.

Quiet-STaR (Zelikman et al. 2024, arXiv:2403.09629), section 4.3, as its authors' code computes it:

    h = (1 - w) h_before + w h_after,    w = MLP([h_before; h_after]),    log p = log softmax(W h)

W is linear, so this mixes logits and not probabilities. w is no probability either: it has no
sigmoid, and begins as 0, where the model is what it is without thoughts.

Letters of shapes: B sequences, S positions, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.linear import dot
from reasoning_jax.model.parameters import PARAMETERS
from reasoning_jax.model.transformer import HIDDEN


def init(key: Key[Array, ""], model_cfg: ModelConfig) -> Params:
    """A layer from 2 D to D, one from D to D, and one to the weight, which is zeros."""
    width = model_cfg.width
    first_key, second_key = jax.random.split(key)
    first = jax.random.normal(first_key, (2 * width, width))
    second = jax.random.normal(second_key, (width, width))
    return {
        "mixing_first": first * (2 * width) ** -0.5,
        "mixing_first_bias": jnp.zeros((width,)),
        "mixing_second": second * width**-0.5,
        "mixing_second_bias": jnp.zeros((width,)),
        "mixing_last": jnp.zeros((width, 1)),
    }


def mix(
    params: Params, before: Float[Array, "B S D"], after: Float[Array, "B S D"]
) -> tuple[Float[Array, "B S D"], Float[Array, "B S"]]:
    """The mixed hidden states, and the weight w of those after a thought, in float32."""
    h = jnp.concatenate([before, after], axis=-1)
    for name in ("mixing_first", "mixing_second"):
        bias = params[f"{name}_bias"].astype(h.dtype)
        h = jax.nn.relu(dot("bsd,de->bse", h, params[name], PARAMETERS[name], HIDDEN) + bias)
    last = params["mixing_last"]
    weight = dot("bsd,de->bse", h, last, PARAMETERS["mixing_last"], HIDDEN, dtype=jnp.float32)
    change = weight * (after - before).astype(jnp.float32)
    return before + change.astype(before.dtype), weight[..., 0]
