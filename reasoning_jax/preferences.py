"""Losses on preferences: pairs of a chosen and a rejected completion (DPO, IPO), and single verdicts (KTO).

A pair is one packed record, prompt and chosen and then prompt and rejected, whose two halves are segments of their own in a
batch (data.py), so that packing never tears it apart and attention never crosses. Where log p(y | x) is the *sum* over the
tokens of y, the end token included, and ref the frozen start model:

    h = [log p(y_w | x) - log ref(y_w | x)] - [log p(y_l | x) - log ref(y_l | x)]

    dpo        -(1 - e) log sigma(beta h) - e log sigma(-beta h), e = label_smoothing        arXiv 2305.18290, eq. 7
    ipo        (h - 1 / (2 beta))^2                                                          arXiv 2310.12036, eq. 17
    ipo_mean   ipo on log-probs averaged over the tokens of each completion, as TRL computes it since its PR 1265: beta then
               does not depend on lengths. The paper's p(y | x) reads as the sum.
    kto        lambda (1 - sigma(beta (r - z0))) for a desirable y with r = log p(y | x) - log ref(y | x), and with the sign
               turned for an undesirable one; z0 = max(0, mean of r over mismatched x and y), without a gradient
                                                                                             arXiv 2402.01306, eq. 8
    nll        -log p(y_w | x) / |y_w|, each pair's own mean over tokens                     arXiv 2404.19733, eq. 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.masked import masked_sum

KINDS = ("dpo", "ipo", "ipo_mean", "kto")
Row = dict[str, np.ndarray]


# ---- records -------------------------------------------------------------------------------------------------------------


def pair(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Row:
    """The record of two completions of one prompt; ValueError where one is empty.

    tokens, weights (1 on completions), part (0 and 1) and place (position in its own half), all [N].
    """
    if not all(map(len, completions)):
        raise ValueError("A pair needs two completions of at least one token.")
    lengths = [len(prompt) + len(y) for y in completions]
    return {
        "tokens": np.concatenate([[*prompt, *y] for y in completions]).astype(np.int32),
        "weights": np.concatenate([np.arange(n) >= len(prompt) for n in lengths]).astype(np.float32),
        "part": np.repeat(np.arange(2, dtype=np.int32), lengths),
        "place": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
    }


def mark(row: Row, key: str, values: Sequence[float]) -> Row:
    """The record with a number for each half, which its last token carries: what ``sums`` finds again."""
    array = np.zeros(len(row["tokens"]), np.float32)
    array[[np.count_nonzero(row["part"] == 0) - 1, -1]] = values
    return row | {key: array}


def reference(rollout: Any, rows: Sequence[Row]) -> np.ndarray:
    """The log-likelihood of each record's halves under the rollout's parameters, [N, 2] float32; for ``mark``."""
    found = rollout.row_logprobs(rows)
    halves = [[p[(row["part"] == i) & (row["weights"] > 0)].sum(dtype=np.float64) for i in (0, 1)]
              for row, p in zip(rows, found, strict=True)]  # fmt: skip
    return np.array(halves, np.float32).reshape(-1, 2)


def with_reference(rollout: Any, rows: Sequence[Row]) -> list[Row]:
    """The records with "ref", the log-likelihoods under the rollout's parameters."""
    return [mark(row, "ref", of) for row, of in zip(rows, reference(rollout, rows), strict=True)]


