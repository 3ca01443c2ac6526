"""A tokenizer whose prompts begin or end with ids that no text has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasoning_jax.chat import Message
from reasoning_jax.tokenizer import Tokenizer


class WithPromptIds:
    """A tokenizer whose prompts have these ids before and after their text.

    first: the size of the model's vocabulary; these ids are from there on, and no word has them.
    """

    def __init__(
        self, words: Tokenizer, first: int, before: Sequence[int] = (), after: Sequence[int] = ()
    ):
        self.words = words
        self._first = first
        self._before = list(before)
        self._after = list(after)

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
    def turn_end_id(self) -> int:
        return self.words.turn_end_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.words.stop_ids

    @property
    def fingerprint(self) -> str | None:
        return self.words.fingerprint

    def encode(self, text: str) -> list[int]:
        return self.words.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self.words.decode(i for i in ids if i < self._first)

    def prompt(self, text: str) -> list[int]:
        return [*self._before, *self.words.prompt(text), *self._after]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        return [*self._before, *self.words.chat(messages), *self._after]
