"""Log-probabilities of the tokens that follow each position, after thoughts there.

Letters of shapes: B sequences, S positions, P of them that are computed together, N thoughts of a
position, A tokens ahead that each predicts, D width; t tokens of a thought, Q = P N columns.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from reasoning_jax.forwards import Batch
from reasoning_jax.forwards.quiet_star import columns, mixing
from reasoning_jax.forwards.quiet_star.columns import Columns
from reasoning_jax.model import decoder, logprobs, past
from reasoning_jax.model.attention import DenseMask
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.past import Past


@struct.dataclass(kw_only=True)
class Positions:
    """Positions of a text, and what follows each."""

    slots: Int[Array, "B P"]  # where they are in the sequence
    positions: Int[Array, "B P"]  # of the rotary embedding
    text: Bool[Array, "B P S"]  # what they see
    before: Float[Array, "B P A D"]  # hidden states that predict the same tokens without a thought
    following: Int[Array, "B P A"]  # the tokens
    weights: Float[Array, "B P A"]  # theirs; 0 where they are of another segment


@struct.dataclass(kw_only=True)
class Scores:
    """Thoughts and what came of them; 0 where nothing was asked."""

    thoughts: Int[Array, "B P N t"]
    logprobs: Float[Array, "B P N A"]  # of the following tokens, mixed
    thought_logprobs: Float[Array, "B P N"]  # of a thought's tokens, summed
    mixing_weights: Float[Array, "B P N"]  # of the next token


def read_text(
    params: Params, batch: Batch, cfg: ModelConfig
) -> tuple[Float[Array, "B S D"], Past, Bool[Array, "B S S"]]:
    """The text's hidden states without thoughts, what it leaves behind, and what a token sees."""
    visible = _visible(batch["segment_ids"], batch.get("prefix_ids"))
    inputs = decoder.embed(params, batch["tokens"], cfg)
    nothing = past.no_past(cfg, len(inputs))
    hidden, text = decoder.apply_after(
        params, inputs, batch["positions"], DenseMask(visible), nothing, cfg=cfg
    )
    return hidden, text, visible


def _visible(segments: jax.Array, prefixes: jax.Array | None) -> jax.Array:
    """As CausalMask says."""
    slots = jnp.arange(segments.shape[1])
    is_same = segments[:, :, None] == segments[:, None]
    if prefixes is not None:
        is_same = is_same | (prefixes[:, :, None] == segments[:, None])
    return is_same & (segments[:, :, None] > 0) & (slots[None, :] <= slots[:, None])


def positions_of(
    batch: Batch, hidden: Float[Array, "B S D"], visible: Bool[Array, "B S S"], ahead: int
) -> Positions:
    """All positions of a batch; ahead: A. hidden: without thoughts."""
    segments, tokens = batch["segment_ids"], batch["tokens"]
    weights = batch.get("weights", jnp.ones_like(hidden[..., 0], dtype=jnp.float32))
    following, follows, before = [], [], []
    for number in range(1, ahead + 1):
        is_same = (_shifted(segments, number) == segments) & (segments > 0)
        follows.append(jnp.where(is_same, _shifted(weights, number), 0.0))
        following.append(_shifted(tokens, number))
        before.append(_shifted(hidden, number - 1))
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    return Positions(
        slots=jnp.zeros_like(tokens) + slots,
        positions=batch["positions"],
        text=visible,
        before=jnp.stack(before, axis=2),
        following=jnp.stack(following, axis=2),
        weights=jnp.stack(follows, axis=2),
    )


def _shifted(x: jax.Array, count: int) -> jax.Array:
    """[B, S, ...]: of each position what ``count`` positions later is; 0 beyond the end."""
    count = min(count, x.shape[1])
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, count)
    return jnp.pad(x, widths)[:, count:]


