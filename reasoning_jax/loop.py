"""The one loop: collect, update, evaluate, save; and again. It knows no method, task or model.

Killed at any moment and started again, a run ends with the same bits: what is random is a function
of the seed, the round and the example; a round's rows are on disk before its updates begin, or are
collected again from the same checkpoint; a checkpoint is complete or it does not exist.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import interrupts, metrics, multihost, report, workdir
from reasoning_jax.algorithms import Collected
from reasoning_jax.errors import NonFiniteError
from reasoning_jax.evaluation import accuracy_metrics, summary
from reasoning_jax.model import sharding
from reasoning_jax.model.decoder import Params
from reasoning_jax.progress import Progress
from reasoning_jax.run_state import Run, Stage, note_position, restart, save, start, stop
from reasoning_jax.sampling import engine
from reasoning_jax.training import checkpoint, optim
from reasoning_jax.training.packing import Batch, batches, pack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A line of metrics.jsonl, as it is written."""

    phase: str  # collect, update or eval
    round: int
    step: int  # updates so far
    values: Mapping[str, float]  # collect/*, update/* or eval/*
    split: str | None = None  # of an evaluation


def train(cfg: ConfigDict, directory: Path) -> None:
    """Runs the experiment to its end, going on where it stopped; says so where it is finished.

    Preempted where SIGTERM told the run to stop, which is then saved.
    """
    for _ in events(cfg, directory):
        pass
    if multihost.is_process_0():
        print(_accuracy_table(directory), flush=True)
        best = f"best round by {cfg.eval.split} accuracy: {_best_round(directory)}"
        print(f"{best}; report: {directory / 'report.html'}", flush=True)


def events(cfg: ConfigDict, directory: Path) -> Iterator[Event]:
    """``train`` as an iterator over what it logs.

    Where the caller stops iterating, the run is as if it had been killed there.
    """
    run = start(cfg, directory)
    with interrupts.defer_sigterm():
        try:
            yield from _rounds(run)
        except interrupts.Preempted:
            stop(run)
            raise
        finally:
            run.writer.close()
    if multihost.is_process_0():
        report.write(directory)


def _rounds(run: Run) -> Iterator[Event]:
    cfg = run.cfg
    position = run.position
    every = cfg.eval.every
    while not position.finished:
        # Many short rounds between two evaluations: one progress line for them all.
        short = position.round > 0 and every > 1
        rounds = 1
        if short:
            until_evaluation = every - (position.round - 1) % every
            rounds = min(until_evaluation, cfg.rounds.count - position.round + 1)
        active = short and multihost.is_process_0()
        with Progress("train", rounds, active=active) as progress:
            for done in range(1, rounds + 1):
                rows, shown = yield from _collect(run, quiet=short)
                yield from _update(run, rows, quiet=short)
                progress.update(done, round=position.round, samples=position.samples, **shown)
                if not run.is_due():
                    _next_round(run)
        yield from _assess(run)


def _next_round(run: Run) -> None:
    """After a round that is not evaluated; it is saved where checkpoint.every says so."""
    position = run.position
    position.round += 1
    position.update = 0
    position.iterator = None
    if int(run.state.step) % run.cfg.checkpoint.every == 0:
        save(run)


def _log(
    run: Run, phase: str, values: Mapping[str, float], step: int | None = None, **fields: object
) -> Event:
    """Writes a line of metrics.jsonl."""
    step = int(run.state.step) if step is None else step
    n = fields.pop("round", run.position.round)
    run.writer.write(step, n, phase, values, **fields)
    return Event(phase=phase, round=n, step=step, values=values, split=fields.get("split"))


def _warn(sentence: str) -> None:
    multihost.print_once(f"WARNING: {sentence}", file=sys.stderr)


# ---- collect: the E-step -----------------------------------------------------------------------

CollectResult = tuple[workdir.Rows, dict[str, float]]  # the rows; what the progress line shows


