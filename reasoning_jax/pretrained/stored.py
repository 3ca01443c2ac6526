"""Tensors in files: where the bytes of one are, and how a range of its rows is read.

Only what is asked for is read, by plain reads at an offset: nothing of a file is mapped into
memory or stays there.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from reasoning_jax import text_files, workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json

FLOATS = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1")  # blocks of numbers as integers with a scale, in GGUF files


class Tensor(Protocol):
    """A tensor of a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows from start to stop: [stop - start, ...]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor whose rows follow one another in a file.

    kind: of FLOATS or QUANTISED; the numbers of these are read as float32.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    kind: str

    @property
    def dtype(self) -> np.dtype:
        return FLOATS.get(self.kind, FLOATS["F32"])

    @property
    def row_bytes(self) -> int:
        return num_bytes(self.shape[1:], self.kind)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows from start to stop; UserError where the file has become shorter."""
        count = (stop - start) * self.row_bytes
        content = read_at(self.path, self.offset + start * self.row_bytes, count)
        if self.kind in FLOATS:
            return content.view(self.dtype).reshape(stop - start, *self.shape[1:])
        import gguf  # here, because few need it

        blocks = content.reshape(stop - start, self.row_bytes)
        return gguf.dequantize(blocks, gguf.GGMLQuantizationType[self.kind])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped:
    """A matrix of int8 in a file, followed by a float32 scale for each ``group`` of its numbers."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    group: int

    @property
    def dtype(self) -> np.dtype:
        return FLOATS["F32"]

    def read(self, start: int, stop: int) -> np.ndarray:
        width = self.shape[1]
        scales_at = self.offset + math.prod(self.shape)
        first = start * width
        count = (stop - start) * width
        numbers = read_at(self.path, self.offset + first, count).view(np.int8)
        scales = read_at(self.path, scales_at + first // self.group * 4, count // self.group * 4)
        groups = numbers.reshape(-1, self.group).astype(np.float32)
        return (groups * scales.view(np.float32)[:, None]).reshape(stop - start, width)


def num_bytes(shape: tuple[int, ...], kind: str) -> int:
    """The bytes of an array of this shape; ValueError where its rows are no whole blocks."""
    if kind in FLOATS:
        return math.prod(shape) * FLOATS[kind].itemsize
    import gguf

    size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if not shape or shape[-1] % size:
        raise ValueError(f"rows of {shape[-1] if shape else 1} numbers are no blocks of {size}")
    return math.prod(shape) // size * block_bytes


# ---- files ---------------------------------------------------------------------------------------


def read_at(path: Path, offset: int, count: int) -> np.ndarray:
    """[count] uint8: bytes of a file; UserError where it is gone or ends before."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file.") from None
    with opened as file:
        file.seek(offset)
        if not workdir.is_local(path):
            content = np.frombuffer(file.read(count), np.uint8)
        else:
            content = np.empty(count, np.uint8)
            content = content[: file.readinto(content)]  # type: ignore[attr-defined]
    if len(content) < count:
        raise UserError(
            f"{path}: the file is cut off (it ends after {offset + len(content)} bytes)."
        )
    return content


def check_is_file(path: Path) -> None:
    """MissingFileError where there is no such file, UserError where it is none that can be read."""
    if workdir.is_local(path):
        text_files.check_is_file(path)
    elif not path.exists():
        raise MissingFileError(f"{path}: there is no such file.")


def size(path: Path) -> int:
    """The bytes of a file."""
    stat = path.stat()
    return stat.st_size if workdir.is_local(path) else stat.length  # type: ignore[attr-defined]


def read_json(path: Path) -> dict[str, Json]:
    """The object of a JSON file; UserError naming the file."""
    check_is_file(path)
    text = text_files.read_text(path) if workdir.is_local(path) else path.read_text()
    value = text_files.parse_json(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: this is {text_files.kind_of(value)}, not an object.")
    return value
