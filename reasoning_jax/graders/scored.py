"""Answers as the task itself scores them: 1 is right, and less is a part of the reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import graders, tasks
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Config:
    pass


def check(cfg: ConfigDict) -> None:
    """UserError where the task scores no answers."""
    if tasks.get(cfg.task.name).score is None:
        raise UserError(
            f"config.grader.name: the task {cfg.task.name} has no score of its own, which "
            "'scored' needs; use exact, math or rewards."
        )


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    def judge(answer: str, example: Example) -> tuple[str, float]:
        if task.score is None:
            raise ValueError(f"The task {task.name} scores no answers.")
        return answer, task.score(answer, example)

    return graders.grade_answers(samples, judge, task)
