"""Best-of-k by a trained verifier: the policy's own log-likelihood of a sample is its score.

V-STaR trains a verifier by DPO and ranks samples by their likelihood under it (Hosseini et al.
2024, arXiv:2402.06457, section 3.3). ``model`` has the verifier's parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import graders
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.tasks import CORRECT, WRONG, Task
from reasoning_jax.training import rows

if TYPE_CHECKING:
    from reasoning_jax.policy import Policy


@dataclasses.dataclass(frozen=True)
class Config:
    pass


def check(cfg: ConfigDict) -> None:
    """UserError: a run that trains has no verifier that could grade its samples."""
    raise UserError(
        "config.grader.name: 'verifier' needs a trained verifier, which only evaluate has; use "
        "exact, math or rewards."
    )


def _log_likelihoods(samples: Sequence[Answered], policy: Policy) -> np.ndarray:
    """[n] float32: log p(tokens | prompt) of each sample under the policy's parameters."""
    sequences = [rows.completion_row(sample.prompt_ids, sample.tokens) for sample in samples]
    logprobs = policy.logprobs(sequences)
    totals = []
    for sample, of_sequence in zip(samples, logprobs, strict=True):
        of_tokens = of_sequence[len(of_sequence) - len(sample.tokens) :]
        totals.append(of_tokens.sum())
    return np.array(totals)


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    """The verdicts of the task's grader; the score is the log-likelihood.

    It is -inf, the lowest of all, for what is cut off or has no answer.
    """
    if model is None:
        raise ValueError("The verifier's parameters are needed.")
    grades = graders.get(task.GRADER).grade(samples, model, task, cfg)
    scores = _log_likelihoods(samples, model.policy)
    scored = []
    for grade, score in zip(grades, scores, strict=True):
        has_answer = grade.verdict in (CORRECT, WRONG)
        scored.append(grade._replace(score=float(score) if has_answer else -np.inf))
    return scored
