"""The one loop: collect, update, evaluate, save; and again. It knows no method, task or model by name.

Killed at any moment and started again, a run ends with the same bits: what is random is a function of the seed, the round
and the example; a round's rows are on disk before its updates begin; a checkpoint is complete or it does not exist.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import (
    algorithms,
    checkpoint,
    data,
    evaluate,
    experiment,
    interrupts,
    metrics,
    optim,
    report,
    rollout,
    sampling,
    sharding,
    state,
    update,
    workdir,
)
from reasoning_jax.algorithms import sft


@dataclasses.dataclass
class Position:
    """Where a run is: the JSON part of every checkpoint."""

    round: int = 0  # the round in progress; round 0 trains the base model
    update: int = 0  # updates of this round that are done
    iterator: dict | None = None  # state of the round's stream of batches
    metrics_bytes: int = 0  # length of metrics.jsonl
    best_round: int = -1
    best_accuracy: float = -1.0
    rounds_without_gain: int = 0
    finished: bool = False


@dataclasses.dataclass
class Run:
    """A run in progress."""

    cfg: ConfigDict
    dir: Path
    exp: experiment.Experiment
    algorithm: ModuleType
    writer: metrics.Writer
    abstract: state.TrainState
    state: state.TrainState
    memory: Any
    position: Position


def train(cfg: ConfigDict, directory: Path) -> None:
    """Runs the experiment to its end, going on where it stopped; says so where it is finished."""
    run = _start(cfg, directory)
    while not run.position.finished:
        rows = _collect(run)
        _update(run, rows)
        _assess(run)
    run.writer.close()
    print(_table(directory), flush=True)
    print(f"best round by {cfg.eval.split} accuracy: {run.position.best_round}; report: {report.write(directory)}", flush=True)


# ---- start -----------------------------------------------------------------------------------------------------------


def _start(cfg: ConfigDict, directory: Path) -> Run:
    """The newest checkpoint, or a new run from ``base.init_from`` or random parameters."""
    exp = experiment.make(cfg)
    algorithm = algorithms.get(cfg.algorithm.name)
    for split in [*([cfg.base.split] if cfg.base.num_updates else []), cfg.eval.split, "test"]:
        exp.load(split)  # what is wrong with the data is said now, not in the round that first reads it
    memory = algorithm.init_memory(cfg, len(exp.load(cfg.algorithm.split)))
    algorithm.num_updates(1, 1, cfg)
    workdir.claim(cfg, directory)
    writer = metrics.Writer(directory, active=jax.process_index() == 0)
    abstract = exp.abstract_state()
    rest = {"state": abstract.replace(params=()), "memory": memory}
    if found := checkpoint.restore(directory / "checkpoints", abstract.params, rest):
        params, rest, meta = found
        run = Run(cfg, directory, exp, algorithm, writer, abstract, rest["state"].replace(params=params), rest["memory"],
                  Position(**meta))  # fmt: skip
        p = run.position
        p.finished &= p.round > cfg.algorithm.num_rounds or _saturated(run)  # it may have been given more rounds
        if p.finished:
            print(f"{directory}: this run is finished.", flush=True)
        else:
            writer.truncate(p.metrics_bytes, int(run.state.step))
            print(f"{directory}: going on in round {p.round} after {p.update} updates.", flush=True)
        return run
    writer.truncate(0, 0)
    optimizer = optim.make(cfg.optim)
    train_state = state.init(cfg.seed, exp.model_cfg, optimizer, exp.mesh)
    if cfg.base.init_from:
        params, _ = checkpoint.load_params(Path(cfg.base.init_from), abstract.params)
        train_state = _restarted(train_state, params, optimizer, abstract)
    return Run(cfg, directory, exp, algorithm, writer, abstract, train_state, memory, Position())


def _restarted(old: state.TrainState, params: Any, optimizer: Any, abstract: state.TrainState) -> state.TrainState:
    """These parameters with a fresh optimiser; the counts of updates go on."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    new = jax.jit(lambda p: state.fresh(p, optimizer), out_shardings=shardings)(params)
    return new.replace(step=old.step, skipped=old.skipped)


