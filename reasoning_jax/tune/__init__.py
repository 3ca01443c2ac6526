"""What of a model is trained: one file a way, named as ``config.tune`` names it.

What is trained and what is frozen are two dictionaries of parameters, which are joined to compute
with: ``frozen | trained``. Where everything is trained, the frozen one is empty. Gradients,
optimiser and checkpoints know only what is trained.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Protocol

import jax
from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, sharding
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.tokenizer import Tokenizer


def _same(cfg: ConfigDict, words: Tokenizer, model_cfg: ModelConfig) -> Tokenizer:
    return words


class Init(Protocol):
    def __call__(
        self,
        key: jax.Array,
        frozen: Params,
        words: jax.Array,
        *,
        cfg: ConfigDict,
        model_cfg: ModelConfig,
    ) -> Params: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A way's parts. ``cfg`` is the section ``tune`` of the experiment."""

    name: str
    Config: type  # a frozen dataclass: its keys, each with its range
    FREEZES: bool = True  # whether the model's own parameters stay as they are
    # init(key, frozen, words, cfg, model_cfg): what is trained, before any update; words: token
    # ids [P] that a soft prompt begins as.
    init: Init
    # model_config(cfg, model_cfg): the model with what this way adds; UserError where it cannot.
    model_config: Callable[[ConfigDict, ModelConfig], ModelConfig] = lambda cfg, model_cfg: (
        model_cfg
    )
    # prompt_length(cfg): vectors before each prompt.
    prompt_length: Callable[[ConfigDict], int] = lambda cfg: 0
    # tokenizer(cfg, words, model_cfg): the model's tokenizer, whose prompts begin with these.
    tokenizer: Callable[[ConfigDict, Tokenizer, ModelConfig], Tokenizer] = _same


def names() -> list[str]:
    """The ways: the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def get(name: str) -> Tuning:
    """The way of this name; UserError where there is none."""
    if name not in names():
        known = ", ".join(names())
        raise UserError(f"config.tune.name: there is no {name!r}; there are {known}.")
    return contracts.fill(Tuning, importlib.import_module(f"{__name__}.{name}"))


def abstract_frozen(tuning: Tuning, model_cfg: ModelConfig) -> Params:
    """Shapes of what is frozen: nothing, or the model with matrices in the type it computes in."""
    if not tuning.FREEZES:
        return {}
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), model_cfg))
    return jax.eval_shape(partial(sharding.cast_matrices, dtype=model_cfg.dtype), shapes)


def abstract_trained(tuning: Tuning, cfg: ConfigDict, model_cfg: ModelConfig) -> Params:
    """Shapes of what is trained."""
    frozen = abstract_frozen(tuning, model_cfg)
    key = jax.eval_shape(lambda: jax.random.key(0))
    words = jax.ShapeDtypeStruct((tuning.prompt_length(cfg),), "int32")
    return jax.eval_shape(partial(tuning.init, cfg=cfg, model_cfg=model_cfg), key, frozen, words)
