"""Four processes, killed one after another and started again, against four that are not killed.

    python benchmarks/killed_cluster.py [--config=star_addition] [--processes=4]

A tiny model, three rounds; and the same against one process. Prints, for each pair of runs, in how
many rounds they drew the same samples and trained on the same rows, whether all arrays of the last
checkpoint are the same bits, and else the largest difference of a parameter as a fraction of its
array's largest entry. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": os.path.expanduser("~/.cache/reasoning_jax"),
}

import numpy as np
from cluster import TINY, Cluster, collected, final

KILLS = ('"phase": "update"', "round 1 collect", "round 1 update", "round 2 collect")


def compare(a: Path, b: Path) -> str:
    (arrays_a, _), (arrays_b, _) = final(a), final(b)
    rounds_a, rounds_b = collected(a), collected(b)
    samples = equal_rounds(
        [samples for samples, _ in rounds_a], [samples for samples, _ in rounds_b]
    )
    rows = equal_rounds([rows for _, rows in rounds_a], [rows for _, rows in rounds_b])
    alike = f"samples alike in {samples}, rows in {rows} of {len(rounds_a)} rounds"
    if all(arrays_a[key].tobytes() == arrays_b[key].tobytes() for key in arrays_a):
        return f"{alike}; the same bits"
    differences = []
    for key in arrays_a:
        if key.startswith("[0]"):
            difference = np.abs(arrays_a[key] - arrays_b[key]).max()
            differences.append(difference / np.abs(arrays_b[key]).max())
    return f"{alike}; parameters differ by {max(differences):.1e}"


def equal_rounds(a: Sequence[object], b: Sequence[object]) -> int:
    return sum(x == y for x, y in zip(a, b, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="star_addition")
    parser.add_argument("--processes", type=int, default=4)
    args = parser.parse_args()
    values = TINY | {"checkpoint.every": 10}
    n = args.processes
    with tempfile.TemporaryDirectory() as folder:
        killed, whole, devices, single = (
            Path(folder) / name for name in ("killed", "whole", "devices", "single")
        )
        for i, words in enumerate(KILLS):
            index = (n - 1 - i) % n
            cluster = Cluster(n, 1, killed, args.config, values)
            codes = cluster.when(words, index, signal.SIGKILL).end()
            print(f"killed process {index} at {words!r}; exit codes {codes}", flush=True)
        runs = [(n, 1, killed), (n, 1, whole), (0, n, devices), (0, 1, single)]
        codes = [Cluster(*run, args.config, values).end() for run in runs]
        print("exit codes of", codes, flush=True)
        print(f"killed, against {n} processes that were not:", compare(killed, whole))
        print(f"killed, against one process with {n} devices:", compare(killed, devices))
        print("killed, against one process with one device:", compare(killed, single))
        print(f"one process, {n} devices against one:", compare(devices, single))


if __name__ == "__main__":
    main()
