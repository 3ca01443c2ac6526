"""Thoughts after many positions of a text at once, each in a column of its own.

The paper's diagonal attention (arXiv:2403.09629, section 4.2, figure 3): token c of a column sees
what the position that it belongs to sees of the text, and the tokens up to c of its own column. It
stands at the rotary position of the c + 1 th token after it, where a later token of the text may
stand too: neither sees the other.

Letters of shapes: B sequences, S tokens of the text, Q columns, C tokens of each, t tokens of a
thought, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from reasoning_jax.model import decoder
from reasoning_jax.model.attention import ColumnMask
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.past import Past
from reasoning_jax.model.sharding import shard


@struct.dataclass(kw_only=True)
class Columns:
    """Where columns begin."""

    text: Bool[Array, "B Q S"]  # what they see of the text
    positions: Int[Array, "B Q"]  # of the token of the text before each
    keys: Key[Array, "B Q"] | None  # that draw their thoughts; None: the likeliest tokens


def markers(params: Params, cfg: ModelConfig) -> tuple[int, int]:
    """The ids of the tokens that begin and end a thought."""
    start = decoder.first_id(params, "thought_markers", cfg)
    return start, start + 1


def draw(
    params: Params, past: Past, columns: Columns, length: int, cfg: ModelConfig
) -> Int[Array, "B t Q"]:
    """The ``length`` tokens of each thought, one after another in all columns.

    Each is drawn at temperature 1 from what the model says after the start marker and the tokens
    before it. past: of the text. The markers are no tokens of the vocabulary and are never drawn.
    """
    shape = columns.positions.shape
    text_length, num_columns = past.positions.shape[1], shape[1]
    start, _ = markers(params, cfg)
    first = shard(jnp.full(shape, start), "batch", None)

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, jax.Array]:
        past, newest = carry
        inputs = decoder.embed(params, newest, cfg)
        # The keys of a column: one slot for each token of the thought, and the newest token.
        slots = jnp.arange(length + 1)
        is_seen = (slots < number) | (slots == length)
        mask = ColumnMask(columns.text, _for_all(is_seen, shape))
        positions = columns.positions + 1 + number
        hidden, grown = decoder.apply_after(params, inputs, positions, mask, past, cfg=cfg)
        tokens = _choose(decoder.logits(params, hidden, cfg), columns.keys, number)
        kept = _moved(grown, num_columns, text_length + number * num_columns)
        return (kept, tokens), tokens

    carry = _with_slots(past, length * num_columns), first
    _, tokens = jax.lax.scan(step, carry, jnp.arange(length))
    return jnp.moveaxis(tokens, 0, 1)


def read(
    params: Params, past: Past, columns: Columns, tokens: Int[Array, "B C Q"], cfg: ModelConfig
) -> Float[Array, "B C Q D"]:
    """The hidden states of these tokens of each column, all in one pass; past: of the text."""
    batch, count, num_columns = tokens.shape
    flat = batch, count * num_columns
    numbers = jnp.arange(count)
    positions = columns.positions[:, None] + 1 + numbers[:, None]
    before = numbers[None, :] <= numbers[:, None]
    mask = ColumnMask(
        jnp.tile(columns.text, (1, count, 1)),
        _for_all(jnp.repeat(before, num_columns, axis=0), flat[:1]),
    )
    inputs = decoder.embed(params, tokens.reshape(flat), cfg)
    hidden, _ = decoder.apply_after(params, inputs, positions.reshape(flat), mask, past, cfg=cfg)
    return hidden.reshape(*tokens.shape, -1)


def _choose(logits: jax.Array, keys: jax.Array | None, number: jax.Array) -> jax.Array:
    """A token of each column; number: of the token in its thought, by which its key is folded."""
    if keys is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(key, number), logits.shape[-1:])

    return jnp.argmax(logits + jax.vmap(jax.vmap(noise))(keys), axis=-1).astype(jnp.int32)


def _for_all(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``x`` for each of ``shape``, whose first dimension is the batch."""
    out = jnp.broadcast_to(x, shape + x.shape)
    return shard(out, "batch", *[None] * (out.ndim - 1))


def _with_slots(past: Past, count: int) -> Past:
    """The past with room for ``count`` tokens after its own."""

    def grow(x: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, count)
        return jnp.pad(x, widths)

    return _of_tokens(grow, past)


def _moved(past: Past, count: int, to: jax.Array) -> Past:
    """The past without its last ``count`` tokens, which replace those from ``to`` on."""

    def move(x: jax.Array, axis: int) -> jax.Array:
        end = x.shape[axis] - count
        newest = jax.lax.slice_in_dim(x, end, None, axis=axis)
        others = jax.lax.slice_in_dim(x, 0, end, axis=axis)
        return jax.lax.dynamic_update_slice_in_dim(others, newest, to, axis)

    return _of_tokens(move, past)


def _of_tokens(function: Callable[[jax.Array, int], jax.Array], past: Past) -> Past:
    """``function`` of each array of a past and of the dimension that is its tokens."""
    return Past(function(past.keys, 2), function(past.values, 2), function(past.positions, 1))
