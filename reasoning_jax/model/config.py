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
class RopeScaling:
    """How the rotary frequencies of layers that see all tokens are slowed down."""

    kind: str  # "llama3" or "linear"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


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
    rope_scaling: RopeScaling | None = None  # of layers that see all tokens
    rotary: str = "half"  # which pairs turn: "half" (i, i+H/2), "interleaved" (2i, 2i+1), "none"
    rotary_dim: int = 0  # leading numbers of a head that turn; 0 = all
    max_positions: int = 0  # learned positions; 0 = none (GPT-2)
    norm: str = "rms"  # "rms" or "layer" (with a bias)
    norm_offset: bool = False  # rms scale is (1 + w), as Gemma stores it
    post_norms: bool = False  # also a norm after attention and after the MLP (Gemma)
    qk_norm: bool = False  # rms norm of each query and key head (Qwen3, Gemma 3)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    output_bias: bool = False
    activation: str = "silu"  # or "gelu" (the tanh approximation)
    gated: bool = True  # down(act(gate x) * up x); False: down(act(up x))
    parallel: bool = False  # attention and MLP read the same norm (GPT-J)
    embed_scale: bool = False  # embeddings times sqrt(width) (Gemma)
    query_scale: float = 0.0  # logits are q k / sqrt(query_scale); 0 = head_dim
    attention_softcap: float = 0.0  # c tanh(x / c); 0 = none
    output_softcap: float = 0.0
    local_layers: tuple[bool, ...] = ()  # which layers have ``window``; () = all
    local_rope_theta: float = 0.0  # rotary base of local layers (no scaling); 0 = rope_theta
    lora_scale: float = 1.0  # alpha / rank

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
