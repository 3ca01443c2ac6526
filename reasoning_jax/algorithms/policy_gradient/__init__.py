"""Policy gradients with a group of samples as its own baseline: RLOO, GRPO, Dr. GRPO and DAPO.

A round is a minibatch of Q questions with G = ``num_samples`` samples o_i each. With A the
advantage of a sample, rho the ratio of the current policy to the one that sampled (a number for
each token) and w a token's weight, an update maximises

    1 / Q * sum over questions, samples, tokens of
        w * [min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - kl * KL]

and the methods are choices of two functions:

              advantages                      token_weights          paper (arXiv)
    rloo      R_i - mean of the others' R     1 / G                  Ahmadian et al., 2402.14740
    grpo      (R_i - mean R) / std R          1 / (G |o_i|)          Shao et al., 2402.03300
    dr_grpo   R_i - mean R                    1 / (G max length)     Liu et al., 2503.20783
    dapo      (R_i - mean R) / std R          1 / sum_j |o_j|        Yu et al., 2503.14476

std is the population's (ddof 0; the sample's makes |A| smaller by sqrt((G-1)/G)); A = 0 where a
group's rewards are all alike. With ``groups`` it takes new questions until so many groups are
neither all right nor all wrong (DAPO). A sample's reward is its grader's score.

KL is that of the policy from the base model, by d = log p - log ref at the sampled tokens: in the
loss k3 = exp(-d) - 1 + d (GRPO's; its gradient is that of KL(ref || p)) or k2 = d^2 / 2 (whose
gradient is that of KL(p || ref)); k1 = d, whose gradient has mean 0, is taken from the rewards, as
in the RLOO paper: R = r - kl * (sum of d).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, Programs
from reasoning_jax.algorithms.policy_gradient.advantages import KINDS, advantages, token_weights
from reasoning_jax.algorithms.policy_gradient.charts import CHARTS
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import above, at_least, between, key, one_of
from reasoning_jax.rollout import Rollout, Sample, groups_of
from reasoning_jax.sampling.methods import check_untruncated
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, masked_sum
from reasoning_jax.training.rows import Row, completion_row

__all__ = ["BATCH", "CHARTS", "FORWARDS", "Config", "collect", "loss"]
BATCH = ("weights", "advantage", "old", "normaliser")
FORWARDS = ("plain", "pause", "coconut")  # quiet_star's thoughts are rewarded for likelihood


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    kind: str = key("grpo", one_of(*KINDS))
    num_samples: int = key(4, between(2, 2**16))  # samples a question: the size of a group
    # Train on so many groups that are neither all right nor all wrong; 0 = on all.
    groups: int = key(0, at_least(0))
    # Ratios are clipped to 1 - clip_low, 1 + clip_high; a large number clips nothing.
    clip_low: float = key(0.2, above(0))
    clip_high: float = key(0.2, above(0))
    kl: float = key(0.0, at_least(0))  # weight of the KL divergence from the base model
    # k2 and k3 are in the loss, k1 in the rewards.
    kl_kind: str = key("k3", one_of("k1", "k2", "k3"))


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    batch_size = cfg.sampling.batch_size
    check_untruncated(cfg.sampling, "the samples must be of the policy's own distribution")
    if batch_size % a.num_samples:
        reason = f"{a.num_samples} does not divide sampling.batch_size {batch_size}"
        _refuse("algorithm.num_samples", reason)
    if cfg.rounds.restart:
        reason = "updates go on from the model that drew the samples: False"
        _refuse("rounds.restart", reason)
    # A standard deviation would blow up what k1 adds to the rewards.
    if a.kl_kind == "k1" and a.kind not in ("rloo", "dr_grpo"):
        _refuse("algorithm.kl_kind", f"'k1' is not one of k2, k3, for {a.kind}")


def _refuse(key: str, reason: str) -> None:
    raise UserError(f"config.{key}: {reason}.")


# ---- the E-step --------------------------------------------------------------------------------


def draw(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict
) -> tuple[list[list[Sample]], list[int]]:
    """Groups of samples, and which of them are trained on.

    All, or with ``groups`` the first so many that are neither all right nor all wrong, sampled as
    long as there are too few of them and questions left.
    """
    a = cfg.algorithm
    groups: list[list[Sample]] = []
    chosen: list[int] = []
    step = a.groups or len(examples)
    for start in range(0, len(examples), step):
        samples = rollout(examples[start : start + step], num_samples=a.num_samples)
        groups += groups_of(samples, a.num_samples)
        chosen = [i for i, group in enumerate(groups) if not a.groups or _is_mixed(group)]
        if len(chosen) >= step:
            break
    return groups, chosen[:step]


def _is_mixed(group: Sequence[Sample]) -> bool:
    """Whether a group has both correct and other samples."""
    return len({s.correct for s in group}) == 2


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """Groups of samples; their tokens with advantages and the policy's log-probabilities."""
    a = cfg.algorithm
    groups, chosen = draw(rollout, examples, cfg)
    all_rewards = np.array([[s.score for s in group] for group in groups])
    all_rewards = all_rewards.reshape(len(groups), a.num_samples)
    samples = [s for i in chosen for s in groups[i]]
    stats = {
        "reward": float(all_rewards.mean()),
        "zero_spread": float((np.ptp(all_rewards, axis=1) == 0).mean()),
        "groups": len(chosen),
    }
    rewards = all_rewards[chosen]
    reference: list[np.ndarray | None] = [None] * len(samples)
    if a.kl and samples:
        base_rows = [completion_row(s.prompt_ids, s.tokens) for s in samples]
        reference = [*rollout.base().policy.completion_logprobs(base_rows)]
        drift = np.array(
            [(s.logprobs - ref).sum() for s, ref in zip(samples, reference, strict=True)]
        ).reshape(rewards.shape)
        stats["kl"] = float(drift.mean())  # of whole samples
        if a.kl_kind == "k1":
            rewards = rewards - a.kl * drift
            reference = [None] * len(samples)
    lengths = np.array([len(s.tokens) for s in samples]).reshape(rewards.shape)
    gain = advantages(rewards, a.kind).ravel()
    weights = token_weights(lengths, a.kind, cfg.sampling.max_new_tokens).ravel()
    # Those without a gradient are left out. A sample counts for 1 in what the update is divided by,
    # so its tokens weigh G times as much.
    trained = [i for i in range(len(samples)) if gain[i] or reference[i] is not None]
    normaliser = len(samples) / max(len(trained), 1)
    rows = [
        _row(
            samples[i],
            weight=weights[i] * a.num_samples,
            advantage=gain[i],
            normaliser=normaliser,
            reference=reference[i],
        )
        for i in trained
    ]
    return Collected(
        rows=rows,
        memory=memory,
        stats=stats | {"kept_rows": len(rows)},
        samples=[s for group in groups for s in group],
        kept={samples[i].key for i in trained},
    )


