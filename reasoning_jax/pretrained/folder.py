"""A Hugging Face folder: config.json, and tensors in one or many files *.safetensors.

The header of a file says where its tensors are; they are read by ranges, from a disk or gs://.
Pickles (.bin, .pt, .pth) are never opened: to read one is to run what it says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from reasoning_jax import text_files
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained import stored
from reasoning_jax.pretrained.families import Family
from reasoning_jax.pretrained.stored import FLOATS, Stored, Tensor
from reasoning_jax.pretrained.tables import nearest

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = re.compile(r".*\.(bin|pt|pth|pkl|ckpt)")
LONGEST_HEADER = 100_000_000
HEADER_LENGTH = 8  # bytes: a little-endian number before the header


def tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by their names in its files; UserError naming the file."""
    if (folder / INDEX).exists():
        return _indexed(folder)
    found: dict[str, Stored] = {}
    for path in _files(folder):
        for name, tensor in read_header(path).items():
            if name in found:
                raise UserError(f"{path}: the tensor {name} is in {found[name].path.name} already.")
            found[name] = tensor
    return found


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    names = sorted(path.name for path in folder.iterdir())
    files = [folder / name for name in names if name.endswith(".safetensors")]
    files = [path for path in files if not path.name.startswith("adapter_")]
    if files:
        return files
    pickles = [name for name in names if PICKLES.fullmatch(name) and name != "training_args.bin"]
    if pickles:
        raise UserError(pickle_problem(folder / pickles[0]))
    raise MissingFileError(f"{folder}: there is no file *.safetensors with the model's weights.")


def pickle_problem(path: Path) -> str:
    """Why a pickle is refused, and the way round."""
    return (
        f"{path}: this is a pickle, which may run any program when it is read, so it is refused; "
        "load it where you trust it and save it again with "
        "save_pretrained(folder, safe_serialization=True)."
    )


def _indexed(folder: Path) -> dict[str, Stored]:
    """The tensors that the index names, each in the file where the index says."""
    path = folder / INDEX
    where = stored.read_json(path).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{path}: 'weight_map' is no object that says where each tensor is.")
    found: dict[str, Stored] = {}
    files = sorted({_plain_name(name, path) for name in where.values()})
    for file in files:
        if not (folder / file).exists():
            raise MissingFileError(f"{path}: it names the file {file}, which is not there.")
    for file in files:
        for name, tensor in read_header(folder / file).items():
            if name in found or where.get(name, file) != file:
                other = found[name].path.name if name in found else where[name]
                raise UserError(f"{folder / file}: the tensor {name} is in {other} too.")
            found[name] = tensor
    for name, file in where.items():
        if name not in found:
            hint = nearest(name, found)
            raise UserError(f"{path}: {file} does not hold the tensor {name}{hint}.")
    return found


def _plain_name(name: Json, path: Path) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise UserError(f"{path}: {str(name)[:80]!r} is not the name of a file *.safetensors.")
    return name


# ---- one file ------------------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file; UserError where it is none or was cut off."""
    stored.check_is_file(path)
    size = stored.size(path)
    if size < HEADER_LENGTH:
        raise UserError(f"{path}: the file is cut off: it has {size} bytes.")
    length = int.from_bytes(stored.read_at(path, 0, HEADER_LENGTH).tobytes(), "little")
    if length > LONGEST_HEADER:
        raise UserError(f"{path}: this is not a safetensors file.")
    if HEADER_LENGTH + length > size:
        raise UserError(f"{path}: the file is cut off in its header.")
    try:
        text = stored.read_at(path, HEADER_LENGTH, length).tobytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: this is not a safetensors file.") from None
    header = text_files.parse_json(text, f"{path}, its header")
    if not isinstance(header, dict):
        raise UserError(f"{path}: this is not a safetensors file.")
    start = HEADER_LENGTH + length
    return {
        name: _entry(path, name, about, start, size - start)
        for name, about in header.items()
        if name != "__metadata__"
    }


def _entry(path: Path, name: str, about: Json, start: int, size: int) -> Stored:
    if not isinstance(about, dict):
        about = {}
    kind, shape, offsets = (about.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise UserError(f"{path}: the header does not say where the tensor {name} is.")
    if not isinstance(kind, str) or kind not in FLOATS:
        raise UserError(
            f"{path}: the tensor {name} is of the type {kind!r}; {', '.join(FLOATS)} can be read."
        )
    if math.prod(shape) * FLOATS[kind].itemsize != offsets[1] - offsets[0]:
        raise UserError(f"{path}: the tensor {name} has not as many bytes as its shape needs.")
    if offsets[1] > size:
        raise UserError(f"{path}: the file is cut off: the tensor {name} is not all there.")
    return Stored(path=path, offset=start + offsets[0], shape=tuple(shape), kind=kind)


def _are_counts(value: Json) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


# ---- names ---------------------------------------------------------------------------------------


def canonical(found: Mapping[str, Tensor], family: Family, where: str) -> dict[str, Tensor]:
    """The tensors by the names of the family's table, without those that are no parameters."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if any(re.search(pattern, name) for pattern in family.ignored):
            continue
        for pattern, start in family.renames:
            new, count = re.subn(f"^{pattern}", start, name)
            if count:
                name = new
                break
        if name in renamed:
            raise UserError(f"{where}: the tensor {name} is there twice, under two names.")
        renamed[name] = tensor
    return renamed


def write_index(folder: Path, files: Mapping[str, str], total_bytes: int) -> None:
    """The index of a folder: which file holds each tensor."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(files)}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text)
