"""Reward and KL from samples: of a policy, of best-of-n, and of the most that a KL can buy.

Letters of shapes: P prompts, N samples of each from the reference. KL is KL(policy || reference)
of whole continuations, in nats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from reasoning_jax.model import sharding
from reasoning_jax.policy import Policy, Request
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.training.rows import completion_row

NEVER = -1e4  # added to a logit: far below all others, and finite


class Continuation(NamedTuple):
    """A sample of a policy, and the sum over its tokens of log p - log reference."""

    tokens: list[int]
    log_ratio: float


# ---- samples -------------------------------------------------------------------------------------


def without_end(policy: Policy, end_id: int) -> Policy:
    """The policy given that no text ends: its continuations are all as long as the limit."""
    if policy.model_cfg.output_bias:
        raise ValueError("The model has an output bias of its own.")
    bias = np.zeros(policy.model_cfg.vocab_size, np.float32)
    bias[end_id] = NEVER
    return dataclasses.replace(
        policy,
        params=policy.params | {"output_bias": sharding.put(bias, policy.mesh)},
        model_cfg=dataclasses.replace(policy.model_cfg, output_bias=True),
    )


def continuations(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[np.ndarray],
    *,
    samples: int,
    length: int,
    key: jax.Array,
) -> list[Continuation]:
    """So many samples of each prompt, in the order of the prompts, each of ``length`` tokens.

    prompts: token ids. The mean of the log-ratios is an unbiased estimate of the KL.
    """
    requests = [Request(p, i, ids) for p, ids in enumerate(prompts) for i in range(samples)]
    options = {"key": key, "method": make_method(1.0), "stop_ids": [], "max_new_tokens": length}
    tokens: list[list[int]] = [[] for _ in requests]
    own = np.zeros(len(requests))
    for drawn in policy.generate(requests, **options):
        for row, number in enumerate(drawn.requests):
            tokens[number] = drawn.tokens[row].tolist()
            own[number] = drawn.logprobs[row].sum(dtype=np.float64)
    log_ratios = np.zeros(len(requests))
    if policy is not reference:
        rows = [completion_row(r.prompt_ids, t) for r, t in zip(requests, tokens, strict=True)]
        by_reference = reference.completion_logprobs(rows)
        log_ratios = own - np.array([p.sum(dtype=np.float64) for p in by_reference])
    return [Continuation(t, float(x)) for t, x in zip(tokens, log_ratios, strict=True)]


# ---- best-of-n -----------------------------------------------------------------------------------


def best_of_n(rewards: np.ndarray, n: int) -> float:
    """The mean reward of the best of n samples, over all choices of n of each prompt's N.

    rewards: [P, N]. ValueError where n is above N.
    """
    count = rewards.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"The best of {n} needs at least {n} samples of a prompt, not {count}.")
    # Sample i of the ascending order is the best of C(i, n - 1) choices.
    chances = [math.comb(i, n - 1) / math.comb(count, n) for i in range(count)]
    return float((np.sort(rewards, axis=1) @ chances).mean())


def kl_bound(n: int) -> float:
    """What the KL of best-of-n is at most: log n - (n - 1) / n; reached where no rewards tie."""
    return math.log(n) - (n - 1) / n


def best_of_n_kl(rewards: np.ndarray, n: int) -> float:
    """The KL of best-of-n where ties are broken at random, a mean over the prompts.

    rewards: [P, N], taken as each prompt's whole distribution. How likely a sample becomes depends
    on its reward r alone: by the factor (P(<= r)^n - P(< r)^n) / P(r).
    """
    kls = []
    for row in rewards:
        _, counts = np.unique(row, return_counts=True)
        p = counts / len(row)
        up_to = np.cumsum(p)
        best = up_to**n - (up_to - p).clip(0) ** n
        kls.append(float(np.sum(best * np.log(best / p, where=best > 0, out=np.zeros_like(p)))))
    return max(float(np.mean(kls)), 0.0)  # of rounding


# ---- the optimum ---------------------------------------------------------------------------------


def optimum(rewards: np.ndarray, beta: float) -> tuple[float, float]:
    """(reward, KL) of the policy with the highest mean of reward - beta KL (DPO's eq. 4).

    rewards: [P, N], taken as each prompt's whole distribution, which exp(r / beta) weighs anew.
    """
    logits = rewards / beta
    logits = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    weights /= weights.sum(axis=1, keepdims=True)
    log_ratios = np.log(weights * rewards.shape[1], where=weights > 0, out=np.zeros_like(weights))
    reward = (weights * rewards).sum(1).mean()
    return float(reward), float((weights * log_ratios).sum(1).mean())
