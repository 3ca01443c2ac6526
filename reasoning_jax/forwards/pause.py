"""Pause tokens after each prompt (Goyal et al. 2023, arXiv:2310.02226).

The model reads M learned vectors before it answers: as many more positions to compute in. They are
tokens of the prompt, so that no loss asks for them, and what follows the last is the first token of
the answer. Their ids come after the vocabulary: no sample has one.
"""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.forwards import plain
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.ranges import between, key, one_of

logprobs = plain.logprobs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    count: int = key(10, between(0, 2**16))  # pause tokens after a prompt, M
    # One vector for all of them, as in the paper; else each has its own.
    shared: bool = True
    # When prompts have them: while the base model is trained, in the rounds, or in both.
    stages: str = key("both", one_of("base", "rounds", "both"))


def check(cfg: ConfigDict) -> None:
    if cfg.forward.stages == "rounds" and not cfg.rounds.count:
        raise UserError("config.forward.stages: rounds, of which config.rounds.count has none.")
    if cfg.forward.stages == "base" and not cfg.base.num_updates:
        raise UserError("config.forward.stages: base, but config.base.num_updates is 0.")


def init(key: Key[Array, ""], model_cfg: ModelConfig, cfg: Config) -> Params:
    """{"pause": [M, D]}, or [1, D] where shared, drawn as the embedding is; {} where M = 0."""
    if not cfg.count:
        return {}
    rows = 1 if cfg.shared else cfg.count
    normal = jax.random.normal(key, (rows, model_cfg.width))
    return {"pause": normal * vector_std(model_cfg)}


def vector_std(model_cfg: ModelConfig) -> float:
    """The standard deviation of a new model's embedded words."""
    return 1.0 if model_cfg.embed_scale else model_cfg.width**-0.5


def prompt_suffix(cfg: Config, first: int, round: int) -> list[int]:
    """The ids of the pause tokens; none in a stage without them."""
    stage = "rounds" if round else "base"
    if cfg.stages not in (stage, "both"):
        return []
    if cfg.shared:
        return [first] * cfg.count
    return [*range(first, first + cfg.count)]
