"""Chain of continuous thought (Hao et al. 2024, arXiv:2412.06769).

Between the marker that begins the thoughts and the one that ends them, the model is fed its own
last hidden state, after the final norm, instead of a token: n thoughts, which are never sampled and
which no loss asks for. Gradients flow through all of them.

A row is a question and the first marker, n thoughts, which all have the id THOUGHT after those of
the markers, and what remains: the second marker and the answer. It is computed as a pass over the
question, n passes over one thought each, and a pass over what remains; each sees the keys and
values of those before it, so that nothing is computed twice. n may differ from row to row.

Letters of shapes: B rows, S tokens of a row, D width, V vocabulary; Q tokens that a question has
room for, N thoughts and R tokens of what remains, L layers, K key-value heads, H head size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from reasoning_jax import curriculum
from reasoning_jax.errors import UserError
from reasoning_jax.forwards import Aux, Batch, Row, pause, plain
from reasoning_jax.model import decoder, sharding
from reasoning_jax.model import logprobs as model_logprobs
from reasoning_jax.model.attention import DenseMask
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.past import OF_LAYERS, Past, no_past, with_newest
from reasoning_jax.ranges import at_least, between, key

PACKS = False  # thoughts follow one question
BEGIN, END, THOUGHT = 0, 1, 2  # ids, from that of the first marker on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    thoughts_per_step: int = key(1, between(0, 64))  # c: thoughts in the place of a step
    stages: int = key(3, between(0, 64))  # of the curriculum; the last replaces so many steps
    rounds_per_stage: int = key(1, at_least(1))
    # The fraction of rows that a round takes from an earlier stage, drawn uniformly.
    uniform_prob: float = key(0.0, between(0, 1))
    # Tokens that a question with its first marker, and what follows its thoughts, have room for;
    # 0 = config.sequence_length. Less is faster.
    question_length: int = key(0, at_least(0))
    answer_length: int = key(0, at_least(0))


def max_thoughts(cfg: Config) -> int:
    """N: the thoughts of the last stage."""
    return cfg.thoughts_per_step * cfg.stages


def init(key: Key[Array, ""], model_cfg: ModelConfig, cfg: Config) -> Params:
    """{"thought_markers": [2, D]}, drawn as the embedding is."""
    normal = jax.random.normal(key, (2, model_cfg.width))
    return {"thought_markers": normal * pause.vector_std(model_cfg)}


def logprobs(
    params: Params,
    batch: Batch,
    keys: Key[Array, " B"] | None,
    model_cfg: ModelConfig,
    cfg: Config,
) -> tuple[Float[Array, "B S"], Aux]:
    """log p of each token after the tokens and the thoughts before it, in float32.

    batch: tokens, segment_ids [B, S], one row a sequence. Without thoughts it is ``plain``.
    """
    if not max_thoughts(cfg):
        return plain.logprobs(params, batch, keys, model_cfg, cfg)
    hidden, _ = with_thoughts(params, batch, model_cfg, cfg)
    return model_logprobs.of_hidden(params, hidden, batch, model_cfg), {}


def thought_distributions(
    params: Params, batch: Batch, model_cfg: ModelConfig, cfg: Config
) -> Float[Array, "B N V"]:
    """The distribution over next tokens of each vector that is fed as a thought (section 5.3).

    It is what the output matrix makes of the vector. A row's own thoughts come first of the N.
    """
    _, fed = with_thoughts(params, batch, model_cfg, cfg)
    return jax.nn.softmax(decoder.logits(params, fed, model_cfg), axis=-1)


# ---- the curriculum ------------------------------------------------------------------------------


def stage(cfg: Config, round: int) -> int:
    """The stage of a round; in stage s the first s steps are replaced by s x c thoughts."""
    return curriculum.stage_of(round, cfg.stages, cfg.rounds_per_stage)


def prompt_suffix(cfg: Config, first: int, round: int) -> list[int]:
    """The markers, and between them as many thoughts as the round's stage has."""
    return _suffix(cfg, first, stage(cfg, round))


