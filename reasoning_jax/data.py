"""Where rows come from (JSONL, TFDS), which examples a round sees, and the packed batches of an update."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

Rows = Sequence[Mapping[str, np.ndarray]]


def read_jsonl(path: str | Path, required_keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, in order: row i is line i + 1.

    FileNotFoundError or ValueError, naming file and line: a missing or empty file, a malformed row, a missing key.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: this is not UTF-8 text.") from None
    if lines == [""]:
        raise ValueError(f"{path}: the file is empty.")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a JSON object ({error}).") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object but {line[:40]!r}.")
        for key in required_keys:
            if key not in row:
                raise ValueError(f"{path}, line {number}: the key {key!r} is missing.")
        rows.append(row)
    return rows


def tfds_source(name: str, data_dir: str | Path, split: str) -> list[tuple[int, dict[str, Any]]]:
    """(row number, features) of a prepared TFDS split such as "train[:1%]"; text features become str.

    The row number is that of the whole split, so a row keeps it in every slice. Reads ArrayRecord files only, as they
    need no TensorFlow. FileNotFoundError where the data set is not prepared, ValueError for an unknown split.
    """
    import tensorflow_datasets as tfds  # takes seconds to import, and only this source needs it
    from tensorflow_datasets.core import read_only_builder

    advice = "prepare it with download_and_prepare() of its TFDS builder made with file_format='array_record'"
    try:
        # The files alone: a data set's own class may need TensorFlow, and looking one up by name the network.
        builder = read_only_builder.builder_from_files(name, data_dir=str(data_dir))
    except tfds.core.DatasetNotFoundError:
        raise FileNotFoundError(f"config.task.path: {data_dir} holds no TFDS data set {name!r}; {advice}.") from None
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(f"config.task.path: {builder.data_dir} is in another file format; {advice}.")
    try:
        source = builder.as_data_source(split=split)
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{builder.data_dir}: the split {split!r} is empty or unknown ({reason}).") from None
    numbers = [i for part in parts for i in range(part.from_ or 0, part.to or builder.info.splits[part.splitname].num_examples)]

    def text(value: Any) -> Any:
        return value.decode("utf-8") if isinstance(value, bytes) else value

    rows = [{key: text(value) for key, value in source[i].items()} for i in range(len(source))]
    return list(zip(numbers, rows, strict=True))


def examples_for_round(n_examples: int, count: int, seed: int, round: int) -> np.ndarray:
    """The examples of a round (from 0): indices [count], all distinct; a pure function of its arguments.

    Rounds walk through one permutation after another: every example is seen once an epoch. In a round that lies on an
    epoch's edge, the new permutation is changed so that its beginning repeats nothing of the same round.
    """
    if not 0 < count <= n_examples:
        raise ValueError(f"A round cannot take {count} distinct examples from {n_examples}.")
    first, last = round * count // n_examples, ((round + 1) * count - 1) // n_examples
    # Positions are aligned with an epoch's start every `period` epochs: nothing before that matters.
    period = count // math.gcd(n_examples, count)
    walk = np.zeros((0,), np.int64)
    for epoch in range(first - first % period, last + 1):
        order = np.random.default_rng([seed, epoch]).permutation(n_examples)
        begun = epoch * n_examples % count  # indices that the round across the edge already has
        if begun:
            early = ~np.isin(order, walk[-begun:])
            head = order[early][: count - begun]
            order = np.concatenate([head, order[~np.isin(order, head)]])
        walk = np.concatenate([walk[-n_examples:], order])  # two epochs: a round spans no more
    start = round * count - (last + 1) * n_examples + len(walk)
    return walk[start : start + count]


class _Reshuffled(Sequence):
    """The records again and again, in another order each epoch.

    Grain's own shuffle takes 26 ms / len(records) for every record: 5 ms for one of five, when few rows were kept.
    """

    def __init__(self, records: Sequence[Any], seed: int):
        self.records = records
        self.order = functools.lru_cache(2)(lambda e: np.random.default_rng([seed, e]).permutation(len(records)))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> Any:
        epoch, i = divmod(i, len(self.records))
        return self.records[self.order(epoch)[i]]


def batches(rows: Rows, *, batch_size: int, length: int, seed: int) -> grain.IterDataset[dict[str, np.ndarray]]:
    """An endless, reshuffled stream of packed batches: dicts of [batch_size, length] arrays.

    Keys are those of the rows plus "segment_ids" (from 1; 0 = padding) and "positions" (from 0 in each segment). A row
    is a dict of equal-length 1-D arrays; one with ``part`` and ``place`` is a pair, which is two segments (preferences.py).
    ``iter()`` of the result has get_state() and set_state(); the state is a small JSON-serialisable dict. ValueError for no
    rows, for an empty or ragged row and for one longer than ``length``.
    """
    if not rows:
        raise ValueError("There are no rows to train on.")
    # One structured array a row: Grain then packs one feature, not one for every key.
    dtype = np.dtype([(key, np.asarray(value).dtype) for key, value in rows[0].items()])
    records = []
    for i, row in enumerate(rows):
        shapes = {np.shape(value) for value in row.values()}
        if set(row) != set(dtype.names) or len(shapes) != 1 or len(shape := shapes.pop()) != 1:
            raise ValueError(f"Row {i} must have the 1-D arrays {', '.join(dtype.names)}, all of one length.")
        if not 0 < shape[0] <= length:
            raise ValueError(f"Row {i} has {shape[0]} tokens, but a packed sequence holds 1 to {length}.")
        record = np.empty(shape, dtype)
        for key in dtype.names:
            record[key] = row[key]
        records.append({"row": record})

    def unpack(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = {key: np.ascontiguousarray(packed["row"][key]) for key in dtype.names}
        return _split_pairs(batch | {"segment_ids": packed["row_segment_ids"], "positions": packed["row_positions"]})

    stream = grain.MapDataset.source(_Reshuffled(records, seed))
    # No threads: the rows are in memory, and there is nothing to wait for.
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    stream = grain.experimental.FirstFitPackIterDataset(
        stream, length_struct={"row": length}, num_packing_bins=batch_size, shuffle_bins=False
    )
    return stream.batch(batch_size, drop_remainder=True).map(unpack)


def pack(rows: Rows, *, multiple: int, length: int) -> dict[str, np.ndarray]:
    """All rows, once, in one packed batch of as few sequences as first fit, longest first, needs, rounded up to ``multiple``.

    Keys and errors are those of ``batches``. Few sizes occur, so few shapes are compiled.
    """
    bins: list[list[Mapping[str, np.ndarray]]] = []
    free: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row["tokens"])):  # a stable sort: the result is a function of the rows
        n = len(row["tokens"])
        if not 0 < n <= length:
            raise ValueError(f"A row has {n} tokens, but a packed sequence holds 1 to {length}.")
        i = next((i for i, room in enumerate(free) if room >= n), len(bins))
        if i == len(bins):
            bins.append([])
            free.append(length)
        bins[i].append(row)
        free[i] -= n
    return fill(bins, -(-len(bins) // multiple) * multiple, length)


def fill(bins: Sequence[Rows], batch_size: int, length: int) -> dict[str, np.ndarray]:
    """[batch_size, length] arrays in which sequence i holds the rows of bins[i], and what is left is padding."""
    first = bins[0][0]
    batch = {k: np.zeros((batch_size, length), np.asarray(v).dtype) for k, v in first.items()}
    batch |= {k: np.zeros((batch_size, length), np.int32) for k in ("segment_ids", "positions")}
    for i, content in enumerate(bins):
        start = 0
        for segment, row in enumerate(content, 1):
            n = len(row["tokens"])
            for k, v in {**row, "segment_ids": segment, "positions": np.arange(n)}.items():
                batch[k][i, start : start + n] = v
            start += n
    return _split_pairs(batch)


def _split_pairs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A record of two halves, which ``part`` and ``place`` tell apart, becomes two segments: row i has 2 i - 1 and 2 i."""
    if "part" not in batch:
        return batch
    rest = {k: v for k, v in batch.items() if k not in ("part", "place")}
    segments = np.where(batch["segment_ids"] > 0, 2 * batch["segment_ids"] - 1 + batch["part"], 0)
    return rest | {"segment_ids": segments.astype(np.int32), "positions": batch["place"]}
