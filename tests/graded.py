"""Grading a text without a model."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import graders
from reasoning_jax.tasks import Example, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """A finished text without its tokens: what can be graded without a model."""

    example: Example
    text: str
    index: int = 0
    finished: bool = True
    prompt_ids: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1, np.int32))
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2, np.int32))


def verdict(task: Task, text: str, example: Example, grader: str = "") -> str:
    """The verdict on one finished text, by the grader "exact" or "math"; "" = the task's."""
    completion = Completion(example=example, text=text)
    [grade] = graders.get(grader or task.GRADER).grade([completion], None, task, ConfigDict())
    return grade.verdict