def _save(run: Run) -> None:
    run.position.metrics_bytes = run.writer.size()
    rest = {"state": run.state.replace(params=()), "memory": run.memory}
    number = int(run.state.step) + run.position.round  # so that a round's end differs from its last update
    meta = dataclasses.asdict(run.position)
    checkpoint.save(run.dir / "checkpoints", number, run.state.params, rest, meta, run.cfg.checkpoint.keep)


# ---- collect: the E-step ---------------------------------------------------------------------------------------------


def _collect(run: Run) -> workdir.Rows:
    """The rows of this round: from disk where a former start has collected them, else from the algorithm."""
    n, cfg, exp = run.position.round, run.cfg, run.exp
    if n == 0 and cfg.base.num_updates == 0:
        return []
    folder = run.dir / "rounds" / f"{n:04d}"
    if (folder / "rows.npz").exists():
        rows, run.memory = workdir.read_rows(folder / "rows.npz", run.memory)
        return rows
    source = exp.load(cfg.algorithm.split if n else cfg.base.split)
    count = cfg.algorithm.examples_per_round if n else 0
    indices = data.examples_for_round(len(source), count, cfg.seed, n - 1) if count else range(len(source))
    method, began = run.algorithm if n else sft, time.monotonic()
    examples = [source[int(i)] for i in indices]
    rows, run.memory, told = method.collect(exp.rollout(run.state.params, "collect", n), examples, run.memory, n, cfg)

    unhinted = [s for s in told.samples if not s.hinted]
    values = told.values | (rollout.summary(unhinted, exp.task) if unhinted else {})
    values["seconds"] = seconds = time.monotonic() - began
    if told.samples:
        values["samples_per_second"] = len(told.samples) / seconds
        values["tokens_per_second"] = sum(len(s.tokens) for s in told.samples) / seconds
        values["compilations"] = sampling.compilations()
    run.writer.write(int(run.state.step), n, "collect", {f"collect/{k}": v for k, v in values.items()})
    if (cut := values.get("truncated", 0.0)) > 0.2:
        _warn(f"round {n}: {cut:.0%} of the samples were cut off at sampling.max_new_tokens={cfg.sampling.max_new_tokens}.")
    if n and len(rows) < cfg.algorithm.min_kept_rows:
        _warn(f"round {n} kept {len(rows)} rows, fewer than algorithm.min_kept_rows={cfg.algorithm.min_kept_rows}.")
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_samples(folder / "samples.jsonl", told, exp.task)
        workdir.write_rows(folder / "rows.npz", rows, run.memory)  # last: where it is, the round is collected
    return rows


def _warn(sentence: str) -> None:
    if jax.process_index() == 0:
        print(f"WARNING: {sentence}", file=sys.stderr, flush=True)


# ---- update: the M-step ----------------------------------------------------------------------------------------------


