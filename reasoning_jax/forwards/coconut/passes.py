"""The passes of a row with continuous thoughts.

A pass over the question with its marker, one over each of n thoughts, and one over what remains;
each sees the keys and values of those before it, so that the forward pass computes no token twice.
n may differ from row to row: every row runs N thoughts, of which nothing sees the surplus.

Letters of shapes: B rows, S tokens of a row, D width, V vocabulary; Q tokens that a question has
room for, N thoughts and R tokens of what remains, L layers, K key-value heads, H head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from reasoning_jax.forwards import Batch
from reasoning_jax.model import decoder, sharding
from reasoning_jax.model.attention import DenseMask
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.past import OF_LAYERS, Past, no_past, with_newest


class Room(NamedTuple):
    """For how many tokens, or thoughts, the parts of a row have room."""

    question: int  # with its marker
    thoughts: int
    rest: int


@struct.dataclass
class Layout:
    """Where the parts of each row are."""

    question: Int[Array, " B"]  # tokens before the first thought
    thoughts: Int[Array, " B"]
    length: Int[Array, " B"]  # tokens of the row, thoughts too


def layout_of(batch: Batch, thought_id: int, question_length: int) -> Layout:
    """The layout of rows; in one without thoughts, the question is all that it has room for."""
    is_thought = batch["tokens"] == thought_id
    length = jnp.sum(batch["segment_ids"] > 0, axis=1)
    thoughts = jnp.sum(is_thought, axis=1)
    first = jnp.argmax(is_thought, axis=1)
    question = jnp.where(thoughts > 0, first, jnp.minimum(length, question_length))
    return Layout(question, thoughts, length)


def _gather(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """x[b, numbers[b]] of x [B, S, ...] and numbers [B, M], which are clipped to the range of S.

    On a mesh each device takes from its own rows.
    """

    def take(x: jax.Array, numbers: jax.Array) -> jax.Array:
        inside = jnp.clip(numbers, 0, x.shape[1] - 1)
        return jax.vmap(lambda row, i: row[i])(x, inside)

    if jax.sharding.get_abstract_mesh().empty:
        return take(x, numbers)
    rows = P(sharding.spec(numbers.shape, ("batch", None))[0])
    sharded = jax.shard_map(take, in_specs=(rows, rows), out_specs=rows, check_vma=False)
    return sharded(x, numbers)


def with_thoughts(
    params: Params,
    batch: Batch,
    model_cfg: ModelConfig,
    room: Room,
    given: Float[Array, "B N D"] | None = None,
) -> tuple[Float[Array, "B S D"], Float[Array, "B N D"]]:
    """Hidden states of all tokens and thoughts in their places, and the vectors that were fed.

    given: vectors to feed in the place of the model's own, to see what these are worth.
    """
    tokens = batch["tokens"]
    size = tokens.shape[1]
    layout = layout_of(batch, decoder.thought_id(params, model_cfg), room.question)
    question, question_past = _question(params, tokens[:, : room.question], layout, model_cfg)
    last = _gather(question, layout.question[:, None] - 1)
    fed, thoughts, thought_past = _thoughts(
        params, last, question_past, layout, model_cfg, room.thoughts, given
    )
    rest = _rest(params, tokens, question_past, thought_past, layout, model_cfg, room.rest)
    together = jnp.concatenate([question, thoughts, rest], axis=1)
    place = jnp.arange(size)[None]
    first = layout.question[:, None]
    after = first + layout.thoughts[:, None]
    of_thought = question.shape[1] + place - first
    of_rest = question.shape[1] + thoughts.shape[1] + place - after
    source = jnp.where(place < first, place, jnp.where(place < after, of_thought, of_rest))
    return _gather(together, source), fed


def _question(
    params: Params, tokens: Int[Array, "B Q"], layout: Layout, model_cfg: ModelConfig
) -> tuple[Float[Array, "B Q D"], Past]:
    batch, size = tokens.shape
    place = jnp.arange(size)
    is_token = place[None] < layout.question[:, None]
    visible = (place[None] <= place[:, None])[None] & is_token[:, None]
    positions = sharding.shard(jnp.broadcast_to(place, tokens.shape), "batch", None)
    inputs = decoder.embed(params, tokens, model_cfg)
    past = no_past(model_cfg, batch)
    return decoder.apply_after(params, inputs, positions, DenseMask(visible), past, cfg=model_cfg)


def _thoughts(
    params: Params,
    last: Float[Array, "B 1 D"],
    question_past: Past,
    layout: Layout,
    model_cfg: ModelConfig,
    count: int,
    given: Float[Array, "B N D"] | None,
) -> tuple[Float[Array, "B N D"], Float[Array, "B N D"], Past]:
    """The vectors that are fed, their hidden states, and the past of N thoughts.

    last: the hidden state of the token before the first thought.
    """

    # A step is small: it is computed again in the backward pass, which else would need the
    # question's keys and values once a step.
    @jax.checkpoint
    def think(carry: tuple, number: jax.Array) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
        own, thoughts = carry
        vector = own if given is None else given[:, number][:, None]
        seen = _visible(question_past, layout, count, jnp.full_like(layout.thoughts, number))
        visible = jnp.concatenate([seen, jnp.ones_like(seen[..., :1])], axis=2)
        positions = layout.question[:, None] + number
        past = with_newest(question_past, (thoughts.keys, thoughts.values), thoughts.positions)
        hidden, longer = decoder.apply_after(
            params, vector, positions, DenseMask(visible), past, cfg=model_cfg
        )
        return (hidden, _append_thought(thoughts, longer, number)), (vector[:, 0], hidden[:, 0])

    carry = last, _empty_past(count, len(last), model_cfg)
    (_, thoughts), (fed, hidden) = jax.lax.scan(think, carry, jnp.arange(count))
    return jnp.moveaxis(fed, 0, 1), jnp.moveaxis(hidden, 0, 1), thoughts


def _empty_past(count: int, batch: int, model_cfg: ModelConfig) -> Past:
    """A past of ``count`` tokens, to be written."""
    empty = no_past(model_cfg, batch)
    shape = (*empty.keys.shape[:2], count, *empty.keys.shape[3:])
    zeros = sharding.shard(jnp.zeros(shape, empty.keys.dtype), *OF_LAYERS)
    positions = sharding.shard(jnp.zeros((batch, count), jnp.int32), "batch", None)
    return Past(zeros, zeros, positions)


def _append_thought(thoughts: Past, longer: Past, number: Int[Array, ""]) -> Past:
    """The past of the thoughts with the newest token of ``longer`` as this one."""
    update = jax.lax.dynamic_update_slice_in_dim
    return Past(
        update(thoughts.keys, longer.keys[:, :, -1:], number, 2),
        update(thoughts.values, longer.values[:, :, -1:], number, 2),
        update(thoughts.positions, longer.positions[:, -1:], number, 1),
    )


def _visible(
    question_past: Past, layout: Layout, count: int, thoughts: Int[Array, " B"]
) -> Bool[Array, "B 1 T"]:
    """Of the Q + N tokens before: those of the question, and the first so many thoughts."""
    of_question = jnp.arange(question_past.keys.shape[2]) < layout.question[:, None]
    of_thoughts = jnp.arange(count) < thoughts[:, None]
    return jnp.concatenate([of_question, of_thoughts], axis=1)[:, None]


def _rest(
    params: Params,
    tokens: Int[Array, "B S"],
    question_past: Past,
    thought_past: Past,
    layout: Layout,
    model_cfg: ModelConfig,
    size: int,
) -> Float[Array, "B R D"]:
    """The hidden states of what follows the thoughts."""
    place = jnp.arange(size)
    positions = (layout.question + layout.thoughts)[:, None] + place
    is_token = positions < layout.length[:, None]
    own = (place[None] <= place[:, None]) & is_token[:, None]
    count = thought_past.keys.shape[2]
    seen = _visible(question_past, layout, count, layout.thoughts)
    seen = jnp.broadcast_to(seen, (*own.shape[:2], seen.shape[2]))
    mask = DenseMask(jnp.concatenate([seen, own], axis=2))
    inputs = decoder.embed(params, _gather(tokens, positions), model_cfg)
    past = with_newest(
        question_past, (thought_past.keys, thought_past.values), thought_past.positions
    )
    hidden, _ = decoder.apply_after(params, inputs, positions, mask, past, cfg=model_cfg)
    return hidden
