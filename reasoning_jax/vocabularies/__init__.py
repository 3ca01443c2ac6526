"""Vocabularies of published models: text to ids and back, with special tokens told apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from reasoning_jax.chat import Piece, Template


class Vocabulary(Protocol):
    """What a tokenizer of a published model is made of."""

    size: int  # one more than the largest id
    special: Mapping[str, int]  # the texts of special tokens, and their ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, in which nothing is a special token."""

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids of a text whose special tokens are known."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens and those outside the vocabulary."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A published tokenizer in memory."""

    vocabulary: Vocabulary
    bos_id: int | None  # what every prompt begins with
    eos_ids: tuple[int, ...]  # what ends a text; the first is the tokenizer's own
    pad_id: int
    template: Template | None
    fingerprint: str  # of all that was read


def pad_of(candidates: Sequence[int | None], eos_ids: Sequence[int]) -> int:
    """The padding token: the first that there is, and no end token where another will do."""
    known = [id for id in candidates if id is not None]
    others = [id for id in known if id not in eos_ids]
    return (*others, *known, *eos_ids)[0]
