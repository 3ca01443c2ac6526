"""Chain of continuous thought (Hao et al. 2024, arXiv:2412.06769).

After the question the model is fed its own last hidden state, after the final norm, instead of a
token: n thoughts, which are never sampled and which no loss asks for. Gradients flow through all.

A row: the question, BEGIN, n tokens THOUGHT, END, what remains of the rationale, the answer. The
config can leave out either marker, and END follows only BEGIN or a thought. passes.py computes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from reasoning_jax import curriculum
from reasoning_jax.errors import UserError
from reasoning_jax.forwards import Aux, Batch, Row, pause, plain
from reasoning_jax.forwards.coconut import passes
from reasoning_jax.forwards.coconut.passes import Room
from reasoning_jax.model import decoder
from reasoning_jax.model import logprobs as model_logprobs
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.ranges import at_least, between, key, one_of

PACKS = False  # thoughts follow one question
BEGIN, END, THOUGHT = 0, 1, 2  # offsets from the first marker's id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    thoughts_per_step: int = key(1, between(0, 64))  # c: thoughts in the place of a step
    stages: int = key(3, between(0, 64))  # of the curriculum; the last replaces so many steps
    rounds_per_stage: int = key(1, at_least(1))
    # One more stage, with the same thoughts, that leaves out all steps, as the paper's for GSM8K.
    answer_stage: bool = False
    curriculum: bool = True  # False: all rounds, the base model's too, are of the last stage
    # What a thought is: the last hidden state, or one learned vector, "pause as thought", which
    # shows what the curriculum does without any thought.
    fed: str = key("hidden", one_of("hidden", "learned"))
    # Whether a marker stands before the thoughts. Without one the first thought is the state of the
    # question's last token, which has learned to say the first step (arXiv:2505.12514).
    begin_marker: bool = True
    # Whether one stands after them. Without one the last thought's state says what follows, as the
    # state of the token in its place did.
    end_marker: bool = True
    # The fraction of rows that are of an earlier stage, drawn uniformly.
    uniform_prob: float = key(0.0, between(0, 1))
    # Tokens that a question with its first marker, and what follows its thoughts, have room for;
    # 0 = config.sequence_length. Less is faster.
    question_length: int = key(0, at_least(0))
    answer_length: int = key(0, at_least(0))


def check(cfg: ConfigDict) -> None:
    f = cfg.forward
    last = 1 + (cfg.rounds.count - 1) // f.rounds_per_stage
    if f.curriculum and cfg.rounds.count and last < f.stages + f.answer_stage:
        answer = " and the answer_stage" if f.answer_stage else ""
        raise UserError(
            f"config.forward.stages: {f.stages}{answer}, but config.rounds.count "
            f"{cfg.rounds.count} ends in stage {last}."
        )
    if f.curriculum and f.stages + f.answer_stage and cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: a stage goes on from the stage before; set it to False."
        )
    if not f.curriculum and f.rounds_per_stage != 1:
        raise UserError(
            f"config.forward.rounds_per_stage: {f.rounds_per_stage} has no effect without "
            "config.forward.curriculum; set it to 1."
        )
    if f.uniform_prob and not (f.curriculum and f.stages + f.answer_stage):
        raise UserError(
            f"config.forward.uniform_prob: {f.uniform_prob} mixes stages, of which there is one "
            "without config.forward.curriculum, and without config.forward.stages; set it to 0."
        )
    _check_thoughts(cfg)


def _check_thoughts(cfg: ConfigDict) -> None:
    f = cfg.forward
    num_thoughts = f.thoughts_per_step * f.stages
    if f.fed == "learned" and not num_thoughts:
        raise UserError("config.forward.fed: learned has no effect where there is no thought.")
    for name in ("question_length", "answer_length"):
        if f[name] and (f.fed == "learned" or not num_thoughts):
            raise UserError(
                f"config.forward.{name}: {f[name]} has no effect where no hidden state is fed; "
                "set it to 0."
            )
        if f[name] > cfg.sequence_length:
            raise UserError(
                f"config.forward.{name}: {f[name]} is more than config.sequence_length "
                f"{cfg.sequence_length}."
            )
    if 0 < f.answer_length < cfg.sampling.max_new_tokens + f.end_marker:
        marker = "a marker and " if f.end_marker else ""
        raise UserError(
            f"config.forward.answer_length: {f.answer_length} have no room for {marker}"
            f"config.sampling.max_new_tokens {cfg.sampling.max_new_tokens}."
        )


def max_thoughts(cfg: Config) -> int:
    """N: the thoughts of the last stage."""
    return cfg.thoughts_per_step * cfg.stages


def init(key: Key[Array, ""], model_cfg: ModelConfig, cfg: Config) -> Params:
    """{"thought_markers": [2, D]}, drawn as the embedding is.

    Where thoughts are one learned vector, {"pause": [3, D]}: the markers, and that vector.
    """
    # What is named "pause" is embedded as other tokens are, and so nothing is fed back.
    name, rows = ("thought_markers", 2) if cfg.fed == "hidden" else ("pause", 3)
    normal = jax.random.normal(key, (rows, model_cfg.width))
    return {name: normal * pause.vector_std(model_cfg)}


def logprobs(
    params: Params,
    batch: Batch,
    keys: Key[Array, " B"] | None,
    model_cfg: ModelConfig,
    cfg: Config,
) -> tuple[Float[Array, "B S"], Aux]:
    """log p of each token after the tokens and the thoughts before it, in float32.

    batch: tokens, segment_ids [B, S], one row a sequence. Without thoughts, and where they are
    tokens like others, it is ``plain``.
    """
    if cfg.fed == "learned" or not max_thoughts(cfg):
        return plain.logprobs(params, batch, keys, model_cfg, cfg)
    hidden, _ = passes.with_thoughts(params, batch, model_cfg, _room(cfg, batch))
    return model_logprobs.of_hidden(params, hidden, batch, model_cfg), {}


def thought_distributions(
    params: Params, batch: Batch, model_cfg: ModelConfig, cfg: Config
) -> Float[Array, "B N V"]:
    """The distribution over next tokens of each vector that is fed as a thought (section 5.3).

    It is what the output matrix makes of the vector. A row's own thoughts come first of the N.
    """
    _, fed = passes.with_thoughts(params, batch, model_cfg, _room(cfg, batch))
    return jax.nn.softmax(decoder.logits(params, fed, model_cfg), axis=-1)


def _room(cfg: Config, batch: Batch) -> Room:
    size = batch["tokens"].shape[1]
    return Room(cfg.question_length or size, max_thoughts(cfg), cfg.answer_length or size)


# ---- the curriculum ------------------------------------------------------------------------------


def stage(cfg: Config, round: int) -> int:
    """The stage of a round; in stage s the first s steps are replaced by s x c thoughts."""
    last = cfg.stages + cfg.answer_stage
    if not cfg.curriculum:
        return last
    return curriculum.stage_of(round, last, cfg.rounds_per_stage)


def prompt_suffix(cfg: Config, first: int, round: int) -> list[int]:
    """As many thoughts as the round's stage has, and the markers."""
    return _suffix(cfg, first, stage(cfg, round))


def _suffix(cfg: Config, first: int, stage: int) -> list[int]:
    thoughts = [first + THOUGHT] * (min(stage, cfg.stages) * cfg.thoughts_per_step)
    begin = [first + BEGIN] if cfg.begin_marker else []
    end = [first + END] if cfg.end_marker and (begin or thoughts) else []
    return [*begin, *thoughts, *end]


def training_suffix(
    cfg: Config, first: int, round: int, seed: Sequence[int]
) -> tuple[list[int], int]:
    """Of a worked example: its own stage's suffix, and how many steps that replaces."""
    own = curriculum.mixed_stage(stage(cfg, round), cfg.uniform_prob, seed)
    steps = own if own <= cfg.stages else curriculum.ALL_STEPS
    return _suffix(cfg, first, own), steps


def resets_optimizer(cfg: Config, round: int) -> bool:
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
                part = name.removesuffix("_length")
                raise UserError(
                    f"config.forward.{name}: {room}, but a row's {part} has {length} tokens."
                )
