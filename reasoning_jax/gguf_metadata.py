"""The metadata of a GGUF file: its head alone, without the tensors.

The format is llama.cpp's (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3. Reading 50,000
tokens takes a tenth of a second.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from reasoning_jax import text_files, workdir
from reasoning_jax.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_KEYS = 100_000
MOST_ITEMS = 2**24  # of an array
LONGEST_TEXT = 2**26  # bytes
SCALARS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
TEXT, ARRAY = 8, 9

Value = bool | int | float | str | list


class Head(NamedTuple):
    """What a file begins with; the tensors' names and places follow it."""

    metadata: dict[str, Value]
    num_tensors: int
    num_bytes: int


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> dict[str, Value]:
    """The metadata by key; UserError as ``read_head``."""
    return read_head(path).metadata


def read_head(path: Path) -> Head:
    """The head of a file; UserError naming it where it is damaged or of another version."""
    if workdir.is_local(path):
        text_files.check_is_file(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except (ValueError, OSError) as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{path}: this GGUF file cannot be read ({reason}).") from None


def _read(file: BinaryIO) -> Head:
    if _bytes(file, 4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version, num_tensors, count = struct.unpack("<IQQ", _bytes(file, 20))
    if version not in VERSIONS:
        raise ValueError(f"version {version} is not one of 2 and 3")
    _check_count(count, MOST_KEYS, "keys")
    metadata = {}
    for _ in range(count):
        key = _text(file)
        metadata[key] = _value(file, _number(file, 4))
    return Head(metadata, num_tensors, file.tell())


def without_tensors(path: Path) -> bytes:
    """A GGUF file with the same metadata and no tensors; UserError as ``read_head``."""
    head = read_head(path)
    with path.open("rb") as file:
        content = bytearray(file.read(head.num_bytes))
    content[8:16] = bytes(8)  # the number of tensors
    return bytes(content)


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == TEXT:
        return _text(file)
    if kind in SCALARS:
        return _scalars(file, kind, 1)[0]
    if kind != ARRAY:
        raise ValueError(f"the type {kind} of a value is unknown")
    item_kind, count = _number(file, 4), _number(file, 8)
    _check_count(count, MOST_ITEMS, "items")
    if item_kind == TEXT:
        return [_text(file) for _ in range(count)]
    if item_kind not in SCALARS:
        raise ValueError(f"the type {item_kind} of an array's items is unknown")
    return _scalars(file, item_kind, count)


def _scalars(file: BinaryIO, kind: int, count: int) -> list:
    dtype = np.dtype(SCALARS[kind])
    return np.frombuffer(_bytes(file, count * dtype.itemsize), dtype).tolist()


def _text(file: BinaryIO) -> str:
    length = _number(file, 8)
    _check_count(length, LONGEST_TEXT, "bytes of text")
    return _bytes(file, length).decode("utf-8")


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(_bytes(file, size), "little")


def _bytes(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it ends too early")
    return content


def _check_count(count: int, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"it names {count} {what}")
