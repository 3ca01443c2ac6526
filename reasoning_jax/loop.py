"""The one loop: collect, update, evaluate, save; and again. It knows no method, task or model by name.

Killed at any moment and started again, a run ends with the same bits: what is random is a function of the seed, the round
and the example; a round's rows are on disk before its updates begin, or are collected again from the same checkpoint; a
checkpoint is complete or it does not exist.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import (
    checkpoint,
    data,
    evaluate,
    interrupts,
    metrics,
    optim,
    processes,
    report,
    rollout,
    sampling,
    sharding,
    update,
    workdir,
)
from reasoning_jax.algorithms import sft
from reasoning_jax.run import Run, mark, restart, save, start, stop


def train(cfg: ConfigDict, directory: Path) -> None:
    """Runs the experiment to its end, going on where it stopped; says so where it is finished.

    Preempted where SIGTERM told the run to stop, which is then saved.
    """
    run = start(cfg, directory)
    with interrupts.heed():
        try:
            _rounds(run)
        except interrupts.Preempted:
            stop(run)
            raise
    run.writer.close()
    if processes.first():
        print(_table(directory), flush=True)
        best = f"best round by {cfg.eval.split} accuracy: {run.position.best_round}"
        print(f"{best}; report: {report.write(directory)}", flush=True)


def _rounds(run: Run) -> None:
    cfg, p, every = run.cfg, run.position, run.cfg.eval.every
    while not p.finished:
        short = p.round > 0 and every > 1  # many short rounds between two evaluations: one progress line for them all
        rounds = min(every - (p.round - 1) % every, cfg.algorithm.num_rounds - p.round + 1) if short else 1
        with metrics.Progress("train", rounds, active=short and processes.first()) as progress:
            for done in range(1, rounds + 1):
                rows, shown = _collect(run, quiet=short)
                _update(run, rows, quiet=short)
                progress.update(done, round=p.round, samples=p.samples, **shown)
                if not run.due():
                    _next_round(run)
        _assess(run)


def _next_round(run: Run) -> None:
    """After a round that is not evaluated; it is saved where checkpoint.every says so."""
    p = run.position
    p.round, p.update, p.iterator = p.round + 1, 0, None
    if int(run.state.step) % run.cfg.checkpoint.every == 0:
        save(run)


# ---- collect: the E-step ---------------------------------------------------------------------------------------------


def _collect(run: Run, quiet: bool) -> tuple[workdir.Rows, dict[str, float]]:
    """The rows of this round, from disk where a former start has collected them, else from the algorithm; what to show."""
    p, cfg, exp = run.position, run.cfg, run.exp
    n = p.round
    if n == 0 and cfg.base.num_updates == 0:
        return [], {}
    mark(run)
    folder = run.dir / "rounds" / f"{n:04d}"
    if processes.of_first((folder / "rows.npz").exists):
        rows, (run.memory, drawn) = workdir.read_rows(folder / "rows.npz", (run.memory, np.int64(0)))
        p.samples = int(drawn)
        if p.update == 0 and (folder / "collect.json").exists():  # a line that the log lost: no checkpoint came after it
            run.writer.write(int(run.state.step), n, "collect", json.loads((folder / "collect.json").read_text()))
        return rows, {}
    source = run.source if n else exp.load(cfg.base.split)
    count = cfg.algorithm.examples_per_round if n else 0
    indices = data.examples_for_round(len(source), count, cfg.seed, n - 1) if count else range(len(source))
    method, began, memory, first = run.algorithm if n else sft, time.monotonic(), run.memory, []
    if n == 1 and hasattr(method, "begin"):
        memory, first = method.begin(exp.rollout(run.state.params, "begin", n), source, memory, cfg)
    roll = exp.rollout(run.state.params, "collect", n, quiet=quiet, reference=run.reference)
    rows, run.memory, told = method.collect(roll, [source[int(i)] for i in indices], memory, n, cfg)

    unhinted = [s for s in told.samples if not s.hinted]
    values = told.values | (rollout.summary(unhinted, exp.task) if unhinted else {})
    p.samples += len(told.samples) + len(first)
    values["seconds"] = seconds = time.monotonic() - began
    if told.samples:
        values["samples_drawn"] = p.samples
        values["samples_per_second"] = (len(told.samples) + len(first)) / seconds
        values["tokens_per_second"] = sum(len(s.tokens) for s in [*told.samples, *first]) / seconds
        values["compilations"] = sampling.compilations()
    if first:
        values["first_states_correct"] = sum(s.correct for s in first) / len(first)
    values = {f"collect/{k}": float(v) for k, v in values.items()}
    run.writer.write(int(run.state.step), n, "collect", values)
    if run.due() or n == 1:
        if (cut := values.get("collect/truncated", 0.0)) > 0.2:
            _warn(f"round {n}: {cut:.0%} of the samples were cut off at sampling.max_new_tokens={cfg.sampling.max_new_tokens}.")
        if n and len(rows) < cfg.algorithm.min_kept_rows:
            _warn(f"round {n} kept {len(rows)} rows, fewer than algorithm.min_kept_rows={cfg.algorithm.min_kept_rows}.")
        for sentence in told.warnings:
            _warn(f"round {n}: {sentence}")
    if (run.due() or n == 1) and processes.first():
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_samples(folder / "samples.jsonl", [*first, *told.samples], told.kept, exp.task)
        if hasattr(method, "show"):
            workdir.write_lines(folder / "chains.jsonl", method.show(run.memory, source, exp))
        workdir.write(folder / "collect.json", json.dumps(values).encode())
        _write_rows(run, rows)  # last: where they are, the round is collected
    return rows, {"correct": values["collect/correct"]} if "collect/correct" in values else {}


def _write_rows(run: Run, rows: workdir.Rows) -> None:
    path = run.dir / "rounds" / f"{run.position.round:04d}" / "rows.npz"
    if processes.first() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_rows(path, rows, (run.memory, np.int64(run.position.samples)))


def _warn(sentence: str) -> None:
    processes.say(f"WARNING: {sentence}", file=sys.stderr)


# ---- update: the M-step ----------------------------------------------------------------------------------------------


def _update(run: Run, rows: workdir.Rows, quiet: bool) -> None:
    """This round's gradient updates; from the base model again where ``algorithm.restart``."""
    cfg, exp, p = run.cfg, run.exp, run.position
    n, method = p.round, run.algorithm if p.round else sft
    run.back = None
    if n and p.update == 0 and cfg.algorithm.restart:
        restart(run, run.base())
    elif n == 1 and p.update == 0:
        restart(run, run.state.params)  # the method begins with an optimiser of its own
    total = method.num_updates(n, len(rows), cfg) if rows else 0
    if p.update >= total:
        return
    if method not in run.compiled:
        run.compiled[method] = update.make_update(method, exp.model_cfg, optim.make(cfg.optim), cfg)
    step, online = run.compiled[method], n > 0 and cfg.algorithm.online
    if online:
        whole = data.pack(rows, multiple=cfg.batch_size, length=cfg.sequence_length)
    else:
        batches = iter(data.batches(rows, batch_size=cfg.batch_size, length=cfg.sequence_length, seed=cfg.seed * 4096 + n))
        if p.iterator is not None:
            batches.set_state(p.iterator)
    peak = side[1] if (side := run.side_model()) else cfg.optim.learning_rate if n else cfg.base.learning_rate
    pending, tokens = None, 0
    show = {"start": p.update, "active": not quiet and processes.first()}
    # Amid an update the old state is given away and the new one not yet there: Ctrl-C waits until both state and position
    # are of one update.
    with interrupts.wait() as interrupted, metrics.Progress("update", total, n, **show) as progress:
        log = _UpdateLog(run, progress, total)
        while p.update < total:
            batch = whole if online else next(batches)
            tokens += int((batch["segment_ids"] > 0).sum())
            # A method whose rounds are single minibatches has one schedule for all of them.
            past, planned = ((n - 1) * total, cfg.algorithm.num_rounds * total) if online else (0, total)
            rate = optim.learning_rate(cfg.optim, peak, past + p.update, planned)
            with jax.transfer_guard("disallow"):  # nothing moves between host and device but by name
                size = cfg.batch_size // cfg.micro_batches
                parts = {k: v.reshape(-1, size, v.shape[-1]) for k, v in batch.items()}
                on_device = sharding.put(parts, exp.mesh, None, "batch", None)
                run.state, measured = step(run.state, on_device, sharding.put(np.float32(rate), exp.mesh))
            p.update, p.iterator = p.update + 1, None if online else batches.get_state()
            if pending is not None:  # this update runs while the one before it is read
                log(*pending)
            pending = p.update, tokens, rate, measured, batch
            told = interrupts.preempted()
            stopping = told or interrupted.is_set()
            if stopping or (p.update % cfg.checkpoint.every == 0 and p.update < total):
                log(*pending)
                pending = None
                _write_rows(run, rows)  # the rest of a round is of no use without them
                save(run)
            if told:
                raise interrupts.Preempted
            if stopping:
                break
        if pending is not None:
            log(*pending)


