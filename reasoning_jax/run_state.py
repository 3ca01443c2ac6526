"""A run in progress: where it is, how it starts or goes on, how it is saved."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from reasoning_jax import algorithms, config, experiment, metrics, multihost, run_record, workdir
from reasoning_jax.algorithms import Algorithm, Memory, SideModel
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.model.decoder import Params
from reasoning_jax.position import Position, from_meta
from reasoning_jax.run_lock import RunLock
from reasoning_jax.tasks import Example
from reasoning_jax.training import checkpoint, optim, state
from reasoning_jax.training.train_step import TrainStep, make_train_step


class Stage(NamedTuple):
    """A method at work: that of the base model in round 0, or that of the rounds after it."""

    algorithm: Algorithm
    cfg: ConfigDict  # the experiment's, with this method in the section ``algorithm``
    source: Sequence[Example]  # what its rounds draw from
    train_step: TrainStep  # compiled when it is first called


@dataclasses.dataclass(kw_only=True)
class Run:
    """A run in progress: its config, its fixed parts, and the state that changes."""

    cfg: ConfigDict
    dir: Path
    exp: experiment.Experiment
    base_stage: Stage | None  # None where no base model is trained
    method_stage: Stage
    writer: metrics.Writer
    lock: RunLock
    abstract: state.TrainState  # shapes and shardings of ``state``; its placeholder at first
    state: state.TrainState
    memory: Memory
    position: Position = dataclasses.field(default_factory=Position)
    newest_checkpoint: int = -1  # its number
    has_been_saved: bool = False  # as run.json says
    # Where collecting and evaluating began: what is saved where they are broken off.
    resume_position: Position | None = None
    _base_params: Params | None = None

    @property
    def stage(self) -> Stage | None:
        """The method of this round; None in a round 0 that trains nothing."""
        return self.method_stage if self.position.round else self.base_stage

    def is_due(self) -> bool:
        """Whether this round is evaluated, written out and saved."""
        n = self.position.round
        return n % self.cfg.eval.every == 0 or n == self.cfg.rounds.count

    def is_out_of_patience(self) -> bool:
        """Whether accuracy has not gained for ``rounds.patience`` evaluations."""
        return 0 < self.cfg.rounds.patience <= self.position.evaluations_without_gain

    def side_model(self) -> SideModel | None:
        """This round's model, where it is another than the one that the run is about."""
        if not self.position.round:
            return None
        return self.method_stage.algorithm.side_model(self.position.round, self.cfg)

    def base_params(self) -> Params:
        """A fresh copy of the parameters that round 0 ended with: an update may donate it.

        From disk; MissingFileError where they are gone.
        """
        restored = checkpoint.restore(self.dir / "base", self.abstract.params)
        if restored is None:
            raise MissingFileError(
                f"{self.dir / 'base'}: the base model, which the rounds begin with or refer to, is "
                "gone."
            )
        return restored.params

    def kept_base_params(self) -> Params:
        """The same, read once and kept on the devices to compare with; no update gets it."""
        if self._base_params is None:
            self._base_params = self.base_params()
        return self._base_params


# ---- starting ----------------------------------------------------------------------------------


def base_config(cfg: ConfigDict) -> ConfigDict:
    """The config of round 0: the experiment's, with the base's method, split and learning rate.

    Growth 1 and increment 0, as the schedule is asked for round 0.
    """
    base = cfg.copy_and_resolve_references()
    with base.unlocked():
        base.algorithm = base.base.algorithm
    base.optim.learning_rate = cfg.base.learning_rate
    base.rounds.split = cfg.base.split
    base.rounds.examples = 0
    base.rounds.online = False
    base.rounds.restart = False
    base.rounds.updates = cfg.base.num_updates
    base.rounds.growth = 1.0
    base.rounds.increment = 0
    return base


def start(cfg: ConfigDict, directory: Path) -> Run:
    """The run from its newest checkpoint, or a new one from ``base.init_from`` or random
    parameters.

    What is wrong with the config or the data is said now, not in the round that first meets it, and
    before anything in the directory changes. Whoever ends the run releases its lock.
    """
    exp = experiment.make(cfg)
    base_stage = _base_stage(exp, cfg) if cfg.base.num_updates else None
    method_stage = _stage(exp, cfg)
    memory = method_stage.algorithm.init_memory(cfg, len(method_stage.source))
    stages = [stage for stage in (base_stage, method_stage) if stage]
    splits = {stage.cfg.rounds.split: stage.source for stage in stages}
    splits |= {split: exp.load(split) for split in (cfg.eval.split, "test")}
    data = run_record.fingerprints(exp, splits, method_stage.algorithm)
    flat_cfg = workdir.flat(config.as_dict(cfg))
    multihost.assert_same({f"config.{key}": value for key, value in flat_cfg.items()})
    multihost.assert_same({f"The fingerprint of {name}": value for name, value in data.items()})
    multihost.broadcast_from_process_0(lambda: _check(cfg, directory, data))
    run = Run(
        cfg=cfg,
        dir=directory,
        exp=exp,
        base_stage=base_stage,
        method_stage=method_stage,
        writer=metrics.Writer(directory, active=multihost.is_process_0()),
        lock=RunLock(directory),
        abstract=exp.abstract_state(),
        state=exp.abstract_state(),
        memory=memory,
    )
    try:
        multihost.broadcast_from_process_0(run.lock.acquire)
        _begin_or_resume(run, data)
    except BaseException:
        run.lock.release()
        raise
    return run


