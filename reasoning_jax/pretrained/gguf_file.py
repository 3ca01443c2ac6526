"""GGUF files (llama.cpp): metadata to a config, and tensors, quantised ones by whole blocks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from reasoning_jax import gguf_metadata
from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained import families, gguf_config, stored
from reasoning_jax.pretrained.source import Published
from reasoning_jax.pretrained.stored import FLOATS, QUANTISED, Stored

ALIGNMENT = 32  # of tensors, in bytes, where the file does not say
LEAST_BYTES = 24  # of a tensor without a name
LONGEST_NAME = 1000
DIMENSIONS = 4  # of a tensor, at most


def read(path: Path) -> tuple[dict[str, Json], dict[str, Stored]]:
    """The metadata and the tensors; UserError where the file is damaged or of a refused type."""
    head = gguf_metadata.read_head(path)
    size = stored.size(path)
    if head.num_tensors * LEAST_BYTES > size - head.num_bytes:
        raise _cut_off(path)
    with path.open("rb") as file:
        file.seek(head.num_bytes)
        places = [_place(file, path) for _ in range(head.num_tensors)]
        end = file.tell()
    alignment = head.metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise UserError(f"{path}: 'general.alignment' is {str(alignment)[:40]}.")
    start = -(-end // alignment) * alignment
    tensors: dict[str, Stored] = {}
    for name, shape, number, offset in places:
        if name in tensors:
            raise UserError(f"{path}: the tensor {name} is there twice.")
        tensors[name] = _entry(path, name, shape, number, start + offset)
        if start + offset + stored.num_bytes(shape, tensors[name].kind) > size:
            raise UserError(f"{path}: the file is cut off: the tensor {name} is not all there.")
    return head.metadata, tensors


def _place(file: BinaryIO, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of the next tensor; the slowest dimension is the first here."""
    length = _number(file, path, "Q")
    if length > LONGEST_NAME:
        raise UserError(f"{path}: the name of a tensor has {length} bytes.")
    name = file.read(length).decode("utf-8", "backslashreplace")
    rank = _number(file, path, "I")
    if rank > DIMENSIONS:
        raise UserError(f"{path}: the tensor {name} has {rank} dimensions.")
    shape = tuple(_number(file, path, "Q") for _ in range(rank))[::-1]
    return name, shape, _number(file, path, "I"), _number(file, path, "Q")


def _number(file: BinaryIO, path: Path, code: str) -> int:
    content = file.read(struct.calcsize(code))
    if len(content) < struct.calcsize(code):
        raise _cut_off(path)
    return struct.unpack(f"<{code}", content)[0]


def _cut_off(path: Path) -> UserError:
    return UserError(f"{path}: the file is cut off before its tensors.")


def _entry(path: Path, name: str, shape: tuple[int, ...], number: int, offset: int) -> Stored:
    import gguf  # here, because few need it

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
    if not isinstance(name, str) or name not in gguf_config.TABLES:
        known = ", ".join(gguf_config.TABLES)
        raise UserError(f"{path}: the architecture {name!r} is not known; known are {known}.")
    config, kept = gguf_config.config(name, metadata, tensors, path)
    return Published(
        path=path,
        family=families.BY_NAME[name],
        config=config,
        where=str(path),
        tensors=kept,
        table=gguf_config.TABLES[name],
        tokenizer=path,
    )
