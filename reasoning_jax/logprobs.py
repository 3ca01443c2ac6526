"""Per-token log-probabilities, in float32, without ever holding the logits of a whole batch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from reasoning_jax import model

CHUNK = 64  # tokens of each row whose logits exist at once


def of_targets(
    params: model.Params, hidden: jax.Array, targets: jax.Array, cfg: model.ModelConfig, chunk: int = CHUNK
) -> jax.Array:
    """log p(target) of hidden states, in float32.

    hidden: [B, S, D]; targets: [B, S]. Returns [B, S]. Scans over chunks of S and recomputes each chunk's
    logits in the backward pass, so that the largest array is [B, chunk, V].
    """
    batch, length, width = hidden.shape
    chunk = min(chunk, length)
    padding = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))

    @jax.checkpoint
    def one(carry: None, xs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        h, t = xs
        logits = model.logits(params, h, cfg)
        hit = jax.lax.broadcasted_iota(jnp.int32, (1, 1, logits.shape[-1]), 2) == t[..., None]  # no gather: it fuses
        return carry, jnp.sum(jnp.where(hit, logits, 0.0), axis=-1) - jax.nn.logsumexp(logits, axis=-1)

    def split(x: jax.Array) -> jax.Array:  # [B, S, ...] -> [S / chunk, B, chunk, ...]
        return jnp.moveaxis(x.reshape(batch, -1, chunk, *x.shape[2:]), 1, 0)

    _, out = jax.lax.scan(one, None, (split(hidden), split(targets)))
    return jnp.moveaxis(out, 0, 1).reshape(batch, -1)[:, :length]


def token_logprobs(params: model.Params, batch: dict[str, jax.Array], cfg: model.ModelConfig) -> jax.Array:
    """log p(token_t | the tokens before it in its segment) for a packed batch; [B, S] float32.

    batch: tokens, positions, segment_ids [B, S]. A segment's first token and padding get 0.
    """
    hidden, _ = model.apply(params, batch["tokens"], batch["positions"], batch["segment_ids"], cfg=cfg)
    return of_hidden(params, hidden, batch, cfg)


def of_hidden(params: model.Params, hidden: jax.Array, batch: dict[str, jax.Array], cfg: model.ModelConfig) -> jax.Array:
    """``token_logprobs`` from the final hidden states [B, S, D] of the batch."""
    tokens, segments = batch["tokens"], batch["segment_ids"]
    following = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    out = jnp.pad(of_targets(params, hidden, following, cfg)[:, :-1], ((0, 0), (1, 0)))
    inside = (segments == jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))) & (segments > 0)
    return jnp.where(inside, out, 0.0)


score = partial(jax.jit, static_argnames="cfg")(token_logprobs)  # compiled by itself, outside an update
