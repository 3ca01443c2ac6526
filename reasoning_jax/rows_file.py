"""rows.npz: the rows that a round trains on, and the method's memory after its collection."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from reasoning_jax import workdir
from reasoning_jax.errors import UserError
from reasoning_jax.workdir import Rows

Memory = TypeVar("Memory")  # a tree of arrays

# The arrays of a row under the names that older versions gave them, and what they are now.
OLD_ROW_KEYS = {"share": "normaliser", "part": "side", "place": "position"}
INTEGER_KEYS = ("tokens", "side", "position")  # int32; all other arrays of a row are float32


def write_rows(path: Path, rows: Rows, memory: Memory, round: int | None = None) -> None:
    """The rows of this round, and the method's memory after the round's collection."""
    arrays = {f"memory_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(memory))}
    if round is not None:
        arrays["round"] = np.asarray(round, np.int64)
    arrays["lengths"] = np.asarray([len(row["tokens"]) for row in rows], np.int64)
    for key in rows[0] if rows else ():
        arrays[f"row_{key}"] = np.concatenate([row[key] for row in rows])
    workdir.write_arrays(path, arrays)


def read_rows(
    path: Path, memory: Memory, round: int | None = None, keys: Collection[str] = ()
) -> tuple[Rows, Memory]:
    """What ``write_rows`` wrote; ``memory`` gives the tree's structure, shapes and types.

    UserError where the file is damaged, is another round's (None: any), or has rows without
    ``keys``.
    """
    try:
        arrays = _read_arrays(path)
        rows = _rows(arrays)
        own_round = arrays.get("round", round)  # older versions wrote none
        if round is not None and own_round != round:
            raise ValueError(f"is that of round {own_round}")
        missing = set(keys) - set(rows[0]) if rows else set()
        if missing:
            raise ValueError(f"has no {min(missing)}")
        return rows, _memory(arrays, memory)
    except ValueError as error:
        raise UserError(f"{path}: this file, the round's rows to train on, {error}.") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; ValueError where it is none, or not as it was written."""
    try:
        content = path.read_bytes()
        zipfile.ZipFile(io.BytesIO(content)).close()  # np.load takes other files too
        with np.load(io.BytesIO(content)) as file:
            return dict(file)
    except Exception:  # zipfile and numpy raise exceptions of many kinds
        raise ValueError("is damaged") from None


def _rows(arrays: Mapping[str, np.ndarray]) -> Rows:
    """The rows, whose arrays follow each other; ValueError where lengths or types do not fit."""
    lengths = arrays.get("lengths")
    if lengths is None or lengths.ndim != 1 or lengths.dtype != np.int64 or (lengths < 1).any():
        raise ValueError("does not say how long its rows are")
    columns = {}  # the name of a row's array -> this array of each row
    for name, array in arrays.items():
        if not name.startswith("row_"):
            continue
        key = name.removeprefix("row_")
        key = OLD_ROW_KEYS.get(key, key)
        kind = np.int32 if key in INTEGER_KEYS else np.float32
        if array.dtype != kind or array.shape != (lengths.sum(),):
            raise ValueError(f"has {array.dtype}{list(array.shape)} as {name}")
        columns[key] = np.split(array, np.cumsum(lengths)[:-1])
    if len(lengths) and "tokens" not in columns:
        raise ValueError("has no tokens")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _memory(arrays: Mapping[str, np.ndarray], like: Memory) -> Memory:
    leaves, structure = jax.tree.flatten(like)
    values = []
    for i, leaf in enumerate(leaves):
        value = arrays.get(f"memory_{i}")
        if value is None or value.shape != np.shape(leaf) or value.dtype != leaf.dtype:
            raise ValueError("holds the memory of another method or of other data")
        values.append(value)
    return jax.tree.unflatten(structure, values)
