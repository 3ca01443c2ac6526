"""The progress line."""

from __future__ import annotations

import collections
import datetime
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import rich.progress

PRINT_EVERY = 10.0  # seconds between two plain lines
RATE_WINDOW = 30.0  # seconds that the shown rate is of
UNITS = {"update": "updates", "train": "rounds"}  # what a phase counts, where it is not samples


class _Count(NamedTuple):
    time: float  # seconds, of a monotonic clock
    done: int
    tokens: int


class Progress:
    """How far a phase is.

    On a terminal it is a live bar, elsewhere a plain line at the start, every 10 s and at the end.
    ``with Progress("collect", 400, round=3) as p: p.update(16, kept=0.5)``; a resumed phase begins
    at ``start``.
    """

    def __init__(
        self,
        phase: str,
        total: int,
        round: int | None = None,
        start: int = 0,
        active: bool = True,
    ):
        self._title = phase if round is None else f"round {round} {phase}"
        self._unit = UNITS.get(phase, "samples")
        self._total = total
        self._active = active
        self._values: dict[str, float | int | str] = {}
        self._first = _Count(time=time.monotonic(), done=start, tokens=0)
        self._recent = collections.deque([self._first])
        self._shown_at = self._first.time
        self._bar: rich.progress.Progress | None = None
        if not active:
            return
        if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._bar = _bar(self._title, total, start)
        else:
            print(f"{self._title}: {start}/{total} {self._unit}", flush=True)

    def update(self, done: int, tokens: int | None = None, **values: float | int | str) -> None:
        """``done`` and ``tokens`` count from the beginning of the phase.

        ``values`` are shown by their names.
        """
        self._values |= values
        if tokens is None:
            tokens = self._recent[-1].tokens
        now = time.monotonic()
        self._recent.append(_Count(time=now, done=done, tokens=tokens))
        while now - self._recent[0].time > RATE_WINDOW and len(self._recent) > 2:
            self._recent.popleft()
        due = now - self._shown_at >= PRINT_EVERY and done < self._total
        if self._bar is not None or due:
            self._show(self._recent[0], now)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Also on Ctrl-C, so that the terminal gets its cursor and its streams back."""
        self._show(self._first, time.monotonic(), ended=True)
        if self._bar is not None:
            self._bar.stop()

    def _show(self, since: _Count, now: float, ended: bool = False) -> None:
        """The count, the rates since ``since``, the values and the time left, or taken."""
        last = self._recent[-1]
        self._shown_at = last.time
        seconds = max(now - since.time, 1e-9)
        rate = (last.done - since.done) / seconds
        parts = [f"{rate:.1f} {self._unit}/s"]
        if last.tokens > since.tokens:
            parts.append(f"{(last.tokens - since.tokens) / seconds:,.0f} tokens/s")
        for key, value in self._values.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{key} {text}")
        if ended:
            parts.append(f"took {datetime.timedelta(seconds=round(seconds))}")
        elif rate > 0:
            left = round((self._total - last.done) / rate)
            parts.append(f"{datetime.timedelta(seconds=left)} left")
        line = " | ".join(parts)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=last.done, text=line)
        elif self._active:
            print(f"{self._title}: {last.done}/{self._total} {line}", flush=True)


def _bar(title: str, total: int, start: int) -> rich.progress.Progress:
    from rich import console, progress

    bar = progress.Progress(
        "[bold]{task.description}",
        progress.BarColumn(20),
        "{task.completed}/{task.total} {task.fields[text]}",
        console=console.Console(),
        refresh_per_second=5,
    )
    bar.add_task(title, total=total, completed=start, text="")
    bar.start()
    return bar
