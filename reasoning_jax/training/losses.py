"""The losses of the methods, as sums over a batch: likelihoods, and preferences between
completions.

Shapes: B sequences, S tokens, P pairs that a sequence has room for. Log-probabilities outside the
mask may be anything, even NaN, and never reach a result.

Where log p(y | x) is the *sum* over the tokens of y, the end token included, and ref is the frozen
reference model, a pair of a chosen completion y_w and a rejected one y_l has the log-ratio

    h = [log p(y_w | x) - log ref(y_w | x)] - [log p(y_l | x) - log ref(y_l | x)]

and the losses (e = label_smoothing)

    dpo       -(1 - e) log sigma(beta h) - e log sigma(-beta h)          arXiv 2305.18290, eq. 7
    ipo       (h - 1 / (2 beta))^2                                       arXiv 2310.12036, eq. 17
    ipo_mean  ipo on log-probabilities averaged over the tokens of each completion, as TRL computes
              it since its pull request 1265: beta then does not depend on lengths
    nll       -log p(y_w | x) / |y_w|, each pair's own mean over tokens  arXiv 2404.19733, eq. 1

and a single completion y with a verdict, r = log p(y | x) - log ref(y | x), has

    kto       lambda (1 - sigma(beta (r - z0))) where y is desirable, with the sign turned where it
              is not; z0 = max(0, mean of r over mismatched x and y), without a gradient
                                                                         arXiv 2402.01306, eq. 8
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num
from ml_collections import ConfigDict

Batch = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """What a method's loss returns for a (micro-)batch; everything is summed over the batch.

    The update is the gradient of ``total``, divided once by ``weight``, both summed over the whole
    global batch. ``means`` are logged after the same division, ``maxima`` as the largest of any
    micro-batch.
    """

    total: jax.Array
    weight: jax.Array
    means: dict[str, jax.Array] = {}
    maxima: dict[str, jax.Array] = {}


# ---- sums over what counts ---------------------------------------------------------------------


def masked_sum(x: Num[Array, " ..."] | Bool[Array, " ..."], weights: jax.Array) -> Float[Array, ""]:
    """sum(weights * x) in float32 over all dimensions; where the weight is 0, x does not matter."""
    counted = weights != 0  # where() before the product: 0 * NaN is NaN
    products = jnp.where(counted, x, 0).astype(jnp.float32) * weights.astype(jnp.float32)
    return jnp.sum(products)


# ---- likelihoods -------------------------------------------------------------------------------


def weighted_nll(logprobs: Float[Array, "B S"], batch: Batch) -> Loss:
    """The negative log-likelihood of the tokens, a mean over those with a weight.

    batch: ``weights`` [B, S], 0 on prompts and padding; they may be signed.
    """
    weights = batch["weights"]
    total = -masked_sum(logprobs, weights)
    return Loss(total=total, weight=jnp.sum((weights != 0).astype(jnp.float32)))


def sequence_nll(logprobs: Float[Array, "B S"], batch: Batch) -> Loss:
    """The weighted negative log-likelihood of whole sequences, each the sum over its tokens.

    batch: ``weights`` [B, S] and ``normaliser`` [B, S], whose sum divides: what the rows count for,
    for example 1 a question.
    """
    total = -masked_sum(logprobs, batch["weights"])
    return Loss(total=total, weight=jnp.sum(batch["normaliser"]))


# ---- preferences -------------------------------------------------------------------------------


def side_sums(values: Num[Array, "B S"], batch: Batch) -> Float[Array, "B P 2"]:
    """Sums of values over the completion's tokens of each side; 0 where there is no pair.

    P = ceil(S / 2) is room for the pairs of one sequence; side h of pair p is segment 1 + 2 p + h.
    """
    length = values.shape[1]
    pairs = -(-length // 2)
    counted = jnp.where(batch["weights"] != 0, values, 0).astype(jnp.float32)

    def sums_by_segment(values: jax.Array, segments: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, segments, 2 * pairs + 1)

    sums = jax.vmap(sums_by_segment)(counted, batch["segment_ids"])
    return sums[:, 1:].reshape(-1, pairs, 2)


def dpo(
    log_ratio: Float[Array, " ..."], beta: float, label_smoothing: float = 0.0
) -> Float[Array, " ..."]:
    """DPO's loss of each pair from its log-ratio h (arXiv 2305.18290, eq. 7)."""
    preferred = jax.nn.log_sigmoid(beta * log_ratio)
    flipped = jax.nn.log_sigmoid(-beta * log_ratio)
    return -(1 - label_smoothing) * preferred - label_smoothing * flipped


def ipo(log_ratio: Float[Array, " ..."], beta: float) -> Float[Array, " ..."]:
    """IPO's loss of each pair from its log-ratio h (arXiv 2310.12036, eq. 17)."""
    return jnp.square(log_ratio - 1 / (2 * beta))


