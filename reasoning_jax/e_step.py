"""The E-step of a round: what its method collects, on disk before anything is trained on it."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np

from reasoning_jax import multihost, rows_file, workdir
from reasoning_jax.algorithms import Collected
from reasoning_jax.errors import UserError
from reasoning_jax.evaluation import summary
from reasoning_jax.events import Event, log, warn
from reasoning_jax.run_state import Run, Stage, note_position
from reasoning_jax.sampling import engine

CollectResult = tuple[workdir.Rows, dict[str, float]]  # the rows; what the progress line shows


def collect(run: Run, quiet: bool) -> Generator[Event, None, CollectResult]:
    """The rows of this round: from disk where an earlier start collected them, else anew."""
    if run.stage is None:
        return [], {}
    note_position(run)
    folder = _round_folder(run)
    if multihost.broadcast_from_process_0((folder / "rows.npz").exists):
        rows, event = _read_collected(run, folder)
        if event:
            yield event
        return rows, {}
    if run.position.update:
        raise UserError(f"{folder / 'rows.npz'}: the rows that this round trains on are gone.")
    began = time.monotonic()
    first, collected = _ask_method(run, run.stage, quiet)
    run.memory = collected.memory if run.position.round else run.memory
    values = _collect_values(run, first, collected, time.monotonic() - began)
    yield log(run, "collect", values)
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


def _read_collected(run: Run, folder: Path) -> tuple[workdir.Rows, Event | None]:
    """The rows on disk; and the event, where the collection is logged again."""
    position = run.position
    like = (run.memory, np.int64(0))
    keys = {"tokens", "weights"}
    if run.stage is not None and run.side_model() is None:
        keys.update(run.stage.algorithm.BATCH)
    rows, memory = rows_file.read_rows(folder / "rows.npz", like, position.round, keys)
    run.memory, samples = memory
    position.samples = int(samples)
    # The log has lost its line where no checkpoint came after it.
    path = folder / "collect.json"
    if position.update == 0 and path.exists():
        return rows, log(run, "collect", _read_values(path))
    return rows, None


def _read_values(path: Path) -> dict[str, float]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        values = None
    is_well = isinstance(values, dict) and all(type(x) in (int, float) for x in values.values())
    if not is_well:
        raise UserError(f"{path}: this file, what the round's collection has logged, is damaged.")
    return values


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
        values["tokens_per_second"] = sum(s.num_drawn for s in drawn) / seconds
        values["compilations"] = engine.compilations()
    if first:
        values |= first.stats
    return {f"collect/{name}": float(value) for name, value in values.items()}


def _warn_of_collected(run: Run, collected: Collected, values: Mapping[str, float]) -> None:
    n = run.position.round
    truncated = values.get("collect/truncated", 0.0)
    if truncated > 0.2:
        limit = run.cfg.sampling.max_new_tokens
        warn(
            f"round {n}: {truncated:.0%} of the samples were cut off at "
            f"sampling.max_new_tokens={limit}."
        )
    least = run.cfg.rounds.min_kept_rows
    if n and len(collected.rows) < least:
        warn(f"round {n} kept {len(collected.rows)} rows, fewer than rounds.min_kept_rows={least}.")
    for sentence in collected.warnings:
        warn(f"round {n}: {sentence}")


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
        shown = stage.algorithm.show(run.memory, stage.source, run.exp.task, run.exp.tokenizer)
        for name, records in shown.items():
            workdir.write_lines(folder / f"{name}.jsonl", records)
    workdir.write(folder / "collect.json", json.dumps(values).encode())
    write_rows(run, collected.rows)  # last: where they are, the round is collected


def write_rows(run: Run, rows: workdir.Rows) -> None:
    path = _round_folder(run) / "rows.npz"
    if multihost.is_process_0() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = (run.memory, np.int64(run.position.samples))
        rows_file.write_rows(path, rows, memory, run.position.round)
