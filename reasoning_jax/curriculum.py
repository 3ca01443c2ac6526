"""Stages of training in which more and more steps of a rationale are left out.

A step is a line of a worked example's text; the last line, which states the answer, is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALL_STEPS = 2**31  # more than any text has


def stage_of(round: int, stages: int, rounds_per_stage: int) -> int:
    """The stage of a round: 0 of the base model's, then 1, 2 ... ``stages``, where it stays."""
    if round == 0:
        return 0
    return min(stages, 1 + (round - 1) // rounds_per_stage)


def mixed_stage(stage: int, uniform_prob: float, seed: Sequence[int]) -> int:
    """This stage, or with ``uniform_prob`` one of 0 ... stage - 1; a function of the seed."""
    random = np.random.default_rng(seed)
    if stage == 0 or random.random() >= uniform_prob:
        return stage
    return int(random.integers(stage))


def num_steps(text: str) -> int:
    """How many steps a worked example's text has."""
    return text.strip().count("\n")


def without_steps(text: str, count: int) -> str:
    """The text less its first steps; of one with fewer steps, the last line is left."""
    if not count:
        return text
    lines = text.rstrip("\n").split("\n")
    return "\n".join(lines[min(count, len(lines) - 1) :])
