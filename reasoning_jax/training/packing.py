"""Rows packed into sequences: the endless batches of a round, and one batch of given rows."""

from __future__ import annotations

import bisect
import functools
import sys
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from reasoning_jax.training.rows import Row

Batch = dict[str, np.ndarray]
LEAST_BATCHES = 2  # in an epoch


class _Stream(Sequence[Batch]):
    """Batch i of an endless stream, in which each epoch packs all rows anew.

    An epoch is as many sequences each time: which rows of a length are packed with which others
    changes, and the order of the sequences.
    """

    def __init__(self, rows: Sequence[Row], batch_size: int, length: int, seed: int):
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        tokens = sum(len(row["tokens"]) for row in rows)
        # Of few rows several copies are packed together, or many sequences would not be full.
        self.rows = [*rows] * -(-LEAST_BATCHES * batch_size * length // tokens)
        self.lengths = np.array([len(row["tokens"]) for row in self.rows])
        self.sequences = best_fit(-np.sort(-self.lengths), length)
        self.epoch = functools.lru_cache(2)(self._epoch)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> Batch:
        sequences = []
        for number in range(i * self.batch_size, (i + 1) * self.batch_size):
            epoch, n = divmod(number, len(self.sequences))
            sequences.append([self.rows[k] for k in self.epoch(epoch)[n]])
        return fill(sequences, self.batch_size, self.length)

    def _epoch(self, number: int) -> list[list[int]]:
        """The rows of each sequence."""
        random = np.random.default_rng([self.seed, number])
        shuffled = random.permutation(len(self.rows))
        longest_first = shuffled[np.argsort(-self.lengths[shuffled], kind="stable")]
        order = random.permutation(len(self.sequences))
        return [[int(longest_first[k]) for k in self.sequences[n]] for n in order]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items, given longest first, into bins: each into the bin that it fills the most.

    Returns the numbers of each bin's items.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []  # that some bins have left, in order
    by_room: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[at]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del rooms[at], by_room[room]
        bins[chosen].append(number)
        left = room - int(length)
        if left not in by_room:
            bisect.insort(rooms, left)
        by_room.setdefault(left, []).append(chosen)
    return bins


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
    for number, row in enumerate(rows):
        _check(number, row, rows[0], length)
    stream = grain.MapDataset.source(_Stream(rows, batch_size, length, seed))
    # No threads: the rows are in memory, and there is nothing to wait for.
    return stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def _check(number: int, row: Row, first: Row, length: int) -> None:
    shapes = {np.shape(value) for value in row.values()}
    ragged = len(shapes) != 1 or len(next(iter(shapes))) != 1
    if set(row) != set(first) or ragged:
        keys = ", ".join(first)
        raise ValueError(f"Row {number} must have the 1-D arrays {keys}, all of one length.")
    (count,) = shapes.pop()
    if not 0 < count <= length:
        raise ValueError(
            f"Row {number} has {count} tokens, but a packed sequence holds 1 to {length}."
        )


def pack(rows: Sequence[Row], *, multiple: int, length: int) -> Batch:
    """All rows, once, in one batch of packed sequences.

    It has as few sequences as "best fit, longest first" needs, rounded up to ``multiple``: few
    sizes occur, so few shapes are compiled. Keys and errors are those of ``batches``.
    """
    longest_first = sorted(rows, key=lambda row: -len(row["tokens"]))  # a stable sort
    for n in (len(row["tokens"]) for row in longest_first):
        if not 0 < n <= length:
            raise ValueError(f"A row has {n} tokens, but a packed sequence holds 1 to {length}.")
    bins = best_fit([len(row["tokens"]) for row in longest_first], length)
    sequences = [[longest_first[n] for n in numbers] for numbers in bins]
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
