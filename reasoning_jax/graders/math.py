"""Answers as mathematics: numbers by their value, other expressions by math-verify."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import graders
from reasoning_jax.answers import equivalence
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Config:
    pass


equal = equivalence.equal


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    def judge(answer: str, example: Example) -> tuple[str, bool]:
        return answer, equal(answer, example.answer)

    return graders.grade_answers(samples, judge, task)
