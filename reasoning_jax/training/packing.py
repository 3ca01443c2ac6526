"""Rows packed into sequences: the endless batches of a round, and one batch of given rows.

Rows that begin with the same prompt can share one copy of it: the prompt less its last token is a
segment, and each completion, after that token, is another that sees it. So a completion's first
token still follows the token before it. Beside its own segment a token sees the one in
``prefix_ids``.
"""

from __future__ import annotations

import bisect
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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

    def __init__(
        self,
        rows: Sequence[Row],
        batch_size: int,
        length: int,
        seed: int,
        share: bool,
        packs: bool,
    ):
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        groups, self.share = grouped(rows, length, share)
        lengths = [packed_length(group, self.share) if packs else length for group in groups]
        tokens = sum(lengths)
        # Of few rows several copies are packed together, or many sequences would not be full.
        copies = -(-LEAST_BATCHES * batch_size * length // tokens)
        self.groups = groups * copies
        self.lengths = np.array(lengths * copies)
        self.sequences = best_fit(-np.sort(-self.lengths), length)
        self.epoch = functools.lru_cache(2)(self._epoch)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> Batch:
        sequences = []
        for number in range(i * self.batch_size, (i + 1) * self.batch_size):
            epoch, n = divmod(number, len(self.sequences))
            sequences.append([row for k in self.epoch(epoch)[n] for row in self.groups[k]])
        return fill(sequences, self.batch_size, self.length, self.share)

    def _epoch(self, number: int) -> list[list[int]]:
        """The groups of rows of each sequence."""
        random = np.random.default_rng([self.seed, number])
        shuffled = random.permutation(len(self.groups))
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
    rows: Sequence[Row],
    *,
    batch_size: int,
    length: int,
    seed: int,
    share: bool = False,
    packs: bool = True,
) -> grain.IterDataset[Batch]:
    """An endless, reshuffled stream of packed batches: dicts of [batch_size, length] arrays.

    Keys are those of the rows plus "segment_ids" (from 1; 0 = padding) and "positions" (from 0 in
    each segment). A pair (``rows.pair_row``) is two segments. share: rows with one prompt share it,
    and where there are any, there are "prefix_ids". packs: whether a sequence may hold several
    rows. ``iter()`` of the result has get_state() and
    set_state(); the state is a small JSON-serialisable dict. ValueError for no rows, for an empty
    or ragged row and for one longer than ``length``.
    """
    if not rows:
        raise ValueError("There are no rows to train on.")
    for number, row in enumerate(rows):
        _check(number, row, rows[0], length)
    stream = grain.MapDataset.source(_Stream(rows, batch_size, length, seed, share, packs))
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


