"""Runs that are killed at random moments and started again, against one that is not killed.

    python benchmarks/random_kills.py [--config=star_addition] [--runs=5] [--kills=4] [--seed=0]

A tiny model, two rounds. Each run gets SIGKILL, SIGTERM or SIGINT at moments drawn evenly over what
the unbroken run took, and is then started again; at the end its last checkpoint must hold the same
bits. Prints a line for each run, and a table of signals and exit codes. A minute or two a run on
two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from cluster import TINY, final

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What a stopped run may end with: the signal itself, which the first imports do not handle; saved
# after SIGTERM; Ctrl-C; it was at its end already.
EXPECTED = {*(-sent for sent in SIGNALS), 143, 130, 0}
SMALLER = TINY | {"checkpoint.every": 5, "log_every": 1}


def command(config: str, folder: Path) -> list[str]:
    arguments = [f"--config=configs/{config}.py:smoke", f"--workdir={folder}"]
    arguments += [f"--config.{key}={value}" for key, value in SMALLER.items()]
    return [sys.executable, "-m", "reasoning_jax.main", *arguments]


def play(config: str, folder: Path, sent: signal.Signals | None, after: float) -> tuple[int, str]:
    """Runs the command, to its end or until a signal; its exit code and its standard error."""
    process = subprocess.Popen(
        command(config, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _, errors = process.communicate(timeout=None if sent is None else after)
    except subprocess.TimeoutExpired:
        assert sent is not None
        process.send_signal(sent)
        _, errors = process.communicate()
    return process.returncode, errors.decode()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="star_addition")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    ended: Counter[tuple[str, int]] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        unbroken = Path(temporary) / "unbroken"
        play(options.config, unbroken, None, 0)  # compiles, and is not timed
        began = time.monotonic()
        play(options.config, Path(temporary) / "timed", None, 0)
        seconds = time.monotonic() - began
        expected, _ = final(unbroken)
        for number in range(options.runs):
            folder = Path(temporary) / f"killed_{number}"
            problems = []
            for _ in range(options.kills):
                sent = SIGNALS[int(rng.integers(len(SIGNALS)))]
                code, errors = play(options.config, folder, sent, rng.uniform(0, seconds))
                ended[sent.name, code] += 1
                if code not in EXPECTED:
                    problems.append(f"{sent.name}: exit code {code}: {errors[-300:]}")
            code, errors = play(options.config, folder, None, 0)
            if code != 0:
                problems.append(f"the last start: exit code {code}: {errors[-300:]}")
            else:
                arrays, _ = final(folder)
                differing = [k for k in expected if arrays[k].tobytes() != expected[k].tobytes()]
                problems += [f"{len(differing)} arrays differ"] if differing else []
            wrong += bool(problems)
            print(f"run {number}: {'; '.join(problems) or 'the same bits'}", flush=True)
    for (name, code), count in sorted(ended.items()):
        print(f"{name:8} exit code {code:4}: {count}")
    print(f"{options.runs} runs, {options.runs * options.kills} kills, {wrong} runs wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
