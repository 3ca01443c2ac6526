"""Where the curriculum of a run is, and the rows of the lengths before: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.tasks import Example
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.training.data import examples_for_round
from reasoning_jax.training.rows import Row, completion_row

ROWS = 4  # of a problem: fast and slow, in both orders


class Curriculum(NamedTuple):
    """Letters: C rows that a run has room for, S tokens."""

    digits: np.ndarray  # [] int64: of the problems of the next round
    failures: np.ndarray  # [] int64: rounds in a row that kept too few
    num_rows: np.ndarray  # [] int64: rows so far
    tokens: np.ndarray  # [C, S] int32
    lengths: np.ndarray  # [C, 2] int32: of a row's prompt, and of the row


def begin(cfg: ConfigDict) -> Curriculum:
    """With the first length beyond the given ones."""
    lengths = cfg.task.max_digits - len(cfg.task.given)
    rounds_with_rows = cfg.algorithm.max_failed_rounds * lengths  # at most
    room = ROWS * cfg.rounds.examples * rounds_with_rows
    return Curriculum(
        digits=np.array(len(cfg.task.given) + 1, np.int64),
        failures=np.zeros((), np.int64),
        num_rows=np.zeros((), np.int64),
        tokens=np.zeros((room, cfg.sequence_length), np.int32),
        lengths=np.zeros((room, 2), np.int32),
    )


def choose(
    source: Sequence[Example], curriculum: Curriculum, round: int, cfg: ConfigDict
) -> list[Example]:
    """New problems of the curriculum's length, and as many worked examples of the given ones."""
    chosen: list[Example] = []
    worked = [e for e in source if e.rationale is not None]
    longer = [e for e in source if e.rationale is None]
    new = [e for e in longer if simplify.difficulty(e)[1] == curriculum.digits]
    for part in (new, worked):
        count = min(cfg.rounds.examples, len(part))
        if count:
            indices = examples_for_round(len(part), count, cfg.seed, round - 1)
            chosen += [part[int(i)] for i in indices]
    return chosen


def rows(curriculum: Curriculum) -> list[Row]:
    """All rows so far."""
    count = int(curriculum.num_rows)
    found = []
    for tokens, (prompt, length) in zip(
        curriculum.tokens[:count], curriculum.lengths[:count], strict=True
    ):
        found.append(completion_row(tokens[:prompt], tokens[prompt:length]))
    return found


def add(curriculum: Curriculum, new: Sequence[Row], learned: bool) -> Curriculum:
    """With the rows of a round; with the next length, where this one is learned."""
    tokens, lengths = curriculum.tokens.copy(), curriculum.lengths.copy()
    count = int(curriculum.num_rows)
    for number, row in enumerate(new, start=count):
        length = len(row["tokens"])
        tokens[number, :length] = row["tokens"]
        lengths[number] = np.count_nonzero(row["weights"] == 0), length
    failures = 0 if learned else int(curriculum.failures) + 1
    return Curriculum(  # arrays, not numpy's scalars, which a checkpoint does not hold
        digits=np.array(int(curriculum.digits) + int(learned), np.int64),
        failures=np.array(failures, np.int64),
        num_rows=np.array(count + len(new), np.int64),
        tokens=tokens,
        lengths=lengths,
    )
