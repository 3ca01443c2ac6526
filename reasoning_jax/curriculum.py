"""Stages of training in which more and more steps of a rationale are left out.

What a step of a worked example's text is, its task says (``Task.step_ends``).
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


def without_steps(text: str, count: int, ends: Sequence[int]) -> str:
    """The text less its first ``count`` steps, or less all; ``ends``: where each step ends."""
    left_out = ends[:count]
    return text[left_out[-1] :] if left_out else text
