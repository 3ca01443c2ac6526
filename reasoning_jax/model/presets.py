"""Named model sizes: a line each."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.model.config import ModelConfig

COMPUTED = {"dtype", "remat", "attention"}  # how any model is computed

SIZES = {
    "tiny": dict(num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=64),
    "0.4m": dict(num_layers=3, width=128, num_heads=4, num_kv_heads=2, head_dim=32, mlp_dim=256),
    "0.8m": dict(num_layers=4, width=128, num_heads=4, num_kv_heads=2, head_dim=32, mlp_dim=384),
    "4m": dict(num_layers=4, width=256, num_heads=8, num_kv_heads=4, head_dim=32, mlp_dim=1024),
    "100m": dict(num_layers=12, width=768, num_heads=12, num_kv_heads=4, head_dim=64, mlp_dim=2048),
    "1b": dict(num_layers=16, width=2048, num_heads=32, num_kv_heads=8, head_dim=64, mlp_dim=8192,
               rope_theta=5e5),
    "8b": dict(num_layers=32, width=4096, num_heads=32, num_kv_heads=8, head_dim=128, mlp_dim=14336,
               rope_theta=5e5, tied=False),
    # Published shapes. Llama 3's scaling of rotary frequencies and Qwen 3's norms of queries and
    # keys are not among them.
    "llama-3.2-1b": dict(num_layers=16, width=2048, num_heads=32, num_kv_heads=8, head_dim=64,
                         mlp_dim=8192, vocab_size=128_256, rope_theta=5e5),
    "llama-3.1-8b": dict(num_layers=32, width=4096, num_heads=32, num_kv_heads=8, head_dim=128,
                         mlp_dim=14336, vocab_size=128_256, rope_theta=5e5, tied=False),
    "qwen3-0.6b": dict(num_layers=28, width=1024, num_heads=16, num_kv_heads=8, head_dim=128,
                       mlp_dim=3072, vocab_size=151_936, rope_theta=1e6, norm_eps=1e-6),
    "qwen3-8b": dict(num_layers=36, width=4096, num_heads=32, num_kv_heads=8, head_dim=128,
                     mlp_dim=12288, vocab_size=151_936, rope_theta=1e6, norm_eps=1e-6, tied=False),
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
