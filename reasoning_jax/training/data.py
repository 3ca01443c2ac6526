"""Where examples come from (JSONL, TFDS), and which of them a round sees."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_jax.errors import MissingFileError, UserError

Record = dict[str, Any]  # one JSON object, or the features of one TFDS record


# ---- JSON lines ----------------------------------------------------------------------------------


def read_jsonl(path: str | Path, required_keys: Sequence[str] = ()) -> list[Record]:
    """The objects of a JSON lines file, in order: object i is line i + 1.

    MissingFileError where there is no such file. UserError, naming file and line, for an empty
    file, for a line that is no JSON object, and for one without a required key.
    """
    records = []
    for number, line in enumerate(_read_lines(path), start=1):
        record = _parse_line(f"{path}, line {number}", line)
        for key in required_keys:
            if key not in record:
                raise UserError(f"{path}, line {number}: the key {key!r} is missing.")
        records.append(record)
    return records


def _read_lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise MissingFileError(f"{path}: there is no such file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: this is not UTF-8 text.") from None
    if not text:
        raise UserError(f"{path}: the file is empty.")
    return text.split("\n")  # splitlines() would also split at characters inside JSON strings


def _parse_line(where: str, line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not a JSON object ({error}).") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object but {line[:40]!r}.")
    return record


# ---- TFDS ----------------------------------------------------------------------------------------


def tfds_source(name: str, data_dir: str | Path, split: str) -> list[tuple[int, Record]]:
    """(number, record) of every record of a prepared TFDS split such as "train[:1%]".

    The number is that in the whole split, so a record keeps it in every slice. Features that are
    text become str. Reads ArrayRecord files only, as they need no TensorFlow. MissingFileError
    where the data set is not prepared, UserError for another file format or for a split that is
    unknown or empty.
    """
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
            f"config.task.path: {data_dir} holds no TFDS data set {name!r}; {advice}."
        ) from None
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"config.task.path: {builder.data_dir} is in another file format; {advice}."
        )
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
    """The record with its bytes as str."""
    record = {}
    for key, value in features.items():
        record[key] = value.decode("utf-8") if isinstance(value, bytes) else value
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
