"""What a run tells: metrics.jsonl, TensorBoard scalars, the progress line, the accuracy table."""

from __future__ import annotations

import collections
import datetime
import errno
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from reasoning_jax import workdir

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Writer:
    """Appends to ``directory``'s metrics.jsonl and TensorBoard events; does nothing unless ``active`` (process 0)."""

    def __init__(self, directory: str | os.PathLike[str], active: bool = True):
        self._path, self._active = workdir.path(directory) / "metrics.jsonl", active
        self._file: Any = None
        self._board: Any = None
        self._purge_step: int | None = None

    def write(self, step: int, round: int, phase: str, values: Mapping[str, Any], **fields: Any) -> None:
        """One line and one scalar for each of ``values`` (anything ``float`` takes; None is left out)."""
        if not self._active:
            return
        line = {"step": int(step), "round": int(round), "phase": phase, "time": time.time(), **fields}
        line |= {key: _number(key, value) for key, value in jax.device_get(dict(values)).items() if value is not None}
        # JSON has no NaN: a float that is not finite goes by its name.
        named = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        data = json.dumps(named, allow_nan=False).encode() + b"\n"
        try:
            if self._open().write(data) < len(data):  # a disk that fills up takes a part and does not complain
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._scalars(line)

    def _open(self) -> Any:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is there or it is not.
            self._file = open(self._path, "ab", buffering=0) if workdir.is_local(self._path) else _Object(self._path)
        return self._file

    def size(self) -> int:
        """Bytes of metrics.jsonl so far: what a checkpoint remembers and ``truncate`` takes."""
        if not self._active or (self._file is None and not self._path.exists()):
            return 0
        return self._path.stat().st_size if workdir.is_local(self._path) else self._open().tell()

    def flush(self) -> None:
        """Before a checkpoint that remembers ``size``: an object store gets the lines only now and then."""
        if self._file is not None:
            self._file.flush()

    def truncate(self, size: int, step: int) -> None:
        """Forget what was logged after a checkpoint that stood at ``size`` bytes and ``step`` updates."""
        self.close()
        self._purge_step = step
        if not self.size():
            return
        if workdir.is_local(self._path):
            with open(self._path, "r+b") as file:
                file.truncate(file.read(size).rfind(b"\n") + 1)
        else:
            content = self._path.read_bytes()[:size]
            workdir.write(self._path, content[: content.rfind(b"\n") + 1])
            self._file = None
        # TensorBoard forgets by step, and part of this very step may precede the checkpoint: say that part again.
        for line in read(self._path.parent):
            if line["step"] >= step:
                self._scalars(line)

    def close(self) -> None:
        """Flush and close both files; the next ``write`` opens them again."""
        for file in (self._file, self._board):
            if file is not None:
                file.close()
        self._file = self._board = None

    def _scalars(self, line: Mapping[str, Any]) -> None:
        if self._board is None:
            from tensorboardX import SummaryWriter  # here, because importing it takes a while

            # The suffix keeps two writers opened in one second from sharing (and overwriting) an events file.
            names = {"logdir": str(self._path.parent), "filename_suffix": f".{time.time_ns()}"}
            self._board = SummaryWriter(**names, purge_step=self._purge_step, flush_secs=30)
        for key, value in line.items():
            if "/" in key and isinstance(value, (int, float)):
                tag = key.replace("eval/", f"eval_{line['split']}/", 1) if "split" in line else key
                self._board.add_scalar(tag, value, line["step"], walltime=line["time"])


class _Object:
    """A file that grows, on a store that takes whole objects only: written again every half minute and when it is closed."""

    def __init__(self, path: Any):
        self._path, self._written = path, time.monotonic()
        self._content = bytearray(path.read_bytes() if path.exists() else b"")

    def write(self, data: bytes) -> int:
        self._content += data
        if time.monotonic() - self._written > 30:
            self.flush()
        return len(data)

    def tell(self) -> int:
        return len(self._content)

    def flush(self) -> None:
        workdir.write(self._path, bytes(self._content))
        self._written = time.monotonic()

    close = flush


def _number(key: str, value: Any) -> int | float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"The metric {key!r} should be one number, not an array of shape {array.shape}.")
    return int(array.item()) if array.dtype.kind in "iub" else float(array.item())