def _update(run: Run, rows: workdir.Rows) -> None:
    """This round's gradient updates; from the base model again where ``algorithm.restart``."""
    cfg, exp, p = run.cfg, run.exp, run.position
    n, method, optimizer = p.round, run.algorithm if p.round else sft, optim.make(cfg.optim)
    if n and cfg.algorithm.restart and p.update == 0:
        found = checkpoint.restore(run.dir / "base", run.abstract.params)
        if found is None:
            raise FileNotFoundError(f"{run.dir / 'base'}: the base model, which every round trains again, is gone.")
        run.state = _restarted(run.state, found[0], optimizer, run.abstract)
    total = method.num_updates(n, len(rows), cfg) if rows else 0
    if p.update >= total:
        return
    step = update.make_update(method, exp.model_cfg, optimizer, cfg)
    batches = iter(data.batches(rows, batch_size=cfg.batch_size, length=cfg.sequence_length, seed=cfg.seed * 4096 + n))
    if p.iterator is not None:
        batches.set_state(p.iterator)
    peak = cfg.optim.learning_rate if n else cfg.base.learning_rate
    pending, tokens = None, 0
    show = {"start": p.update, "active": jax.process_index() == 0}
    # Amid an update the old state is given away and the new one not yet there: Ctrl-C waits until both state and position
    # are of one update.
    with interrupts.wait() as interrupted, metrics.Progress("update", total, n, **show) as progress:
        log = _UpdateLog(run, progress, total)
        while p.update < total:
            batch = next(batches)
            tokens += int((batch["segment_ids"] > 0).sum())
            rate = optim.learning_rate(cfg.optim, peak, p.update, total)
            with jax.transfer_guard("disallow"):  # nothing moves between host and device but by name
                parts = {k: v.reshape(cfg.micro_batches, -1, v.shape[-1]) for k, v in batch.items()}
                on_device = sharding.put(parts, exp.mesh, None, "batch", None)
                run.state, measured = step(run.state, on_device, sharding.put(np.float32(rate), exp.mesh))
            p.update, p.iterator = p.update + 1, batches.get_state()
            if pending is not None:  # this update runs while the one before it is read
                log(*pending)
            pending = p.update, tokens, rate, measured, batch
            stopping = interrupted.is_set()
            if stopping or (p.update % cfg.checkpoint.every == 0 and p.update < total):
                log(*pending)
                pending = None
                _save(run)
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
            np.savez(path, **batch)
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
    """Ends a round: validation accuracy, the best round so far, the test split now and then, and the checkpoint."""
    cfg, p, n = run.cfg, run.position, run.position.round
    if n == 0:
        checkpoint.save(run.dir / "base", 0, run.state.params, None, {"round": 0}, 1)
    accuracy = _evaluate(run, cfg.eval.split, n, run.state.params)
    p.rounds_without_gain = 0 if n <= 1 or accuracy > p.best_accuracy + cfg.algorithm.min_gain else p.rounds_without_gain + 1
    if accuracy > p.best_accuracy:
        p.best_accuracy, p.best_round = accuracy, n
        checkpoint.save(run.dir / "best", n, run.state.params, None, {"round": n, "accuracy": accuracy}, 1)
    p.finished = n == cfg.algorithm.num_rounds or _saturated(run)
    if n == 0 or p.finished or (cfg.eval.test_every and n % cfg.eval.test_every == 0):
        _evaluate(run, "test", n, run.state.params)
    if p.finished and p.best_round != n:
        _evaluate(run, "test", p.best_round, checkpoint.load_params(run.dir, run.abstract.params)[0])
    if p.finished and n < cfg.algorithm.num_rounds:
        print(f"no gain in {cfg.eval.split} accuracy for {cfg.algorithm.patience} rounds: stopping here.", flush=True)
    p.round, p.update, p.iterator = n + 1, 0, None
    _save(run)


def _saturated(run: Run) -> bool:
    return 0 < run.cfg.algorithm.patience <= run.position.rounds_without_gain


def _evaluate(run: Run, split: str, round: int, params: Any) -> float:
    """Greedy accuracy on a split, written down; the same questions and draws in every round."""
    roll = run.exp.rollout(params, f"evaluate {split}", round, sampling.Greedy())
    values = evaluate.accuracy_metrics(roll(run.exp.load_eval(split)), run.exp.task)
    run.writer.write(int(run.state.step), round, "eval", values, split=split)
    levels = metrics.by_difficulty(values).items()
    parts = ", ".join(f"{name} {value}: {metrics.percent(accuracy)}" for (name, value), (accuracy, _) in levels)
    print(f"round {round} {split} accuracy {metrics.percent(values['eval/accuracy'])} ({parts})", flush=True)
    return values["eval/accuracy"]


def _table(directory: Path) -> str:
    """Test accuracy of the base model and of the rounds that were tested."""
    lines = [m for m in metrics.read(directory) if m["phase"] == "eval"]
    tested = {m["round"]: m for m in lines if m["split"] == "test"}
    best = max((m["eval/accuracy"], -m["round"]) for m in lines if m["split"] != "test")
    names = {n: "base" if n == 0 else f"round {n}" + " (best)" * (n == -best[1]) for n in sorted(tested)}
    return metrics.accuracy_table([(names[n], tested[n]) for n in names])
