"""The methods: one file each; the file's name is the method's name in a config.

A method is a module with the functions of ``Algorithm``, of which only ``Config``, ``collect``,
``loss`` and ``BATCH`` must be there. ``cfg`` is the whole experiment; its section ``algorithm``
holds the keys of the method's ``Config``, which are in their ranges (ranges.py).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.charts import Chart
from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example, Task
from reasoning_jax.tokenizer import Tokenizer
from reasoning_jax.training.data import examples_for_round
from reasoning_jax.training.losses import Loss
from reasoning_jax.training.rows import Row

# Arrays that live through the run: a NamedTuple of them, one, or () where a method has none.
Memory = tuple[np.ndarray, ...] | np.ndarray
SampleKey = tuple[int, int, bool]  # example id, sample index, hinted
Record = dict[str, object]  # one line of a JSON-lines file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collected:
    """What the E-step of a round leaves behind."""

    rows: list[Row]  # to train on
    memory: Memory
    stats: Mapping[str, float] = dataclasses.field(default_factory=dict)  # logged as collect/*
    samples: Sequence[Sample] = ()  # as drawn
    # Those that samples.jsonl and the report show as kept.
    kept: set[SampleKey] = dataclasses.field(default_factory=set)
    warnings: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """What a run of the method compiles, besides the sampler: for planning without running."""

    updates: Mapping[str, tuple[str, ...]]  # the arrays of each kind of batch; "" is the usual one
    logprobs: bool = False  # whether log-probabilities of rows are computed outside the updates
    keeps_base: bool = False  # whether the base model stays on the devices beside the trained one


@dataclasses.dataclass(frozen=True)
class SideModel:
    """The model of a round that is not the one that the run is about; saved as DIR/name."""

    name: str
    learning_rate: float


Collect = Callable[[Rollout, Sequence[Example], Memory, int, ConfigDict], Collected]
CheckData = Callable[[Rollout, Sequence[Example], ConfigDict], list[str]]
Begin = Callable[[Rollout, Sequence[Example], Memory, ConfigDict], Collected]
Examples = Callable[[Sequence[Example], Memory, int, ConfigDict], list[Example]]
LossFunction = Callable[[jax.Array, Mapping[str, jax.Array], ConfigDict], Loss]
Show = Callable[[Memory, Sequence[Example], Task, Tokenizer], dict[str, list[Record]]]


def no_check(cfg: ConfigDict) -> None:
    """Every value of the config will do."""


def no_memory(cfg: ConfigDict, num_examples: int) -> Memory:
    """The method remembers nothing from round to round."""
    return ()


def check_prompts(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """Every example can be asked."""
    for example in examples:
        rollout.check_prompt(example)
    return []


def check_hinted_prompts(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict
) -> list[str]:
    """Every example can be asked with its answer as a hint; such a prompt is the longer one."""
    for example in examples:
        rollout.check_prompt(example, hint=True)
    return []


def check_prompts_and_rationales(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict
) -> list[str]:
    """Every example can be asked, and its rationale, where one is given, be trained on."""
    check_prompts(rollout, examples, cfg)
    worked = [e for e in examples if e.rationale is not None]
    too_long = sum(rollout.worked_tokens(e) is None for e in worked)
    return left_out_warnings(too_long, len(worked), "worked examples")


def left_out_warnings(count: int, total: int, what: str) -> list[str]:
    """A sentence about what no sequence has room for; none where there is nothing of it."""
    if not count:
        return []
    return [f"{count} of {total} {what} are longer than config.sequence_length and left out."]


def no_data(cfg: ConfigDict) -> Mapping[str, Sequence[object]]:
    """The method reads nothing but the task's examples."""
    return {}


def no_side_model(round: int, cfg: ConfigDict) -> SideModel | None:
    """Every round trains the model that the run is about."""
    return None


def scheduled_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    """int(updates * growth^(n-1)) + increment * (n-1) in round n.

    STaR's 20 % more each round, or, for arithmetic, an even increment (Zelikman et al. 2022,
    section 4 and appendix H).
    """
    rounds = cfg.rounds
    return int(rounds.updates * rounds.growth ** (round - 1)) + rounds.increment * (round - 1)


def seeded_order(
    source: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> list[Example]:
    """All examples, or the next ``rounds.examples`` of one seeded permutation after another."""
    if not cfg.rounds.examples:
        return list(source)
    indices = examples_for_round(len(source), cfg.rounds.examples, cfg.seed, round - 1)
    return [source[int(i)] for i in indices]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A method: the E-step ``collect``, the M-step's ``loss``, and what the loop asks besides.

    collect(rollout, examples, memory, round, cfg) -> Collected      on the host
    loss(logprobs, batch, cfg) -> Loss                               pure; sums over the batch
    check(cfg)                            UserError for values that do not go together
    check_data(rollout, examples, cfg)    UserError for what cannot be asked or trained on; returns
                                          warnings; the rollout draws nothing
    init_memory(cfg, num_examples)        called before anything is trained
    data(cfg) -> {config key: records}    what the method itself reads, as JSON can hold it
    num_updates(round, num_rows, cfg)     updates of a round
    examples(source, memory, round, cfg)  what a round is asked
    begin(rollout, examples, memory, cfg) -> Collected, before round 1, with all the examples
    side_model(round, cfg) -> SideModel or None
    show(memory, examples, task, tokenizer) -> {NAME: records}, written as rounds/*/NAME.jsonl
    """

    name: str
    Config: type
    collect: Collect
    loss: LossFunction
    BATCH: tuple[str, ...]  # arrays that the loss reads, besides tokens, positions, segment_ids
    SELECTS_BEST: bool = True  # keep the round of the highest validation accuracy; else the last
    FORWARDS: tuple[str, ...] = ()  # those that it goes with (forwards/*.py); () = all
    # Whether a system (systems/*.py) may answer what it collects: it trains on the text alone, not
    # on how likely the text was.
    SYSTEMS: bool = False
    CHARTS: tuple[Chart, ...] = ()  # what the report draws of this method
    check: Callable[[ConfigDict], None] = no_check
    check_data: CheckData = check_prompts
    init_memory: Callable[[ConfigDict, int], Memory] = no_memory
    data: Callable[[ConfigDict], Mapping[str, Sequence[object]]] = no_data
    num_updates: Callable[[int, int, ConfigDict], int] = scheduled_updates
    examples: Examples = seeded_order
    programs: Callable[[ConfigDict], Programs] | None = None
    begin: Begin | None = None
    side_model: Callable[[int, ConfigDict], SideModel | None] = no_side_model
    show: Show | None = None

    def programs_of(self, cfg: ConfigDict) -> Programs:
        """What a run compiles; one kind of batch and nothing else where the method does not say."""
        if self.programs is None:
            return Programs(updates={"": self.BATCH})
        return self.programs(cfg)


def names() -> list[str]:
    """The methods there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Algorithm:
    """The method of this name.

    UserError listing those there are, or where the module misses a part of the contract or has a
    name that is nearly one of its parts.
    """
    if name not in names():
        methods = ", ".join(names())
        raise UserError(
            f"config.algorithm.name: there is no algorithm {name!r}; they are {methods}."
        )
    module = importlib.import_module(f"{__name__}.{name}")
    return contracts.fill(Algorithm, module)
