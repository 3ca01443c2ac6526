"""STaR: Self-Taught Reasoner (Zelikman, Wu, Mu, Goodman 2022, arXiv 2203.14465, section 3 and algorithm 1).

Each round, for every example (x, y) of the round:

    r, y^ ~ M(. | x)                     keep (x, r, y) where y^ = y                              (line 3, 5)
    r', y' ~ M(. | x, hint y)            only where y^ != y: keep (x, r', y) where y' = y         (line 4, 6)

then fine-tune the *base* model, not the last one, on what was kept, with a fresh optimiser (line 7; ``restart`` in the
config). The hint is never in what is trained on. This is an approximation of the policy gradient of
J = sum_i E_{r, y^ ~ M}[1(y^ = y_i)], whose gradient (eq. 2) the filter's indicator gives, off-policy for rationalizations.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.masked import weighted_nll
from reasoning_jax.tasks import Example


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    return ()


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    """One attempt at every example; a hinted attempt at each that failed; the correct ones of both are kept."""
    attempts = rollout(examples)
    failed = [s.example for s in attempts if not s.correct]
    hinted = rollout(failed, hint=True) if cfg.algorithm.rationalize and failed else []
    kept = [s for s in (*attempts, *hinted) if s.correct]

    true = [s for s in hinted if s.correct and s.wrong_line is None]
    rationalized = sum(s.correct for s in hinted)
    values = {
        "kept": len(kept) / len(examples),
        "kept_rows": len(kept),
        "rationalized": rationalized / len(examples),
        "hinted_accuracy": rationalized / len(hinted) if hinted else 0.0,  # never mixed with the unhinted accuracy
        "hinted_true_lines": len(true) / rationalized if rationalized else 0.0,
    }
    report = Report(values, [*attempts, *hinted], {(s.example.id, s.index, s.hinted) for s in kept})
    return [rollout.row(s.example, s.tokens) for s in kept], memory, report


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Negative log-likelihood of rationale and answer, the end token included; the prompt weighs nothing."""
    return weighted_nll(logprobs, batch)
