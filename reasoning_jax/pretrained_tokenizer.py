"""The tokenizer of a published model, and its chat template."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from reasoning_jax import chat, gguf_metadata, text_files, vocabularies, workdir
from reasoning_jax.chat import Disguise, Message
from reasoning_jax.errors import MissingFileError, UserError


def read(name: str) -> vocabularies.Loaded:
    """The tokenizer of a folder as Hugging Face's, of one of its files, or of a GGUF file.

    UserError or MissingFileError naming the file.
    """
    # Here, so that a run without a published model imports neither library.
    from reasoning_jax.vocabularies import folder, gguf_tokens

    path = workdir.path(name)
    if (path / "tokenizer.gguf").exists():  # what ``convert`` keeps of a GGUF file
        path = path / "tokenizer.gguf"
    if path.is_dir():
        return folder.read(path)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file or folder.")
    if workdir.is_local(path):
        text_files.check_is_file(path)
    if gguf_metadata.is_gguf(path):
        return gguf_tokens.read(path)
    if path.suffix in (".json", ".model"):
        return folder.read(path.parent, path.name)
    raise UserError(
        f"{path}: this file holds no tokenizer; name one by config.tokenizer.name and path."
    )


class Pretrained:
    """A published model's tokenizer, loaded at first use and pickled by its path.

    What spells a special token is ordinary text, wherever a prompt's text has it. chats: prompts
    are user messages in the model's chat template, after ``system`` where that is not empty.
    """

    def __init__(self, path: str | Path, *, chats: bool = False, system: str = ""):
        self.path, self.chats, self.system = str(path), chats, system

    def __reduce__(self) -> tuple:
        make = functools.partial(Pretrained, chats=self.chats, system=self.system)
        return make, (self.path,)

    @functools.cached_property
    def _loaded(self) -> vocabularies.Loaded:
        return read(self.path)

    @property
    def fingerprint(self) -> str:
        """Of all that the tokenizer was read from."""
        return self._loaded.fingerprint

    # ---- ids -------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        return self._loaded.vocabulary.size

    @property
    def pad_id(self) -> int:
        return self._loaded.pad_id

    @property
    def bos_id(self) -> int | None:
        return self._loaded.bos_id

    @property
    def eos_id(self) -> int:
        return self.turn_end_id if self.chats else self._loaded.eos_ids[0]

    @property
    def turn_end_id(self) -> int:
        return self._loaded.eos_ids[0] if self._turn_end is None else self._turn_end

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        ids = [*self._loaded.eos_ids, self._turn_end]
        return tuple(dict.fromkeys(id for id in ids if id is not None))

    @functools.cached_property
    def _turn_end(self) -> int | None:
        """The token that ends an assistant's turn; None where the template writes none."""
        template = self._loaded.template
        if template is None:
            return None
        try:
            return template.turn_end(self._loaded.vocabulary.special)
        except UserError:
            if self.chats:
                raise
            return None  # a template that is broken and not used

    # ---- texts -----------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        text_files.check_encoding(text)
        return self._loaded.vocabulary.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._loaded.vocabulary.decode(ids)

    def prompt(self, text: str) -> list[int]:
        if not self.chats:
            start = [] if self.bos_id is None else [self.bos_id]
            return [*start, *self.encode(text)]
        return self.chat([{"role": "user", "content": text}])

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's next words begin.

        It begins with the system message, unless it has one of its own.
        """
        chat.check_messages(messages)
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        template = self._loaded.template
        if template is None:
            raise UserError(f"{self.path} has no chat template, which messages need.")
        hidden = [
            {"role": message["role"], "content": self._disguise.hide(message["content"])}
            for message in messages
        ]
        pieces = self._disguise.pieces(template.prompt(hidden))
        return self._loaded.vocabulary.encode_pieces(pieces)

    @functools.cached_property
    def _disguise(self) -> Disguise:
        return Disguise(list(self._loaded.vocabulary.special))
