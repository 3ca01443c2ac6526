"""What a run logs: metrics.jsonl, TensorBoard scalars, and the table of accuracies it prints."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reasoning_jax import workdir
from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Line
from reasoning_jax.metric_line import checked

if TYPE_CHECKING:
    import jax
    from tensorboardX import SummaryWriter

    Number = float | np.number | np.ndarray | jax.Array

_OBJECT_SECONDS = 30  # an object of a store is written again when it is as old as this
_BLOCK = 1 << 16  # bytes read at a time, from the end


class Writer:
    """Appends to ``directory``'s metrics.jsonl and TensorBoard events.

    Does nothing unless ``active``, which it is in process 0.
    """

    def __init__(self, directory: str | os.PathLike[str], active: bool = True):
        self._path = workdir.path(directory) / "metrics.jsonl"
        self._active = active
        self._file: IO[bytes] | _Object | None = None
        self._board: SummaryWriter | None = None
        self._purge_step: int | None = None

    def write(
        self,
        step: int,
        round: int,
        phase: str,
        values: Mapping[str, Number | None],
        **fields: str | int | None,
    ) -> None:
        """One line, and one scalar for each of ``values``; those that are None are left out.

        Raises ValueError where a value is not one number, OSError naming the file where the disk
        is full.
        """
        if not self._active:
            return
        import jax  # here, because whoever only reads metrics does not need it

        line: Line = {"step": int(step), "round": int(round), "phase": phase, "time": time.time()}
        line |= fields
        for key, value in jax.device_get(dict(values)).items():
            if value is not None:
                line[key] = _number(key, value)
        data = json.dumps(_with_names(line), allow_nan=False).encode() + b"\n"
        try:
            written = self._open().write(data)
            if written < len(data):  # a disk that fills up takes a part and does not complain
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._scalars(line)

    def size(self) -> int:
        """Bytes of metrics.jsonl so far: what a checkpoint remembers and ``truncate`` takes."""
        if not self._active:
            return 0
        if self._path.is_dir():
            raise UserError(f"{self._path}: this is not the log of a run but a folder.")
        if self._file is None and not self._path.exists():
            return 0
        if workdir.is_local(self._path):
            return self._path.stat().st_size
        return self._open().tell()

    def flush(self) -> None:
        """To be called before a checkpoint that remembers ``size``.

        An object store gets the lines only now and then.
        """
        if self._file is not None:
            self._file.flush()

    def truncate(self, size: int, step: int) -> None:
        """Forgets what was logged after a checkpoint at ``size`` bytes and ``step`` updates."""
        self.close()
        self._purge_step = step
        if not self.size():
            return
        if workdir.is_local(self._path):
            with open(self._path, "r+b") as file:
                file.truncate(_end_of_whole_lines(file, size))
        else:
            content = self._path.read_bytes()[:size]
            whole_lines = content.rfind(b"\n") + 1
            workdir.write(self._path, content[:whole_lines])
            self._file = None
        # TensorBoard forgets all scalars of this step and later ones, but the checkpoint may have
        # come after some of this very step: these are written again.
        for line in lines(self._path.parent):
            if line.get("step", -1) >= step:
                self._scalars(line)

    def close(self) -> None:
        """Flushes and closes both files; the next ``write`` opens them again."""
        for file in (self._file, self._board):
            if file is not None:
                file.close()
        self._file = self._board = None

    def _open(self) -> IO[bytes] | _Object:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if workdir.is_local(self._path):
                # Unbuffered, so that a line is there as soon as it is written.
                self._file = open(self._path, "ab", buffering=0)
            else:
                self._file = _Object(self._path)
        return self._file

    def _scalars(self, line: Line) -> None:
        if self._board is None:
            from tensorboardX import SummaryWriter  # here, because importing it takes a while

            self._board = SummaryWriter(
                logdir=str(self._path.parent),
                purge_step=self._purge_step,
                flush_secs=30,
                # Two writers opened in one second would otherwise share an events file.
                filename_suffix=f".{time.time_ns()}",
            )
        for key, value in line.items():
            if "/" not in key or not isinstance(value, (int, float)):
                continue
            tag = key
            if "split" in line:
                tag = key.replace("eval/", f"eval_{line['split']}/", 1)
            self._board.add_scalar(tag, value, line["step"], walltime=line.get("time"))


class _Object:
    """A growing file on a store that takes whole objects only.

    It is written again every half minute and when it is closed.
    """

    def __init__(self, path: Path):
        self._path = path
        self._written = time.monotonic()
        self._content = bytearray(path.read_bytes() if path.exists() else b"")

    def write(self, data: bytes) -> int:
        self._content += data
        if time.monotonic() - self._written > _OBJECT_SECONDS:
            self.flush()
        return len(data)

    def tell(self) -> int:
        return len(self._content)

    def flush(self) -> None:
        workdir.write(self._path, bytes(self._content))
        self._written = time.monotonic()

    def close(self) -> None:
        self.flush()


def _end_of_whole_lines(file: IO[bytes], size: int) -> int:
    """Where the last whole line within the first ``size`` bytes ends; 0 where there is none."""
    end = min(size, file.seek(0, os.SEEK_END))
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _number(key: str, value: Number) -> int | float:
    array = np.asarray(value)
    if array.size != 1:
        shape = array.shape
        raise ValueError(f"The metric {key!r} should be one number, not an array of shape {shape}.")
    is_whole = array.dtype.kind in "iub"
    return int(array.item()) if is_whole else float(array.item())


def _with_names(line: Line) -> Line:
    """JSON has no NaN: the same line with the names of the floats that are not finite."""
    named = dict(line)
    for key, value in line.items():
        if isinstance(value, float) and not math.isfinite(value):
            named[key] = str(value)
    return named


def read(directory: str | os.PathLike[str]) -> list[Line]:
    """``lines`` as a list."""
    return list(lines(directory))


def lines(directory: str | os.PathLike[str]) -> Iterator[Line]:
    """The lines of metrics.jsonl, non-finite numbers as floats; a torn last line is left out.

    Raises MissingFileError where there is no such file, UserError where an earlier line is broken
    or one holds what is no metric.
    """
    path = workdir.path(directory) / "metrics.jsonl"
    for number, line in enumerate(workdir.lines(path), 1):
        yield checked(line, f"{path}, line {number}")


Level = tuple[str, int]  # a difficulty, such as ("digits", 3)


def by_difficulty(
    line: Line, key: str = "eval/accuracy"
) -> dict[Level, tuple[float, float | None]]:
    """(name, value) of each difficulty -> (accuracy, its standard error or None), easiest first."""
    levels = {}
    for name, value in line.items():
        match = re.fullmatch(rf"{key}_(?!stderr_)(\w+)_([0-9]{{1,9}})", name)
        if match:
            stderr = line.get(f"{key}_stderr_{match[1]}_{match[2]}")
            levels[match[1], int(match[2])] = (value, stderr)
    return dict(sorted(levels.items()))


def percent(value: float | None, stderr: float | None = None) -> str:
    """A fraction as reports print it: "97.4 ± 0.7"."""
    if value is None:
        return "–"
    text = f"{100 * value:.1f}"
    return text if stderr is None else f"{text} ± {100 * stderr:.1f}"


def accuracy_table(evaluations: Mapping[str, Line] | Iterable[tuple[str, Line]]) -> str:
    """A table to print: a line for each (label, evaluation), a column for each difficulty.

    Where a system answers, also the tokens that an answer takes, over all its calls. It has colour
    only where the standard output is a terminal.
    """
    from rich import box, console, table

    evaluations = dict(evaluations)
    levels = sorted({level for line in evaluations.values() for level in by_difficulty(line)})
    terminal = sys.stdout.isatty()
    grid = table.Table("accuracy, %", box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    has_tokens = any("eval/drawn_tokens" in line for line in evaluations.values())
    last = ["all", "tokens"] if has_tokens else ["all"]
    for heading in [*(f"{name} {value}" for name, value in levels), *last]:
        grid.add_column(heading, justify="right", no_wrap=True)
    for label, line in evaluations.items():
        accuracies = by_difficulty(line)
        cells = [accuracies.get(level, (None, None)) for level in levels]
        cells.append((line.get("eval/accuracy"), line.get("eval/accuracy_stderr")))
        row = [percent(accuracy, stderr) for accuracy, stderr in cells]
        if has_tokens:
            row.append(f"{line['eval/drawn_tokens']:.1f}" if "eval/drawn_tokens" in line else "")
        grid.add_row(label, *row)
    out = io.StringIO()
    printer = console.Console(
        file=out,
        force_terminal=terminal,
        force_jupyter=False,  # in a notebook rich would display the table and print nothing
        width=None if terminal else 10_000,
        color_system="auto" if terminal else None,
    )
    printer.print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").split("\n"))
