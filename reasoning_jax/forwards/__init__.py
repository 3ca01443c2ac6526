"""How parameters become log-probabilities: a module each, named as ``config.forward`` names it.

A forward is a module with the functions of ``Forward``, of which only ``Config`` and ``logprobs``
must be there. The update, the reference, the sampler and the commands of a run all use the same
one. What it adds to the parameters is trained beside them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.errors import UserError
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import Places

Batch = dict[str, jax.Array]
Aux = dict[str, jax.Array]


class ForwardConfig(Protocol):
    """An instance of a forward's ``Config``: hashable, as compiled programs depend on it."""

    def __hash__(self) -> int: ...


class Init(Protocol):
    def __call__(self, key: jax.Array, model_cfg: ModelConfig, cfg: ForwardConfig) -> Params: ...


class ThoughtDistributions(Protocol):
    def __call__(
        self, params: Params, batch: Batch, model_cfg: ModelConfig, cfg: ForwardConfig
    ) -> jax.Array: ...


class Logprobs(Protocol):
    def __call__(
        self,
        params: Params,
        batch: Batch,
        keys: jax.Array | None,
        model_cfg: ModelConfig,
        cfg: ForwardConfig,
    ) -> tuple[jax.Array, Aux]: ...


Row = Mapping[str, np.ndarray]  # training.rows.Row
Encode = Callable[[str], list[int]]
Begin = Callable[[Params, Encode, ModelConfig, ForwardConfig], Params]
TrainingSuffix = Callable[[ForwardConfig, int, int, Sequence[int]], tuple[list[int], int]]


def no_parameters(key: jax.Array, model_cfg: ModelConfig, cfg: ForwardConfig) -> Params:
    """The forward needs no parameters but the model's."""
    return {}


def no_suffix(cfg: ForwardConfig, first: int, round: int) -> list[int]:
    """Prompts end with their text."""
    return []


@runtime_checkable
class HiddenTokens(Protocol):
    """Tokens between a token and the next that no sequence keeps; hashable.

    room: how many they are. Calling it gives, of the hidden states [B, 1, D] of the newest tokens,
    those that predict the next. places: of the first hidden token; the cache is returned with what
    was written there, which the next token of the sequence is to overwrite.
    """

    def __hash__(self) -> int: ...

    @property
    def room(self) -> int: ...

    def __call__(
        self,
        params: Params,
        hidden: jax.Array,
        places: Places,
        cache: Cache,
        model_cfg: ModelConfig,
    ) -> tuple[jax.Array, Cache]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
    """A way's parts. ``cfg`` is an instance of its ``Config``: see ``settings``.

    init(key, model_cfg, cfg) -> extra parameters, float32, each with a rule in model/parameters.py
    logprobs(params, batch, keys, model_cfg, cfg) -> (logprobs [B, S], aux)
        batch: tokens, positions, segment_ids, weights [B, S], and what the method's loss reads.
        keys [B]: one a sequence, so that what a sequence draws depends on nothing else; None
        where not RANDOM, and outside updates, where nothing is drawn. The
        log-probabilities are float32, and 0 where ``weights`` are 0.
        aux: scalars, sums over the batch. aux["loss"], where there is one, is added to the total
        of the method's loss; the others are logged as means, after division by the loss's weight.
    prompt_suffix(cfg, first, round) -> token ids after each prompt of this round; round 0 is the
        base model's. first: the id of the forward's first vector, after the vocabulary.
    training_suffix(cfg, first, round, seed) -> (the same of a worked example that is trained on,
        how many steps of its rationale are left out). None: that of all prompts, and 0. seed: the
        example's.
    resets_optimizer(cfg, round): whether the optimiser is fresh in this round.
    thought_distributions(params, batch, model_cfg, cfg) -> [B, N, V]: what each continuous thought
        of a row says of the next token, for the report. A row's own thoughts come first of the N.
    check_rows(cfg, first, rows): UserError naming the key for a row that has no room.
    check(cfg): UserError naming the key for values of the whole config that do not go together.
    begin(params, encode, model_cfg, cfg) -> own parameters that begin anew when the rounds do;
        params: of the whole model then. encode(text) -> token ids.
    check_words(encode, cfg): UserError naming the key for a text that is no token.
    hidden_tokens(cfg): what a sampler computes between a token and the next; None: nothing.
    num_lookahead_positions(cfg): how many rotary or learned positions after a sequence's last
        token it reads.
    """

    name: str
    Config: type
    logprobs: Logprobs
    init: Init = no_parameters
    prompt_suffix: Callable[[ForwardConfig, int, int], list[int]] = no_suffix
    training_suffix: TrainingSuffix | None = None
    resets_optimizer: Callable[[ForwardConfig, int], bool] = lambda cfg, round: False
    thought_distributions: ThoughtDistributions | None = None
    check_rows: Callable[[ForwardConfig, int, Sequence[Row]], None] = lambda cfg, first, rows: None
    check: Callable[[ConfigDict], None] = lambda cfg: None
    begin: Begin = lambda params, encode, model_cfg, cfg: {}
    check_words: Callable[[Encode, ForwardConfig], None] = lambda encode, cfg: None
    hidden_tokens: Callable[[ForwardConfig], HiddenTokens | None] = lambda cfg: None
    num_lookahead_positions: Callable[[ForwardConfig], int] = lambda cfg: 0
    BASE: str = ""  # the forward of round 0's base model; "" = this one
    RANDOM: bool = False  # whether ``logprobs`` draws, and so needs ``keys``
    # Whether rows of one prompt may be packed behind one copy of it.
    SHARES_PROMPTS: bool = True
    PACKS: bool = True  # whether a sequence of the batch may hold several rows


