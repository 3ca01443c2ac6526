"""Keys and values of the tokens before, through which gradients flow: for a pass in several calls.

Letters of shapes: L layers, B sequences, T tokens, K key-value heads, H head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import shard

KeysValues = tuple[jax.Array, jax.Array]  # of one layer [B, T, K, H], or of all [L, B, T, K, H]

# Names of the dimensions, by which they are split over devices.
OF_LAYERS: Names = (None, "batch", None, "kv_heads", None)
OF_TOKENS: Names = ("batch", None)


@struct.dataclass
class Past:
    """What tokens leave behind for the tokens after them."""

    keys: Float[Array, "L B T K H"]
    values: Float[Array, "L B T K H"]
    positions: Int[Array, "B T"]  # of the rotary embedding: a layer's window is counted in them


def no_past(cfg: ModelConfig, batch: int) -> Past:
    """The past of the first tokens of ``batch`` sequences: T = 0."""
    shape = (cfg.num_layers, batch, 0, cfg.num_kv_heads, cfg.head_dim)
    nothing = shard(jnp.zeros(shape, cfg.dtype), *OF_LAYERS)
    positions = shard(jnp.zeros((batch, 0), jnp.int32), *OF_TOKENS)
    return Past(nothing, nothing, positions)


def with_newest(past: Past, keys_values: KeysValues, positions: Int[Array, "B S"]) -> Past:
    """The past and then these tokens, T + S in all."""
    keys, values = keys_values
    return Past(
        jnp.concatenate([past.keys, keys], axis=2),
        jnp.concatenate([past.values, values], axis=2),
        jnp.concatenate([past.positions, positions], axis=1),
    )
