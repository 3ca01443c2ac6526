"""What a sample earns: 1 for the right answer, and what the config adds for format and length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import graders
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.ranges import at_least, key, one_of
from reasoning_jax.tasks import Task

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # The grader of the answers; "" = the task's.
    answers: str = key("", one_of("", "exact", "math", "scored"))
    # What <think>...</think><answer>...</answer> adds to the score.
    format: float = key(0.0, at_least(0))
    # Weight of the penalty, 0 to -1, of the last tokens before the limit.
    overlong: float = key(0.0, at_least(0))
    overlong_tokens: int = key(32, at_least(0))  # how many tokens these are


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    """The grades of the answers, with the rewards in their scores.

    UserError naming the example where a score is not finite.
    """
    answers = graders.get(cfg.grader.answers or task.GRADER)
    grades = []
    for sample, grade in zip(samples, answers.grade(samples, model, task, cfg), strict=True):
        score = _score(sample, grade, cfg)
        if not math.isfinite(score):
            raise UserError(
                f"Example {sample.example.id}, sample {sample.index}: its reward {score} is not a "
                "number."
            )
        grades.append(grade._replace(score=score))
    return grades


def _score(sample: Answered, grade: Grade, cfg: ConfigDict) -> float:
    weights = cfg.grader
    in_format = 1.0 if well_formed(sample.text) else 0.0
    length = len(sample.tokens)
    penalty = overlong(length, cfg.sampling.max_new_tokens, weights.overlong_tokens)
    return grade.score + weights.format * in_format + weights.overlong * penalty


def well_formed(text: str) -> bool:
    """Whether a completion is <think>...</think><answer>...</answer> and nothing else.

    Each tag is there once, and neither part is empty (DeepSeek-R1, arXiv:2501.12948, section
    2.2.2).
    """
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    before, _, rest = text.partition("<think>")
    thought, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    answer, _, after = rest.partition("</answer>")
    around = before + between + after
    return not around.strip() and thought.strip() != "" and answer.strip() != ""


def overlong(length: int, limit: int, cache: int) -> float:
    """The soft penalty of a long completion (DAPO, Yu et al. 2025, arXiv:2503.14476, eq. 13).

    0 up to limit - cache tokens, then falling evenly to -1 at the limit.
    """
    if cache == 0:
        return -1.0 if length > limit else 0.0
    beyond = max(length - (limit - cache), 0)
    return -min(beyond / cache, 1.0)
