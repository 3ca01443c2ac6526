"""Text to token ids and back: characters, bytes and SentencePiece behind one interface.

A tokenizer has ``vocab_size``, ``pad_id``, ``bos_id``, ``eos_id``, ``encode(text) -> list[int]``,
which never adds a start or end token, and ``decode(ids) -> str``, which skips those and padding.
A prompt is ``[bos_id] + encode(text)``. Tokenizers can be pickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPECIAL = 3  # pad, start and end come first in the vocabularies made here


class Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class Characters:
    """One token a symbol of ``alphabet``.

    Symbols may be several characters long, and the longest match wins.
    """

    pad_id, bos_id, eos_id = range(SPECIAL)

    def __init__(self, alphabet: Sequence[str]):
        if len(set(alphabet)) != len(alphabet) or "" in alphabet:
            raise ValueError(
                f"An alphabet needs distinct, non-empty symbols, not {list(alphabet)}."
            )
        self.alphabet = tuple(alphabet)
        self.vocab_size = SPECIAL + len(self.alphabet)
        self._ids = {symbol: SPECIAL + i for i, symbol in enumerate(self.alphabet)}
        longest_first = sorted(self.alphabet, key=len, reverse=True)
        patterns = [re.escape(symbol) for symbol in longest_first]
        self._pattern = re.compile("|".join([*patterns, "."]), re.DOTALL)  # "." is what is foreign

    def encode(self, text: str) -> list[int]:
        """The ids of a text; UserError naming a character that is not in the alphabet."""
        symbols = self._pattern.findall(text)
        try:
            return [self._ids[symbol] for symbol in symbols]
        except KeyError as error:
            shown = "".join(self.alphabet)
            raise UserError(
                f"The character {error.args[0]!r} is not in the alphabet {shown!r}."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.alphabet[i - SPECIAL] for i in ids if SPECIAL <= i < self.vocab_size)


def _check(text: str) -> None:
    problem = text_files.encoding_problem(text)
    if problem is not None:
        raise UserError(f"The text {problem}.")


class Bytes:
    """One token a byte of UTF-8; bytes that are no UTF-8 decode to the replacement character."""

    pad_id, bos_id, eos_id = range(SPECIAL)
    vocab_size = SPECIAL + 256

    def encode(self, text: str) -> list[int]:
        _check(text)
        return [SPECIAL + byte for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        content = bytes(i - SPECIAL for i in ids if SPECIAL <= i < self.vocab_size)
        return content.decode("utf-8", errors="replace")


class SentencePiece:
    """A SentencePiece model file, loaded at first use and pickled by its path.

    White space changes where the model's normalizer changes it. Where the model has no padding
    token, padding is the unknown token (never the end token: a truncated sequence must not look
    finished), and decode skips both.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        self._model: SentencePieceProcessor | None = None

    def __getstate__(self) -> dict[str, str | None]:
        return {"path": self.path, "_model": None}

    @property
    def model(self) -> SentencePieceProcessor:
        """The processor; MissingFileError or UserError naming the path."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> SentencePieceProcessor:
        import sentencepiece

        content = text_files.read_bytes(self.path, f"config.tokenizer.path={self.path}")
        model = sentencepiece.SentencePieceProcessor()
        try:
            model.LoadFromSerializedProto(content)
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"config.tokenizer.path: {self.path} is no SentencePiece model ({reason})."
            ) from None
        if min(model.bos_id(), model.eos_id()) < 0:
            raise UserError(f"config.tokenizer.path: {self.path} has no start or no end token.")
        return model

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size()

    @property
    def pad_id(self) -> int:
        return self.model.pad_id() if self.model.pad_id() >= 0 else self.model.unk_id()

    @property
    def bos_id(self) -> int:
        return self.model.bos_id()

    @property
    def eos_id(self) -> int:
        return self.model.eos_id()

    def encode(self, text: str) -> list[int]:
        _check(text)
        return self.model.encode(text, add_bos=False, add_eos=False)

    def decode(self, ids: Iterable[int]) -> str:
        skipped = {self.pad_id, self.bos_id, self.eos_id}
        known = [int(i) for i in ids if int(i) < self.vocab_size]
        return self.model.decode([i for i in known if i not in skipped])


def make(cfg: ConfigDict, alphabet: Sequence[str], task_name: str) -> Tokenizer:
    """The tokenizer that the experiment's ``tokenizer`` section (name, path) asks for.

    ``alphabet`` is the task's, empty where it has none. UserError names the config's key.
    """
    if cfg.name == "characters":
        if not alphabet:
            raise UserError(
                f"config.tokenizer.name: the task {task_name} has no alphabet; use 'bytes' or "
                "'sentencepiece'."
            )
        return Characters(alphabet)
    if cfg.name == "bytes":
        return Bytes()
    if not cfg.path:
        raise UserError("config.tokenizer.path: a SentencePiece model file is needed.")
    return SentencePiece(cfg.path)
