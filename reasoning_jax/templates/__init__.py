"""Prompts for judging and for inventing, one text file each: what is in braces is filled in."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Collection
from pathlib import Path

from reasoning_jax import text_files
from reasoning_jax.errors import UserError

FOLDER = Path(__file__).parent
# Of what a judge is asked: to score a response, to compare two, to compare two judgements of one.
SCORE_FIELDS = ("instruction", "response")
PAIR_FIELDS = ("instruction", "first", "second")
META_FIELDS = ("instruction", "response", "first", "second")


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with named fields."""

    path: Path
    text: str

    def fill(self, **values: str) -> str:
        """The text with these values, without the spaces around them, in their places.

        Where a value is empty, the space before it is left out too.
        """
        text = self.text
        for name, value in values.items():
            if not value.strip():
                text = text.replace(f" {{{name}}}", "")
        return text.format(**{name: value.strip() for name, value in values.items()})


def names() -> list[str]:
    """The templates that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read(name: str, fields: Collection[str], key: str, optional: Collection[str] = ()) -> Template:
    """The template of a name or a file, less its last line break.

    fields: what it needs to hold, each once or more. optional: what it may hold. key: the config
    key that names it, for messages. UserError naming the file and the field that is missing or
    unknown, or which templates there are.
    """
    path = FOLDER / f"{name}.txt"
    if name not in names():
        path = Path(name)
        if not path.is_file():
            known = ", ".join(names())
            raise UserError(f"{key}: there is no file {name!r}; the templates are {known}.")
    text = text_files.read_text(path, f"{key}={name}").removesuffix("\n")
    found = _fields(text, path)
    missing = [field for field in fields if field not in found]
    known_fields = [*fields, *optional]
    unknown = sorted(set(found) - set(known_fields))
    if missing:
        raise UserError(f"{path}: the field {{{missing[0]}}} is missing.")
    if unknown:
        given = ", ".join(f"{{{field}}}" for field in known_fields)
        raise UserError(f"{path}: there is no field {{{unknown[0]}}}; there are {given}.")
    return Template(path, text)


def read_numbered(name: str, field: str, key: str) -> tuple[Template, int]:
    """A template with {FIELD_1} ... {FIELD_n}, and n, which is 1 or more; errors as ``read``."""
    _, _, found = _read(name, key)
    count = max(len(set(found)), 1)
    return read(name, [f"{field}_{i}" for i in range(1, count + 1)], key), count


def _read(name: str, key: str) -> tuple[Path, str, list[str]]:
    """The file of a template, its text, and the fields that it holds."""
    path = FOLDER / f"{name}.txt"
    if name not in names():
        path = Path(name)
        if not path.is_file():
            known = ", ".join(names())
            raise UserError(f"{key}: there is no file {name!r}; the templates are {known}.")
    text = text_files.read_text(path, f"{key}={name}").removesuffix("\n")
    return path, text, _fields(text, path)


def _fields(text: str, path: Path) -> list[str]:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; a brace that is not a field's is written twice."
        ) from None
    for _, _, spec, conversion in parts:
        if spec or conversion:
            raise UserError(f"{path}: a field is a name in braces, without ':' or '!'.")
    return [name for _, name, _, _ in parts if name is not None]
