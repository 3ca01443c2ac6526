"""Reweighted wake-sleep, its wake phase for the model (Bornschein & Bengio 2015, arXiv 1406.2751).

A baseline of TRICE. The hinted guide proposes K rationales of every example, and importance weights
turn them into samples of the posterior:

    z_k ~ q(z | x, y)    w_k proportional to p(z_k | x) c(z_k, y) / q(z_k | x, y), sum_k w_k = 1
    gradient = mean over the examples with a correct z_k of sum_k w_k grad log p(z_k | x)

It is biased for any finite K, and over long rationales one weight is nearly 1: ``effective`` is
1 / sum_k w_k^2, of K. The guide is the model itself, hinted; the wake phase of a guide of its own
would train on rows with hints, and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, check_hinted_prompts
from reasoning_jax.ranges import between, key
from reasoning_jax.rollout import Rollout
from reasoning_jax.sampling.methods import check_untruncated
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, sequence_nll
from reasoning_jax.training.rows import completion_row, weighted_row

BATCH = ("weights", "normaliser")
check_data = check_hinted_prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # Rationales that the guide proposes for a question.
    num_samples: int = key(4, between(1, 2**16))


def check(cfg: ConfigDict) -> None:
    check_untruncated(cfg.sampling, "importance weights need the guide's own distribution")


def importance_weights(log_p: np.ndarray, log_q: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Self-normalised importance weights [N, K] of sequences' log-likelihoods [N, K].

    All 0 where none is correct.
    """
    log_ratio = np.where(correct, log_p - log_q, -np.inf)
    largest = np.max(log_ratio, axis=1, keepdims=True)
    weights = np.exp(log_ratio - np.where(largest > -np.inf, largest, 0.0))
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """num_samples hinted attempts at every example, those that are correct by their weights."""
    k = cfg.algorithm.num_samples
    samples = rollout(examples, hint=True, num_samples=k)
    unhinted = [completion_row(s.prompt_ids, s.tokens) for s in samples]
    logprobs = rollout.policy.completion_logprobs(unhinted)
    log_p = np.array([p.sum() for p in logprobs]).reshape(-1, k)
    log_q = np.array([s.logprobs.sum() for s in samples]).reshape(-1, k)
    correct = np.array([s.correct for s in samples]).reshape(-1, k)
    weights = importance_weights(log_p, log_q, correct)
    weighted = [(s, w) for s, w in zip(samples, weights.ravel(), strict=True) if w > 0]
    reached = weights.any(1)
    effective = 1 / np.square(weights[reached]).sum(1)
    stats = {
        "kept_rows": len(weighted),
        "reached": float(reached.mean()),
        "hinted_accuracy": float(np.mean(correct)),
        "effective": float(effective.mean()) if reached.any() else 0.0,
    }
    return Collected(
        rows=[weighted_row(s.prompt_ids, s.tokens, w, w) for s, w in weighted],
        memory=memory,
        stats=stats,
        samples=samples,
        kept={s.key for s, _ in weighted},
    )


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of whole rationales, each with its importance weight."""
    return sequence_nll(logprobs, batch)