def _row(
    sample: Sample,
    *,
    weight: float,
    advantage: float,
    normaliser: float,
    reference: np.ndarray | None,
) -> Row:
    """A sample's tokens, each with what the loss reads of it."""
    row = completion_row(sample.prompt_ids, sample.tokens)
    n = len(sample.tokens)
    values = {
        "weights": weight,
        "advantage": advantage,
        "old": sample.logprobs,
        "normaliser": normaliser / n,
    }
    if reference is not None:
        values["ref"] = reference
    prompt_length = len(row["tokens"]) - n
    for name, value in values.items():
        of_completion = np.broadcast_to(np.asarray(value, np.float32), n)
        row[name] = np.pad(of_completion, (prompt_length, 0))
    return row


# ---- the M-step --------------------------------------------------------------------------------


def _has_kl_term(cfg: ConfigDict) -> bool:
    """Whether the loss has a KL term: k1 is in the rewards."""
    return cfg.algorithm.kl != 0 and cfg.algorithm.kl_kind != "k1"


def programs(cfg: ConfigDict) -> Programs:
    a = cfg.algorithm
    arrays = (*BATCH, "ref") if _has_kl_term(cfg) else BATCH
    return Programs(updates={"": arrays}, logprobs=a.kl != 0, keeps_base=a.kl != 0)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The negative clipped objective; at the first update its value is near 0, its gradient is not.

    kl_old (of the policy that sampled from this one), clip_fraction and kl are means over samples
    of means over their tokens.
    """
    a = cfg.algorithm
    weights = batch["weights"]
    normaliser = batch["normaliser"]
    advantage = batch["advantage"]
    log_ratio = jnp.where(weights != 0, logprobs - batch["old"], 0.0)
    ratio = jnp.exp(log_ratio)
    unclipped = ratio * advantage
    clipped = jnp.clip(ratio, 1 - a.clip_low, 1 + a.clip_high) * advantage
    objective = jnp.minimum(unclipped, clipped)
    means = {}
    if _has_kl_term(cfg):
        d = jnp.where(weights != 0, logprobs - batch["ref"], 0.0)
        kl = jnp.expm1(-d) + d if a.kl_kind == "k3" else d**2 / 2
        objective = objective - a.kl * kl
        means["kl"] = masked_sum(kl, normaliser)
    means["clip_fraction"] = masked_sum(clipped < unclipped, normaliser)
    means["kl_old"] = masked_sum(ratio - 1 - log_ratio, normaliser)
    largest_ratio = jnp.max(jnp.where(weights != 0, ratio, 0.0))
    return Loss(
        total=-masked_sum(objective, weights),
        weight=jnp.sum(normaliser),
        means=means,
        maxima={"ratio_max": largest_ratio},
    )