def _collect(run: Run, quiet: bool) -> Generator[Event, None, CollectResult]:
    """The rows of this round: from disk where an earlier start collected them, else anew."""
    if run.stage is None:
        return [], {}
    note_position(run)
    folder = _round_folder(run)
    if multihost.broadcast_from_process_0((folder / "rows.npz").exists):
        rows = _read_collected(run, folder)
        return rows, {}
    began = time.monotonic()
    first, collected = _ask_method(run, run.stage, quiet)
    run.memory = collected.memory if run.position.round else run.memory
    values = _collect_values(run, first, collected, time.monotonic() - began)
    yield _log(run, "collect", values)
    if run.is_due() or run.position.round == 1:
        _warn_of_collected(run, collected, values)
        if multihost.is_process_0():
            _write_collected(run, run.stage, folder, first, collected, values)
    shown = {}
    if "collect/correct" in values:
        shown["correct"] = values["collect/correct"]
    return collected.rows, shown


def _round_folder(run: Run) -> Path:
    return run.dir / "rounds" / f"{run.position.round:04d}"


def _read_collected(run: Run, folder: Path) -> workdir.Rows:
    position = run.position
    like = (run.memory, np.int64(0))
    rows, (run.memory, samples) = workdir.read_rows(folder / "rows.npz", like)
    position.samples = int(samples)
    # The log has lost its line where no checkpoint came after it.
    path = folder / "collect.json"
    if position.update == 0 and path.exists():
        _log(run, "collect", json.loads(path.read_text()))
    return rows


def _ask_method(run: Run, stage: Stage, quiet: bool) -> tuple[Collected | None, Collected]:
    """What the method collects before its first round, where it does, and in this round."""
    n = run.position.round
    exp = run.exp
    params = run.state.params
    memory = run.memory
    first = None
    if n == 1 and stage.algorithm.begin:
        roll = exp.rollout(params, "begin", n)
        first = stage.algorithm.begin(roll, stage.source, memory, stage.cfg)
        memory = first.memory
    examples = stage.algorithm.examples(stage.source, memory, n, stage.cfg)
    roll = exp.rollout(params, "collect", n, quiet=quiet, base_params=run.kept_base_params)
    return first, stage.algorithm.collect(roll, examples, memory, n, stage.cfg)


def _collect_values(
    run: Run, first: Collected | None, collected: Collected, seconds: float
) -> dict[str, float]:
    """What is logged of a round's collection; counts the samples."""
    values = dict(collected.stats)
    unhinted = [s for s in collected.samples if not s.hinted]
    if unhinted:
        values |= summary(unhinted, run.exp.task)
    drawn = [*(first.samples if first else ()), *collected.samples]
    run.position.samples += len(drawn)
    values["seconds"] = seconds
    if collected.samples:
        values["samples_drawn"] = run.position.samples
        values["samples_per_second"] = len(drawn) / seconds
        values["tokens_per_second"] = sum(len(s.tokens) for s in drawn) / seconds
        values["compilations"] = engine.compilations()
    if first:
        values |= first.stats
    return {f"collect/{name}": float(value) for name, value in values.items()}


def _warn_of_collected(run: Run, collected: Collected, values: Mapping[str, float]) -> None:
    n = run.position.round
    truncated = values.get("collect/truncated", 0.0)
    if truncated > 0.2:
        limit = run.cfg.sampling.max_new_tokens
        _warn(
            f"round {n}: {truncated:.0%} of the samples were cut off at "
            f"sampling.max_new_tokens={limit}."
        )
    least = run.cfg.rounds.min_kept_rows
    if n and len(collected.rows) < least:
        _warn(
            f"round {n} kept {len(collected.rows)} rows, fewer than rounds.min_kept_rows={least}."
        )
    for sentence in collected.warnings:
        _warn(f"round {n}: {sentence}")