def sums(values: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Sums of values [B, S] over the completion's tokens of each half: [B, P, 2] float32, 0 where there is no pair.

    P = ceil(S / 2) is room for the pairs of one sequence; half h of pair p is the segment 1 + 2 p + h.
    """
    length = values.shape[1]
    pairs = -(-length // 2)
    counted = jnp.where(batch["weights"] != 0, values, 0).astype(jnp.float32)  # a NaN elsewhere never gets in
    found = jax.vmap(lambda v, s: jax.ops.segment_sum(v, s, 2 * pairs + 1))(counted, batch["segment_ids"])
    return found[:, 1:].reshape(-1, pairs, 2)


# ---- losses --------------------------------------------------------------------------------------------------------------


def dpo(h: jax.Array, beta: float, label_smoothing: float = 0.0) -> jax.Array:
    """h: any shape, the log-ratio of the chosen less that of the rejected. Returns the loss of each pair."""
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(beta * h) - label_smoothing * jax.nn.log_sigmoid(-beta * h)


def ipo(h: jax.Array, beta: float) -> jax.Array:
    return jnp.square(h - 1 / (2 * beta))


def kto(ratio: jax.Array, z0: jax.Array, desirable: jax.Array, beta: float, weights: tuple[float, float]) -> jax.Array:
    """The loss of each completion from its log-ratio r; weights: lambda of the desirable and of the undesirable."""
    good, bad = weights
    z0 = jax.lax.stop_gradient(z0)
    return jnp.where(desirable, good * jax.nn.sigmoid(beta * (z0 - ratio)), bad * jax.nn.sigmoid(beta * (ratio - z0)))


def check(cfg: ConfigDict) -> None:
    """ValueError naming the key of ``cfg.algorithm`` that no loss can be made with, or that the loss would ignore."""
    a = cfg.algorithm
    for fine, key, wrong in (
        (a.preference in KINDS, "preference", f"{a.preference!r} is not one of {', '.join(KINDS)}"),
        (a.beta > 0, "beta", f"{a.beta} is not above 0"),
        (0 <= a.label_smoothing < 0.5, "label_smoothing", f"{a.label_smoothing} is not in [0, 0.5)"),
        (a.label_smoothing == 0 or a.preference == "dpo", "label_smoothing", f"{a.preference} has none"),
        (min(a.dpo_weight, a.alpha) >= 0, "dpo_weight, alpha", "they must not be negative"),
        (a.dpo_weight + a.alpha > 0, "dpo_weight, alpha", "both are 0: there is no loss"),
        (a.preference != "kto" or (a.dpo_weight, a.alpha) == (1, 0), "dpo_weight, alpha", "kto has one term: 1 and 0"),
    ):
        if not fine:
            raise ValueError(f"config.algorithm.{key}: {wrong}.")


def pair_loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """dpo_weight * (dpo, ipo or ipo_mean) + alpha * nll, summed over the pairs of a batch of records with "ref".

    ``weight`` is the number of pairs. ``accuracy`` counts the pairs whose margin is above 0: at the start it is 0.
    """
    a = cfg.algorithm
    policy, reference, lengths = (sums(x, batch) for x in (logprobs, batch["ref"], jnp.ones_like(logprobs)))
    there = lengths[..., 0] > 0
    safe = jnp.where(there[..., None], lengths, 1.0)
    ratios = (policy - reference) / (safe if a.preference == "ipo_mean" else 1.0)
    h = ratios[..., 0] - ratios[..., 1]
    preference = dpo(h, a.beta, a.label_smoothing) if a.preference == "dpo" else ipo(h, a.beta)
    nll = -policy[..., 0] / safe[..., 0]
    figures = {
        "loss": a.dpo_weight * preference + a.alpha * nll,
        "preference_loss": preference,
        "nll": nll,
        "margin": a.beta * h,
        "accuracy": h > 0,
    }
    for i, name in enumerate(("chosen", "rejected")):
        figures |= {f"{name}_logprob": policy[..., i], f"{name}_reward": a.beta * ratios[..., i],
                    f"{name}_length": lengths[..., i]}  # fmt: skip
    return _summed(figures, there)


def verdict_loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """KTO, summed over records whose second half is a mismatched completion and whose first carries "desirable" (0 or 1).

    z0 is the mean over the records of this (micro-)batch, so that here, and only here, micro_batches changes the loss.
    """
    a = cfg.algorithm
    policy, reference, lengths = (sums(x, batch) for x in (logprobs, batch["ref"], jnp.ones_like(logprobs)))
    there, desirable = lengths[..., 0] > 0, sums(batch["desirable"], batch)[..., 0] > 0
    ratios = policy - reference
    mismatched = masked_sum(ratios[..., 1], there) / jnp.maximum(jnp.sum(there), 1)
    z0 = jnp.maximum(mismatched, 0.0)
    losses = kto(ratios[..., 0], z0, desirable, a.beta, (a.desirable_weight, a.undesirable_weight))
    return _summed({"loss": losses, "reward": a.beta * ratios[..., 0], "logprob": policy[..., 0], "length": lengths[..., 0],
                    "desirable": desirable, "z0": jnp.broadcast_to(z0, there.shape)}, there)  # fmt: skip


def _summed(figures: dict[str, jax.Array], there: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    metrics = {name: masked_sum(x, there) for name, x in figures.items()}
    return metrics["loss"], metrics | {"weight": jnp.sum(there.astype(jnp.float32))}