def score(
    params: Params,
    text: Past,
    at: Positions,
    keys: Key[Array, " B"] | None,
    *,
    length: int,
    num_thoughts: int,
    together: int,
    model_cfg: ModelConfig,
) -> Scores:
    """``length`` tokens of ``num_thoughts`` thoughts at each position, and what comes of them.

    keys: one a sequence; None: the likeliest thought, so that ``num_thoughts`` is 1. together: P,
    positions computed at once; 0 = all. Then the rest is computed after them, and each part again
    in the backward pass.
    """
    function = partial(
        _score,
        params,
        text,
        keys,
        length=length,
        num_thoughts=num_thoughts,
        model_cfg=model_cfg,
    )
    total = at.slots.shape[1]
    count = 1 if not together else -(-total // together)
    if count == 1:
        return function(at)
    size = -(-total // count)

    def split(x: jax.Array) -> jax.Array:  # [B, S, ...] -> [count, B, size, ...]
        widths = [(0, 0)] * x.ndim
        widths[1] = (0, count * size - total)
        x = jnp.pad(x, widths).reshape(x.shape[0], count, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def joined(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * size, *x.shape[3:])[:, :total]

    scores = jax.lax.map(jax.checkpoint(function), jax.tree.map(split, at))
    return jax.tree.map(joined, scores)


def _score(
    params: Params,
    text: Past,
    keys: jax.Array | None,
    at: Positions,
    *,
    length: int,
    num_thoughts: int,
    model_cfg: ModelConfig,
) -> Scores:
    """``score`` of positions that are computed together."""
    batch, size, ahead = at.following.shape
    per_thought = batch, size, num_thoughts
    beside = Columns(
        text=jnp.repeat(at.text, num_thoughts, axis=1),
        positions=jnp.repeat(at.positions, num_thoughts, axis=1),
        keys=None if keys is None else thought_keys(keys, at.slots, num_thoughts),
    )
    # How a thought was drawn has no gradient but REINFORCE's.
    fixed, fixed_text = jax.lax.stop_gradient((params, text))
    thoughts = columns.draw(fixed, fixed_text, beside, length, model_cfg)
    following = _by_column(at.following, num_thoughts)  # [B, A, Q]
    start, end = columns.markers(params, model_cfg)
    first = jnp.full_like(thoughts[:, :1], start)
    last = jnp.full_like(first, end)
    tokens = jnp.concatenate([first, thoughts, last, following[:, :-1]], axis=1)
    hidden = columns.read(params, text, beside, tokens, model_cfg)

    before = _by_column(at.before, num_thoughts)
    mixed, mixing_weights = mixing.mix(params, _flat(before), _flat(hidden[:, length + 1 :]))
    asked = _by_column(at.weights != 0, num_thoughts)
    out = logprobs.of_targets(params, mixed, _flat(following), _flat(asked), model_cfg)
    out = jnp.where(asked, out.reshape(asked.shape), 0.0)
    mixing_weights = jnp.where(asked, mixing_weights.reshape(asked.shape), 0.0)[:, 0]

    thinks = jnp.any(asked, axis=1, keepdims=True)  # [B, 1, Q]
    thinks = jnp.broadcast_to(thinks, thoughts.shape)
    drawn = logprobs.of_targets(
        params, _flat(hidden[:, :length]), _flat(thoughts), _flat(thinks), model_cfg
    )
    drawn = jnp.where(thinks, drawn.reshape(thinks.shape), 0.0)
    return Scores(
        thoughts=jnp.moveaxis(thoughts, 1, 2).reshape(*per_thought, length),
        logprobs=jnp.moveaxis(out, 1, 2).reshape(*per_thought, ahead),
        thought_logprobs=jnp.sum(drawn, axis=1).reshape(per_thought),
        mixing_weights=mixing_weights.reshape(per_thought),
    )


def thought_keys(
    keys: Key[Array, " B"], slots: Int[Array, "B P"], num_thoughts: int
) -> Key[Array, "B Q"]:
    """fold_in(fold_in(the sequence's key, position), number of the thought), for each column."""
    numbers = jnp.arange(num_thoughts)

    def of_position(key: jax.Array, slot: jax.Array) -> jax.Array:
        at_slot = jax.random.fold_in(key, slot)
        return jax.vmap(partial(jax.random.fold_in, at_slot))(numbers)

    def of_sequence(key: jax.Array, slots: jax.Array) -> jax.Array:
        return jax.vmap(partial(of_position, key))(slots)

    by_position = jax.vmap(of_sequence)(keys, slots)  # [B, P, N]
    return by_position.reshape(len(keys), -1)


def _by_column(x: jax.Array, num_thoughts: int) -> jax.Array:
    """[B, P, A, ...] -> [B, A, Q, ...]: each position's for each of its thoughts."""
    return jnp.moveaxis(jnp.repeat(x, num_thoughts, axis=1), 1, 2)


def _flat(x: jax.Array) -> jax.Array:
    """[B, C, Q, ...] -> [B, C Q, ...]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])
