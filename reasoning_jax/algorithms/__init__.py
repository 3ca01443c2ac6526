"""The methods: one file each; the file's name is the method's name.

An algorithm is a module with these functions (``cfg`` is the whole experiment):

    init_memory(cfg, num_examples) -> Memory       arrays that live through the run; () where the method has none
    collect(rollout, examples, memory, round, cfg) -> (rows, memory, report)      E-step, on the host
    num_updates(round, num_rows, cfg) -> int
    loss(logprobs, batch, cfg) -> (sum, metrics)   M-step: pure, sums over the batch; metrics["weight"] divides them all

and, where the model of some rounds is not the one that the run is about (V-STaR's verifier):

    side_model(round, cfg) -> (name, learning rate) or None        it is saved as DIR/name, and neither evaluated nor the best

and, where it keeps a state for every example:

    begin(rollout, examples, memory, cfg) -> (memory, samples)     before round 1, with all the examples
    show(memory, examples, experiment) -> list of dicts            what the report shows of the memory

``report`` is a Report: the samples that were drawn, which of them are trained on, and figures to log.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Report:
    """What a round collected, for people: ``samples`` as drawn, ``kept`` the (id, index, hinted) of those trained on."""

    values: dict[str, float] = dataclasses.field(default_factory=dict)
    samples: list[Any] = dataclasses.field(default_factory=list)
    kept: set[tuple[int, int, bool]] = dataclasses.field(default_factory=set)
    warnings: list[str] = dataclasses.field(default_factory=list)


def scheduled_updates(round: int, cfg: ConfigDict) -> int:
    """STaR's number of updates in round n: int(start * growth^(n-1)), 20 % more each round; or, for arithmetic, start +
    increment * (n-1) (Zelikman et al. 2022, section 4 and appendix H). ValueError for another ``schedule``."""
    a = cfg.algorithm
    if a.schedule == "exponential":
        return int(a.start_updates * a.growth ** (round - 1))
    if a.schedule == "linear":
        return a.start_updates + a.increment * (round - 1)
    raise ValueError(f"config.algorithm.schedule: {a.schedule!r} is neither exponential nor linear.")


def get(name: str) -> ModuleType:
    """The algorithm module of this name; ValueError listing those there are."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in names:
        raise ValueError(f"config.algorithm.name: there is no algorithm {name!r}; they are {', '.join(names)}.")
    return importlib.import_module(f"{__name__}.{name}")