def kto(
    log_ratio: Float[Array, " ..."],
    z0: Float[Array, ""],
    desirable: Bool[Array, " ..."],
    beta: float,
    weights: tuple[float, float],
) -> Float[Array, " ..."]:
    """KTO's loss of each completion from its log-ratio r (arXiv 2402.01306, eq. 8).

    weights: lambda of desirable and of undesirable completions.
    """
    desirable_weight, undesirable_weight = weights
    z0 = jax.lax.stop_gradient(z0)
    loss_if_desirable = desirable_weight * jax.nn.sigmoid(beta * (z0 - log_ratio))
    loss_if_undesirable = undesirable_weight * jax.nn.sigmoid(beta * (log_ratio - z0))
    return jnp.where(desirable, loss_if_desirable, loss_if_undesirable)


def pair_loss(logprobs: Float[Array, "B S"], batch: Batch, cfg: ConfigDict) -> Loss:
    """dpo_weight * (dpo, ipo or ipo_mean) + alpha * nll, summed over the pairs of a batch.

    batch: pairs with ``ref``, the reference's log-likelihood of each side. cfg: a method's section
    with the keys of ``PreferenceConfig``. ``weight`` is the number of pairs; ``accuracy`` counts
    the pairs whose margin is above 0, which at the start is none.
    """
    loss, figures, exists = _of_pairs(logprobs, batch, cfg)
    return _sum_over_pairs(loss, figures, exists)


def pair_or_replayed_loss(logprobs: Float[Array, "B S"], batch: Batch, cfg: ConfigDict) -> Loss:
    """``pair_loss``, and the loss nll of what is replayed.

    batch: as ``pair_loss``, and ``replayed``, 1 in the first side of a pair that has this side
    alone: it counts as a pair, and is 0 in all figures but ``replayed`` and ``replayed_nll``.
    """
    loss, figures, exists = _of_pairs(logprobs, batch, cfg)
    is_replayed = side_sums(batch["replayed"], batch)[..., 0] > 0
    nll = figures["nll"]
    loss = jnp.where(is_replayed, nll, loss)
    figures = {name: jnp.where(is_replayed, 0, figure) for name, figure in figures.items()}
    figures |= {"replayed": is_replayed, "replayed_nll": jnp.where(is_replayed, nll, 0)}
    return _sum_over_pairs(loss, figures, exists)


def _of_pairs(
    logprobs: jax.Array, batch: Batch, cfg: ConfigDict
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """The loss and the figures of each pair [B, P], and whether there is one."""
    policy = side_sums(logprobs, batch)
    reference = side_sums(batch["ref"], batch)
    lengths = side_sums(jnp.ones_like(logprobs), batch)
    exists = lengths[..., 0] > 0
    safe_lengths = jnp.where(exists[..., None], lengths, 1.0)
    divisor = safe_lengths if cfg.preference == "ipo_mean" else 1.0
    ratios = (policy - reference) / divisor
    log_ratio = ratios[..., 0] - ratios[..., 1]
    if cfg.preference == "dpo":
        preference = dpo(log_ratio, cfg.beta, cfg.label_smoothing)
    else:
        preference = ipo(log_ratio, cfg.beta)
    nll = -policy[..., 0] / safe_lengths[..., 0]
    loss = cfg.dpo_weight * preference + cfg.alpha * nll
    figures = {
        "preference_loss": preference,
        "nll": nll,
        "margin": cfg.beta * log_ratio,
        "accuracy": log_ratio > 0,
    }
    for side, name in enumerate(("chosen", "rejected")):
        figures[f"{name}_logprob"] = policy[..., side]
        figures[f"{name}_reward"] = cfg.beta * ratios[..., side]
        figures[f"{name}_length"] = lengths[..., side]
    return loss, figures, exists


def verdict_loss(logprobs: Float[Array, "B S"], batch: Batch, cfg: ConfigDict) -> Loss:
    """KTO, summed over completions with a verdict.

    batch: pairs whose first side is the completion and carries ``desirable`` (0 or 1), and whose
    second is a mismatched completion; ``ref`` as in ``pair_loss``. z0 is a mean over this
    (micro-)batch, so here, and only here, micro_batches changes the loss.
    """
    policy = side_sums(logprobs, batch)
    reference = side_sums(batch["ref"], batch)
    lengths = side_sums(jnp.ones_like(logprobs), batch)
    exists = lengths[..., 0] > 0
    desirable = side_sums(batch["desirable"], batch)[..., 0] > 0
    ratios = policy - reference
    mismatched = masked_sum(ratios[..., 1], exists) / jnp.maximum(jnp.sum(exists), 1)
    z0 = jnp.maximum(mismatched, 0.0)
    weights = (cfg.desirable_weight, cfg.undesirable_weight)
    loss = kto(ratios[..., 0], z0, desirable, cfg.beta, weights)
    figures = {
        "reward": cfg.beta * ratios[..., 0],
        "logprob": policy[..., 0],
        "length": lengths[..., 0],
        "desirable": desirable,
        "z0": jnp.broadcast_to(z0, exists.shape),
    }
    return _sum_over_pairs(loss, figures, exists)


def _sum_over_pairs(loss: jax.Array, figures: dict[str, jax.Array], exists: jax.Array) -> Loss:
    means = {name: masked_sum(figure, exists) for name, figure in figures.items()}
    weight = jnp.sum(exists.astype(jnp.float32))
    return Loss(total=masked_sum(loss, exists), weight=weight, means=means)
