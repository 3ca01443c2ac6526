"""STaR: Self-Taught Reasoner (Zelikman, Wu, Mu, Goodman 2022, arXiv 2203.14465, algorithm 1).

Each round, for every example (x, y) of the round:

    r, y^ ~ M(. | x)                     keep (x, r, y) where y^ = y                (line 3, 5)
    r', y' ~ M(. | x, hint y)            only where y^ != y: keep (x, r', y) where y' = y
                                                                                    (line 4, 6)

then fine-tune the *base* model, not the last one, on what was kept, with a fresh optimiser (line 7;
``rounds.restart`` in the config). The hint is never in what is trained on. This approximates the
policy gradient of J = sum_i E_{r, y^ ~ M}[1(y^ = y_i)], whose gradient (eq. 2) the filter's
indicator gives, off-policy for rationalizations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import (
    Collected,
    Memory,
    check_hinted_prompts,
    check_prompts,
)
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, weighted_nll
from reasoning_jax.training.rows import completion_row

BATCH = ("weights",)
SYSTEMS = True
CHARTS = (  # in the place of the common charts of these titles
    Chart(
        title="What was collected",
        note="of the examples or samples of a round",
        curves=(
            Curve("collect", "collect/kept", "kept"),
            Curve("collect", "collect/rationalized", "rationalized"),
            Curve("collect", "collect/unparsed", "unparsed"),
            Curve("collect", "collect/truncated", "truncated"),
        ),
        fraction=True,
    ),
    Chart(
        title="Rationales with true lines only",
        note="of the kept ones, and of all answers evaluated",
        curves=(
            Curve("collect", "collect/true_lines", "kept"),
            Curve("collect", "collect/hinted_true_lines", "kept, hinted"),
            Curve("eval", "eval/true_lines", "evaluation"),
        ),
        fraction=True,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    rationalize: bool = True  # a second, hinted attempt at what failed


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """Every example can be asked; again with a hint, where what failed is."""
    check = check_hinted_prompts if cfg.algorithm.rationalize else check_prompts
    return check(rollout, examples, cfg)


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """One attempt at every example, a hinted one where it failed; the correct ones are kept."""
    attempts = rollout(examples)
    failed = [s.example for s in attempts if not s.correct]
    rationalize = cfg.algorithm.rationalize and failed
    hinted = rollout(failed, hint=True) if rationalize else []
    kept = [s for s in (*attempts, *hinted) if s.correct]

    rationalized = [s for s in hinted if s.correct]
    true_lines = [s for s in rationalized if s.wrong_line is None]
    stats = {
        "kept": len(kept) / len(examples),
        "kept_rows": len(kept),
        "rationalized": len(rationalized) / len(examples),
        # Never mixed with the accuracy of attempts without a hint.
        "hinted_accuracy": len(rationalized) / max(len(hinted), 1),
        "hinted_true_lines": len(true_lines) / max(len(rationalized), 1),
    }
    return Collected(
        rows=[completion_row(s.prompt_ids, s.tokens) for s in kept],
        memory=memory,
        stats=stats,
        samples=[*attempts, *hinted],
        kept={s.key for s in kept},
    )


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of rationale and answer, the end token included."""
    return weighted_nll(logprobs, batch)
