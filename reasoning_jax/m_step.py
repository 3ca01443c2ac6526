"""The M-step of a round: its gradient updates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import jax
import numpy as np

from reasoning_jax import interrupts, multihost, workdir
from reasoning_jax.e_step import write_rows
from reasoning_jax.errors import NonFiniteError
from reasoning_jax.events import Event, log
from reasoning_jax.experiment import Experiment
from reasoning_jax.model import attention, sharding
from reasoning_jax.model.decoder import Params
from reasoning_jax.progress import Progress
from reasoning_jax.run_state import Run, Stage, restart, save
from reasoning_jax.training import optim
from reasoning_jax.training.packing import Batch, batches, pack


def update(run: Run, rows: workdir.Rows, quiet: bool) -> Iterator[Event]:
    """This round's gradient updates.

    With ``rounds.restart`` they begin from the base model, even where there are no rows.
    """
    run.resume_position = None  # from here on the parameters change, and this function saves
    stage = run.stage
    position = run.position
    n = position.round
    forward_cfg = run.exp.forward_cfg
    if n and position.update == 0 and run.cfg.rounds.restart:
        restart(run, with_beginning(run.exp, run.base_params()))
    elif position.update == 0 and n == 1:
        params = with_beginning(run.exp, run.state.params)
        restart(run, params)  # no moments of the base model's optimiser
    elif position.update == 0 and run.exp.forward.resets_optimizer(forward_cfg, n):
        restart(run, run.state.params)  # nor of the stage before
    if stage is None or not rows:
        return
    total = stage.algorithm.num_updates(n, len(rows), stage.cfg)
    if position.update >= total:
        return
    stream = _batches(run, stage, rows)
    active = not quiet and multihost.is_process_0()
    # train_step donates the old state: until state and position are of one update, Ctrl-C waits.
    with (
        interrupts.defer_interrupts() as interrupted,
        Progress("update", total, n, start=position.update, active=active) as progress,
    ):
        update_log = _UpdateLog(run, progress, total)
        stopping = False
        while position.update < total and not stopping:
            logged = [update_log.follow(_one_update(run, stage, stream, total))]
            preempted = interrupts.preempted()
            stopping = preempted or interrupted.is_set()
            save_now = position.update % run.cfg.checkpoint.every == 0
            if stopping or (save_now and position.update < total):
                logged.append(update_log.catch_up())
                write_rows(run, rows)  # a resumed round must go on with the same rows
                save(run)
            if preempted:
                raise interrupts.Preempted
            yield from (event for event in logged if event)
        last = update_log.catch_up()
        if last:
            yield last


def with_beginning(exp: Experiment, trained: Params) -> Params:
    """What is trained, as the rounds begin with it; trained: as round 0 ended."""
    whole = exp.frozen | trained
    own = exp.forward.begin(whole, exp.tokenizer.encode, exp.model_cfg, exp.forward_cfg)
    return trained | {k: jax.device_put(x, trained[k].sharding) for k, x in own.items()}


class _Stream:
    """The batches of a round: one after another, or, where online, all rows every time."""

    def __init__(self, iterator: Iterator[Batch] | None, whole: Batch | None):
        self.iterator = iterator
        self.whole = whole

    def next(self) -> Batch:
        return self.whole if self.iterator is None else next(self.iterator)

    def state(self) -> dict | None:
        return None if self.iterator is None else self.iterator.get_state()


def _batches(run: Run, stage: Stage, rows: workdir.Rows) -> _Stream:
    cfg = run.cfg
    length = cfg.sequence_length
    forward = run.exp.forward
    forward.check_rows(run.exp.forward_cfg, run.exp.prompts.first_id, rows)
    packs = forward.PACKS
    share = packs and forward.SHARES_PROMPTS and attention.shares_prompts(run.exp.model_cfg)
    if stage.cfg.rounds.online:
        whole = pack(rows, multiple=cfg.batch_size, length=length, share=share, packs=packs)
        return _Stream(None, whole)
    seed = cfg.seed * 4096 + run.position.round  # 4096: more rounds than a run has
    sizes = {"batch_size": cfg.batch_size, "length": length}
    stream = batches(rows, **sizes, seed=seed, share=share, packs=packs)
    iterator = iter(stream)
    saved = run.position.iterator
    if saved is not None and saved.keys() == iterator.get_state().keys():
        iterator.set_state(saved)
    elif saved is not None:
        multihost.print_once(
            f"{run.dir}: an older version packed the batches of round {run.position.round}; the "
            "round goes on with its rows in another order."
        )
    return _Stream(iterator, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Update:
    """An update that has been dispatched; its metrics may not be there yet."""

    number: int  # in its round, from 1
    learning_rate: float
    metrics: dict[str, jax.Array]
    batch: Batch


def _one_update(run: Run, stage: Stage, stream: _Stream, total: int) -> _Update:
    cfg = run.cfg
    position = run.position
    batch = stream.next()
    rate = _learning_rate(run, stage, total)
    micro_batch = cfg.batch_size // cfg.micro_batches
    with jax.transfer_guard("disallow"):  # host and device exchange explicitly or not at all
        parts = {key: x.reshape(-1, micro_batch, x.shape[-1]) for key, x in batch.items()}
        on_device = sharding.put(parts, run.exp.mesh, None, "batch", None)
        rate_on_device = sharding.put(np.float32(rate), run.exp.mesh)
        run.state, measured = stage.train_step(run.state, on_device, rate_on_device, run.exp.frozen)
    position.update += 1
    position.iterator = stream.state()
    return _Update(number=position.update, learning_rate=rate, metrics=measured, batch=batch)


def _learning_rate(run: Run, stage: Stage, total: int) -> float:
    """The learning rate of the next update."""
    cfg = stage.cfg
    side = run.side_model()
    peak = side.learning_rate if side else cfg.optim.learning_rate
    if not cfg.rounds.online:
        return optim.learning_rate(cfg.optim, peak, run.position.update, total)
    # A method whose rounds are single minibatches has one schedule for all of them.
    past = (run.position.round - 1) * total
    planned = cfg.rounds.count * total
    return optim.learning_rate(cfg.optim, peak, past + run.position.update, planned)


class _UpdateLog:
    """Reads an update's metrics while the next one runs, shows and writes them.

    Stops the run where the numbers have failed.
    """

    def __init__(self, run: Run, progress: Progress, total: int):
        self.run = run
        self.progress = progress
        self.total = total
        self.first_step = int(run.state.step) - run.position.update
        self.tokens = 0
        self.since = (time.monotonic(), 0)
        self.pending: _Update | None = None

    def follow(self, update: _Update) -> Event | None:
        """Takes an update that was just dispatched; reads the one dispatched before it."""
        event = self.catch_up()
        self.pending = update
        return event

    def catch_up(self) -> Event | None:
        """Reads the update that has not been read yet; the event, where it is logged."""
        if self.pending is None:
            return None
        update = self.pending
        self.pending = None
        self.tokens += int((update.batch["segment_ids"] > 0).sum())
        values = {name: float(x) for name, x in jax.device_get(update.metrics).items()}
        self.progress.update(update.number, tokens=self.tokens, loss=values["loss"])
        if values["skipped_in_a_row"] >= self.run.cfg.optim.max_skipped:
            self._fail(update)
        if update.number % self.run.cfg.log_every and update.number != self.total:
            return None
        now = time.monotonic()
        seconds = max(now - self.since[0], 1e-9)
        values["learning_rate"] = update.learning_rate
        values["tokens_per_second"] = (self.tokens - self.since[1]) / seconds
        self.since = (now, self.tokens)
        named = {f"update/{name}": value for name, value in values.items()}
        return log(self.run, "update", named, step=self.first_step + update.number)

    def _fail(self, update: _Update) -> None:
        step = self.first_step + update.number
        path = self.run.dir / f"nonfinite_step_{step}.npz"
        if multihost.is_process_0():
            workdir.write_arrays(path, update.batch)
        raise NonFiniteError(
            f"Loss or gradient was not finite in {self.run.cfg.optim.max_skipped} updates in a row "
            f"(optim.max_skipped), the last at step {step}; its batch is in {path}."
        )
