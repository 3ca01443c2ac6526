"""Sums over what counts: values outside the mask may be anything, even NaN, and never reach the result."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """sum(weights * x) in float32 over all dimensions; where the weight is 0, x does not matter."""
    used = weights != 0  # where() before the product: 0 * NaN is NaN
    return jnp.sum(jnp.where(used, x, 0).astype(jnp.float32) * weights.astype(jnp.float32))


def masked_mean(x: jax.Array, weights: jax.Array) -> jax.Array:
    """masked_sum / sum(weights); 0 where nothing counts."""
    total = jnp.sum(weights.astype(jnp.float32))
    return masked_sum(x, weights) / jnp.where(total == 0, 1.0, total)


def sequence_nll(logprobs: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted negative log-likelihood of whole sequences, each the sum over its tokens.

    As ``weighted_nll``, but divided by the sum of ``share`` [B, S] of the batch: what its rows count for, say 1 a question.
    """
    loss = -masked_sum(logprobs, batch["weights"])
    return loss, {"loss": loss, "weight": jnp.sum(batch["share"])}


def weighted_nll(logprobs: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted negative log-likelihood of a batch, as sums.

    logprobs: [B, S], log p(token_t | tokens before it). batch: ``weights`` [B, S], 0 on prompts and padding; they may be
    signed. Returns sum(-w log p) and metrics, of which ``weight`` (the number of tokens that count) is what the update
    divides every sum by, once, over the whole global batch.
    """
    loss = -masked_sum(logprobs, batch["weights"])
    return loss, {"loss": loss, "weight": jnp.sum((batch["weights"] != 0).astype(jnp.float32))}
