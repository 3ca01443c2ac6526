"""The static shape of a model, and how it is computed."""

from __future__ import annotations

import dataclasses

import jax

from reasoning_jax.errors import UserError

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTION = ("auto", "plain", "splash")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Static shape of a model; hashable, so that it can be a static argument of jit.

    UserError where the numbers do not fit together.
    """

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
    remat: str = "none"  # "none", "full" (recompute each layer) or "dots" (keep matrix products)
    attention: str = "auto"  # "plain", "splash" (a TPU kernel, for lengths of 128 n) or "auto"

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"config.model: num_heads {self.num_heads} is no multiple of "
                f"num_kv_heads {self.num_kv_heads}."
            )
        if self.head_dim % 2:
            raise UserError(
                f"config.model.head_dim: rotary embedding needs an even size, got {self.head_dim}."
            )
