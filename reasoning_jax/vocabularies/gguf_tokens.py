"""The tokenizer in the metadata of a GGUF file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken

from reasoning_jax import gguf_metadata
from reasoning_jax.chat import Template
from reasoning_jax.errors import UserError
from reasoning_jax.gguf_metadata import Value
from reasoning_jax.vocabularies import Loaded, Vocabulary, byte_level, fast, pad_of, pieces

T = TypeVar("T")
TOKENS = "tokenizer.ggml."
USER_DEFINED = 4  # token type: in texts too
STARTS = byte_level.WHOLE_WORDS  # families whose prompts begin with a start token by default


def read(path: Path) -> Loaded:
    """The tokenizer of a GGUF file; UserError naming the file and the key."""
    metadata = gguf_metadata.read(path)
    own = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    return _Tokens(own, str(path)).load()


class _Tokens:
    def __init__(self, metadata: dict[str, Value], where: str):
        self._metadata, self._where = metadata, where
        self._tokens: list[str] = self._list("tokens", str)

    def load(self) -> Loaded:
        kind, split = self._value("model", str, ""), self._value("pre", str, "default")
        vocabulary: Vocabulary
        if kind == "gpt2":
            vocabulary = self._byte_level(split)
            adds = split in STARTS
        elif kind == "llama":
            vocabulary = self._sentencepiece()
            adds = True
        else:
            raise UserError(f"{self._where}: the tokenizer {kind!r} is neither gpt2 nor llama.")
        bos, eos, pad, unknown = (self._id(name) for name in ("bos", "eos", "padding", "unknown"))
        ends = [eos, self._id("eot"), self._id("eom")]
        eos_ids = tuple(dict.fromkeys(id for id in ends if id is not None))
        if not eos_ids:
            raise UserError(f"{self._where}: the key {TOKENS}eos_token_id is missing.")
        adds = self._value("add_bos_token", bool, adds)
        named = {"bos_token": bos, "eos_token": eos, "unk_token": unknown, "pad_token": pad}
        texts = {name: self._tokens[id] for name, id in named.items() if id is not None}
        source = self._metadata.get("tokenizer.chat_template")
        where = f"{self._where}, tokenizer.chat_template"
        content = json.dumps(self._metadata, sort_keys=True).encode()
        return Loaded(
            vocabulary=vocabulary,
            bos_id=bos if adds else None,
            eos_ids=eos_ids,
            pad_id=pad_of([pad, unknown, bos], eos_ids),
            template=Template(source, where, texts) if isinstance(source, str) else None,
            fingerprint=hashlib.sha256(content).hexdigest()[:16],
        )

    # ---- vocabularies ----------------------------------------------------------------------------

    def _byte_level(self, split: str) -> fast.Fast:
        ids = {text: id for id, text in enumerate(self._tokens)}
        if len(ids) < len(self._tokens):
            raise UserError(f"{self._where}: a token is there twice.")
        lines = self._list("merges", str)
        where = f"{self._where}, {TOKENS}merges"
        merges = [byte_level.merge(line, where) for line in lines]
        tokenizer = byte_level.make(ids, merges, split, self._where)
        added = []
        for text, kind in zip(self._tokens, self._of_tokens("token_type", int), strict=True):
            if kind in (pieces.CONTROL, USER_DEFINED):
                special = kind == pieces.CONTROL
                added.append(AddedToken(text, special=special, normalized=False))
        tokenizer.add_tokens(added)
        return fast.Fast(tokenizer, self._where)

    def _sentencepiece(self) -> pieces.Pieces:
        content = pieces.serialised(
            self._tokens,
            self._of_tokens("scores", float),
            self._of_tokens("token_type", int),
            add_dummy_prefix=self._value("add_space_prefix", bool, True),
            remove_extra_whitespaces=self._value("remove_extra_whitespaces", bool, False),
        )
        return pieces.Pieces(pieces.load(content, self._where), {})

    # ---- values ----------------------------------------------------------------------------------

    def _value(self, name: str, kind: type[T], default: T) -> T:
        value = self._metadata.get(TOKENS + name, default)
        if not isinstance(value, kind):
            raise UserError(f"{self._where}: the key {TOKENS}{name} is no {kind.__name__}.")
        return value

    def _list(self, name: str, kind: type[T]) -> list[T]:
        values = self._value(name, list, [])
        if not values or not all(isinstance(value, kind) for value in values):
            raise UserError(
                f"{self._where}: the key {TOKENS}{name} is missing, or no list of {kind.__name__}."
            )
        return values

    def _of_tokens(self, name: str, kind: type[T]) -> list[T]:
        """A list with a value for each token."""
        values = self._list(name, kind)
        if len(values) != len(self._tokens):
            raise UserError(
                f"{self._where}: {TOKENS}{name} has {len(values)} values for "
                f"{len(self._tokens)} tokens."
            )
        return values

    def _id(self, name: str) -> int | None:
        key = f"{TOKENS}{name}_token_id"
        id = self._metadata.get(key)
        if id is None:
            return None
        if not isinstance(id, int) or not 0 <= id < len(self._tokens):
            raise UserError(f"{self._where}: the key {key} is {id!r}, which is no token.")
        return id
