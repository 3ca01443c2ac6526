"""Text to token ids and back: characters, bytes, SentencePiece and those of published models."""

from __future__ import annotations

import abc
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.chat import Message
from reasoning_jax.errors import UserError
from reasoning_jax.pretrained_tokenizer import Pretrained

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPECIAL = 3  # pad, start and end come first in the vocabularies made here


class Tokenizer(Protocol):
    """What turns text into ids and back. Tokenizers can be pickled.

    A model may have no start token (``bos_id`` None), and several end tokens: a completion ends
    with any of ``stop_ids``, and what is trained on ends with ``eos_id``.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def turn_end_id(self) -> int:
        """What ends an assistant's turn in a conversation; ``eos_id`` where nothing else does."""

    @property
    def stop_ids(self) -> tuple[int, ...]: ...

    @property
    def fingerprint(self) -> str | None:
        """Of the files that it is read from; None where there are none."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never those of special tokens, whatever the text spells."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens and what is outside the vocabulary are skipped."""

    def prompt(self, text: str) -> list[int]:
        """The ids of a prompt: the start token, where there is one, and the text.

        Or the text as a user's message in the model's chat template.
        """

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's next words begin.

        UserError where the model has no chat template, or it refuses the messages.
        """


class _WithoutChat(abc.ABC):
    """What the tokenizers without a chat template share."""

    bos_id: int | None
    eos_id: int
    fingerprint: str | None = None

    @property
    def turn_end_id(self) -> int:
        return self.eos_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (self.eos_id,)

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]: ...

    def prompt(self, text: str) -> list[int]:
        start = [] if self.bos_id is None else [self.bos_id]
        return [*start, *self.encode(text)]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        raise UserError(
            "a list of messages needs the tokenizer of a model with a chat template "
            "(config.tokenizer.name=pretrained)."
        )


class Characters(_WithoutChat):
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


class Bytes(_WithoutChat):
    """One token a byte of UTF-8; bytes that are no UTF-8 decode to the replacement character."""

    pad_id, bos_id, eos_id = range(SPECIAL)
    vocab_size = SPECIAL + 256

    def encode(self, text: str) -> list[int]:
        text_files.check_encoding(text)
        return [SPECIAL + byte for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        content = bytes(i - SPECIAL for i in ids if SPECIAL <= i < self.vocab_size)
        return content.decode("utf-8", errors="replace")


class SentencePiece(_WithoutChat):
    """A SentencePiece model file, loaded at first use and pickled by its path.

    White space changes where the model's normalizer changes it. Where the model has no padding
    token, padding is the unknown token (never the end token: a truncated sequence must not look
    finished), and decode skips both.
    """

    def __init__(self, path: str | Path, end_id: int | None = None):
        """end_id: the token that ends a text, where it is another than the model's."""
        self.path = str(path)
        self._end_id = end_id
        self._model: SentencePieceProcessor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_end_id": self._end_id, "_model": None}

    @property
    def model(self) -> SentencePieceProcessor:
        """The processor; MissingFileError or UserError naming the path."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> SentencePieceProcessor:
        from reasoning_jax.vocabularies import pieces

        content = text_files.read_bytes(self.path, f"config.tokenizer.path={self.path}")
        model = pieces.load(content, f"config.tokenizer.path: {self.path}")
        if model.eos_id() < 0:
            raise UserError(f"config.tokenizer.path: {self.path} has no end token.")
        return model

    @property
    def fingerprint(self) -> str | None:  # type: ignore[override]
        """Of the model's file."""
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size()

    @property
    def pad_id(self) -> int:
        return self.model.pad_id() if self.model.pad_id() >= 0 else self.model.unk_id()

    @property
    def bos_id(self) -> int | None:  # type: ignore[override]
        return self.model.bos_id() if self.model.bos_id() >= 0 else None

    @property
    def eos_id(self) -> int:  # type: ignore[override]
        return self.model.eos_id() if self._end_id is None else self._end_id

    def encode(self, text: str) -> list[int]:
        text_files.check_encoding(text)
        return self.model.encode(text, add_bos=False, add_eos=False)

    def decode(self, ids: Iterable[int]) -> str:
        skipped = {self.pad_id, self.bos_id, self.eos_id}
        known = [int(i) for i in ids if int(i) < self.vocab_size]
        return self.model.decode([i for i in known if i not in skipped])


def make(
    cfg: ConfigDict,
    alphabet: Sequence[str],
    task_name: str,
    source: str = "",
    end_id: int | None = None,
) -> Tokenizer:
    """The tokenizer that the experiment's ``tokenizer`` section asks for.

    alphabet: the task's, empty where it has none; source: the config's ``model.source``; end_id:
    the token that ends the texts of this model, where that is not the tokenizer's. UserError names
    the config's key.
    """
    name = cfg.name
    if name == "auto":
        name = "pretrained" if source else "characters"
    if name == "pretrained":
        return _pretrained(cfg, source)
    if (cfg.chat or cfg.system) and cfg.name == "auto":
        raise UserError(
            "config.model.source: set it to the folder or file of a published model; "
            "config.tokenizer.chat and system are for its chat template."
        )
    if cfg.chat or cfg.system:
        raise UserError(
            f"config.tokenizer.chat, system: the tokenizer {name!r} has no chat template."
        )
    if name == "characters":
        if not alphabet:
            raise UserError(
                f"config.tokenizer.name: the task {task_name} has no alphabet; use 'bytes' or "
                "'sentencepiece', or name a published model in config.model.source."
            )
        return Characters(alphabet)
    if name == "bytes":
        return Bytes()
    if not cfg.path:
        raise UserError("config.tokenizer.path: a SentencePiece model file is needed.")
    return SentencePiece(cfg.path, end_id)


def _pretrained(cfg: ConfigDict, source: str) -> Pretrained:
    if cfg.name == "auto" and cfg.path:
        raise UserError("config.tokenizer.path: set config.tokenizer.name too, to what it is.")
    if not cfg.path and not source:
        raise UserError(
            "config.tokenizer.path: the folder or file of a published tokenizer is needed."
        )
    if cfg.system and not cfg.chat:
        raise UserError("config.tokenizer.system: it has an effect where config.tokenizer.chat.")
    return Pretrained(cfg.path or source, chats=cfg.chat, system=cfg.system)
