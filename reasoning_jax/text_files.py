"""Files of text and of JSON that people give: what is wrong is one sentence with the path."""

from __future__ import annotations

import codecs
import collections
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# ---- files ---------------------------------------------------------------------------------------


def check_is_file(path: str | Path, name: str = "") -> None:
    """MissingFileError, or UserError for a folder, a pipe or a device, before anything opens it.

    name: what the sentence calls it, such as "--config=X.py"; "" = its path.
    """
    name = name or str(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{name}: there is no such file.") from None
    except OSError as error:  # a name that is too long, a loop of links, a closed folder
        raise UserError(f"{name}: {error.strerror}.") from None
    except ValueError:
        raise UserError(f"{name!r}: this cannot be the name of a file.") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{name}: this is a folder, not a file.")
    if not stat.S_ISREG(mode):  # a pipe would wait for whoever writes to it
        raise UserError(f"{name}: this is not a regular file.")


def read_bytes(path: str | Path, name: str = "") -> bytes:
    """The content of a file; errors as ``check_is_file``."""
    name = name or str(path)
    check_is_file(path, name)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}.") from None


def read_text(path: str | Path, name: str = "") -> str:
    """The text of a UTF-8 file, with "\\n" at the end of lines and none at the end of the file.

    A byte order mark, the line ends of other systems and blank lines at the end are no part of it.
    UserError also for an empty file and, naming the line, for what is not UTF-8.
    """
    return decode(read_bytes(path, name), name or str(path))


def decode(content: bytes, name: str) -> str:
    """The text of a file's content, as ``read_text`` gives it; ``name`` is the file's."""
    if content.startswith(UTF16):
        raise UserError(f"{name}: this is UTF-16 text; save it as UTF-8.")
    content = content.removeprefix(codecs.BOM_UTF8)
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip()
    if not content:
        raise UserError(f"{name}: the file is empty.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {line}: this is not UTF-8 text.") from None


# ---- JSON ----------------------------------------------------------------------------------------


def parse_json(text: str, where: str) -> Json:
    """The value of a JSON text.

    UserError for what is none, for NaN and infinities, for an object with a key twice, and for what
    is nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{where}: this JSON is nested too deeply.") from None
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"{where}: not valid JSON ({reason}).") from None


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    record = dict(pairs)
    if len(record) < len(pairs):
        [(key, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:40]!r} is there twice")
    return record


def text_problem(value: object) -> str | None:
    """Why a value cannot be read as text, such as "is null, not text"; None where it can."""
    if not isinstance(value, str):
        return f"is {kind_of(value)}, not text"
    if not value.strip():
        return "is empty"
    return encoding_problem(value)


def encoding_problem(text: str) -> str | None:
    """Why a text has no UTF-8 form: "\\ud800" in JSON makes half of a character; else None."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        return f"holds {half}, half of a character"
    return None


def check_encoding(text: str) -> None:
    """UserError for a text that has no UTF-8 form."""
    problem = encoding_problem(text)
    if problem is not None:
        raise UserError(f"The text {problem}.")


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, list | tuple | np.ndarray):  # TFDS holds lists as arrays
        return "a list"
    return f"of the type {type(value).__name__}"


def check_texts(record: dict[str, Json], keys: Sequence[str], where: str) -> list[str]:
    """The values of these keys; UserError for a key that is missing or whose value is no text."""
    texts = []
    for key in keys:
        if key not in record:
            raise UserError(f"{where}: the key {key!r} is missing.")
        problem = text_problem(record[key])
        if problem is not None:
            raise UserError(f"{where}: {key!r} {problem}.")
        texts.append(record[key])
    return texts
