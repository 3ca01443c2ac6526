"""Every key of an experiment, once, with its default and its range.

An experiment is ``get_config`` and the few lines that differ. The keys of a task, a grader and a
method are in the ``Config`` of its own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from reasoning_jax import algorithms, forwards, graders, ranges, systems, tasks, tune, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.model import config as model_config
from reasoning_jax.model import presets
from reasoning_jax.ranges import above, at_least, between, key, one_of

MOST_SEQUENCES = 2**20  # of a batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    seed: int = key(0, between(0, 2**32 - 1))  # of parameters, orders and samples
    batch_size: int = key(32, between(1, MOST_SEQUENCES))  # packed sequences of an update
    # Parts that an update is computed in; must divide batch_size.
    micro_batches: int = key(1, between(1, MOST_SEQUENCES))
    # Tokens of a packed sequence; the longest prompt and completion too.
    sequence_length: int = key(256, between(1, 2**20))
    # Updates of a round between two lines of metrics; the last has one too.
    log_every: int = key(10, at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    # A published model: a Hugging Face folder, a GGUF or llama2.c file, or what convert made of
    # one; its shape replaces preset. "" = the model begins with random parameters.
    source: str = ""
    # A size in model/presets.py; the keys below override it where set.
    preset: str = key("0.4m", one_of(*presets.SIZES))
    # Rows of the embedding; None = the preset's, else the tokenizer's. Of this and the next keys
    # None leaves what the preset says.
    vocab_size: int | None = key(None, between(1, 2**24))
    num_layers: int | None = key(None, between(1, 2**20))
    width: int | None = key(None, between(1, 2**20))
    num_heads: int | None = key(None, between(1, 2**20))
    num_kv_heads: int | None = key(None, between(1, 2**20))
    head_dim: int | None = key(None, between(1, 2**20))
    mlp_dim: int | None = key(None, between(1, 2**20))
    window: int | None = key(None, at_least(0))  # a token sees so many tokens, itself too; 0 = all
    rope_theta: float | None = key(None, above(0))
    tied: bool | None = None
    dtype: str = key("float32", one_of(*model_config.DTYPES))  # of the computation
    remat: str = key("none", one_of(*model_config.REMAT))
    # Splash is a TPU kernel; auto: splash on TPU where it fits.
    attention: str = key("auto", one_of(*model_config.ATTENTION))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    # auto: the model's own where model.source is set, else characters, which are those of the
    # task's alphabet.
    name: str = key("auto", one_of("auto", "characters", "bytes", "sentencepiece", "pretrained"))
    # Of the SentencePiece model; of a published tokenizer: its folder, its file or a GGUF file,
    # "" = model.source.
    path: str = ""
    chat: bool = False  # prompts are user messages in the model's chat template
    system: str = ""  # the system message before them; "" = none but the template's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """Round 0: where the model that the rounds start from comes from."""

    # Another run: its work directory (the best round), or DIR/base; "" = random parameters.
    init_from: str = ""
    split: str = "given"  # what the base model is trained on first
    num_updates: int = key(0, at_least(0))  # 0 = the base model is not trained
    learning_rate: float = key(2e-3, above(0))  # its peak, with the schedule of optim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    count: int = key(16, at_least(0))  # how many
    split: str = "train"  # what the rounds draw their examples from
    examples: int = key(0, at_least(0))  # of a round; 0 = all
    online: bool = False  # a round is one minibatch, and each of its updates takes all its rows
    restart: bool = True  # each round trains the base model again, with a fresh optimiser
    # Of round 1; of round n: int(updates * growth^(n-1)) + increment * (n-1).
    updates: int = key(40, at_least(1))
    growth: float = key(1.2, above(0))
    increment: int = key(0, at_least(0))
    min_kept_rows: int = key(100, at_least(0))  # warn below
    # Stop after so many evaluations without a gain in accuracy; 0 = never.
    patience: int = key(4, at_least(0))
    min_gain: float = key(0.002, at_least(0))  # in validation accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = key(0.0, at_least(0))  # 0 = greedy
    top_k: int = key(0, at_least(0))  # 0 = all tokens
    top_p: float = key(1.0, between(0, 1, above=True))
    max_new_tokens: int = key(128, between(1, 2**20))
    batch_size: int = key(256, between(1, MOST_SEQUENCES))  # completions in progress at once
    # Tokens that the cache has room for; 0 = for the longest sequences in all places.
    cache_tokens: int = key(0, at_least(0))
    int8: bool = False  # matrices in 8 bits: less memory to read, samples of a slightly other model
    int8_cache: bool = False  # keys and values in 8 bits; on TPU by products, not by the kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    learning_rate: float = key(1e-3, above(0))  # the peak
    warmup: int = key(20, at_least(0))  # updates
    # The last fraction of a round's updates over which the rate falls to 0.
    decay: float = key(0.0, between(0, 1))
    b1: float = key(0.9, between(0, 1, below=True))
    b2: float = key(0.95, between(0, 1, below=True))
    eps: float = key(1e-8, above(0))
    weight_decay: float = key(0.0, at_least(0))
    clip_norm: float = key(1.0, at_least(0))  # 0 = none
    max_skipped: int = key(5, at_least(1))  # non-finite updates in a row before the run stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    data: int = key(-1, at_least(1, also=-1))  # -1 = the devices that are left
    fsdp: int = key(1, at_least(1, also=-1))
    tensor: int = key(1, at_least(1, also=-1))
    # Sample with copies over so many devices each; 0 = no copies.
    sampling_tensor: int = key(0, at_least(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    # Updates within a round; the end of an evaluated round is saved too.
    every: int = key(200, at_least(1))
    keep: int = key(2, at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    split: str = "validation"  # chooses the best round
    every: int = key(1, at_least(1))  # rounds
    num_examples: int = key(0, at_least(0))  # of that split; 0 = all
    num_test: int = key(0, at_least(0))  # of the test split; 0 = all
    # Rounds, of those that are evaluated; before round 1 and at the end it is too. 0 = only then.
    test_every: int = key(4, at_least(0))


# The sections that every experiment has, by their names; "" is the experiment itself.
COMMON: dict[str, type] = {
    "": Experiment,
    "model": Model,
    "tokenizer": Tokenizer,
    "base": Base,
    "rounds": Rounds,
    "sampling": Sampling,
    "optim": Optim,
    "mesh": Mesh,
    "checkpoint": Checkpoint,
    "eval": Eval,
}
# Those whose keys depend on their name, and who has them.
NAMED: dict[str, ModuleType] = {
    "algorithm": algorithms,
    "base.algorithm": algorithms,
    "task": tasks,
    "grader": graders,
    "tune": tune,
    "forward": forwards,
    "system": systems,
}


def get_config(
    algorithm: str = "star",
    task: str = "addition",
    grader: str = "",
    base: str = "sft",
    tuned: str = "full",
    forward: str = "plain",
    system: str = systems.PLAIN,
) -> ConfigDict:
    """The config of a method on a task, locked: only the keys that it has can be set.

    grader: "" is the task's own. base: the method that trains the base model in round 0. tuned:
    what is trained of the model. forward: how it computes. system: how it answers. UserError where
    there is none of that name.
    """
    c = _section(Experiment)
    c.model = _section(Model)
    c.tune = section(tune, tuned)
    c.forward = section(forwards, forward)
    c.system = section(systems, system)
    c.tokenizer = _section(Tokenizer)
    c.task = section(tasks, task)
    c.grader = section(graders, grader or tasks.get(task).GRADER)
    c.base = _section(Base)
    c.base.algorithm = section(algorithms, base)
    if base == "sft":
        c.base.algorithm.hinted = 0.25
    c.algorithm = section(algorithms, algorithm)
    c.rounds = _section(Rounds)
    c.sampling = _section(Sampling)
    c.optim = _section(Optim)
    c.mesh = _section(Mesh)
    c.checkpoint = _section(Checkpoint)
    c.eval = _section(Eval)
    return c.lock()


def section(package: ModuleType, name: str) -> ConfigDict:
    """A name and the keys of its ``Config``; package: one of NAMED."""
    return _section(package.get(name).Config, {"name": name})


def _section(config: type, first: Mapping[str, str] | None = None) -> ConfigDict:
    values = ConfigDict(first)
    for own in ranges.keys(config):
        values[own.name] = placeholder(own.kind) if own.default is None else own.default
    return values


def check(cfg: ConfigDict) -> None:
    """UserError naming the first key whose value is out of its range, and the range."""
    values = workdir.flat(cfg.to_dict())
    for name, config in configs(values).items():
        ranges.check(config, values, f"{name}." if name else "")


def configs(values: Mapping[str, workdir.Json]) -> dict[str, type]:
    """The dataclass of each section of an experiment, whose values are given by dotted key.

    UserError for a method, a task or a grader that there is not.
    """
    found = dict(COMMON)
    for name, package in NAMED.items():
        own_name = values.get(f"{name}.name")
        if own_name not in package.names():
            known = ", ".join(package.names())
            raise UserError(f"config.{name}.name: {own_name!r} is not one of {known}.")
        found[name] = package.get(own_name).Config
    return found
