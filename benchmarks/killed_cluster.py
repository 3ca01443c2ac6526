"""Four processes, killed one after another and started again, against four that are not, and against one process.

    python benchmarks/killed_cluster.py [--config=star_addition] [--processes=4]

A tiny model, three rounds. Prints, of each pair of runs, in how many rounds they drew the same samples and trained on the same
rows, whether all arrays of the last checkpoint are the same bits, and else the largest difference of a parameter as a part of
its array's largest entry. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": os.path.expanduser("~/.cache/reasoning_jax")}

import numpy as np
from cluster import TINY, Cluster, collected, final

KILLS = ('"phase": "update"', "round 1 collect", "round 1 update", "round 2 collect")


def compare(a: Path, b: Path) -> str:
    (mine, _), (theirs, _) = final(a), final(b)
    parts = [sum(x[i] == y[i] for x, y in zip(collected(a), collected(b), strict=True)) for i in (0, 1)]
    bits = all(mine[k].tobytes() == theirs[k].tobytes() for k in mine)
    largest = max(np.abs(mine[k] - theirs[k]).max() / np.abs(theirs[k]).max() for k in mine if k.startswith("[0]"))
    rounds = len(collected(a))
    return f"samples alike in {parts[0]}, rows in {parts[1]} of {rounds} rounds; " + (
        "the same bits" if bits else f"parameters differ by {largest:.1e}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="star_addition")
    parser.add_argument("--processes", type=int, default=4)
    args = parser.parse_args()
    values, n = TINY | {"checkpoint.every": 10}, args.processes
    with tempfile.TemporaryDirectory() as folder:
        killed, whole, same, one = (Path(folder) / name for name in ("killed", "whole", "same", "one"))
        for i, words in enumerate(KILLS):
            index = (n - 1 - i) % n
            codes = Cluster(n, 1, killed, args.config, values).when(words, index, signal.SIGKILL).end()
            print(f"killed process {index} at {words!r}; exit codes {codes}", flush=True)
        runs = [(n, 1, killed), (n, 1, whole), (0, n, same), (0, 1, one)]
        print("exit codes of", [Cluster(*run, args.config, values).end() for run in runs], flush=True)
        print(f"killed, against {n} processes that were not:", compare(killed, whole))
        print(f"killed, against one process with {n} devices:", compare(killed, same))
        print("killed, against one process with one device:", compare(killed, one))
        print(f"one process, {n} devices against one:", compare(same, one))


if __name__ == "__main__":
    main()
