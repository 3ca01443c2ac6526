"""The model and the tokenizer that a config names, without any of their weights."""

from __future__ import annotations

from typing import NamedTuple

from ml_collections import ConfigDict

from reasoning_jax import forwards, pretrained, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.model import presets
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.pretrained import Source
from reasoning_jax.tasks import Task
from reasoning_jax.tokenizer import Tokenizer


class NamedModel(NamedTuple):
    source: Source | None  # the published model that config.model.source names
    tokenizer: Tokenizer
    config: ModelConfig


def of(cfg: ConfigDict, task: Task) -> NamedModel:
    """What the config's sections ``model`` and ``tokenizer`` name.

    UserError for more tokens than positions, and for a vocabulary that is not the model's.
    """
    source = pretrained.open(cfg.model.source) if cfg.model.source else None
    end_id = getattr(source, "end_id", None)
    words = tokenizer.make(cfg.tokenizer, task.ALPHABET, task.name, cfg.model.source, end_id)
    published = source.model_config() if source is not None else None
    model_cfg = presets.model_config(cfg.model, words.vocab_size, published)
    _check(cfg, words.vocab_size, model_cfg)
    return NamedModel(source, words, model_cfg)


def _check(cfg: ConfigDict, vocab_size: int, model_cfg: ModelConfig) -> None:
    length, places = cfg.sequence_length, model_cfg.max_positions
    name, known = cfg.tokenizer.name, model_cfg.vocab_size
    ahead = forwards.get(cfg.forward.name).num_lookahead_positions(forwards.settings(cfg.forward))
    if places and length + ahead > places:
        and_more = f" and {ahead} of config.forward.name {cfg.forward.name}" if ahead else ""
        raise UserError(
            f"config.sequence_length: {length}{and_more}, but the model has {places} places."
        )
    if cfg.model.source and name in ("characters", "bytes") and vocab_size != known:
        raise UserError(
            f"config.tokenizer.name: {name} has {vocab_size} tokens, the model {known}; set auto."
        )
