"""Policy gradients with a group of samples as its own baseline: RLOO, GRPO, Dr. GRPO and DAPO.

A round is a minibatch of Q questions with G = ``num_samples`` samples o_i each. With A the advantage of a sample, rho the
ratio of the current policy to the one that sampled (a number for each token) and w a token's weight, an update maximises

    1 / Q * sum over questions, samples, tokens of w * [min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - kl * KL]

and the methods are choices of two functions:

              advantages                      token_weights     paper
    rloo      R_i - mean of the others' R     1 / G             Ahmadian et al. 2024, arXiv 2402.14740
    grpo      (R_i - mean) / std              1 / (G |o_i|)     Shao et al. 2024, arXiv 2402.03300, eq. 3
    dr_grpo   R_i - mean                      1 / (G L_max)     Liu et al. 2025, arXiv 2503.20783
    dapo      (R_i - mean) / std              1 / sum_i |o_i|   Yu et al. 2025, arXiv 2503.14476, eq. 8; clip_high 0.28, groups

std is the population's (ddof 0; the sample's makes |A| smaller by sqrt((G-1)/G)); A = 0 where a group's rewards are all alike.
With ``groups`` it takes new questions until so many groups are neither all right nor all wrong (DAPO).

KL is that of the policy from the base model, by d = log p - log ref at the sampled tokens: in the loss k3 = exp(-d) - 1 + d
(GRPO's; its gradient is that of KL(ref || p)) or k2 = d^2 / 2 (whose gradient is that of KL(p || ref)); k1 = d, whose gradient
has mean 0, is taken from the rewards, as in the RLOO paper: R = r - kl * (sum of d).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import rewards
from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.masked import masked_sum
from reasoning_jax.tasks import Example

KINDS = ("rloo", "grpo", "dr_grpo", "dapo")


def advantages(rewards: np.ndarray, kind: str) -> np.ndarray:
    """[Q, G] from rewards [Q, G]."""
    centred = rewards - rewards.mean(1, keepdims=True)
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return centred * (rewards.shape[1] / (rewards.shape[1] - 1))
    spread = rewards.std(1, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-8)


def token_weights(lengths: np.ndarray, kind: str, max_length: int) -> np.ndarray:
    """[Q, G]: the weight of each token of a sample, for samples of ``lengths`` [Q, G] tokens and at most ``max_length``."""
    group = lengths.shape[1]
    if kind == "grpo":
        return 1 / (group * lengths)
    if kind == "dapo":
        return np.broadcast_to(1 / lengths.sum(1, keepdims=True), lengths.shape)
    return np.full(lengths.shape, 1 / (group * (max_length if kind == "dr_grpo" else 1)))


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    a, s = cfg.algorithm, cfg.sampling
    law, n, size = (s.temperature, s.top_k, s.top_p) == (1.0, 0, 1.0), a.num_samples, s.batch_size
    kl_kinds = ("k1", "k2", "k3") if a.kind in ("rloo", "dr_grpo") else ("k2", "k3")  # a std would blow up what k1 adds
    for fine, key, wrong in (
        (a.kind in KINDS, "algorithm.kind", f"{a.kind!r} is not one of {', '.join(KINDS)}"),
        (law, "sampling", "the samples must be of the policy's own law: temperature 1, top_k 0, top_p 1"),
        (n > 1 and size % n == 0, "algorithm.num_samples", f"{n} is below 2 or does not divide sampling.batch_size {size}"),
        (not a.restart, "algorithm.restart", "updates go on from the model that drew the samples: False"),
        (a.clip_low > 0 < a.clip_high, "algorithm.clip_low, clip_high", "must be above 0; a large number clips nothing"),
        (a.kl_kind in kl_kinds, "algorithm.kl_kind", f"{a.kl_kind!r} is not one of {', '.join(kl_kinds)}, for {a.kind}"),
    ):
        if not fine:
            raise ValueError(f"config.{key}: {wrong}.")
    return ()


def draw(rollout: Any, examples: Sequence[Example], cfg: ConfigDict) -> tuple[list[list[Any]], list[int]]:
    """(groups of samples, which of them are to be trained on): all, or with ``groups`` the first so many that are neither all
    right nor all wrong, sampled as long as there are too few of them and questions left."""
    a, groups = cfg.algorithm, []
    step = a.groups or len(examples)
    for start in range(0, len(examples), step):
        samples = rollout(examples[start : start + step], num_samples=a.num_samples)
        groups += [samples[i : i + a.num_samples] for i in range(0, len(samples), a.num_samples)]
        chosen = [i for i, group in enumerate(groups) if not a.groups or len({s.correct for s in group}) == 2]
        if len(chosen) >= step:
            break
    return groups, chosen[:step]


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    a, (groups, chosen) = cfg.algorithm, draw(rollout, examples, cfg)
    earned = rewards.of_groups(groups, cfg)
    flat = [s for i in chosen for s in groups[i]]
    values = {"reward": earned.mean(), "zero_spread": (np.ptp(earned, axis=1) == 0).mean(), "groups": len(chosen)}
    total, ref = earned[chosen], [None] * len(flat)
    if a.kl and flat:
        base = dataclasses.replace(rollout, params=rollout.reference())
        ref = base.logprobs([s.example for s in flat], [s.tokens for s in flat])
        drift = np.array([(s.logprobs - r).sum() for s, r in zip(flat, ref, strict=True)]).reshape(total.shape)
        values["kl"] = drift.mean()  # of whole samples
        if a.kl_kind == "k1":
            total, ref = total - a.kl * drift, [None] * len(flat)
    lengths = np.array([len(s.tokens) for s in flat]).reshape(total.shape)
    gain = advantages(total, a.kind).ravel()
    weights = token_weights(lengths, a.kind, cfg.sampling.max_new_tokens).ravel()
    # A sample counts for 1 in the update's divisor, so its tokens weigh G times as much; those without a gradient are left out.
    trained = [i for i in range(len(flat)) if gain[i] or ref[i] is not None]
    share = len(flat) / max(len(trained), 1)
    rows = [_row(rollout, flat[i], weights[i] * a.num_samples, gain[i], share, ref[i]) for i in trained]
    kept = {(flat[i].example.id, flat[i].index, flat[i].hinted) for i in trained}
    return rows, memory, Report(values | {"kept_rows": len(rows)}, [s for group in groups for s in group], kept)


def _row(rollout: Any, sample: Any, weight: float, advantage: float, share: float, ref: np.ndarray | None):
    row, n = rollout.row(sample.example, sample.tokens), len(sample.tokens)
    arrays = {"weights": weight, "advantage": advantage, "old": sample.logprobs, "share": share / n, "ref": ref}
    each = {k: np.broadcast_to(np.asarray(v, np.float32), n) for k, v in arrays.items() if v is not None}
    return row | {k: np.pad(v, (len(row["tokens"]) - n, 0)) for k, v in each.items()}


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    """``epochs`` where each update takes all samples of the round (``online``); else STaR's schedule, of minibatches."""
    return cfg.algorithm.epochs if cfg.algorithm.online else scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """The negative clipped objective. At the first update rho = 1: the value is near 0, its gradient is not.

    kl_old (of the policy that sampled from this one), clip_fraction and kl are means over samples of means over their tokens.
    """
    a, weights, share, gain = cfg.algorithm, batch["weights"], batch["share"], batch["advantage"]
    log_ratio = jnp.where(weights != 0, logprobs - batch["old"], 0.0)
    ratio = jnp.exp(log_ratio)
    free, clipped = ratio * gain, jnp.clip(ratio, 1 - a.clip_low, 1 + a.clip_high) * gain
    objective, more = jnp.minimum(free, clipped), {}
    if "ref" in batch:
        d = jnp.where(weights != 0, logprobs - batch["ref"], 0.0)
        kl = jnp.expm1(-d) + d if a.kl_kind == "k3" else d**2 / 2
        objective, more = objective - a.kl * kl, {"kl": masked_sum(kl, share)}
    total = -masked_sum(objective, weights)
    return total, more | {
        "loss": total, "weight": jnp.sum(share), "ratio_max": jnp.max(jnp.where(weights != 0, ratio, 0.0)),
        "clip_fraction": masked_sum(clipped < free, share),
        "kl_old": masked_sum(ratio - 1 - log_ratio, share),
    }  # fmt: skip
