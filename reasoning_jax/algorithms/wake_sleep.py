"""Reweighted wake-sleep, its wake phase for the model (Bornschein & Bengio 2015, arXiv 1406.2751; a baseline of TRICE).

The hinted guide proposes K rationales of every example, and importance weights turn them into samples of the posterior:

    z_k ~ q(z | x, y)          w_k proportional to p(z_k | x) c(z_k, y) / q(z_k | x, y), sum_k w_k = 1 for each example
    gradient = mean over the examples with a correct z_k of sum_k w_k grad log p(z_k | x)

It is biased for any finite K, and over long rationales one weight is nearly 1: ``effective`` is 1 / sum_k w_k^2, of K. The
guide is the model itself, hinted; the wake phase of a guide of its own would train on rows with hints, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.masked import sequence_nll
from reasoning_jax.tasks import Example


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    if cfg.sampling.temperature != 1.0 or cfg.sampling.top_k or cfg.sampling.top_p != 1.0:
        raise ValueError("config.sampling: importance weights need the guide's own law: temperature 1, top_k 0, top_p 1.")
    return ()


def weigh(log_p: np.ndarray, log_q: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Self-normalised importance weights [N, K] of sequences' log-likelihoods [N, K]; all 0 where none is correct."""
    ratio = np.where(correct, log_p - log_q, -np.inf)
    best = np.max(ratio, axis=1, keepdims=True)
    weights = np.exp(ratio - np.where(best > -np.inf, best, 0.0))
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    k = cfg.algorithm.num_samples
    samples = rollout(examples, hint=True, num_samples=k)
    log_p = [p.sum() for p in rollout.logprobs([s.example for s in samples], [s.tokens for s in samples])]
    log_q, correct = [s.logprobs.sum() for s in samples], [s.correct for s in samples]
    weights = weigh(*(np.array(x).reshape(-1, k) for x in (log_p, log_q, correct)))
    chosen = [(s, w) for s, w in zip(samples, weights.ravel(), strict=True) if w > 0]
    reached = weights.any(1)
    values = {"kept_rows": len(chosen), "reached": float(reached.mean()), "hinted_accuracy": float(np.mean(correct)),
              "effective": float((1 / np.square(weights[reached]).sum(1)).mean()) if reached.any() else 0.0}  # fmt: skip
    rows = [rollout.weighted_row(s.example, s.tokens, w, w) for s, w in chosen]
    return rows, memory, Report(values, samples, {(s.example.id, s.index, s.hinted) for s, _ in chosen})


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return 1 if cfg.algorithm.online else scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Negative log-likelihood of whole rationales, each with its importance weight."""
    return sequence_nll(logprobs, batch)
