"""The metadata of a GGUF file as the config.json that its model had."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained.names import GGUF, GGUF_GPT2
from reasoning_jax.pretrained.stored import Stored
from reasoning_jax.pretrained.tables import Table

# Keys of config.json by those of the metadata, less the name of the architecture.
KEYS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
GPT2_KEYS = {
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "context_length": "n_positions",
}
ROPE_FREQUENCIES = "rope_freqs.weight"
LLAMA3_FACTORS = (8.0, 32.0)  # of Llama 3.1 and of 3.2; low 1, high 4 and 8192 tokens are common
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # these scale queries by width / heads


def _turned(table: Table) -> Table:
    """llama.cpp stores a head's rows of queries and keys as the pairs that turn together."""
    names = ("query", "key", "query_bias", "key_bias")
    return dict(table) | {
        name: dataclasses.replace(table[name], interleaved=True) for name in names
    }


def _less_one(table: Table) -> Table:
    """llama.cpp stores Gemma's norms as 1 + w."""

    less_one = {}
    for name, place in table.items():
        if name.endswith("_norm"):
            place = dataclasses.replace(place, plus=-1.0)
        less_one[name] = place
    return less_one


TABLES: dict[str, Table] = {
    "llama": _turned(GGUF),
    "qwen2": GGUF,
    "qwen3": GGUF,
    "gemma2": _less_one(GGUF),
    "gemma3": _less_one(GGUF),
    "gpt2": GGUF_GPT2,
}


def config(
    name: str, metadata: Mapping[str, Json], tensors: Mapping[str, Stored], path: Path
) -> tuple[dict[str, Json], dict[str, Stored]]:
    """The config.json of the family ``name``, and the tensors that are parameters.

    UserError naming what this decoder does not compute.
    """
    kept = dict(tensors)
    own = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    if own.get("expert_count"):
        raise UserError(f"{path}: mixtures of experts are not supported.")
    embedding = tensors.get(GGUF["embedding"].name)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{path}: the matrix {GGUF['embedding'].name} is missing.")
    keys = GPT2_KEYS if name == "gpt2" else KEYS
    found = {new: _shortest(own[key]) for key, new in keys.items() if key in own}
    found["vocab_size"] = embedding.shape[0]
    found["tie_word_embeddings"] = GGUF["unembedding"].name not in tensors
    _check_rotary(own, path)
    scaling = _scaling(name, own, kept, path)
    if scaling is not None:
        found["rope_scaling"] = scaling
    if name == "llama":
        found["attention_bias"] = "blk.0.attn_q.bias" in tensors
        found["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    if name in LAYERS_OF_27B:
        found |= _gemma(name, found)
    if name == "gemma3":
        found.setdefault("rope_local_base_freq", 10_000.0)
    return found, kept


def _shortest(value: Json) -> Json:
    """A float32 by its shortest decimal: 1e-05, which is stored as 9.99999975e-06."""
    if isinstance(value, float) and abs(value) < float(np.finfo(np.float32).max):
        return float(str(np.float32(value)))
    return value


def _check_rotary(own: Mapping[str, Json], path: Path) -> None:
    """UserError where only a part of a head turns, or keys and values are of different sizes."""
    size = own.get("attention.key_length")
    if own.get("attention.value_length", size) != size:
        raise UserError(f"{path}: keys and values are of different sizes.")
    width, heads = own.get("embedding_length"), own.get("attention.head_count")
    if size is None and type(width) is int and type(heads) is int and heads > 0:
        size = width // heads
    turned = own.get("rope.dimension_count", size)
    if turned != size:
        raise UserError(f"{path}: only {turned} of a head's {size} numbers turn by position.")


def _scaling(
    name: str, own: Mapping[str, Json], kept: dict[str, Stored], path: Path
) -> dict[str, Json] | None:
    """rope_scaling; takes Llama 3's tensor of frequencies out of the tensors."""
    kind = own.get("rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": own.get("rope.scaling.factor")}
    if kind not in (None, "none"):
        raise UserError(f"{path}: rotary frequencies scaled by {kind!r} are not supported.")
    if name != "llama" or ROPE_FREQUENCIES not in kept:
        return None
    tensor = kept.pop(ROPE_FREQUENCIES)
    divisors = tensor.read(0, tensor.shape[0]) if len(tensor.shape) == 1 else np.zeros(1)
    theta = own.get("rope.freq_base", 10_000.0)
    for factor in LLAMA3_FACTORS:
        if np.allclose(divisors, _llama3_divisors(len(divisors), theta, factor), rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
    raise UserError(f"{path}: {ROPE_FREQUENCIES} does not hold the frequencies of a Llama 3.")


def _llama3_divisors(half: int, theta: Json, factor: float) -> np.ndarray:
    """What each rotary frequency of Llama 3 is divided by."""
    if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0:
        return np.zeros(half)
    wavelength = 2 * np.pi * float(theta) ** (np.arange(half) / half)
    smooth = np.clip((8192 / wavelength - 1) / (4 - 1), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _gemma(name: str, found: Mapping[str, Json]) -> dict[str, Json]:
    """What llama.cpp knows about Gemma without writing it down."""
    width, heads = found.get("hidden_size"), found.get("num_attention_heads")
    scale = found.get("head_dim", 256)
    is_27b = found.get("num_hidden_layers") == LAYERS_OF_27B[name]
    if is_27b and type(width) is int and type(heads) is int and heads > 0:
        scale = width // heads
    return {"query_pre_attn_scalar": scale}
