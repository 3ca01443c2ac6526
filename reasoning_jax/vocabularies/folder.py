"""The tokenizer of a folder as Hugging Face's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

from reasoning_jax import text_files, workdir
from reasoning_jax.chat import Template
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json
from reasoning_jax.vocabularies import Loaded, Vocabulary, byte_level, fast, pad_of, pieces

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
LISTED = ("additional_special_tokens", "extra_special_tokens")
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")  # the first that is there
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read(path: Path, vocabulary: str | None = None) -> Loaded:
    """The tokenizer of a folder; UserError or MissingFileError naming the file.

    vocabulary: the name of the file that holds the tokens; None = the first of VOCABULARIES.
    """
    return _Folder(path, vocabulary).load()


class _Own(NamedTuple):
    """What the file of a vocabulary says of its special tokens."""

    start: int | None  # what it puts before a text
    end: int | None
    unknown: int | None


class _Folder:
    """A folder of Hugging Face's, and which of its files holds the vocabulary."""

    def __init__(self, path: Path, vocabulary: str | None):
        self.path = path
        self._digest = hashlib.sha256()
        found = [name for name in VOCABULARIES if (path / name).exists()]
        if vocabulary is None and not found:
            raise MissingFileError(f"{path}: there is none of {', '.join(VOCABULARIES)}.")
        self.vocabulary = vocabulary or found[0]
        self.is_sentencepiece = self.vocabulary.endswith(".model")
        self.config = self._json("tokenizer_config.json")
        self.map = self._json("special_tokens_map.json")

    # ---- files -----------------------------------------------------------------------------------

    def _bytes(self, name: str) -> bytes:
        path = self.path / name
        content = text_files.read_bytes(path) if workdir.is_local(path) else path.read_bytes()
        self._digest.update(f"{name}:{len(content)}:".encode() + content)
        return content

    def _text(self, name: str) -> str:
        try:
            return self._bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{self.path / name}: this is not UTF-8 text.") from None

    def _json(self, name: str) -> dict[str, Json]:
        """The object in a file; {} where there is no such file."""
        path = self.path / name
        if not path.exists():
            return {}
        text = self._text(name)
        content = text_files.parse_json(text, str(path))
        if "\\ud" in text.lower():  # an escape that may be half of a character
            problem = text_files.encoding_problem(json.dumps(content, ensure_ascii=False))
            if problem is not None:
                raise UserError(f"{path}: a text of it {problem}.")
        if not isinstance(content, dict):
            raise UserError(f"{path}: this is {text_files.kind_of(content)}, not an object.")
        return content

    # ---- the tokenizer ---------------------------------------------------------------------------

    def load(self) -> Loaded:
        vocabulary, own = self._sentencepiece() if self.is_sentencepiece else self._fast()
        ids = {name: self._id(name, vocabulary) for name in NAMED}
        eos_ids = self._eos_ids(ids["eos_token"], own.end, vocabulary)
        return Loaded(
            vocabulary=vocabulary,
            bos_id=self._start(ids["bos_token"], own.start),
            eos_ids=eos_ids,
            pad_id=pad_of([ids["pad_token"], ids["unk_token"], own.unknown], eos_ids),
            template=self._template(),
            fingerprint=self._digest.hexdigest()[:16],
        )

    def _start(self, named: int | None, own: int | None) -> int | None:
        """What prompts begin with: as tokenizer_config.json says, else as the vocabulary's file."""
        start = named if named is not None or "bos_token" in self.config else own
        adds = self.config.get("add_bos_token")
        if not isinstance(adds, bool):
            adds = own is not None
        return start if adds else None

    def _fast(self) -> tuple[fast.Fast, _Own]:
        path = self.path / self.vocabulary
        if self.vocabulary == "vocab.json":
            tokenizer = self._byte_level()
        else:
            content = self._text(self.vocabulary)
            what = f"{path}: this is no tokenizer of the tokenizers library"
            tokenizer = fast.call(lambda: Tokenizer.from_str(content), what)
        self._add_tokens(tokenizer)
        vocabulary = fast.Fast(tokenizer, str(path))
        end = vocabulary.special.get("<|endoftext|>")
        return vocabulary, _Own(vocabulary.first_id(), end, None)

    def _byte_level(self) -> Tokenizer:
        path = self.path / "vocab.json"
        ids = self._json("vocab.json")
        if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids.values()):
            raise UserError(f"{path}: the id of a token is no whole number.")
        merges = byte_level.read_merges(self._text("merges.txt"), str(self.path / "merges.txt"))
        is_qwen2 = str(self.config.get("tokenizer_class")).startswith("Qwen2Tokenizer")
        tokenizer = byte_level.make(
            ids,
            merges,
            "qwen2" if is_qwen2 else "gpt-2",
            str(path),
            add_prefix_space=self.config.get("add_prefix_space") is True,
        )
        if "<|endoftext|>" in ids:
            tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
        return tokenizer

    def _add_tokens(self, tokenizer: Tokenizer) -> None:
        """What the other files add to a vocabulary, and which tokens are special."""
        for text, (id, flags) in sorted(self._added().items(), key=lambda item: item[1][0]):
            known = tokenizer.token_to_id(text)
            if known is None:
                tokenizer.add_tokens([AddedToken(text, **flags)])
                known = tokenizer.token_to_id(text)
            if known != id:
                raise UserError(
                    f"{self.path}: the token {text!r} has the ids {id} and {known} in two files."
                )
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        for text in self._special_texts():
            if text not in special and tokenizer.token_to_id(text) is not None:
                tokenizer.add_special_tokens([AddedToken(text, normalized=False)])

    def _added(self) -> dict[str, tuple[int, dict[str, bool]]]:
        """The ids and flags of tokens that tokenizer_config.json or added_tokens.json add."""
        added: dict[str, tuple[int, dict[str, bool]]] = {}
        for text, id in self._json("added_tokens.json").items():
            if isinstance(id, int):
                special = text in self._special_texts()
                added[text] = id, {"special": special, "normalized": not special}
        entries = self.config.get("added_tokens_decoder")
        for id, entry in entries.items() if isinstance(entries, dict) else ():
            text = _content(entry)
            if text and isinstance(entry, dict) and str(id).isdecimal():
                flags = {key: entry[key] for key in FLAGS if isinstance(entry.get(key), bool)}
                added[text] = int(id), flags
        return added

    def _sentencepiece(self) -> tuple[pieces.Pieces, _Own]:
        model = pieces.load(self._bytes(self.vocabulary), str(self.path / self.vocabulary))
        added = {text: id for text, (id, _) in self._added().items()}
        for text in self._special_texts():
            id = model.piece_to_id(text)
            if id != model.unk_id():
                added.setdefault(text, id)
        start, end = [id if id >= 0 else None for id in (model.bos_id(), model.eos_id())]
        return pieces.Pieces(model, added), _Own(start, end, model.unk_id())

    # ---- special tokens --------------------------------------------------------------------------

    def _named(self, name: str) -> str | None:
        """The text of a special token such as "bos_token"; null in tokenizer_config.json: none."""
        for source in (self.config, self.map):
            if name in source:
                return _content(source[name])
        return None

    def _special_texts(self) -> list[str]:
        texts = [self._named(name) for name in NAMED]
        for source in (self.config, self.map):
            for name in LISTED:
                values = source.get(name)
                listed = list(values.values()) if isinstance(values, dict) else values
                texts += [_content(v) for v in listed] if isinstance(listed, list) else []
        return [text for text in texts if text]

    def _id(self, name: str, vocabulary: Vocabulary) -> int | None:
        text = self._named(name)
        return None if text is None else vocabulary.special.get(text)

    def _eos_ids(
        self, own: int | None, default: int | None, vocabulary: Vocabulary
    ) -> tuple[int, ...]:
        """All end tokens; UserError where there is none, or where one is no token."""
        found = [own]
        for name in ("generation_config.json", "config.json"):
            value = self._json(name).get("eos_token_id")
            for id in value if isinstance(value, list) else [value]:
                if id is not None and not (isinstance(id, int) and 0 <= id < vocabulary.size):
                    raise UserError(
                        f"{self.path / name}: eos_token_id {id!r} is no token of the tokenizer."
                    )
                found.append(id)
        known = tuple(dict.fromkeys(id for id in found if id is not None))
        if not known and default is not None:
            return (default,)
        if not known:
            raise UserError(f"{self.path}: no file says which token ends a text (eos_token).")
        return known

    def _template(self) -> Template | None:
        tokens = {name: self._named(name) for name in NAMED}
        given = {name: text for name, text in tokens.items() if text is not None}
        if (self.path / "chat_template.jinja").exists():
            source = self._text("chat_template.jinja")
            return Template(source, str(self.path / "chat_template.jinja"), given)
        where = f"{self.path / 'tokenizer_config.json'}, chat_template"
        return template_of(self.config.get("chat_template"), where, given)


def template_of(value: Json, where: str, tokens: Mapping[str, str]) -> Template | None:
    """A template from its text, or from a list of named ones: "default", or the only one."""
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default", next(iter(named.values()), None) if len(named) == 1 else None)
        if value is None:
            raise UserError(f"{where}: none of these templates is the default.")
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{where}: this is {text_files.kind_of(value)}, not text.")
    return Template(value, where, tokens)


def _content(value: Json) -> str | None:
    """The text of a special token, which is text or an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None
