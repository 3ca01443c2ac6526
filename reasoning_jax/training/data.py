"""Where examples come from (JSON lines, Parquet, TFDS), and which of them a round sees."""

from __future__ import annotations

import glob
import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reasoning_jax import text_files
from reasoning_jax.errors import MissingFileError, UserError

Record = dict[str, Any]  # one JSON object, or the features of one TFDS record
Located = tuple[str, Record]  # with its place, "FILE, line 3"
Turns = tuple[tuple[str, str], ...]  # (role, content) of the messages of a conversation
ROLES = ("system", "user", "assistant")
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")  # of files of records
MOST_BYTES = 1 << 30  # of a file's content: a small file may decompress to any size
BATCH_ROWS = 512
ROW_BYTES = 256  # what a row takes besides its values


def folder(name: str) -> str:
    """Where a task's files, or another of the data, are looked for when no path is given."""
    root = os.environ.get("REASONING_DATA")
    if not root:
        root = str(Path(__file__).resolve().parents[3] / "shared" / "data")
    return str(Path(root) / name.replace("commonsense_qa", "commonsenseqa"))


# ---- files of records ---------------------------------------------------------------------------


def holds_records(path: str | Path) -> bool:
    """Whether a file's name says that ``read_records`` reads it."""
    return str(path).endswith(ENDINGS)


def read_records(path: str | Path) -> list[Located]:
    """(where it is, object) of every record of a file: ("FILE, line 3", {...}).

    By the file's name: JSON lines (.jsonl, .jsonl.gz), Parquet (.parquet: "FILE, row 3"), or one
    JSON list of objects (.json: "FILE, record 3"). MissingFileError where there is no such file.
    UserError, naming the file and the place, for what is damaged, empty, no object, or more than
    MOST_BYTES when it is decompressed.
    """
    name = str(path)
    text_files.check_is_file(path)
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith(".json"):
        return _read_json(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path)
    raise UserError(f"{path}: the name of a file of records ends with {', '.join(ENDINGS)}.")


def read_split(folder: str | Path, split: str) -> list[Located]:
    """The records of FOLDER/SPLIT.jsonl, .jsonl.gz, .json or .parquet, whichever is there.

    Also of the parts of a data set's download, SPLIT-00000-of-00002.parquet. UserError where there
    are several, or not all parts. MissingFileError names the first.
    """
    records = []
    for path in split_files(folder, split) or [Path(folder) / f"{split}{ENDINGS[0]}"]:
        records += read_records(path)
    return records


def split_files(folder: str | Path, split: str) -> list[Path]:
    """The files of a split's records, [] where there are none; errors as ``read_split``."""
    whole = [Path(folder) / f"{split}{ending}" for ending in ENDINGS]
    found = [path for path in whole if path.exists()]
    parts = sorted(Path(folder).glob(f"{glob.escape(split)}-[0-9]*-of-[0-9]*.parquet"))
    if len(found) + bool(parts) > 1:
        names = " and ".join(path.name for path in [*found, *parts][:2])
        raise UserError(f"{folder}: {names} are both there; leave one of them.")
    if parts:
        count = parts[0].stem.rpartition("-")[2]
        if not all(path.stem.endswith(f"-of-{count}") for path in parts) or len(parts) != int(
            count
        ):
            raise UserError(f"{parts[0]}: not all {int(count)} parts of {split} are there.")
    return found or parts


def read_jsonl(path: str | Path) -> list[Located]:
    """The records of a file of JSON lines, which is compressed where its name ends with .gz."""
    compressed = str(path).endswith(".gz")
    content = _decompressed(path) if compressed else text_files.read_bytes(path)
    records = []
    # splitlines() would also split at characters inside JSON strings.
    for number, line in enumerate(text_files.decode(content, str(path)).split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            raise UserError(f"{where}: the line is blank.")
        record = text_files.parse_json(line, where)
        if not isinstance(record, dict):
            kind = text_files.kind_of(record)
            raise UserError(f"{where}: not a JSON object but {kind}: {line[:40]!r}.")
        records.append((where, record))
    return records


def _decompressed(path: str | Path) -> bytes:
    text_files.check_is_file(path)
    try:
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: this is no complete gzip file ({error}).") from None
    _check_size(len(content), path)
    return content


def _check_size(size: int, path: str | Path) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{path}: its content takes more than {MOST_BYTES >> 20} MiB.")


def _read_json(path: str | Path) -> list[Located]:
    records = text_files.parse_json(text_files.read_text(path), str(path))
    if not isinstance(records, list) or not records:
        kind = text_files.kind_of(records) if records != [] else "an empty list"
        raise UserError(f"{path}: not a list of JSON objects but {kind}.")
    found = []
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: not a JSON object but {text_files.kind_of(record)}.")
        found.append((where, record))
    return found


def _read_parquet(path: str | Path) -> list[Located]:
    import pyarrow as pa  # takes a while to import, and only this source needs it
    from pyarrow import parquet

    text_files.check_is_file(path)
    records: list[Located] = []
    size = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                size += batch.nbytes + ROW_BYTES * batch.num_rows
                _check_size(size, path)
                first = len(records) + 1
                records += [
                    (f"{path}, row {first + i}", row) for i, row in enumerate(batch.to_pylist())
                ]
    except UnicodeDecodeError:
        raise UserError(f"{path}: after row {len(records)}, a text is not UTF-8.") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path}: this Parquet file cannot be read ({reason}).") from None
    if not records:
        raise UserError(f"{path}: the file is empty.")
    return records


def last_user_turn(messages: list[Any], where: str) -> tuple[str, Turns]:
    """What a user says last in a list of messages, and the turns before it.

    messages: {"role": "system", "user" or "assistant", "content": text}. UserError for others, and
    where there is no user.
    """
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise UserError(f"{where}: a message is an object with 'role' and 'content'.")
        role, content = text_files.check_texts(message, ("role", "content"), where)
        if role not in ROLES:
            raise UserError(f"{where}: the role {role[:40]!r} is not one of {', '.join(ROLES)}.")
        turns.append((role, content))
    while turns and turns[-1][0] != "user":
        turns.pop()
    if not turns:
        raise UserError(f"{where}: there is no turn of a user.")
    return turns[-1][1], tuple(turns[:-1])


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