class _UpdateLog:
    """Reads an update's metrics, shows and writes them, and stops the run where the numbers have failed."""

    def __init__(self, run: Run, progress: metrics.Progress, total: int):
        self.run, self.progress, self.total = run, progress, total
        self.first_step = int(run.state.step) - run.position.update
        self.since = (time.monotonic(), 0)

    def __call__(self, done: int, tokens: int, rate: float, measured: dict, batch: dict) -> None:
        cfg, n = self.run.cfg, self.run.position.round
        values = {k: float(v) for k, v in jax.device_get(measured).items()}
        self.progress.update(done, tokens=tokens, loss=values["loss"])
        if values["skipped_in_a_row"] >= cfg.optim.max_skipped:
            path = self.run.dir / f"nonfinite_step_{self.first_step + done}.npz"
            if processes.first():
                workdir.write_arrays(path, batch)
            raise FloatingPointError(
                f"Loss or gradient was not finite in {cfg.optim.max_skipped} updates in a row (optim.max_skipped), the last "
                f"at step {self.first_step + done}; its batch is in {path}."
            )
        if done % cfg.log_every == 0 or done == self.total:
            seconds = time.monotonic() - self.since[0]
            values |= {"learning_rate": rate, "tokens_per_second": (tokens - self.since[1]) / max(seconds, 1e-9)}
            self.since = (time.monotonic(), tokens)
            self.run.writer.write(self.first_step + done, n, "update", {f"update/{k}": v for k, v in values.items()})


