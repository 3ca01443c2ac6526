"""A run in progress: its fixed parts, the state that changes, and how that is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from reasoning_jax import experiment, metrics, multihost, run_record
from reasoning_jax.algorithms import Algorithm, Memory, SideModel
from reasoning_jax.errors import MissingFileError
from reasoning_jax.model.decoder import Params
from reasoning_jax.position import Position
from reasoning_jax.run_lock import RunLock
from reasoning_jax.tasks import Example
from reasoning_jax.training import checkpoint, optim, state
from reasoning_jax.training.train_step import TrainStep


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
        self.exp.check_stamp(restored.meta, self.dir / "base")
        return restored.params

    def kept_base_params(self) -> Params:
        """The same, read once and kept on the devices to compare with; no update gets it."""
        if self._base_params is None:
            self._base_params = self.base_params()
        return self._base_params


def restart(run: Run, params: Params) -> None:
    """These parameters with a fresh optimiser; the counts of updates go on."""
    new = state.around(params, optim.make(run.cfg.optim))
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
    meta = run.exp.stamped(dataclasses.asdict(position))
    keep = run.cfg.checkpoint.keep
    checkpoint.save(run.dir / "checkpoints", number, run.state.params, rest, meta, keep)
    run.newest_checkpoint = number
    if not run.has_been_saved:
        multihost.broadcast_from_process_0(lambda: run_record.note_saved(run.dir))
        run.has_been_saved = True