def _write_collected(
    run: Run,
    stage: Stage,
    folder: Path,
    first: Collected | None,
    collected: Collected,
    values: Mapping[str, float],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples = [*(first.samples if first else ()), *collected.samples]
    workdir.write_samples(folder / "samples.jsonl", samples, collected.kept, run.exp.task)
    if stage.algorithm.show:
        shown = stage.algorithm.show(run.memory, stage.source, run.exp)
        for name, records in shown.items():
            workdir.write_lines(folder / f"{name}.jsonl", records)
    workdir.write(folder / "collect.json", json.dumps(values).encode())
    _write_rows(run, collected.rows)  # last: where they are, the round is collected


def _write_rows(run: Run, rows: workdir.Rows) -> None:
    path = _round_folder(run) / "rows.npz"
    if multihost.is_process_0() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_rows(path, rows, (run.memory, np.int64(run.position.samples)))


# ---- update: the M-step ------------------------------------------------------------------------


def _update(run: Run, rows: workdir.Rows, quiet: bool) -> Iterator[Event]:
    """This round's gradient updates; from the base model again where ``rounds.restart``."""
    run.resume_position = None
    stage = run.stage
    position = run.position
    n = position.round
    if n and position.update == 0 and run.cfg.rounds.restart:
        restart(run, run.base_params())
    elif n == 1 and position.update == 0:
        restart(run, run.state.params)  # the method begins with an optimiser of its own
    if stage is None or not rows:
        return
    total = stage.algorithm.num_updates(n, len(rows), stage.cfg)
    if position.update >= total:
        return
    stream = _batches(run, stage, rows)
    active = not quiet and multihost.is_process_0()
    with Progress("update", total, n, start=position.update, active=active) as progress:
        log = _UpdateLog(run, progress, total)
        while position.update < total:
            # Amid an update the old state is given away and the new one not yet there: Ctrl-C waits
            # until both state and position are of one update.
            with interrupts.defer_interrupts() as interrupted:
                logged = [log.follow(_one_update(run, stage, stream, total))]
                preempted = interrupts.preempted()
                stopping = preempted or interrupted.is_set()
                save_now = position.update % run.cfg.checkpoint.every == 0
                if stopping or (save_now and position.update < total):
                    logged.append(log.catch_up())
                    _write_rows(run, rows)  # the rest of a round is of no use without them
                    save(run)
                if preempted:
                    raise interrupts.Preempted
            yield from (event for event in logged if event)
        last = log.catch_up()
        if last:
            yield last


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
    if stage.cfg.rounds.online:
        return _Stream(None, pack(rows, multiple=cfg.batch_size, length=length))
    seed = cfg.seed * 4096 + run.position.round
    stream = batches(rows, batch_size=cfg.batch_size, length=length, seed=seed)
    iterator = iter(stream)
    if run.position.iterator is not None:
        iterator.set_state(run.position.iterator)
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
    with jax.transfer_guard("disallow"):  # nothing moves between host and device but by name
        parts = {key: x.reshape(-1, micro_batch, x.shape[-1]) for key, x in batch.items()}
        on_device = sharding.put(parts, run.exp.mesh, None, "batch", None)
        rate_on_device = sharding.put(np.float32(rate), run.exp.mesh)
        run.state, measured = stage.train_step(run.state, on_device, rate_on_device)
    position.update += 1
    position.iterator = stream.state()
    return _Update(number=position.update, learning_rate=rate, metrics=measured, batch=batch)


def _learning_rate(run: Run, stage: Stage, total: int) -> float:
    """That of the next update."""
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
        """Reads the update before this one, which has just been dispatched."""
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
        return _log(self.run, "update", named, step=self.first_step + update.number)

    def _fail(self, update: _Update) -> None:
        step = self.first_step + update.number
        path = self.run.dir / f"nonfinite_step_{step}.npz"
        if multihost.is_process_0():
            workdir.write_arrays(path, update.batch)
        raise NonFiniteError(
            f"Loss or gradient was not finite in {self.run.cfg.optim.max_skipped} updates in a row "
            f"(optim.max_skipped), the last at step {step}; its batch is in {path}."
        )


# ---- assess: evaluate, keep the best, save -----------------------------------------------------


def _assess(run: Run) -> Iterator[Event]:
    """Ends a round: validation, the best round so far, the test split now and then, a checkpoint.

    A side model, such as a verifier, is saved under its name instead, and does not compete.
    """
    cfg = run.cfg
    position = run.position
    n = position.round
    if position.update:  # else what was collected is read, and logged, again from the checkpoint
        note_position(run)
    if n == 0:
        checkpoint.save(run.dir / "base", 0, run.state.params, None, {"round": 0}, 1)
    side = run.side_model()
    if side:
        checkpoint.save(run.dir / side.name, n, run.state.params, None, {"round": n}, 1)
    else:
        yield _compete(run)
    position.finished = n == cfg.rounds.count or run.is_saturated()
    if not side and (position.finished or _is_tested(run, n)):
        yield _evaluate(run, "test", n, run.state.params)
    best = position.best_round
    if position.finished and best != n and not _is_tested(run, best):
        params, _ = checkpoint.load_params(run.dir, run.abstract.params)
        yield _evaluate(run, "test", best, params)
    if position.finished and n < cfg.rounds.count:
        multihost.print_once(
            f"no gain in {cfg.eval.split} accuracy for {cfg.rounds.patience} evaluations: "
            "stopping here."
        )
    position.round = n + 1
    position.update = 0
    position.iterator = None
    save(run)


def _is_tested(run: Run, round: int) -> bool:
    """Whether a round's model is evaluated on the test split, be it the last or not."""
    every = run.cfg.eval.test_every
    return round == 0 or (every > 0 and round % every == 0)


def _compete(run: Run) -> Event:
    """Whether this round's model is the best so far, by validation accuracy."""
    position = run.position
    n = position.round
    event = _evaluate(run, run.cfg.eval.split, n, run.state.params)
    accuracy = event.values["eval/accuracy"]
    least = position.best_accuracy + run.cfg.rounds.min_gain
    gained = position.best_round <= 0 or accuracy > least
    position.evaluations_without_gain = 0 if gained else position.evaluations_without_gain + 1
    if accuracy > position.best_accuracy:
        position.best_accuracy = accuracy
        position.best_round = n
        meta = {"round": n, "accuracy": accuracy}
        checkpoint.save(run.dir / "best", n, run.state.params, None, meta, 1)
    return event


def _evaluate(run: Run, split: str, round: int, params: Params) -> Event:
    """Greedy accuracy on a split, written down; the same questions and draws in every round."""
    roll = run.exp.rollout(params, f"evaluate {split}", round, temperature=0.0)
    values = accuracy_metrics(roll(run.exp.load_eval(split)), run.exp.task)
    # How many samples an earlier round had drawn is not known any more.
    samples = run.position.samples if round == run.position.round else None
    event = _log(run, "eval", values, round=round, split=split, samples=samples)
    levels = metrics.by_difficulty(values).items()
    parts = [f"{name} {value}: {metrics.percent(p)}" for (name, value), (p, _) in levels]
    listed = f" ({', '.join(parts)})" if parts else ""
    accuracy = metrics.percent(values["eval/accuracy"])
    multihost.print_once(f"round {round} {split} accuracy {accuracy}{listed}")
    return event


def _best_round(directory: Path) -> int:
    """The round with the highest accuracy on the split that chooses, the earliest of equals."""
    lines = [line for line in metrics.read(directory) if line["phase"] == "eval"]
    validations = [line for line in lines if line["split"] != "test"]
    best = max(validations, key=lambda line: (line["eval/accuracy"], -line["round"]))
    return best["round"]


def _accuracy_table(directory: Path) -> str:
    """Test accuracy of the base model and of the rounds that were tested."""
    lines = [line for line in metrics.read(directory) if line["phase"] == "eval"]
    tested = {line["round"]: line for line in lines if line["split"] == "test"}
    best = _best_round(directory)
    rows = []
    for n in sorted(tested):
        name = f"round {n}" if n else "base"
        if n == best and n:
            name += " (best)"
        rows.append((name, tested[n]))
    return metrics.accuracy_table(rows)