# ---- assess: evaluate, keep the best, save ---------------------------------------------------------------------------


def _assess(run: Run) -> None:
    """Ends a round: validation accuracy, the best round so far, the test split now and then, and the checkpoint.

    A side model, such as a verifier, is saved under its name instead, and does not compete with the others.
    """
    cfg, p, n = run.cfg, run.position, run.position.round
    if p.update:  # else what has been collected is read again, and logged again, from the checkpoint before
        mark(run)
    if n == 0:
        checkpoint.save(run.dir / "base", 0, run.state.params, None, {"round": 0}, 1)
    if side := run.side_model():
        checkpoint.save(run.dir / side[0], n, run.state.params, None, {"round": n}, 1)
    else:
        _compete(run)
    p.finished = n == cfg.algorithm.num_rounds or run.saturated()

    def tested(round: int) -> bool:
        return round == 0 or (cfg.eval.test_every > 0 and round % cfg.eval.test_every == 0)

    if not side and (p.finished or tested(n)):
        _evaluate(run, "test", n, run.state.params)
    if p.finished and p.best_round != n and not tested(p.best_round):
        _evaluate(run, "test", p.best_round, checkpoint.load_params(run.dir, run.abstract.params)[0])
    if p.finished and n < cfg.algorithm.num_rounds:
        processes.say(f"no gain in {cfg.eval.split} accuracy for {cfg.algorithm.patience} evaluations: stopping here.")
    p.round, p.update, p.iterator = n + 1, 0, None
    save(run)


def _compete(run: Run) -> None:
    """Whether this round's model is the best so far, by validation accuracy."""
    cfg, p, n = run.cfg, run.position, run.position.round
    accuracy = _evaluate(run, cfg.eval.split, n, run.state.params)
    gained = p.best_round <= 0 or accuracy > p.best_accuracy + cfg.algorithm.min_gain
    p.evaluations_without_gain = 0 if gained else p.evaluations_without_gain + 1
    if accuracy > p.best_accuracy:
        p.best_accuracy, p.best_round = accuracy, n
        checkpoint.save(run.dir / "best", n, run.state.params, None, {"round": n, "accuracy": accuracy}, 1)


def _evaluate(run: Run, split: str, round: int, params: Any) -> float:
    """Greedy accuracy on a split, written down; the same questions and draws in every round."""
    roll = run.exp.rollout(params, f"evaluate {split}", round, sampling.Greedy())
    values = evaluate.accuracy_metrics(roll(run.exp.load_eval(split)), run.exp.task)
    drawn = run.position.samples if round == run.position.round else None  # of an earlier round: not known any more
    run.writer.write(int(run.state.step), round, "eval", values, split=split, samples=drawn)
    levels = metrics.by_difficulty(values).items()
    parts = ", ".join(f"{name} {value}: {metrics.percent(accuracy)}" for (name, value), (accuracy, _) in levels)
    processes.say(f"round {round} {split} accuracy {metrics.percent(values['eval/accuracy'])} ({parts})")
    return values["eval/accuracy"]


def _table(directory: Path) -> str:
    """Test accuracy of the base model and of the rounds that were tested."""
    lines = [m for m in metrics.read(directory) if m["phase"] == "eval"]
    tested = {m["round"]: m for m in lines if m["split"] == "test"}
    best = max((m["eval/accuracy"], -m["round"]) for m in lines if m["split"] != "test")
    names = {n: "base" if n == 0 else f"round {n}" + " (best)" * (n == -best[1]) for n in sorted(tested)}
    return metrics.accuracy_table([(names[n], tested[n]) for n in names])
