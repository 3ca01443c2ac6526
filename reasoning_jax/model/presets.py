"""Named model sizes: a line each."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.model.config import ModelConfig, RopeScaling

COMPUTED = {"dtype", "remat", "attention"}  # how any model is computed

Shape = dict[str, Any]  # fields of ModelConfig


def _shape(
    num_layers: int, width: int, num_heads: int, num_kv_heads: int, head_dim: int, mlp_dim: int,
    **others: Any,
) -> Shape:  # fmt: skip
    return dict(num_layers=num_layers, width=width, num_heads=num_heads, num_kv_heads=num_kv_heads,
                head_dim=head_dim, mlp_dim=mlp_dim, **others)  # fmt: skip


LLAMA_2: Shape = dict(vocab_size=32_000, tied=False)
LLAMA_3: Shape = dict(vocab_size=128_256, rope_theta=5e5)
LLAMA_31 = LLAMA_3 | dict(rope_scaling=RopeScaling(kind="llama3", factor=8.0))
LLAMA_32 = LLAMA_3 | dict(rope_scaling=RopeScaling(kind="llama3", factor=32.0))
QWEN: Shape = dict(vocab_size=151_936, rope_theta=1e6, norm_eps=1e-6)
QWEN_25 = QWEN | dict(qkv_bias=True)
QWEN_3 = QWEN | dict(qk_norm=True)
GEMMA: Shape = dict(norm_eps=1e-6, norm_offset=True, post_norms=True, activation="gelu",
                    embed_scale=True)  # fmt: skip
GEMMA_2 = GEMMA | dict(vocab_size=256_000, window=4096, attention_softcap=50.0, output_softcap=30.0)
SLOWED = RopeScaling(kind="linear", factor=8.0)
GEMMA_3 = GEMMA | dict(vocab_size=262_208, window=1024, rope_theta=1e6, local_rope_theta=1e4,
                       qk_norm=True, rope_scaling=SLOWED)  # fmt: skip
GEMMA_3_1B = GEMMA_3 | dict(vocab_size=262_144, window=512, rope_scaling=None)
GPT: Shape = dict(norm="layer", gated=False, activation="gelu", mlp_bias=True)
LEARNED = GPT | dict(rotary="none", qkv_bias=True, out_bias=True)  # positions
GPT_2 = LEARNED | dict(vocab_size=50_257, max_positions=1024)
GPT_J = GPT | dict(vocab_size=50_400, rotary="interleaved", rotary_dim=64, parallel=True,
                   tied=False, output_bias=True)  # fmt: skip


def _every(period: int, num_layers: int) -> tuple[bool, ...]:
    """Local layers: all but every ``period``-th."""
    return tuple((n + 1) % period != 0 for n in range(num_layers))


# Layers, width, heads, key-value heads, head size, MLP width.
SIZES: dict[str, Shape] = {
    "tiny": _shape(2, 32, 4, 2, 8, 64),
    "0.3m": _shape(3, 96, 6, 6, 16, 192),  # many small heads: they learn to look up sooner
    "0.4m": _shape(3, 128, 4, 2, 32, 256),
    "gpt-0.4m": _shape(2, 128, 4, 4, 32, 512, max_positions=512, **LEARNED),
    "0.8m": _shape(4, 128, 4, 2, 32, 384),
    "4m": _shape(4, 256, 8, 4, 32, 1024),
    "100m": _shape(12, 768, 12, 4, 64, 2048),
    "1b": _shape(16, 2048, 32, 8, 64, 8192, rope_theta=5e5),
    "8b": _shape(32, 4096, 32, 8, 128, 14336, rope_theta=5e5, tied=False),
    # Published models: to plan for, or to train from random parameters.
    "smollm2-135m": _shape(30, 576, 9, 3, 64, 1536, vocab_size=49_152, rope_theta=1e5),
    "smollm2-360m": _shape(32, 960, 15, 5, 64, 2560, vocab_size=49_152, rope_theta=1e5),
    "smollm2-1.7b": _shape(24, 2048, 32, 32, 64, 8192, vocab_size=49_152, rope_theta=1.3e5),
    "llama-2-7b": _shape(32, 4096, 32, 32, 128, 11008, **LLAMA_2),
    "llama-2-13b": _shape(40, 5120, 40, 40, 128, 13824, **LLAMA_2),
    "llama-3-8b": _shape(32, 4096, 32, 8, 128, 14336, tied=False, **LLAMA_3),
    "llama-3.1-8b": _shape(32, 4096, 32, 8, 128, 14336, tied=False, **LLAMA_31),
    "llama-3.1-70b": _shape(80, 8192, 64, 8, 128, 28672, tied=False, **LLAMA_31),
    "llama-3.2-1b": _shape(16, 2048, 32, 8, 64, 8192, **LLAMA_32),
    "llama-3.2-3b": _shape(28, 3072, 24, 8, 128, 8192, **LLAMA_32),
    "mistral-7b-v0.1": _shape(32, 4096, 32, 8, 128, 14336, vocab_size=32_000, window=4096,
                              tied=False),
    "mistral-7b-v0.3": _shape(32, 4096, 32, 8, 128, 14336, vocab_size=32_768, rope_theta=1e6,
                              tied=False),
    "qwen2.5-0.5b": _shape(24, 896, 14, 2, 64, 4864, **QWEN_25),
    "qwen2.5-1.5b": _shape(28, 1536, 12, 2, 128, 8960, **QWEN_25),
    "qwen2.5-3b": _shape(36, 2048, 16, 2, 128, 11008, **QWEN_25),
    "qwen2.5-7b": _shape(28, 3584, 28, 4, 128, 18944,
                         **QWEN_25 | dict(vocab_size=152_064, tied=False)),
    "qwen3-0.6b": _shape(28, 1024, 16, 8, 128, 3072, **QWEN_3),
    "qwen3-1.7b": _shape(28, 2048, 16, 8, 128, 6144, **QWEN_3),
    "qwen3-4b": _shape(36, 2560, 32, 8, 128, 9728, **QWEN_3),
    "qwen3-8b": _shape(36, 4096, 32, 8, 128, 12288, tied=False, **QWEN_3),
    "gemma-2-2b": _shape(26, 2304, 8, 4, 256, 9216, local_layers=_every(2, 26), **GEMMA_2),
    "gemma-2-9b": _shape(42, 3584, 16, 8, 256, 14336, local_layers=_every(2, 42), **GEMMA_2),
    "gemma-2-27b": _shape(46, 4608, 32, 16, 128, 36864, local_layers=_every(2, 46),
                          query_scale=144.0, **GEMMA_2),
    "gemma-3-1b": _shape(26, 1152, 4, 1, 256, 6912, local_layers=_every(6, 26), **GEMMA_3_1B),
    "gemma-3-4b": _shape(34, 2560, 8, 4, 256, 10240, local_layers=_every(6, 34), **GEMMA_3),
    "gemma-3-12b": _shape(48, 3840, 16, 8, 256, 15360, local_layers=_every(6, 48), **GEMMA_3),
    "gemma-3-27b": _shape(62, 5376, 32, 16, 128, 21504, local_layers=_every(6, 62),
                          query_scale=168.0, **GEMMA_3),
    "gpt-2": _shape(12, 768, 12, 12, 64, 3072, **GPT_2),
    "gpt-2-medium": _shape(24, 1024, 16, 16, 64, 4096, **GPT_2),
    "gpt-2-large": _shape(36, 1280, 20, 20, 64, 5120, **GPT_2),
    "gpt-2-xl": _shape(48, 1600, 25, 25, 64, 6400, **GPT_2),
    "gpt-j-6b": _shape(28, 4096, 16, 16, 256, 16384, **GPT_J),
}  # fmt: skip


def model_config(
    cfg: ConfigDict, vocab_size: int, published: ModelConfig | None = None
) -> ModelConfig:
    """The ModelConfig of the ``model`` section: its preset and every key that the section sets.

    vocab_size: the tokenizer's; the model's may be larger, and ids beyond the tokenizer's decode to
    nothing. published: the shape of the model that the section names, in place of a preset.
    UserError where the vocabulary is too small or the sizes do not fit together.
    """
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    own = {key: value for key, value in cfg.items() if key in names and value is not None}
    if published is None:
        found = ModelConfig(**{"vocab_size": vocab_size} | SIZES[cfg.preset] | own)
        name = "config.model.vocab_size"
    else:
        for key in sorted(own.keys() - COMPUTED):
            raise UserError(f"config.model.{key}: model.source has its own shape; leave it unset.")
        found = dataclasses.replace(published, **own)
        name = f"config.model.source: {cfg.source}, vocabulary"
    if found.vocab_size < vocab_size:
        raise UserError(f"{name}: {found.vocab_size}, but the tokenizer has {vocab_size} tokens.")
    return found
