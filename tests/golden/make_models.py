"""Tiny published models with weights from a seed, as Hugging Face folders; numpy alone makes them.

What each family's files hold is written out here once more, so that a wrong name or orientation in
the package meets one that transformers has loaded (make_logits.py).
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

V, D, HEADS, KV, H, M = 64, 32, 4, 2, 8, 48
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "intermediate_size": M,
    "max_position_embeddings": 512,
    "num_hidden_layers": 3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = SIZES | {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 5,
    "hidden_activation": "gelu_pytorch_tanh",
}
GPT = {"vocab_size": V, "n_embd": D, "n_head": HEADS, "n_layer": 3, "n_positions": 128}

# The config.json of each case.
CONFIGS: dict[str, dict] = {
    "llama2": SIZES
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "llama3": SIZES
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 500.0,
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": True,
    },
    "llama_bias": SIZES
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 16,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
    },
    "mistral": SIZES
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "head_dim": 16,
        "sliding_window": 5,
        "rope_theta": 1000.0,
    },
    "qwen2": SIZES
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
        "rope_theta": 1000.0,
        "tie_word_embeddings": True,
    },
    "qwen3": SIZES
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 16,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
    },
    "gemma2": GEMMA
    | {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3": GEMMA
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "sliding_window_pattern": 3,
        "rope_theta": 1000.0,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "gptj": GPT
    | {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "rotary_dim": 4,
        "activation_function": "gelu_new",
        "tie_word_embeddings": False,
    },
    "gpt2": GPT
    | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
    },
}


# Seeds with which the two most likely tokens never come near each other in make_logits.py.
SEEDS = {"qwen2": 2, "gemma2": 4, "gemma3": 4, "gptj": 1}


def shapes(name: str, vocab_size: int = V) -> dict[str, tuple[int, ...]]:
    """The tensors of a case's file, as transformers saves them."""
    config = CONFIGS[name]
    if name == "gpt2":
        return _gpt2(vocab_size)
    if name == "gptj":
        return _gptj(vocab_size)
    head = config.get("head_dim", H)
    q, kv = HEADS * head, config["num_key_value_heads"] * head
    found = {"model.embed_tokens.weight": (vocab_size, D), "model.norm.weight": (D,)}
    if not config.get("tie_word_embeddings", name.startswith("gemma")):
        found["lm_head.weight"] = (vocab_size, D)
    for n in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj.weight": (q, D),
            "self_attn.k_proj.weight": (kv, D),
            "self_attn.v_proj.weight": (kv, D),
            "self_attn.o_proj.weight": (D, q),
            "mlp.gate_proj.weight": (M, D),
            "mlp.up_proj.weight": (M, D),
            "mlp.down_proj.weight": (D, M),
            "input_layernorm.weight": (D,),
            "post_attention_layernorm.weight": (D,),
        }
        if name in ("llama_bias", "qwen2"):
            layer |= {f"self_attn.{x}_proj.bias": (kv,) for x in "kv"}
            layer["self_attn.q_proj.bias"] = (q,)
        if name == "llama_bias":
            layer |= {f"mlp.{x}_proj.bias": (M,) for x in ("gate", "up")}
            layer |= {"mlp.down_proj.bias": (D,), "self_attn.o_proj.bias": (D,)}
        if name in ("qwen3", "gemma3"):
            layer |= {f"self_attn.{x}_norm.weight": (head,) for x in "qk"}
        if name.startswith("gemma"):
            layer |= {f"{x}_feedforward_layernorm.weight": (D,) for x in ("pre", "post")}
        found |= {f"model.layers.{n}.{key}": shape for key, shape in layer.items()}
    return found


def _gptj(vocab_size: int) -> dict[str, tuple[int, ...]]:
    found = {
        "transformer.wte.weight": (vocab_size, D),
        "lm_head.weight": (vocab_size, D),
        "lm_head.bias": (vocab_size,),
        "transformer.ln_f.weight": (D,),
        "transformer.ln_f.bias": (D,),
    }
    for n in range(GPT["n_layer"]):
        layer = {
            "ln_1.weight": (D,),
            "ln_1.bias": (D,),
            "mlp.fc_in.weight": (4 * D, D),
            "mlp.fc_in.bias": (4 * D,),
            "mlp.fc_out.weight": (D, 4 * D),
            "mlp.fc_out.bias": (D,),
        }
        layer |= {f"attn.{x}_proj.weight": (D, D) for x in ("q", "k", "v", "out")}
        found |= {f"transformer.h.{n}.{key}": shape for key, shape in layer.items()}
    return found


def _gpt2(vocab_size: int) -> dict[str, tuple[int, ...]]:
    found = {
        "transformer.wte.weight": (vocab_size, D),
        "transformer.wpe.weight": (GPT["n_positions"], D),
        "transformer.ln_f.weight": (D,),
        "transformer.ln_f.bias": (D,),
    }
    for n in range(GPT["n_layer"]):
        layer = {f"ln_{i}.{x}": (D,) for i in (1, 2) for x in ("weight", "bias")}
        layer |= {
            "attn.c_attn.weight": (D, 3 * D),
            "attn.c_attn.bias": (3 * D,),
            "attn.c_proj.weight": (D, D),
            "attn.c_proj.bias": (D,),
            "mlp.c_fc.weight": (D, 4 * D),
            "mlp.c_fc.bias": (4 * D,),
            "mlp.c_proj.weight": (4 * D, D),
            "mlp.c_proj.bias": (D,),
        }
        found |= {f"transformer.h.{n}.{key}": shape for key, shape in layer.items()}
    return found


def tensors(name: str, vocab_size: int = V) -> dict[str, np.ndarray]:
    """The weights of a case; each tensor's from a seed of its own."""
    found = {}
    is_gemma = name.startswith("gemma")
    for key, shape in shapes(name, vocab_size).items():
        rng = np.random.default_rng(zlib.crc32(f"{name} {key} {SEEDS.get(name, 0)}".encode()))
        value = rng.normal(size=shape)
        if "embed" in key or "wte" in key or "wpe" in key:
            value *= 0.05 if is_gemma else 0.3  # small, or each token would be followed by itself
        elif len(shape) == 2:
            value *= 2.5 * shape[1] ** -0.5  # large enough for attention to look at few tokens
        elif key.endswith(".bias"):
            value *= 0.3
        else:
            value = 0.3 * value + (0.0 if is_gemma else 1.0)
        found[key] = value.astype(np.float32)
    return found


def write(name: str, folder: Path, vocab_size: int = V) -> dict[str, np.ndarray]:
    """Writes a case's folder, perhaps with another vocabulary, and returns its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[name] | {"vocab_size": vocab_size}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    values = tensors(name, vocab_size)
    save_file(values, folder / "model.safetensors", {"format": "pt"})
    return values


def edit(place: Path, **changes) -> None:
    """Changes keys of a folder's config.json; "-" takes one out."""
    path = place / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "-"}))
