"""GGUF files (llama.cpp): metadata to a config, and tensors, quantised ones by whole blocks.

The header is read here, in a fraction of a second: the reader of the gguf package, which makes
several objects of each of a vocabulary's tokens, takes seconds. Its tables of types and its
dequantisation are used.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained import families, gguf_config, stored
from reasoning_jax.pretrained.source import Published
from reasoning_jax.pretrained.stored import FLOATS, QUANTISED, Stored

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {  # of struct, by the number of the type
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
DIMENSIONS = 4  # of a tensor, at most


class _Header:
    """The header of a file, read from its start; UserError where it ends too early."""

    def __init__(self, file: BinaryIO, path: Path, size: int):
        self.file = file
        self.path = path
        self.size = size

    def bytes(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise UserError(f"{self.path}: the file is cut off in its header.")
        return self.file.read(count)

    def number(self, code: str) -> int | float | bool:
        value = struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))[0]
        return float(str(np.float32(value))) if code == "f" else value  # 1e-05, not 9.99999975e-06

    def count(self, code: str = "Q") -> int:
        return int(self.number(code))

    def text(self) -> str:
        return self.bytes(self.count()).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Json:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise UserError(f"{self.path}: the header has a value of the unknown type {kind}.")
        inner, length = self.count("I"), self.count()
        if inner in SCALARS:
            code = SCALARS[inner]
            content = self.bytes(length * struct.calcsize(code))
            return np.frombuffer(content, np.dtype(code).newbyteorder("<")).tolist()
        if inner != STRING:
            raise UserError(f"{self.path}: the header has a list of the unknown type {inner}.")
        return [self.text() for _ in range(self._at_most(length, 8))]

    def _at_most(self, count: int, each: int) -> int:
        """``count``, where so many things of at least so many bytes can follow."""
        if count * each > self.size - self.file.tell():
            raise UserError(f"{self.path}: the file is cut off in its header.")
        return count

    def metadata(self, count: int) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for _ in range(self._at_most(count, 13)):
            key = self.text()
            if key in found:
                raise UserError(f"{self.path}: the key {key!r} is there twice.")
            found[key] = self.value(self.count("I"))
        return found

    def tensors(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape, type and offset of each; the slowest dimension is the first here."""
        found = []
        for _ in range(self._at_most(count, 24)):
            name = self.text()
            rank = self.count("I")
            if rank > DIMENSIONS:
                raise UserError(f"{self.path}: the tensor {name} has {rank} dimensions.")
            shape = tuple(self.count() for _ in range(rank))[::-1]
            found.append((name, shape, self.count("I"), self.count()))
        return found


def read(path: Path) -> tuple[dict[str, Json], dict[str, Stored]]:
    """The metadata and the tensors; UserError where the file is damaged or of a refused type."""
    size = stored.size(path)
    with path.open("rb") as file:
        header = _Header(file, path, size)
        header.bytes(len(MAGIC))
        version = header.count("I")
        if version not in VERSIONS:
            raise UserError(f"{path}: this is GGUF of version {version}; 2 and 3 can be read.")
        num_tensors, num_values = header.count(), header.count()
        metadata = header.metadata(num_values)
        entries = header.tensors(num_tensors)
        end = file.tell()
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise UserError(f"{path}: 'general.alignment' is {alignment!r}.")
    start = -(-end // alignment) * alignment
    tensors: dict[str, Stored] = {}
    for name, shape, number, offset in entries:
        if name in tensors:
            raise UserError(f"{path}: the tensor {name} is there twice.")
        tensors[name] = _entry(path, name, shape, number, start + offset)
        if start + offset + stored.num_bytes(shape, tensors[name].kind) > size:
            raise UserError(f"{path}: the file is cut off: the tensor {name} is not all there.")
    return metadata, tensors


def _entry(path: Path, name: str, shape: tuple[int, ...], number: int, offset: int) -> Stored:
    try:
        kind = gguf.GGMLQuantizationType(number).name
    except ValueError:
        kind = f"number {number}"
    if kind not in FLOATS and kind not in QUANTISED:
        readable = ", ".join((*FLOATS, *QUANTISED))
        raise UserError(f"{path}: the tensor {name} is of the type {kind}; {readable} can be read.")
    try:
        stored.num_bytes(shape, kind)
    except ValueError as error:
        raise UserError(f"{path}: the tensor {name}: {error}.") from None
    return Stored(path=path, offset=offset, shape=shape, kind=kind)


def open(path: Path) -> Published:
    """A GGUF file as a source; UserError naming the file."""
    metadata, tensors = read(path)
    name = metadata.get("general.architecture")
    if name not in gguf_config.TABLES:
        known = ", ".join(gguf_config.TABLES)
        raise UserError(f"{path}: the architecture {name!r} is not known; known are {known}.")
    config, kept = gguf_config.config(str(name), metadata, tensors, path)
    return Published(
        path=path,
        family=families.BY_NAME[str(name)],
        config=config,
        where=str(path),
        tensors=kept,
        table=gguf_config.TABLES[str(name)],
        tokenizer=tokenizer(metadata),
    )


def tokenizer(metadata: Mapping[str, Json]) -> dict[str, Json]:
    """What the file says about its tokenizer, by short names.

    model ("gpt2": byte-level BPE, "llama": SentencePiece), pre, tokens, scores, token_type, merges,
    bos_token_id, eos_token_id, unknown_token_id, padding_token_id, add_bos_token, add_space_prefix,
    chat_template and so on; a file need not have all.
    """
    found = {}
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            found[key.removeprefix("tokenizer.").removeprefix("ggml.")] = value
    return found
