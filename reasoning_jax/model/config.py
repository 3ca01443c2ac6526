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
ATTENTION = ("auto", "flash", "splash")
DTYPES = ("float32", "bfloat16")
ROTARY = ("half", "interleaved", "none")
NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are slowed down for contexts longer than ``original_length``.

    kind: "linear" divides all of them by ``factor``; "llama3" divides those whose wavelength is
    above original_length / low_freq_factor, leaves those below original_length / high_freq_factor
    and goes from one to the other in between.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Static shape of a model; hashable, so that it can be a static argument of jit.

    The defaults are Llama's. UserError where the numbers do not fit together.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int

    # Where a token is.
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None  # of the layers that are not local
    rotary: str = "half"  # which numbers turn together: (i, i + H/2), (2i, 2i + 1), or none do
    rotary_dim: int = 0  # the first numbers of a head, which turn; 0 = all
    max_positions: int = 0  # learned positions (GPT-2); 0 = none

    # Which tokens a token sees.
    window: int = 0  # so many at most, itself included; 0 = all before it
    local_layers: tuple[bool, ...] = ()  # which layers have the window; () = all
    local_rope_theta: float = 0.0  # of the local layers; 0 = rope_theta

    # Norms.
    norm: str = "rms"  # or "layer", with a bias
    norm_eps: float = 1e-5
    norm_offset: bool = False  # the scale is 1 + w (Gemma)
    post_norms: bool = False  # what attention and MLP give is normed too (Gemma)
    qk_norm: bool = False  # each head of queries and keys is normed (Qwen 3, Gemma 3)

    # Attention, MLP, embedding and output.
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    output_bias: bool = False
    query_scale: float = 0.0  # logits are q k / sqrt(query_scale); 0 = head_dim
    attention_softcap: float = 0.0  # logits are c tanh(logits / c); 0 = as they are
    output_softcap: float = 0.0
    activation: str = "silu"  # or "gelu", by the approximation with tanh
    gated: bool = True  # down(act(gate x) * up x); False: down(act(up x))
    parallel: bool = False  # attention and MLP read the same norm (GPT-J)
    embed_scale: bool = False  # embeddings times sqrt(width) (Gemma)
    tied: bool = True  # the output matrix is the embedding, transposed

    # How it is computed.
    dtype: str = "float32"  # of the computation; what is trained is always float32
    remat: str = "none"  # "none", "full" (recompute each layer) or "dots" (keep matrix products)
    attention: str = "auto"  # "flash", "splash" (a TPU kernel, for lengths of 128 n) or "auto"
    lora_scale: float = 1.0  # LoRA's products are multiplied with it: alpha / rank

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"config.model: num_heads {self.num_heads} is no multiple of "
                f"num_kv_heads {self.num_kv_heads}."
            )
        turning = self.rotary_dim or self.head_dim
        if self.rotary != "none" and turning % 2:
            raise UserError(
                f"config.model.head_dim: rotary embedding needs an even size, got {turning}."
            )
        if self.local_layers and len(self.local_layers) != self.num_layers:
            raise UserError(
                f"config.model.num_layers: {self.num_layers}, but {len(self.local_layers)} layers "
                "are said to be local or not."
            )
        if any(self.local_layers) and not self.window:
            raise UserError("config.model.window: local layers need a window above 0.")
