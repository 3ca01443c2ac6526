"""Vocabularies of the ``tokenizers`` library: tokenizer.json, and byte-level BPE."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tokenizers import AddedToken, Tokenizer

from reasoning_jax import chat
from reasoning_jax.chat import Piece
from reasoning_jax.errors import UserError

T = TypeVar("T")


def call(function: Callable[[], T], what: str) -> T:
    """The result of a function of the library; UserError, "WHAT (reason).", where it fails."""
    try:
        return function()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # its panics are no Exceptions
        reason = str(error).partition("\n")[0].rstrip(".")[:200] or type(error).__name__
        raise UserError(f"{what} ({reason}).") from None


class Fast:
    """A vocabulary of the ``tokenizers`` library.

    In a text, what spells a special token is split like any other (``encode_special_tokens``).
    Where a template writes a special token, the library is given its twin in its place: an ordinary
    added token of a secret name, which takes the same white space with it. So one call encodes a
    conversation, and splits its text as it always does. where: what a sentence calls it.
    """

    def __init__(self, tokenizer: Tokenizer, where: str):
        self._tokenizer, self._where = tokenizer, where
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f"{where}: this tokenizer has no tokens.")
        self.size = max(vocabulary.values()) + 1
        added = tokenizer.get_added_tokens_decoder()
        self.special = {token.content: id for id, token in added.items() if token.special}
        tokenizer.encode_special_tokens = True
        self._special_ids = frozenset(self.special.values())
        # What a text may become: the token of a character that no vocabulary has.
        self._never = self._special_ids - set(self._ids("\U000f1234"))

    def to_json(self) -> str:
        """The content of a tokenizer.json."""
        return self._tokenizer.to_str(pretty=True)

    def encode(self, text: str) -> list[int]:
        ids = self._ids(text)
        if self._never.isdisjoint(ids):
            return ids
        # The model itself, not the added tokens, knows a special token's text as a piece.
        parts = chat.without_special(text, list(self.special))
        return [id for part in parts for id in self._ids(part) if id not in self._never]

    def _ids(self, text: str) -> list[int]:
        encode = functools.partial(self._tokenizer.encode, text, add_special_tokens=False)
        return call(encode, f"{self._where}: the tokenizer cannot encode a text").ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        parts = [self._twins[p.text] if p.is_special else p.text for p in pieces]
        ids = self._ids("".join(parts))
        if not self._never.isdisjoint(ids):
            apart = [
                [self.special[p.text]] if p.is_special else self.encode(p.text) for p in pieces
            ]
            return [id for part in apart for id in part]
        return [self._originals.get(id, id) for id in ids]

    @functools.cached_property
    def _twins(self) -> dict[str, str]:
        """The text of each special token's twin."""
        secret = secrets.token_hex(8)
        added = self._tokenizer.get_added_tokens_decoder()
        twins = {}
        tokens = []
        for text, id in self.special.items():
            twins[text] = f"<|{secret}.{id}|>"
            own = added[id]
            tokens.append(
                AddedToken(
                    twins[text],
                    single_word=own.single_word,
                    lstrip=own.lstrip,
                    rstrip=own.rstrip,
                    normalized=own.normalized,
                    special=False,
                )
            )
        self._tokenizer.add_tokens(tokens)
        return twins

    @functools.cached_property
    def _originals(self) -> dict[int, int]:
        """The special token's id for each twin's."""
        originals = {}
        for text, twin in self._twins.items():
            id = self._tokenizer.token_to_id(twin)
            if id is None or id < self.size:
                raise UserError(f"{self._where}: there are holes in the ids of its tokens.")
            originals[id] = self.special[text]
        return originals

    def decode(self, ids: Iterable[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.size]
        plain = [i for i in known if i not in self._special_ids]
        return self._tokenizer.decode(plain, skip_special_tokens=False)

    def first_id(self) -> int | None:
        """The special token that the library itself puts before a text; None where it puts none."""
        with_special = self._tokenizer.encode("a", add_special_tokens=True).ids
        without = self._tokenizer.encode("a", add_special_tokens=False).ids
        if len(with_special) == len(without) or with_special[0] not in self._special_ids:
            return None
        return None if with_special[:1] == without[:1] else with_special[0]