def read(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, non-finite numbers as floats; a torn last line is left out.

    Raises FileNotFoundError where there is no such file, ValueError where an earlier line is broken.
    """
    lines = read_lines(workdir.path(directory) / "metrics.jsonl")
    return [{k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in line.items()} for line in lines]


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file that may have been cut off while its last line was written."""
    path = workdir.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    lines, objects = path.read_bytes().split(b"\n"), []
    for number, text in enumerate(lines, 1):
        try:
            objects.append(json.loads(text))
        except ValueError:  # the last "line" is what follows the last newline: nothing, or a torn line
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: this is not a JSON object.") from None
    return objects


def by_difficulty(line: Mapping[str, Any], key: str = "eval/accuracy") -> dict[tuple[str, int], tuple[float, Any]]:
    """(name, value) of each difficulty -> (accuracy, its standard error or None), easiest first."""
    found = {k: re.fullmatch(rf"{key}_(?!stderr_)(\w+)_(\d+)", k) for k in line}
    levels = {(m[1], int(m[2])): (line[k], line.get(f"{key}_stderr_{m[1]}_{m[2]}")) for k, m in found.items() if m}
    return dict(sorted(levels.items()))


def percent(value: float | None, stderr: float | None = None) -> str:
    """A fraction as reports print it: "97.4 ± 0.7"."""
    text = "–" if value is None else f"{100 * value:.1f}"
    return text if value is None or stderr is None else f"{text} ± {100 * stderr:.1f}"


def accuracy_table(rows: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """A table to print: one row per (label, evaluation line), one column per difficulty; no colour off a terminal."""
    from rich import box, console, table

    rows, live, out = dict(rows), sys.stdout.isatty(), io.StringIO()
    levels = sorted({level for line in rows.values() for level in by_difficulty(line)})
    grid = table.Table("accuracy, %", box=box.SIMPLE_HEAD if live else None, pad_edge=False)
    for heading in [f"{name} {value}" for name, value in levels] + ["all"]:
        grid.add_column(heading, justify="right", no_wrap=True)
    for label, line in rows.items():
        cells = [by_difficulty(line).get(level, (None, None)) for level in levels]
        cells.append((line.get("eval/accuracy"), line.get("eval/accuracy_stderr")))
        grid.add_row(label, *(percent(*cell) for cell in cells))
    width, colour = (None, "auto") if live else (10_000, None)
    # In a notebook rich would display the table and print nothing.
    to = {"file": out, "force_terminal": live, "force_jupyter": False}
    console.Console(**to, width=width, color_system=colour).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").split("\n"))


class Progress:
    """How far a phase is: a live bar on a terminal, elsewhere a plain line at the start, every 10 s and at the end.

    ``with Progress("collect", 400, round=3) as p: p.update(16, kept=0.5)``; a resumed phase begins at ``start``.
    """

    def __init__(self, phase: str, total: int, round: int | None = None, start: int = 0, active: bool = True):
        self._title = phase if round is None else f"round {round} {phase}"
        self._unit = {"update": "updates", "train": "rounds"}.get(phase, "samples")
        self._total, self._active, self._closed = total, active, False
        self._values: dict[str, Any] = {}
        self._first = (time.monotonic(), start, 0)  # (time, done, tokens)
        self._recent, self._said = collections.deque([self._first]), self._first[0]
        self._bar: Any = None
        if active and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            from rich import console, progress

            numbers = "{task.completed}/{task.total} {task.fields[text]}"
            columns = "[bold]{task.description}", progress.BarColumn(20), numbers
            self._bar = progress.Progress(*columns, console=console.Console(), refresh_per_second=5)
            self._bar.add_task(self._title, total=total, completed=start, text="")
            self._bar.start()
        elif active:
            print(f"{self._title}: {start}/{total} {self._unit}", flush=True)

    def update(self, done: int, tokens: int | None = None, **values: Any) -> None:
        """``done`` and ``tokens`` count from the beginning of this phase; ``values`` are shown as they are."""
        self._values |= values
        self._recent.append((time.monotonic(), done, self._recent[-1][2] if tokens is None else tokens))
        now = self._recent[-1][0]
        while now - self._recent[0][0] > 30 and len(self._recent) > 2:  # the rate of the last half minute
            self._recent.popleft()
        if self._bar is not None or (now - self._said >= 10 and done < self._total):
            self._say(self._recent[0])

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:  # also on Ctrl-C: the terminal gets its cursor and its streams back
        self._closed = True
        self._say(self._first)
        if self._bar is not None:
            self._bar.stop()

    def _say(self, since: tuple[float, int, int]) -> None:
        (self._said, done, tokens), ended = self._recent[-1], time.monotonic()
        seconds = max((ended if self._closed else self._said) - since[0], 1e-9)
        rate = (done - since[1]) / seconds
        parts = [f"{rate:.1f} {self._unit}/s"]
        parts += [f"{(tokens - since[2]) / seconds:,.0f} tokens/s"] if tokens > since[2] else []
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self._values.items()]
        if self._closed or rate > 0:
            clock = datetime.timedelta(seconds=round(seconds if self._closed else (self._total - done) / rate))
            parts.append(f"took {clock}" if self._closed else f"{clock} left")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, text=" | ".join(parts))
        elif self._active:
            print(f"{self._title}: {done}/{self._total} {' | '.join(parts)}", flush=True)
