"""Vectors before every prompt of a frozen model (Lester et al. 2021, arXiv:2104.08691).

The experiments of the TRICE paper tune one. Its vectors stand for the token ids after the model's
vocabulary, so that rows, caches and masks know them as tokens like all others.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from reasoning_jax.model import decoder
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.prompt_ids import WithPromptIds
from reasoning_jax.ranges import between, key
from reasoning_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    length: int = key(20, between(1, 2**16))  # vectors
    # It begins as the vectors of this text's tokens, repeated or cut to its length; "" = of tokens
    # drawn at random.
    text: str = ""


def prompt_length(cfg: ConfigDict) -> int:
    return cfg.length


def tokenizer(cfg: ConfigDict, words: Tokenizer, model_cfg: ModelConfig) -> Tokenizer:
    """The tokenizer whose prompts begin with the soft prompt."""
    first = model_cfg.vocab_size
    return WithPromptIds(words, first, before=range(first, first + cfg.length))


def init(
    key: jax.Array, frozen: Params, words: jax.Array, *, cfg: ConfigDict, model_cfg: ModelConfig
) -> Params:
    """{"soft_prompt": [P, D]}: the vectors of the tokens ``words`` [P], in float32."""
    vectors = decoder.embed(frozen, words[None], model_cfg)[0]
    return {"soft_prompt": vectors.astype(jnp.float32)}
