"""All parameters of the model are trained."""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from reasoning_jax.model import decoder
from reasoning_jax.model.decoder import ModelConfig, Params

FREEZES = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """No keys."""


def init(
    key: jax.Array, frozen: Params, words: jax.Array, *, cfg: ConfigDict, model_cfg: ModelConfig
) -> Params:
    """Random parameters: those of a model from scratch."""
    return decoder.init(key, model_cfg)