def _suffix(cfg: Config, first: int, stage: int) -> list[int]:
    thoughts = [first + THOUGHT] * (stage * cfg.thoughts_per_step)
    return [first + BEGIN, *thoughts, first + END]


def worked(cfg: Config, first: int, round: int, seed: Sequence[int]) -> tuple[list[int], int]:
    """Of a worked example: its own stage's suffix, and how many steps that replaces."""
    own = curriculum.mixed_stage(stage(cfg, round), cfg.uniform_prob, seed)
    return _suffix(cfg, first, own), own


def begins_stage(cfg: Config, round: int) -> bool:
    """The optimiser is fresh in each stage, as in the paper."""
    return round > 0 and stage(cfg, round) != stage(cfg, round - 1)


def check_rows(cfg: Config, first: int, rows: Sequence[Row]) -> None:
    """UserError where a question or an answer is longer than its key says."""
    for row in rows:
        is_thought = row["tokens"] == first + THOUGHT
        if not is_thought.any():
            question = min(len(is_thought), cfg.question_length or len(is_thought))
        else:
            question = int(np.argmax(is_thought))
        answer = len(is_thought) - question - int(is_thought.sum())
        for name, length, room in (
            ("question_length", question, cfg.question_length),
            ("answer_length", answer, cfg.answer_length),
        ):
            if room and length > room:
                raise UserError(f"config.forward.{name}: {room}, but a row has {length} tokens.")


# ---- the layout of rows --------------------------------------------------------------------------


@struct.dataclass
class Layout:
    """Where the parts of each row are."""

    question: Int[Array, " B"]  # tokens before the first thought
    thoughts: Int[Array, " B"]
    length: Int[Array, " B"]  # tokens of the row, thoughts too


def layout_of(batch: Batch, thought_id: int, question_length: int) -> Layout:
    """The layout of rows; of one without thoughts, the question is all that it has room for."""
    is_thought = batch["tokens"] == thought_id
    length = jnp.sum(batch["segment_ids"] > 0, axis=1)
    thoughts = jnp.sum(is_thought, axis=1)
    first = jnp.argmax(is_thought, axis=1)
    question = jnp.where(thoughts > 0, first, jnp.minimum(length, question_length))
    return Layout(question, thoughts, length)


def _taken(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """x [B, S, ...] at numbers [B, M], put into the range of S: each device of its own rows."""

    def take(x: jax.Array, numbers: jax.Array) -> jax.Array:
        inside = jnp.clip(numbers, 0, x.shape[1] - 1)
        return jax.vmap(lambda row, i: row[i])(x, inside)

    if jax.sharding.get_abstract_mesh().empty:
        return take(x, numbers)
    rows = P(sharding.spec(numbers.shape, ("batch", None))[0])
    sharded = jax.shard_map(take, in_specs=(rows, rows), out_specs=rows, check_vma=False)
    return sharded(x, numbers)


# ---- the passes ----------------------------------------------------------------------------------


def with_thoughts(
    params: Params, batch: Batch, model_cfg: ModelConfig, cfg: Config
) -> tuple[Float[Array, "B S D"], Float[Array, "B N D"]]:
    """Hidden states of all tokens and thoughts in their places, and the vectors that were fed."""
    tokens = batch["tokens"]
    size = tokens.shape[1]
    question_room = cfg.question_length or size
    layout = layout_of(batch, decoder.thought_id(params, model_cfg), question_room)
    question, past = _question(params, tokens[:, :question_room], layout, model_cfg)
    last = _taken(question, layout.question[:, None] - 1)
    fed, thought, thoughts = _thoughts(params, last, past, layout, model_cfg, max_thoughts(cfg))
    rest_room = cfg.answer_length or size
    rest = _rest(params, tokens, past, thoughts, layout, model_cfg, rest_room)
    together = jnp.concatenate([question, thought, rest], axis=1)
    place = jnp.arange(size)[None]
    first = layout.question[:, None]
    after = first + layout.thoughts[:, None]
    of_thought = question.shape[1] + place - first
    of_rest = question.shape[1] + thought.shape[1] + place - after
    source = jnp.where(place < first, place, jnp.where(place < after, of_thought, of_rest))
    return _taken(together, source), fed


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
    question: Past,
    layout: Layout,
    model_cfg: ModelConfig,
    count: int,
) -> tuple[Float[Array, "B N D"], Float[Array, "B N D"], Past]:
    """The vectors that are fed, their hidden states, and the past of N thoughts.

    last: the hidden state of the token before the first thought. Rows with fewer thoughts go on to
    the N-th, which nothing sees.
    """

    # A step is small: it is computed again in the backward pass, which else would need the
    # question's keys and values once a step.
    @jax.checkpoint
    def think(carry: tuple, number: jax.Array) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
        vector, thoughts = carry
        seen = _visible(question, layout, count, jnp.full_like(layout.thoughts, number))
        visible = jnp.concatenate([seen, jnp.ones_like(seen[..., :1])], axis=2)
        positions = layout.question[:, None] + number
        past = with_newest(question, (thoughts.keys, thoughts.values), thoughts.positions)
        hidden, longer = decoder.apply_after(
            params, vector, positions, DenseMask(visible), past, cfg=model_cfg
        )
        return (hidden, _written(thoughts, longer, number)), (vector[:, 0], hidden[:, 0])

    carry = last, _room_for(count, len(last), model_cfg)
    (_, thoughts), (fed, hidden) = jax.lax.scan(think, carry, jnp.arange(count))
    return jnp.moveaxis(fed, 0, 1), jnp.moveaxis(hidden, 0, 1), thoughts


