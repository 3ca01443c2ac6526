"""Per-token log-probabilities, in float32, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from reasoning_jax import model, sharding
from reasoning_jax.sharding import dot

CHUNK = 64  # tokens of each row whose logits exist at once


def of_targets(
    params: model.Params, hidden: jax.Array, targets: jax.Array, cfg: model.ModelConfig, chunk: int = CHUNK
) -> jax.Array:
    """log p(target) of hidden states, in float32.

    hidden: [B, S, D]; targets: [B, S]. Returns [B, S]. Scans over chunks of S and recomputes each chunk's
    logits in the backward pass, so that the largest array is [B, chunk, V]. Over several devices it scans over as many tiles
    of V instead: the output matrix is then gathered, and its gradient reduced, once and not once a chunk, a tile at a time.
    """
    batch, length, width = hidden.shape
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        table = params["embedding"] if cfg.tied else params["unembedding"].T
        return _over_tiles(-(-length // chunk), hidden, table, targets)
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


# Names of the dimensions of hidden states [B, S, D], of a tile of the output matrix [T, N, D], in its split and gathered, and
# of logits [B, S, T, N].
HIDDEN, TILE, WHOLE = ("batch", None, None), ("vocab", None, "embed"), ("vocab", None, None)
LOGITS = ("batch", None, "vocab", None)


def _scan(step: Callable, carry: Any, hidden: jax.Array, table: jax.Array, count: int) -> tuple:
    """``step(carry, tile, number)`` for each gathered tile of the table; the next is gathered while a step computes."""
    tiles = sharding.tiles(table.astype(hidden.dtype), count)

    def one(carry: tuple, xs: tuple) -> tuple:
        (carry, tile), (following, number) = carry, xs
        following = sharding.shard(following, *WHOLE)
        carry, out = step(carry, tile, number)
        return (carry, following), out

    first = sharding.shard(tiles[0], *WHOLE)
    (carry, _), out = jax.lax.scan(one, (carry, first), (jnp.roll(tiles, -1, axis=0), jnp.arange(len(tiles))))
    return carry, out


def _logits(tile: jax.Array, number: jax.Array, hidden: jax.Array, vocab: int, targets: jax.Array) -> tuple:
    """Logits [B, S, T, N] of a tile in float32, -inf where it is filled up, and where the target is."""
    logits = dot("bsd,tnd->bstn", hidden, tile, WHOLE, LOGITS, dtype=jnp.float32)
    split, size = tile.shape[:2]
    within = number * size + jax.lax.broadcasted_iota(jnp.int32, (1, 1, split, size), 3)
    part = jax.lax.broadcasted_iota(jnp.int32, (1, 1, split, size), 2)
    inside = within < vocab // split
    return jnp.where(inside, logits, -jnp.inf), inside & (part * (vocab // split) + within == targets[..., None, None])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_tiles(count: int, hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    return _over_tiles_forward(count, hidden, table, targets)[0]


def _over_tiles_forward(count: int, hidden: jax.Array, table: jax.Array, targets: jax.Array) -> tuple:
    def step(carry: tuple, tile: jax.Array, number: jax.Array) -> tuple:
        top, total, at_target = carry
        logits, hit = _logits(tile, number, hidden, table.shape[0], targets)
        new = jnp.maximum(top, jnp.max(logits, axis=-1))
        total = total * jnp.exp(top - new) + jnp.sum(jnp.exp(logits - new[..., None]), axis=-1)
        return (new, total, at_target + jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)), None

    zeros = jnp.zeros((*hidden.shape[:2], sharding.vocabulary_parts(table)), jnp.float32)
    zeros = sharding.shard(zeros, *LOGITS[:3])
    (top, total, at_target), _ = _scan(step, (zeros - 1e30, zeros, zeros), hidden, table, count)
    log_total = jax.nn.logsumexp(top + jnp.log(total), axis=-1)  # over the devices that split the vocabulary
    return jnp.sum(at_target, axis=-1) - log_total, (hidden, table, targets, log_total)


def _over_tiles_backward(count: int, saved: tuple, g: jax.Array) -> tuple:
    hidden, table, targets, log_total = saved

    def step(carry: jax.Array, tile: jax.Array, number: jax.Array) -> tuple:
        logits, hit = _logits(tile, number, hidden, table.shape[0], targets)
        error = (g[..., None, None] * (hit - jnp.exp(logits - log_total[..., None, None]))).astype(hidden.dtype)
        carry += dot("bstn,tnd->bsd", error, tile, WHOLE, HIDDEN, dtype=jnp.float32)
        return carry, sharding.weight_gradient("bstn,bsd->tnd", error, hidden, TILE)

    carry = sharding.shard(jnp.zeros(hidden.shape, jnp.float32), *HIDDEN)
    d_hidden, d_tiles = _scan(step, carry, hidden, table, count)
    return d_hidden.astype(hidden.dtype), sharding.untiled(d_tiles, table.shape[0]), None


_over_tiles.defvjp(_over_tiles_forward, _over_tiles_backward)


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