def pack(
    rows: Sequence[Row], *, multiple: int, length: int, share: bool = False, packs: bool = True
) -> Batch:
    """All rows, once, in one batch of packed sequences.

    It has as few sequences as "best fit, longest first" needs, rounded up to ``multiple``: few
    sizes occur, so few shapes are compiled. Keys and errors are those of ``batches``.
    """
    for n in (len(row["tokens"]) for row in rows):
        if not 0 < n <= length:
            raise ValueError(f"A row has {n} tokens, but a packed sequence holds 1 to {length}.")
    groups, share = grouped(rows, length, share)
    sequences = best_fit_groups(groups, length, share) if packs else groups
    batch_size = -(-len(sequences) // multiple) * multiple
    return fill(sequences, batch_size, length, share)


def best_fit_groups(groups: Sequence[Sequence[Row]], length: int, share: bool) -> list[list[Row]]:
    """The rows of each packed sequence, groups kept together."""
    longest_first = sorted(groups, key=lambda group: -packed_length(group, share))
    lengths = [packed_length(group, share) for group in longest_first]
    return [
        [row for n in numbers for row in longest_first[n]] for numbers in best_fit(lengths, length)
    ]


# ---- prompts that rows share ---------------------------------------------------------------------


class Part(NamedTuple):
    """Tokens of a row that are one segment of a packed sequence."""

    row: Row
    tokens: np.ndarray  # [N]: which of the row's
    first_position: int
    segment: int
    prefix: int  # the segment that is seen too; its own where there is none


def parts(rows: Sequence[Row], length: int, share: bool) -> Iterator[Part]:
    """The segments of one sequence; length: of the sequence.

    Completions are numbered from 1, the sides of pair i are 2 i - 1 and 2 i. Shared prompts have
    numbers above ``length`` + 1, beyond those of any pair.
    """
    number, prefix = 0, length + 1
    for group in _by_prompt(rows) if share else [[row] for row in rows]:
        sides = [(row, side) for row in group for side in _sides(row)]
        shared = _shared_length(group[0]) if share and len(sides) > 1 else 0
        if shared:
            row, side = sides[0]
            prefix += 1
            yield Part(
                row=row, tokens=side[:shared], first_position=0, segment=prefix, prefix=prefix
            )
        for row, side in sides:
            number += 1
            yield Part(
                row=row,
                tokens=side[shared:],
                first_position=shared,
                segment=number,
                prefix=prefix if shared else number,
            )


def grouped(rows: Sequence[Row], length: int, share: bool) -> tuple[list[list[Row]], bool]:
    """Rows that share a prompt, as many as a sequence has room for; and whether any do."""
    if not share:
        return [[row] for row in rows], False
    groups = []
    for same in _by_prompt(rows):
        group: list[Row] = []
        for row in same:
            if group and packed_length([*group, row], share) > length:
                groups.append(group)
                group = []
            group.append(row)
        groups.append(group)
    tokens = sum(len(row["tokens"]) for row in rows)
    if sum(packed_length(group, share) for group in groups) == tokens:
        return [[row] for row in rows], False
    return groups, True


def packed_length(group: Sequence[Row], share: bool) -> int:
    """Tokens of rows with one prompt."""
    total = sum(len(row["tokens"]) for row in group)
    if not share:
        return total
    copies = len(group) * len(_sides(group[0]))
    return total - (copies - 1) * _shared_length(group[0])


def _by_prompt(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        prompt = row["tokens"][: _prompt_length(row)]
        groups.setdefault(np.asarray(prompt).tobytes(), []).append(row)
    return list(groups.values())


def _sides(row: Row) -> list[np.ndarray]:
    """Which tokens each completion has, its prompt included."""
    numbers = np.arange(len(row["tokens"]))
    if "side" not in row:
        return [numbers]
    return [numbers[row["side"] == side] for side in (0, 1)]


def _prompt_length(row: Row) -> int:
    """Tokens before the first completion, which are those before the first weight."""
    weighted = np.flatnonzero(row["weights"]) if "weights" in row else ()
    return int(weighted[0]) if len(weighted) else 0


def _shared_length(row: Row) -> int:
    """Tokens of a prompt that completions share: all but the last."""
    return max(0, _prompt_length(row) - 1)


def fill(
    sequences: Sequence[Sequence[Row]], batch_size: int, length: int, share: bool = False
) -> Batch:
    """[batch_size, length] arrays in which sequence i holds the rows of sequences[i].

    What is left is padding.
    """
    first: Mapping[str, np.ndarray] = sequences[0][0]
    shape = (batch_size, length)
    kept = [key for key in first if key not in ("side", "position")]
    batch = {key: np.zeros(shape, np.asarray(first[key]).dtype) for key in kept}
    added = ("segment_ids", "positions", "prefix_ids") if share else ("segment_ids", "positions")
    batch |= {key: np.zeros(shape, np.int32) for key in added}
    for i, rows in enumerate(sequences):
        start = 0
        for part in parts(rows, length, share):
            count = len(part.tokens)
            here = i, slice(start, start + count)
            for key in kept:
                batch[key][here] = part.row[key][part.tokens]
            batch["segment_ids"][here] = part.segment
            batch["positions"][here] = part.first_position + np.arange(count)
            if share:
                batch["prefix_ids"][here] = part.prefix
            start += count
    return batch