def names() -> list[str]:
    """The forwards: the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def get(name: str) -> Forward:
    """The forward of this name; UserError where there is none."""
    if name not in names():
        known = ", ".join(names())
        raise UserError(f"config.forward.name: there is no {name!r}; there are {known}.")
    return contracts.fill(Forward, importlib.import_module(f"{__name__}.{name}"))


def settings(section: ConfigDict) -> ForwardConfig:
    """The keys of a config's section ``forward`` as an instance of the forward's ``Config``."""
    keys = {key: value for key, value in section.items() if key != "name"}
    return get(section.name).Config(**keys)


def hidden_tokens_of(section: ConfigDict) -> HiddenTokens | None:
    """What a config's forward computes between tokens."""
    return get(section.name).hidden_tokens(settings(section))


@partial(jax.jit, static_argnames=("forward", "model_cfg", "cfg"))
def compiled_logprobs(
    params: Params,
    batch: Batch,
    keys: Key[Array, " B"] | None,
    *,
    forward: Forward,
    model_cfg: ModelConfig,
    cfg: ForwardConfig,
) -> Float[Array, "B S"]:
    """The log-probabilities of a forward outside an update."""
    token_logprobs, _ = forward.logprobs(params, batch, keys, model_cfg, cfg)
    return token_logprobs


@partial(jax.jit, static_argnames=("forward", "model_cfg", "cfg", "count"))
def likeliest_of_thoughts(
    params: Params,
    batch: Batch,
    *,
    forward: Forward,
    model_cfg: ModelConfig,
    cfg: ForwardConfig,
    count: int,
) -> Float[Array, "B N 2 count"]:
    """The likeliest next tokens of each thought: their probabilities, and their ids as floats.

    float32 holds ids below 2^24.
    """
    assert forward.thought_distributions is not None
    distributions = forward.thought_distributions(params, batch, model_cfg, cfg)
    probabilities, ids = jax.lax.top_k(distributions, count)
    return jnp.stack([probabilities, ids.astype(jnp.float32)], axis=2)
