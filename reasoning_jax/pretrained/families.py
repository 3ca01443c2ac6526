"""The families of published models: what their config.json says, and what their tensors are called.

A family is one table. hf_config.py reads and writes config.json by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained.names import GEMMA, GPT2, GPTJ, LLAMA
from reasoning_jax.pretrained.tables import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of published model."""

    name: str
    architecture: str  # what ``architectures`` of an exported config.json says
    model_type: str
    others: tuple[str, ...] = ()  # other architectures that are read
    keys: Mapping[str, str]  # the key of config.json for a field of ModelConfig
    table: Table
    defaults: Mapping[str, Json]  # the value of a key that config.json leaves out
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of all its models
    # Keys that turn fields of ModelConfig on.
    switches: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # Keys, and the value that this decoder computes: it refuses others.
    fixed: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    activation: str = "hidden_act"
    rotary: bool = True  # config.json has rope_theta
    local_rotary: bool = False  # and another one for layers with a window
    window: str = ""  # which layers have sliding_window: "", "all", "upper" or "pattern"
    pattern: int = 0  # of "pattern": every pattern-th layer sees all
    renames: tuple[tuple[str, str], ...] = ()  # how other files spell the start of a name
    ignored: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)  # tensors that are no parameters


SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
GPT_SIZES = {
    "vocab_size": "vocab_size",
    "width": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "mlp_dim": "n_inner",
    "norm_eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
DEFAULTS: dict[str, Json] = {
    "num_key_value_heads": None,  # as many as query heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rope_theta": 10_000.0,
}
GPT_DEFAULTS: dict[str, Json] = {
    "n_inner": None,  # 4 n_embd
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
GEMMA_SCALES = {
    "query_scale": "query_pre_attn_scalar",
    "attention_softcap": "attn_logit_softcapping",
    "output_softcap": "final_logit_softcapping",
}
GEMMA_DEFAULTS: dict[str, Json] = DEFAULTS | {
    # A text_config names only what differs from these.
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
GEMMA_FLAGS = {"norm_offset": True, "post_norms": True, "embed_scale": True}
BIASES = {"attention_bias": ("qkv_bias", "out_bias")}
WITHOUT_MODEL = ((r"(layers|embed_tokens|norm)\.", r"model.\g<0>"),)
WITHOUT_TRANSFORMER = ((r"(h|wte|wpe|ln_f)\.", r"transformer.\g<0>"),)

FAMILIES = (
    Family(
        name="llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        keys=SIZES,
        table=LLAMA,
        defaults=DEFAULTS,
        switches=BIASES | {"mlp_bias": ("mlp_bias",)},
        renames=WITHOUT_MODEL,
    ),
    Family(
        name="mistral",
        architecture="MistralForCausalLM",
        model_type="mistral",
        keys=SIZES,
        table=LLAMA,
        defaults=DEFAULTS | {"num_key_value_heads": 8, "sliding_window": 4096},
        window="all",
        renames=WITHOUT_MODEL,
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        keys=SIZES,
        table=LLAMA,
        defaults=DEFAULTS | {"sliding_window": 4096, "max_window_layers": 28},
        flags={"qkv_bias": True},
        window="upper",
        renames=WITHOUT_MODEL,
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        keys=SIZES,
        table=LLAMA,
        defaults=DEFAULTS | {"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
        flags={"qk_norm": True},
        switches=BIASES,
        window="upper",
        renames=WITHOUT_MODEL,
    ),
    Family(
        name="gemma2",
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        keys=SIZES | GEMMA_SCALES,
        table=GEMMA,
        defaults=GEMMA_DEFAULTS
        | {
            "vocab_size": 256_000,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        flags=GEMMA_FLAGS,
        switches=BIASES,
        fixed={"use_bidirectional_attention": False},
        activation="hidden_activation",
        window="pattern",
        pattern=2,
        renames=WITHOUT_MODEL,
    ),
    Family(
        name="gemma3",
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        others=("Gemma3ForConditionalGeneration",),
        keys=SIZES | GEMMA_SCALES,
        table=GEMMA,
        defaults=GEMMA_DEFAULTS
        | {
            "vocab_size": 262_208,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        flags=GEMMA_FLAGS | {"qk_norm": True},
        switches=BIASES,
        fixed={"use_bidirectional_attention": False},
        activation="hidden_activation",
        local_rotary=True,
        window="pattern",
        pattern=6,
        renames=(
            (r"language_model\.model\.", "model."),
            (r"language_model\.lm_head\.", "lm_head."),
            (r"model\.language_model\.", "model."),
            *WITHOUT_MODEL,
        ),
        # The part that reads pictures is left out.
        ignored=(
            r"\.rotary_emb\w*\.inv_freq$",
            r"^(model\.)?(vision_tower|multi_modal_projector)\.",
        ),
    ),
    Family(
        name="gptj",
        architecture="GPTJForCausalLM",
        model_type="gptj",
        keys=GPT_SIZES | {"rotary_dim": "rotary_dim"},
        table=GPTJ,
        defaults=GPT_DEFAULTS | {"tie_word_embeddings": False, "rotary_dim": 64},
        flags={
            "rotary": "interleaved",
            "norm": "layer",
            "gated": False,
            "parallel": True,
            "mlp_bias": True,
            "output_bias": True,
        },
        activation="activation_function",
        rotary=False,
        renames=WITHOUT_TRANSFORMER,
        ignored=(r"\.attn\.(bias|masked_bias|embed_positions)$",),
    ),
    Family(
        name="gpt2",
        architecture="GPT2LMHeadModel",
        model_type="gpt2",
        keys=GPT_SIZES | {"max_positions": "n_positions"},
        table=GPT2,
        defaults=GPT_DEFAULTS | {"tie_word_embeddings": True, "n_positions": 1024},
        flags={
            "rotary": "none",
            "norm": "layer",
            "gated": False,
            "qkv_bias": True,
            "out_bias": True,
            "mlp_bias": True,
        },
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        activation="activation_function",
        rotary=False,
        renames=WITHOUT_TRANSFORMER,
        ignored=(r"\.attn\.(bias|masked_bias)$",),
    ),
)
BY_NAME = {family.name: family for family in FAMILIES}


def get(name: str, where: str) -> Family:
    """The family of this name; UserError naming the file."""
    if name not in BY_NAME:
        raise UserError(f"{where}: there is no family {name!r}; known are {', '.join(BY_NAME)}.")
    return BY_NAME[name]
