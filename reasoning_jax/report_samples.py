"""Which samples of a run the report holds, as data for the page's script."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from reasoning_jax import workdir
from reasoning_jax.workdir import Line

ROUND_LIMIT = 60  # samples of one round in the page
PAGE_LIMIT = 4000  # samples in the page
ROUND_MINIMUM = 8  # samples of a round that is shown at all
TEXT_LIMIT = 6000  # characters of one rationale
Item = TypeVar("Item")


def choose_samples(directory: Path) -> tuple[list[Line], int]:
    """The samples to show, and of how many they were chosen.

    They are taken evenly from the rounds and, within a round, evenly from every kind.
    """
    paths = round_files(directory, "samples.jsonl")
    shown = set(evenly(paths, PAGE_LIMIT // ROUND_MINIMUM))
    limit = min(ROUND_LIMIT, PAGE_LIMIT // max(len(shown), 1))
    chosen, total = [], 0
    for path in paths:
        lines = workdir.read_lines(path)
        total += len(lines)
        if path in shown:
            chosen += [entry(line, round_of(path)) for line in pick(lines, limit)]
    return chosen, total


def round_files(directory: Path, pattern: str) -> list[Path]:
    """The files of this name, or these names, that the rounds have written, in the run's order."""
    paths = (directory / "rounds").glob(f"*/{pattern}")
    return sorted((p for p in paths if p.parent.name.isdecimal()), key=round_of)


def round_of(path: Path) -> int:
    """The round that wrote the file."""
    return int(path.parent.name)


def pick(lines: Sequence[Line], limit: int) -> list[Line]:
    """At most ``limit`` lines, in order.

    Every kind gets as many as every other; what a rare kind leaves goes to the others.
    """
    kinds = collections.defaultdict(list)
    for i, line in enumerate(lines):
        kind = (str(line.get("verdict")), line.get("wrong_line") is None, bool(line.get("hinted")))
        kinds[kind].append(i)
    chosen: list[int] = []
    rarest_first = sorted(kinds.values(), key=len)
    for number, members in enumerate(rarest_first):
        kinds_left = len(rarest_first) - number
        chosen += evenly(members, (limit - len(chosen)) // kinds_left)
    return [lines[i] for i in sorted(chosen)]


def evenly(items: Sequence[Item], number: int) -> list[Item]:
    """At most ``number`` of ``items`` at even distances, the first and the last among them.

    Where only one is asked for, it is the first.
    """
    number = min(number, len(items))
    return [items[i * (len(items) - 1) // max(number - 1, 1)] for i in range(number)]


def entry(line: Line, round: int) -> Line:
    """A sample as the page's script takes it."""
    sample: Line = {
        "round": round,
        "rationale": shortened(rationale(line)),
        "difficulty": difficulty(line),
    }
    for key in ("id", "question", "answer", "gold", "verdict"):
        value = line.get(key)
        sample[key] = None if value is None else str(value)
    for key in ("wrong_line", "tokens"):
        value = line.get(key)
        sample[key] = value if isinstance(value, int) else None
    for key in ("hinted", "kept"):
        sample[key] = bool(line.get(key))
    return sample


def rationale(line: Line) -> str:
    return str(line.get("rationale") or "")


def shortened(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}\n[{len(text) - TEXT_LIMIT:,} more characters]"


def difficulty(line: Line) -> str:
    """Such as "digits 3"; "" where the line has none."""
    parts = line.get("difficulty")
    return " ".join(str(part) for part in parts) if isinstance(parts, list) else ""
