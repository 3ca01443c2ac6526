"""Where the time of a run's rounds goes: seconds of collecting, updating and evaluating.

    python benchmarks/rounds.py runs/star_addition [runs/trice_addition ...]

Read from metrics.jsonl, for every method. Each line has a time and a phase, and the seconds since
the line before belong to its phase: so compilation is in the phase that waits for it, and the first
line's seconds before it are not counted. Of a run that was stopped and started again, the pause
belongs to the phase that went on. The last row is the medians from round 2 on, where nothing is
compiled any more.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path

Seconds = dict[str, float]  # by phase


def by_round(lines: list[dict]) -> dict[int, Seconds]:
    """The seconds of each phase in each round; lines: of metrics.jsonl."""
    rounds: dict[int, Seconds] = {}
    for before, line in zip(lines, lines[1:], strict=False):
        phases = rounds.setdefault(line["round"], collections.defaultdict(float))
        phases[line["phase"]] += line["time"] - before["time"]
    return rounds


def table(rounds: dict[int, Seconds]) -> list[str]:
    """A line for each round, and the medians."""
    names = sorted({name for phases in rounds.values() for name in phases})
    rows = {str(number): phases for number, phases in rounds.items()}
    later = [phases for number, phases in rounds.items() if number >= 2]
    if later:
        rows["median"] = {
            name: statistics.median(phases.get(name, 0.0) for phases in later) for name in names
        }
    lines = [f"{'seconds, round':>14}" + "".join(f"{name:>12}" for name in (*names, "all"))]
    for title, phases in rows.items():
        values = [phases.get(name, 0.0) for name in names]
        values.append(sum(values))
        lines.append(f"{title:>14}" + "".join(f"{value:>12.1f}" for value in values))
    return lines


def main() -> None:
    flags = argparse.ArgumentParser(usage=__doc__)
    flags.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    for folder in flags.parse_args().runs:
        path = folder / "metrics.jsonl"
        if not path.exists():
            sys.exit(f"{folder} holds no run: there is no metrics.jsonl.")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        print("\n".join([str(folder), *table(by_round(lines))]))


if __name__ == "__main__":
    main()