def _room_for(count: int, batch: int, model_cfg: ModelConfig) -> Past:
    """A past of ``count`` tokens, to be written."""
    empty = no_past(model_cfg, batch)
    shape = (*empty.keys.shape[:2], count, *empty.keys.shape[3:])
    zeros = sharding.shard(jnp.zeros(shape, empty.keys.dtype), *OF_LAYERS)
    positions = sharding.shard(jnp.zeros((batch, count), jnp.int32), "batch", None)
    return Past(zeros, zeros, positions)


def _written(thoughts: Past, longer: Past, number: Int[Array, ""]) -> Past:
    """The past of the thoughts with the newest token of ``longer`` as this one."""
    update = jax.lax.dynamic_update_slice_in_dim
    return Past(
        update(thoughts.keys, longer.keys[:, :, -1:], number, 2),
        update(thoughts.values, longer.values[:, :, -1:], number, 2),
        update(thoughts.positions, longer.positions[:, -1:], number, 1),
    )


def _visible(
    question: Past, layout: Layout, count: int, thoughts: Int[Array, " B"]
) -> Bool[Array, "B 1 T"]:
    """Of the Q + N tokens before: those of the question, and the first so many thoughts."""
    of_question = jnp.arange(question.keys.shape[2]) < layout.question[:, None]
    of_thoughts = jnp.arange(count) < thoughts[:, None]
    return jnp.concatenate([of_question, of_thoughts], axis=1)[:, None]


def _rest(
    params: Params,
    tokens: Int[Array, "B S"],
    question: Past,
    thoughts: Past,
    layout: Layout,
    model_cfg: ModelConfig,
    size: int,
) -> Float[Array, "B R D"]:
    """The hidden states of what follows the thoughts."""
    place = jnp.arange(size)
    positions = (layout.question + layout.thoughts)[:, None] + place
    is_token = positions < layout.length[:, None]
    own = (place[None] <= place[:, None]) & is_token[:, None]
    count = thoughts.keys.shape[2]
    seen = _visible(question, layout, count, layout.thoughts)
    seen = jnp.broadcast_to(seen, (*own.shape[:2], seen.shape[2]))
    mask = DenseMask(jnp.concatenate([seen, own], axis=2))
    inputs = decoder.embed(params, _taken(tokens, positions), model_cfg)
    past = with_newest(question, (thoughts.keys, thoughts.values), thoughts.positions)
    hidden, _ = decoder.apply_after(params, inputs, positions, mask, past, cfg=model_cfg)
    return hidden
