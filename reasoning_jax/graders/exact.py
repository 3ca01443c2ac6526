"""Answers as the task reads them, which is their text where a task does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import graders
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Config:
    pass


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    def judge(answer: str, example: Example) -> tuple[str | None, bool]:
        read = task.reading(answer, example)
        return read, read is not None and read == task.reading(example.answer, example)

    return graders.grade_answers(samples, judge, task)
