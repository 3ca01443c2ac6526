"""Per-token log-probabilities, in float32, without ever holding the logits of a whole batch.

Letters of shapes: B sequences, S tokens, D width, V vocabulary; of a tile of the output matrix, T
devices that split the vocabulary and N entries of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from reasoning_jax.model import decoder, linear, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.model.linear import dot
from reasoning_jax.model.parameters import Names

CHUNK = 64  # tokens of each sequence whose logits exist at once

# Names of the dimensions of hidden states [B, S, D], of a tile [T, N, D] as it is split and as it
# is gathered, and of logits [B, S, T, N].
HIDDEN: Names = ("batch", None, None)
TILE: Names = ("vocab", None, "embed")
GATHERED: Names = ("vocab", None, None)
LOGITS: Names = ("batch", None, "vocab", None)


def token_logprobs(
    params: decoder.Params, batch: dict[str, Array], cfg: decoder.ModelConfig
) -> Float[Array, "B S"]:
    """log p(token_t | the tokens before it in its segment) for a packed batch, in float32.

    batch: tokens, positions, segment_ids [B, S], and prefix_ids where segments share prompts. A
    segment's first token and padding get 0; so do tokens of weight 0, if there are ``weights``.
    """
    inputs = decoder.embed(params, batch["tokens"], cfg)
    mask = CausalMask(batch["segment_ids"], batch.get("prefix_ids"))
    hidden = decoder.apply(params, inputs, batch["positions"], mask, cfg=cfg)
    return of_hidden(params, hidden, batch, cfg)


def of_hidden(
    params: decoder.Params,
    hidden: Float[Array, "B S D"],
    batch: dict[str, Array],
    cfg: decoder.ModelConfig,
) -> Float[Array, "B S"]:
    """``token_logprobs`` from the final hidden states of the batch."""
    tokens, segments = batch["tokens"], batch["segment_ids"]
    previous = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    is_asked = (segments == previous) & (segments > 0)
    if "weights" in batch:
        is_asked = is_asked & (batch["weights"] != 0)
    following, following_is_asked = [
        jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (tokens, is_asked)
    ]
    out = of_targets(params, hidden, following, following_is_asked, cfg)
    out = jnp.pad(out[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(is_asked, out, 0.0)


# Outside an update.
compiled_token_logprobs = jax.jit(token_logprobs, static_argnames="cfg")


def of_targets(
    params: decoder.Params,
    hidden: Float[Array, "B S D"],
    targets: Int[Array, "B S"],
    is_asked: Bool[Array, "B S"],
    cfg: decoder.ModelConfig,
    chunk: int = CHUNK,
) -> Float[Array, "B S"]:
    """log p(target) of hidden states, in float32, where it is asked for; anything elsewhere.

    Orders the hidden states so that those asked for come first, scans over chunks of B x chunk of
    them, leaves out the chunks without any, and recomputes each chunk's logits in the backward
    pass: the largest array is [B x chunk, V]. Over several devices it scans over as many tiles of V
    instead, of all hidden states: the output matrix is then gathered, and its gradient reduced,
    once and not once a chunk, a tile at a time.
    """
    batch, length, width = hidden.shape
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        table = params["embedding"] if cfg.tied else params["unembedding"].T
        bias = params["output_bias"] if cfg.output_bias else None
        count = -(-length // chunk)
        return _over_tiles(count, cfg.output_softcap, hidden, table, bias, targets)
    total = batch * length
    size = batch * min(chunk, length)
    order = jnp.argsort(~is_asked.reshape(total), stable=True)
    inverse = jnp.argsort(order)
    states = _permuted(hidden.reshape(total, width), order, inverse)
    ordered = states, targets.reshape(total)[order], is_asked.reshape(total)[order]

    def logprobs(h: jax.Array, t: jax.Array) -> jax.Array:
        logits = decoder.logits(params, h[None], cfg)[0]
        ids = jax.lax.broadcasted_iota(jnp.int32, (1, logits.shape[-1]), 1)
        at_target = jnp.where(ids == t[:, None], logits, 0.0)  # unlike a gather, this fuses
        return jnp.sum(at_target, axis=-1) - jax.nn.logsumexp(logits, axis=-1)

    @jax.checkpoint
    def of_chunk(carry: None, xs: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        h, t, asked = xs
        h = jnp.where(asked[:, None], h, 0)  # what is not finite there stays without effect
        zeros = jnp.zeros(t.shape, jnp.float32)
        return carry, jax.lax.cond(jnp.any(asked), logprobs, lambda h, t: zeros, h, t)

    def split(x: jax.Array) -> jax.Array:  # [B S, ...] -> [chunks, B chunk, ...]
        x = jnp.pad(x, ((0, -total % size),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:])

    _, out = jax.lax.scan(of_chunk, None, tuple(split(x) for x in ordered))
    return _permuted(out.reshape(-1)[:total], inverse, order).reshape(batch, length)


@jax.custom_vjp
def _permuted(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """x[order] of a permutation: its gradient is a gather by the inverse, not a scattered sum."""
    return x[order]


def _permuted_forward(
    x: jax.Array, order: jax.Array, inverse: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return x[order], inverse


def _permuted_backward(inverse: jax.Array, g: jax.Array) -> tuple[jax.Array, None, None]:
    return g[inverse], None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)


def _scan(
    step: Callable[[PyTree, jax.Array, jax.Array | None, jax.Array], tuple[PyTree, PyTree]],
    carry: PyTree,
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    count: int,
) -> tuple[PyTree, PyTree]:
    """``step(carry, tile, bias's tile, number)`` for each gathered tile of the table.

    The next tile is gathered while a step computes.
    """
    tiles = linear.tiles(table.astype(hidden.dtype), count)
    bias_tiles = None if bias is None else linear.tiles(bias[:, None], count)[..., 0]

    def one(carry: tuple, xs: tuple) -> tuple:
        carry, tile = carry
        following, bias_tile, number = xs
        following = sharding.shard(following, *GATHERED)
        carry, out = step(carry, tile, bias_tile, number)
        return (carry, following), out

    first = sharding.shard(tiles[0], *GATHERED)
    xs = (jnp.roll(tiles, -1, axis=0), bias_tiles, jnp.arange(len(tiles)))
    (carry, _), out = jax.lax.scan(one, (carry, first), xs)
    return carry, out


class _Tile(NamedTuple):
    """The logits of a tile, [B, S, T, N]."""

    logits: jax.Array  # float32, -inf in its padding
    slope: jax.Array | float  # their derivative by the logits before the cap
    is_target: jax.Array


def _tile(
    tile: jax.Array,
    bias: jax.Array | None,
    number: jax.Array,
    hidden: jax.Array,
    softcap: float,
    vocab: int,
    targets: jax.Array,
) -> _Tile:
    logits = dot("bsd,tnd->bstn", hidden, tile, GATHERED, LOGITS, dtype=jnp.float32)
    if bias is not None:
        logits = logits + bias
    slope = 1.0
    if softcap:
        capped = jnp.tanh(logits / softcap)
        logits, slope = softcap * capped, 1.0 - jnp.square(capped)
    split, size = tile.shape[:2]
    per_device = vocab // split
    shape = (1, 1, split, size)
    within = number * size + jax.lax.broadcasted_iota(jnp.int32, shape, 3)
    device = jax.lax.broadcasted_iota(jnp.int32, shape, 2)
    inside = within < per_device
    at_target = device * per_device + within == targets[..., None, None]
    return _Tile(jnp.where(inside, logits, -jnp.inf), slope, inside & at_target)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _over_tiles(
    count: int,
    softcap: float,
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
) -> Float[Array, "B S"]:
    """``of_targets`` by at most ``count`` tiles of the output matrix ``table`` [V, D]."""
    return _over_tiles_forward(count, softcap, hidden, table, bias, targets)[0]


def _over_tiles_forward(
    count: int,
    softcap: float,
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
) -> tuple[jax.Array, tuple]:
    def step(
        carry: tuple, tile: jax.Array, bias_tile: jax.Array | None, number: jax.Array
    ) -> tuple[tuple, None]:
        top, total, at_target = carry
        t = _tile(tile, bias_tile, number, hidden, softcap, table.shape[0], targets)
        new_top = jnp.maximum(top, jnp.max(t.logits, axis=-1))
        new_terms = jnp.sum(jnp.exp(t.logits - new_top[..., None]), axis=-1)
        total = total * jnp.exp(top - new_top) + new_terms
        at_target = at_target + jnp.sum(jnp.where(t.is_target, t.logits, 0.0), axis=-1)
        return (new_top, total, at_target), None

    zeros = jnp.zeros((*hidden.shape[:2], linear.vocabulary_parts(table)), jnp.float32)
    zeros = sharding.shard(zeros, *LOGITS[:3])
    start = zeros - 1e30, zeros, zeros
    (top, total, at_target), _ = _scan(step, start, hidden, table, bias, count)
    # The last dimension is the devices that split the vocabulary.
    log_total = jax.nn.logsumexp(top + jnp.log(total), axis=-1)
    saved = hidden, table, bias, targets, log_total
    return jnp.sum(at_target, axis=-1) - log_total, saved


def _over_tiles_backward(
    count: int, softcap: float, saved: tuple, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None, None]:
    hidden, table, bias, targets, log_total = saved

    def step(
        carry: jax.Array, tile: jax.Array, bias_tile: jax.Array | None, number: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None]]:
        t = _tile(tile, bias_tile, number, hidden, softcap, table.shape[0], targets)
        probabilities = jnp.exp(t.logits - log_total[..., None, None])
        error = g[..., None, None] * (t.is_target - probabilities) * t.slope
        d_bias = None
        if bias is not None:
            ones = jnp.ones_like(hidden[..., :1])
            d_bias = linear.weight_gradient("bstn,bsd->tnd", error, ones, TILE)[..., 0]
        error = error.astype(hidden.dtype)
        carry += dot("bstn,tnd->bsd", error, tile, GATHERED, HIDDEN, dtype=jnp.float32)
        d_tile = linear.weight_gradient("bstn,bsd->tnd", error, hidden, TILE)
        return carry, (d_tile, d_bias)

    carry = sharding.shard(jnp.zeros(hidden.shape, jnp.float32), *HIDDEN)
    d_hidden, (d_tiles, d_biases) = _scan(step, carry, hidden, table, bias, count)
    d_table = linear.untiled(d_tiles, table.shape[0]).astype(table.dtype)
    d_bias = None
    if bias is not None:
        d_bias = linear.untiled(d_biases[..., None], table.shape[0])[:, 0].astype(bias.dtype)
    return d_hidden.astype(hidden.dtype), d_table, d_bias, None


_over_tiles.defvjp(_over_tiles_forward, _over_tiles_backward)
