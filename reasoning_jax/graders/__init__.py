"""Who judges samples: one file a grader, named like the grader.

A grader is a module with a class ``Config`` (a frozen dataclass: its own keys, each with its range
and a comment) and

    grade(samples, model, task, cfg) -> list[Grade]

a batch at a time, so that a judge may ask a model (with one process: each grades its own samples).
``cfg`` is the whole experiment; a grader's own keys are in ``cfg.grader``. A module may also have
``check(cfg)``, which raises UserError for values that do not go together, and
``equal(answer, other)``, by which the answers in its grades are compared in votes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import operator
import pkgutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, Task

if TYPE_CHECKING:  # importing it takes jax, and configs are made without
    from reasoning_jax.policy import Policy


class Grade(NamedTuple):
    """What a grader says of a sample."""

    score: float  # 1 for the right answer, else 0 or a part of 1; and what the grader adds
    verdict: str  # tasks.CORRECT, WRONG, UNPARSED or TRUNCATED
    answer: str | None  # None where the task finds none in the text
    wrong_line: int | None  # the first line, from 0, that the task can tell is false


class Answered(Protocol):
    """What is graded: a completion of an example's prompt. ``rollout.Sample`` is one."""

    @property
    def example(self) -> Example: ...

    @property
    def index(self) -> int: ...  # which of the example's samples

    @property
    def prompt_ids(self) -> np.ndarray: ...  # [P] int32, of the prompt without a hint

    @property
    def tokens(self) -> np.ndarray: ...  # [N] int32, the end token included

    @property
    def finished(self) -> bool: ...  # whether it ends with the end token

    @property
    def text(self) -> str: ...


class Model(Protocol):
    """A model that a grader may ask. ``rollout.Rollout`` is one."""

    @property
    def policy(self) -> Policy: ...

    def base(self) -> Model:
        """The model that the rounds of the run began with."""

    def of_run(self, folder: str) -> Model:
        """The model of another run, of the same shape."""

    def write(
        self,
        prompts: Sequence[str],
        *,
        num_samples: int,
        temperature: float,
        max_new_tokens: int,
        purpose: str,
    ) -> Sequence[Sequence[Answered]]:
        """``num_samples`` completions of each prompt as it is; [] where it leaves no room."""


class Grading(Protocol):
    """The function ``grade`` of a grader's module."""

    def __call__(
        self, samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
    ) -> list[Grade]: ...


def _accept(cfg: ConfigDict) -> None:
    """The check of a grader that has none."""


@dataclasses.dataclass(frozen=True)
class Grader:
    """A grader of an experiment: called, it gives one Grade a sample, in their order."""

    grade: Callable[[Sequence[Answered], Model | None], list[Grade]]
    equal: Callable[[str, str], bool]  # whether two answers are the same: votes go by it

    def __call__(self, samples: Sequence[Answered], model: Model | None) -> list[Grade]:
        return self.grade(samples, model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraderModule:
    """A grader's parts; a grader's file may leave out those that have a default here."""

    name: str
    Config: type
    grade: Grading
    check: Callable[[ConfigDict], None] = _accept
    equal: Callable[[str, str], bool] = operator.eq  # of two answers in its grades


def names() -> list[str]:
    """The graders: the files in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


@functools.cache
def get(name: str) -> GraderModule:
    """The grader of this name; UserError where there is none, or where its file is incomplete."""
    if name not in names():
        known = ", ".join(names())
        raise UserError(
            f"config.grader.name: there is no grader {name!r}; the graders are {known}."
        )
    return contracts.fill(GraderModule, importlib.import_module(f"{__name__}.{name}"))


def make(cfg: ConfigDict, task: Task) -> Grader:
    """The grader that the experiment's ``grader`` section names; the task's where it names none.

    UserError for an unknown name, and for values that do not go together.
    """
    grader = get(cfg.grader.name or task.GRADER)
    if task.GRADER == "judge" and grader.name != "judge":
        raise UserError(
            f"config.grader.name: {grader.name} reads right answers, and {task.name} has questions "
            "without one; set judge."
        )
    grader.check(cfg)
    of_answers = grader
    if "answers" in cfg.grader:  # it leaves them to another
        of_answers = get(cfg.grader.answers or task.GRADER)

    def grade(samples: Sequence[Answered], model: Model | None) -> list[Grade]:
        return grader.grade(samples, model, task, cfg)

    return Grader(grade=grade, equal=of_answers.equal)


def grade_answers(
    samples: Sequence[Answered],
    judge: Callable[[str, Example], tuple[str | None, float]],
    task: Task,
) -> list[Grade]:
    """Grades by the answer alone.

    judge: an extracted answer and its example -> the answer as the grade gives it, None where it is
    none, and its score, of which 1 (or True) is right. A sample that is cut off, or empty, never
    counts as correct, whatever its text says.
    """
    grades = []
    for sample in samples:
        extracted = task.extract(sample.text)
        answer, score = None, 0.0
        if extracted is not None:
            answer, score = judge(extracted, sample.example)
        if not sample.finished:
            verdict = TRUNCATED
        elif len(sample.tokens) <= 1 or answer is None:  # the end token alone, or no answer
            verdict = UNPARSED
        else:
            verdict = CORRECT if score >= 1 else WRONG
        grades.append(
            Grade(
                score=float(score) if verdict in (CORRECT, WRONG) else 0.0,
                verdict=verdict,
                answer=answer,
                wrong_line=task.wrong_line(sample.text, sample.example),
            )
        )
    return grades
