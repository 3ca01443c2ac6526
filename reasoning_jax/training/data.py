"""Where examples come from (JSONL, TFDS), and which of them a round sees."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_jax import text_files
from reasoning_jax.errors import MissingFileError, UserError

Record = dict[str, Any]  # one JSON object, or the features of one TFDS record


def folder(name: str) -> str:
    """Where a task's files, or another of the data, are looked for when no path is given."""
    root = os.environ.get("REASONING_DATA")
    if not root:
        root = str(Path(__file__).resolve().parents[3] / "shared" / "data")
    return str(Path(root) / name.replace("commonsense_qa", "commonsenseqa"))


# ---- JSON lines ----------------------------------------------------------------------------------


def read_jsonl(path: str | Path) -> list[tuple[str, Record]]:
    """(where it is, object) of every line of a JSON lines file, such as ("FILE, line 3", {...}).

    MissingFileError where there is no such file. UserError, naming file and line, for what is no
    text, for an empty file, and for a line that is no JSON object.
    """
    records = []
    # splitlines() would also split at characters inside JSON strings.
    for number, line in enumerate(text_files.read_text(path).split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            raise UserError(f"{where}: the line is blank.")
        record = text_files.parse_json(line, where)
        if not isinstance(record, dict):
            kind = text_files.kind_of(record)
            raise UserError(f"{where}: not a JSON object but {kind}: {line[:40]!r}.")
        records.append((where, record))
    return records


# ---- TFDS ----------------------------------------------------------------------------------------


def tfds_source(name: str, data_dir: str | Path, split: str) -> list[tuple[int, Record]]:
    """(number, record) of every record of a prepared TFDS split such as "train[:1%]".

    The number is that in the whole split, so a record keeps it in every slice. Features that are
    text become str. Reads ArrayRecord files only, as they need no TensorFlow. MissingFileError
    where the data set is not prepared, UserError for another file format, for a split that is
    unknown or empty, and for what is damaged.
    """
    try:
        return _tfds_records(name, data_dir, split)
    except UserError:
        raise
    except Exception as error:  # whatever TFDS and ArrayRecord stumble over in damaged files
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise UserError(
            f"{data_dir}: the TFDS data set {name!r} cannot be read ({reason})."
        ) from error


def _tfds_records(name: str, data_dir: str | Path, split: str) -> list[tuple[int, Record]]:
    import tensorflow_datasets as tfds  # takes seconds to import, and only this source needs it
    from tensorflow_datasets.core import read_only_builder

    advice = (
        "prepare it with download_and_prepare() of its TFDS builder made with "
        "file_format='array_record'"
    )
    try:
        # Reads the files only: a data set's own class may need TensorFlow, and the network.
        builder = read_only_builder.builder_from_files(name, data_dir=str(data_dir))
    except tfds.core.DatasetNotFoundError:
        raise MissingFileError(
            f"{data_dir}: there is no TFDS data set {name!r}; {advice}."
        ) from None
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(f"{builder.data_dir}: this is in another file format; {advice}.")
    try:
        source = builder.as_data_source(split=split)
        slices = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"{builder.data_dir}: the split {split!r} is empty or unknown ({reason})."
        ) from None
    numbers: list[int] = []
    for part in slices:
        end = part.to or builder.info.splits[part.splitname].num_examples
        numbers += range(part.from_ or 0, end)
    records = [_decode(source[i]) for i in range(len(source))]
    return list(zip(numbers, records, strict=True))


def _decode(features: Record) -> Record:
    """The record with its bytes as str, where they are UTF-8, and its scalars as Python's."""
    record = {}
    for key, value in features.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="surrogateescape")  # else no text: see text_files
        elif isinstance(value, np.generic):
            value = value.item()
        record[key] = value
    return record


# ---- the examples of a round ---------------------------------------------------------------------


def examples_for_round(num_examples: int, count: int, seed: int, round: int) -> np.ndarray:
    """The examples of a round (from 0): indices [count], all distinct; a function of the arguments.

    Rounds walk through one permutation after another: every example is seen once an epoch. In a
    round that spans the end of an epoch, the next permutation is changed so that its beginning
    repeats no example of this round. UserError where ``count`` is not 1 ... ``num_examples``.
    """
    if count < 1 or count > num_examples:
        raise UserError(f"A round cannot take {count} distinct examples from {num_examples}.")
    first_epoch = round * count // num_examples
    last_epoch = ((round + 1) * count - 1) // num_examples
    # Rounds and epochs begin together every `period` epochs: nothing before that matters.
    period = count // math.gcd(num_examples, count)
    walk = np.zeros((0,), np.int64)
    for epoch in range(first_epoch - first_epoch % period, last_epoch + 1):
        order = np.random.default_rng([seed, epoch]).permutation(num_examples)
        num_taken = epoch * num_examples % count  # by the round that the epoch before began
        if num_taken:
            is_new = ~np.isin(order, walk[-num_taken:])
            head = order[is_new][: count - num_taken]
            order = np.concatenate([head, order[~np.isin(order, head)]])
        walk = np.concatenate([walk[-num_examples:], order])  # a round spans two epochs at most
    start = round * count - (last_epoch + 1) * num_examples + len(walk)
    return walk[start : start + count]
