"""Vectors before every prompt of a frozen model (Lester et al. 2021, arXiv:2104.08691).

The experiments of the TRICE paper tune one. Its vectors stand for the token ids after the model's
vocabulary, so that rows, caches and masks know them as tokens like all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from reasoning_jax.chat import Message
from reasoning_jax.model import decoder
from reasoning_jax.model.decoder import ModelConfig, Params
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


class WithSoftPrompt:
    """A tokenizer whose prompts begin with the ids of a soft prompt's vectors.

    These are first, first + 1 ... first + length - 1, with ``first`` the size of the model's
    vocabulary: no word has them.
    """

    def __init__(self, words: Tokenizer, first: int, length: int):
        self.words = words
        self._prompt_ids = [*range(first, first + length)]

    @property
    def vocab_size(self) -> int:
        return self.words.vocab_size

    @property
    def pad_id(self) -> int:
        return self.words.pad_id

    @property
    def bos_id(self) -> int | None:
        return self.words.bos_id

    @property
    def eos_id(self) -> int:
        return self.words.eos_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.words.stop_ids

    @property
    def fingerprint(self) -> str | None:
        return self.words.fingerprint

    def encode(self, text: str) -> list[int]:
        return self.words.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.words.decode(i for i in ids if i < self._prompt_ids[0])

    def prompt(self, text: str) -> list[int]:
        return [*self._prompt_ids, *self.words.prompt(text)]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        return [*self._prompt_ids, *self.words.chat(messages)]


def tokenizer(cfg: ConfigDict, words: Tokenizer, model_cfg: ModelConfig) -> Tokenizer:
    """The tokenizer whose prompts begin with the soft prompt."""
    return WithSoftPrompt(words, model_cfg.vocab_size, cfg.length)


def init(
    key: jax.Array, frozen: Params, words: jax.Array, *, cfg: ConfigDict, model_cfg: ModelConfig
) -> Params:
    """{"soft_prompt": [P, D]}: the vectors of the tokens ``words`` [P], in float32."""
    vectors = decoder.embed(frozen, words[None], model_cfg)[0]
    return {"soft_prompt": vectors.astype(jnp.float32)}
