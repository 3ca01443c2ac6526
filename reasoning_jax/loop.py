"""The one loop: collect, update, assess; and again. It knows no method, task or model by name.

Killed at any moment and started again, a run ends with the same bits: what is random is a function
of the seed, the round and the example; a round's rows are on disk before its updates begin, or are
collected again from the same checkpoint; a checkpoint is complete or it does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import algorithms, interrupts, metrics, multihost, report
from reasoning_jax.assessment import assess
from reasoning_jax.e_step import collect
from reasoning_jax.errors import UserError
from reasoning_jax.events import Event
from reasoning_jax.json_object import Line
from reasoning_jax.m_step import update
from reasoning_jax.progress import Progress
from reasoning_jax.run_state import Run, save, stop
from reasoning_jax.starting import start


def train(cfg: ConfigDict, directory: Path) -> None:
    """Runs the experiment to its end, going on where it stopped; says so where it is finished.

    Preempted where SIGTERM told the run to stop, which is then saved.
    """
    for _ in events(cfg, directory):
        pass
    if multihost.is_process_0():
        evaluations = _evaluations(directory)
        if algorithms.get(cfg.algorithm.name).SELECTS_BEST:
            best = _best_round(evaluations)
            print(_accuracy_table(evaluations, best), flush=True)
            print(f"best round by {cfg.eval.split} accuracy: {best}", end="; ")
        else:
            print(_accuracy_table(evaluations, best=0), flush=True)  # no round is marked
        print(f"report: {directory / 'report.html'}", flush=True)


def events(cfg: ConfigDict, directory: Path) -> Iterator[Event]:
    """``train`` as an iterator over what it logs.

    Where the caller stops iterating, the run is as if it had been killed there.
    """
    run = start(cfg, directory)
    try:
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
    finally:
        run.lock.release()


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
                rows, shown = yield from collect(run, quiet=short)
                yield from update(run, rows, quiet=short)
                progress.update(done, round=position.round, samples=position.samples, **shown)
                if not run.is_due():
                    _next_round(run)
        yield from assess(run)


def _next_round(run: Run) -> None:
    """After a round that is not evaluated; it is saved where checkpoint.every says so."""
    position = run.position
    position.round += 1
    position.update = 0
    position.iterator = None
    if int(run.state.step) % run.cfg.checkpoint.every == 0:
        save(run)


def _evaluations(directory: Path) -> list[Line]:
    """The lines of metrics.jsonl that are of evaluations; UserError where some are gone."""
    keys = {"round", "split", "eval/accuracy"}
    lines = [line for line in metrics.lines(directory) if line.get("phase") == "eval"]
    whole = [line for line in lines if keys <= line.keys()]
    if len(whole) < len(lines) or all(line["split"] == "test" for line in whole):
        raise UserError(f"{directory / 'metrics.jsonl'}: lines of this run's evaluations are gone.")
    return whole


def _best_round(evaluations: Sequence[Line]) -> int:
    """The round with the highest accuracy on the split that chooses, the earliest of equals."""
    validations = [line for line in evaluations if line["split"] != "test"]
    best = max(validations, key=lambda line: (line["eval/accuracy"], -line["round"]))
    return best["round"]


def _accuracy_table(evaluations: Sequence[Line], best: int) -> str:
    """Test accuracy of the base model and of the rounds that were tested."""
    tested = {line["round"]: line for line in evaluations if line["split"] == "test"}
    rows = []
    for n in sorted(tested):
        name = f"round {n}" if n else "base"
        if n == best and n:
            name += " (best)"
        rows.append((name, tested[n]))
    return metrics.accuracy_table(rows)