def _stage(exp: experiment.Experiment, cfg: ConfigDict) -> Stage:
    algorithm = algorithms.get(cfg.algorithm.name)
    algorithm.check(cfg)
    return Stage(
        algorithm=algorithm,
        cfg=cfg,
        source=exp.load(cfg.rounds.split),
        train_step=make_train_step(algorithm, exp.model_cfg, optim.make(cfg.optim), cfg),
    )


def _base_stage(exp: experiment.Experiment, cfg: ConfigDict) -> Stage:
    stage = _stage(exp, base_config(cfg))
    own_memory = stage.algorithm.init_memory is not algorithms.no_memory
    own_side_model = stage.algorithm.side_model is not algorithms.no_side_model
    if own_memory or own_side_model or stage.algorithm.begin:
        raise UserError(
            f"config.base.algorithm.name: {stage.algorithm.name} keeps a memory or a side model; "
            "the base model needs a method without, such as sft."
        )
    return stage


def _check(cfg: ConfigDict, directory: Path, data: Mapping[str, str]) -> None:
    workdir.check_config(cfg, directory, _in_this_version(directory))
    if workdir.has_begun(directory):
        run_record.check_data(directory, data)


def _claim(cfg: ConfigDict, directory: Path) -> None:
    workdir.claim(cfg, directory, _in_this_version(directory))


def _in_this_version(directory: Path) -> Callable[[dict], dict]:
    path = directory / "config.json"
    return lambda saved: config.as_dict(config.from_saved(saved, path))


def _begin_or_resume(run: Run, data: Mapping[str, str]) -> None:
    """Puts the run where its newest checkpoint was, or at its beginning.

    UserError, and nothing is written, where it has been saved and there is no checkpoint now.
    """
    folder = run.dir / "checkpoints"
    rest = {"state": run.abstract.replace(params=()), "memory": run.memory}
    restored = checkpoint.restore(folder, run.abstract.params, rest)

    def claim() -> None:
        if restored is None and run_record.has_been_saved(run.dir):
            raise UserError(
                f"{run.dir} holds the results of a run, but {folder} holds no checkpoint to go on "
                "from; put it back or use another --workdir."
            )
        _claim(run.cfg, run.dir)
        run_record.claim(run.dir, data, saved=restored is not None)

    if restored is None:
        multihost.broadcast_from_process_0(claim)
        _begin(run)
        return
    run.position = from_meta(restored.meta, folder)
    run.state = restored.rest["state"].replace(params=restored.params)
    run.memory = restored.rest["memory"]
    run.has_been_saved = True
    multihost.broadcast_from_process_0(claim)
    _resume(run)


def _resume(run: Run) -> None:
    position = run.position
    # It may have been given more rounds since, or fewer.
    more_rounds = position.round <= run.cfg.rounds.count
    stopped_early = position.finished and run.is_out_of_patience()
    position.finished = stopped_early or not more_rounds
    if position.finished:
        multihost.print_once(f"{run.dir}: this run is finished.")
        return
    if multihost.is_process_0() and run.writer.size() < position.metrics_bytes:
        log = run.dir / "metrics.jsonl"
        print(f"WARNING: {log}: lines of the log have been lost.", file=sys.stderr, flush=True)
    run.writer.truncate(position.metrics_bytes, int(run.state.step))
    multihost.print_once(
        f"{run.dir}: going on in round {position.round} after {position.update} updates."
    )
    run.newest_checkpoint = int(run.state.step) + position.round


def _begin(run: Run) -> None:
    run.writer.truncate(0, 0)
    optimizer = optim.make(run.cfg.optim)
    run.state = state.init(run.cfg.seed, run.exp.model_cfg, optimizer, run.exp.mesh)
    if run.cfg.base.init_from:
        folder = workdir.path(run.cfg.base.init_from)
        params, _ = checkpoint.load_params(folder, run.abstract.params)
        restart(run, params)


def restart(run: Run, params: Params) -> None:
    """These parameters with a fresh optimiser; the counts of updates go on."""
    optimizer = optim.make(run.cfg.optim)
    shardings = jax.tree.map(lambda x: x.sharding, run.abstract)
    new = jax.jit(lambda p: state.fresh(p, optimizer), out_shardings=shardings)(params)
    run.state = new.replace(step=run.state.step, skipped=run.state.skipped)


# ---- saving ------------------------------------------------------------------------------------


def note_position(run: Run) -> None:
    """Remembers where the run is, as what ``stop`` saves; before collecting or evaluating.

    These change parameters and memory only at their end, so a run that is stopped within them is
    saved as it was here.
    """
    run.position.metrics_bytes = run.writer.size()
    run.resume_position = dataclasses.replace(run.position)


def stop(run: Run) -> None:
    """Saves a run that is stopped while it collects or evaluates; updates save it themselves."""
    if run.resume_position is not None:
        number = int(run.state.step) + run.resume_position.round
        if run.newest_checkpoint != number:
            save(run, run.resume_position)
    multihost.gather(None)  # all is written before the first process ends


def save(run: Run, position: Position | None = None) -> None:
    """Writes a checkpoint of where the run is, or was."""
    if position is None:
        position = run.position
        position.metrics_bytes = run.writer.size()
    run.writer.flush()
    rest = {"state": run.state.replace(params=()), "memory": run.memory}
    number = int(run.state.step) + position.round  # a round's end is not taken for its last update
    meta = dataclasses.asdict(position)
    keep = run.cfg.checkpoint.keep
    checkpoint.save(run.dir / "checkpoints", number, run.state.params, rest, meta, keep)
    run.newest_checkpoint = number
    if not run.has_been_saved:
        multihost.broadcast_from_process_0(lambda: run_record.note_saved(run.dir))
        run.has_been_saved = True
