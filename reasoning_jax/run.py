"""A run in progress: where it is, how it starts or goes on, how it is saved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from ml_collections import ConfigDict

from reasoning_jax import algorithms, checkpoint, experiment, metrics, optim, processes, state, workdir
from reasoning_jax.tasks import Example


@dataclasses.dataclass
class Position:
    """Where a run is: the JSON part of every checkpoint."""

    round: int = 0  # the round in progress; round 0 trains the base model
    update: int = 0  # updates of this round that are done
    iterator: dict | None = None  # state of the round's stream of batches
    samples: int = 0  # drawn so far for training
    metrics_bytes: int = 0  # length of metrics.jsonl
    best_round: int = -1
    best_accuracy: float = -1.0
    evaluations_without_gain: int = 0
    finished: bool = False


@dataclasses.dataclass
class Run:
    """Everything that changes, and what it is trained with."""

    cfg: ConfigDict
    dir: Path
    exp: experiment.Experiment
    algorithm: ModuleType
    source: Sequence[Example]  # what the method's rounds draw from
    writer: metrics.Writer
    abstract: state.TrainState
    state: state.TrainState
    memory: Any
    position: Position
    compiled: dict[ModuleType, Callable] = dataclasses.field(default_factory=dict)  # each method's update
    kept: Any = None  # what ``reference`` has read
    saved: int = -1  # number of the newest checkpoint
    back: Position | None = None  # where collecting and evaluating began: what is saved where they are broken off

    def due(self) -> bool:
        """Whether this round is evaluated, written out and saved."""
        n = self.position.round
        return n % self.cfg.eval.every == 0 or n == self.cfg.algorithm.num_rounds

    def saturated(self) -> bool:
        return 0 < self.cfg.algorithm.patience <= self.position.evaluations_without_gain

    def side_model(self) -> tuple[str, float] | None:
        """Name and learning rate of this round's model, where it is another than the one that the run is about."""
        of = getattr(self.algorithm, "side_model", None)
        return of(self.position.round, self.cfg) if of and self.position.round else None

    def base(self) -> Any:
        """The parameters that round 0 ended with, from disk."""
        if found := checkpoint.restore(self.dir / "base", self.abstract.params):
            return found[0]
        raise FileNotFoundError(f"{self.dir / 'base'}: the base model, which the rounds begin with or refer to, is gone.")

    def reference(self) -> Any:
        """The same, read once and kept on the devices."""
        self.kept = self.base() if self.kept is None else self.kept
        return self.kept


def start(cfg: ConfigDict, directory: Path) -> Run:
    """The newest checkpoint, or a new run from ``base.init_from`` or random parameters."""
    exp = experiment.make(cfg)
    algorithm = algorithms.get(cfg.algorithm.name)
    for split in [*([cfg.base.split] if cfg.base.num_updates else []), cfg.eval.split, "test"]:
        exp.load(split)  # what is wrong with the data is said now, not in the round that first reads it
    source = exp.load(cfg.algorithm.split)
    memory = algorithm.init_memory(cfg, len(source))
    algorithm.num_updates(1, 1, cfg)
    processes.same({f"config.{k}": v for k, v in workdir.flat(json.loads(cfg.to_json_best_effort())).items()})
    processes.of_first(lambda: workdir.claim(cfg, directory))
    writer = metrics.Writer(directory, active=processes.first())
    abstract = exp.abstract_state()
    rest = {"state": abstract.replace(params=()), "memory": memory}
    if found := checkpoint.restore(directory / "checkpoints", abstract.params, rest):
        params, rest, meta = found
        run = Run(cfg, directory, exp, algorithm, source, writer, abstract, rest["state"].replace(params=params),
                  rest["memory"], Position(**meta))  # fmt: skip
        p = run.position
        # It may have been given more rounds since, or fewer.
        p.finished = p.round > cfg.algorithm.num_rounds or (p.finished and run.saturated())
        if p.finished:
            processes.say(f"{directory}: this run is finished.")
        else:
            writer.truncate(p.metrics_bytes, int(run.state.step))
            processes.say(f"{directory}: going on in round {p.round} after {p.update} updates.")
            run.saved = int(run.state.step) + p.round
        return run
    writer.truncate(0, 0)
    train_state = state.init(cfg.seed, exp.model_cfg, optim.make(cfg.optim), exp.mesh)
    run = Run(cfg, directory, exp, algorithm, source, writer, abstract, train_state, memory, Position())
    if cfg.base.init_from:
        restart(run, checkpoint.load_params(workdir.path(cfg.base.init_from), abstract.params)[0])
    return run


def restart(run: Run, params: Any) -> None:
    """These parameters with a fresh optimiser; the counts of updates go on."""
    optimizer, shardings = optim.make(run.cfg.optim), jax.tree.map(lambda x: x.sharding, run.abstract)
    new = jax.jit(lambda p: state.fresh(p, optimizer), out_shardings=shardings)(params)
    run.state = new.replace(step=run.state.step, skipped=run.state.skipped)


def mark(run: Run) -> None:
    """Notes where the run is, before work that changes neither its parameters nor its memory until it is done."""
    run.position.metrics_bytes = run.writer.size()
    run.back = dataclasses.replace(run.position)


def stop(run: Run) -> None:
    """Saves a run that was told to stop amid such work; it has been saved where that happened amid updates."""
    if run.back is not None and run.saved != int(run.state.step) + run.back.round:
        save(run, run.back)
    processes.gather(None)  # all is written before the first of them ends


def save(run: Run, position: Position | None = None) -> None:
    """Writes a checkpoint of where the run is, or was."""
    if position is None:
        position = run.position
        position.metrics_bytes = run.writer.size()
    run.writer.flush()
    rest = {"state": run.state.replace(params=()), "memory": run.memory}
    number = int(run.state.step) + position.round  # so that a round's end differs from its last update
    meta = dataclasses.asdict(position)
    checkpoint.save(run.dir / "checkpoints", number, run.state.params, rest, meta, run.cfg.checkpoint.keep)
    run.saved = number
