"""Rows packed into sequences: the endless batches of a round, and one batch of given rows."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from reasoning_jax.training.rows import Row

Batch = dict[str, np.ndarray]


class _Reshuffled(Sequence):
    """The records again and again, in another order each epoch.

    Grain's own shuffle takes 26 ms / len(records) for every record: 5 ms for one of five, when few
    rows were kept.
    """

    def __init__(self, records: Sequence[dict[str, np.ndarray]], seed: int):
        self.records = records
        self.seed = seed
        self.order = functools.lru_cache(2)(self._order)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.records))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        epoch, i = divmod(i, len(self.records))
        return self.records[self.order(epoch)[i]]


def batches(
    rows: Sequence[Row], *, batch_size: int, length: int, seed: int
) -> grain.IterDataset[Batch]:
    """An endless, reshuffled stream of packed batches: dicts of [batch_size, length] arrays.

    Keys are those of the rows plus "segment_ids" (from 1; 0 = padding) and "positions" (from 0 in
    each segment). A pair (``rows.pair_row``) is two segments. ``iter()`` of the result has
    get_state() and set_state(); the state is a small JSON-serialisable dict. ValueError for no
    rows, for an empty or ragged row and for one longer than ``length``.
    """
    if not rows:
        raise ValueError("There are no rows to train on.")
    dtype = np.dtype([(key, np.asarray(value).dtype) for key, value in rows[0].items()])
    records = [{"row": _record(i, row, dtype, length)} for i, row in enumerate(rows)]

    def unpack(packed: Batch) -> Batch:
        batch = {key: np.ascontiguousarray(packed["row"][key]) for key in dtype.names}
        batch["segment_ids"] = packed["row_segment_ids"]
        batch["positions"] = packed["row_positions"]
        return _sides_to_segments(batch)

    stream = grain.MapDataset.source(_Reshuffled(records, seed))
    # No threads: the rows are in memory, and there is nothing to wait for.
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    stream = grain.experimental.FirstFitPackIterDataset(
        stream, length_struct={"row": length}, num_packing_bins=batch_size, shuffle_bins=False
    )
    return stream.batch(batch_size, drop_remainder=True).map(unpack)


def _record(number: int, row: Row, dtype: np.dtype, length: int) -> np.ndarray:
    """A row as one structured array: Grain then packs one feature, not one for every key."""
    shapes = {np.shape(value) for value in row.values()}
    names = dtype.names or ()
    ragged = len(shapes) != 1 or len(next(iter(shapes))) != 1
    if set(row) != set(names) or ragged:
        keys = ", ".join(names)
        raise ValueError(f"Row {number} must have the 1-D arrays {keys}, all of one length.")
    shape = shapes.pop()
    if not 0 < shape[0] <= length:
        raise ValueError(
            f"Row {number} has {shape[0]} tokens, but a packed sequence holds 1 to {length}."
        )
    record = np.empty(shape, dtype)
    for key in names:
        record[key] = row[key]
    return record


def pack(rows: Sequence[Row], *, multiple: int, length: int) -> Batch:
    """All rows, once, in one batch of packed sequences.

    It has as few sequences as "first fit, longest first" needs, rounded up to ``multiple``: few
    sizes occur, so few shapes are compiled. Keys and errors are those of ``batches``.
    """
    sequences: list[list[Row]] = []
    free: list[int] = []
    longest_first = sorted(rows, key=lambda row: -len(row["tokens"]))  # a stable sort
    for row in longest_first:
        n = len(row["tokens"])
        if not 0 < n <= length:
            raise ValueError(f"A row has {n} tokens, but a packed sequence holds 1 to {length}.")
        i = next((i for i, room in enumerate(free) if room >= n), len(sequences))
        if i == len(sequences):
            sequences.append([])
            free.append(length)
        sequences[i].append(row)
        free[i] -= n
    batch_size = -(-len(sequences) // multiple) * multiple
    return fill(sequences, batch_size, length)


def fill(sequences: Sequence[Sequence[Row]], batch_size: int, length: int) -> Batch:
    """[batch_size, length] arrays in which sequence i holds the rows of sequences[i].

    What is left is padding.
    """
    first: Mapping[str, np.ndarray] = sequences[0][0]
    shape = (batch_size, length)
    batch = {key: np.zeros(shape, np.asarray(value).dtype) for key, value in first.items()}
    batch["segment_ids"] = np.zeros(shape, np.int32)
    batch["positions"] = np.zeros(shape, np.int32)
    for i, rows in enumerate(sequences):
        start = 0
        for segment, row in enumerate(rows, 1):
            tokens = slice(start, start + len(row["tokens"]))
            for key, value in row.items():
                batch[key][i, tokens] = value
            batch["segment_ids"][i, tokens] = segment
            batch["positions"][i, tokens] = np.arange(len(row["tokens"]))
            start = tokens.stop
    return _sides_to_segments(batch)


def _sides_to_segments(batch: Batch) -> Batch:
    """The sides of pairs become segments of their own: row i has the segments 2 i - 1 and 2 i."""
    if "side" not in batch:
        return batch
    rest = {key: value for key, value in batch.items() if key not in ("side", "position")}
    segments = batch["segment_ids"]
    by_side = np.where(segments > 0, 2 * segments - 1 + batch["side"], 0)
    return rest | {"segment_ids": by_side.astype(np.int32), "positions": batch["position"]}
