"""What a run tells while it trains: the lines of metrics.jsonl, as they are written."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping

from reasoning_jax import multihost
from reasoning_jax.run_state import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A line of metrics.jsonl, as it is written."""

    phase: str  # collect, update or eval
    round: int
    step: int  # updates so far
    values: Mapping[str, float]  # collect/*, update/* or eval/*
    split: str | None = None  # of an evaluation


def log(
    run: Run,
    phase: str,
    values: Mapping[str, float],
    *,
    step: int | None = None,
    round: int | None = None,
    split: str | None = None,
    samples: int | None = None,
) -> Event:
    """Writes a line of metrics.jsonl; step and round: None is where the run is.

    split, samples: of an evaluation, and how many samples had been drawn by then, where known.
    """
    step = int(run.state.step) if step is None else step
    round = run.position.round if round is None else round
    if phase == "eval":
        run.writer.write(step, round, phase, values, split=split, samples=samples)
    else:
        run.writer.write(step, round, phase, values)
    return Event(phase=phase, round=round, step=step, values=values, split=split)


def warn(sentence: str) -> None:
    """Prints a warning, once."""
    multihost.print_once(f"WARNING: {sentence}", file=sys.stderr)
