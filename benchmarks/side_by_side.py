"""What studies of one config's arms share: runs side by side, and means over seeds."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training run: its directory, its flags, and the directories of runs that come before it."""

    directory: Path
    flags: Sequence[str]
    after: Sequence[Path] = ()


def job_of(config: str, directory: Path, seed: int, flags: Sequence[str], base: Path | None) -> Job:
    """A run of "configs/X.py:ARGUMENT"; base: the run from whose base model it begins."""
    own = [f"--config={config}", f"--config.seed={seed}", *flags]
    if base is not None:
        own.append(f"--config.base.init_from={base / 'base'}")
    return Job(directory=directory, flags=own, after=[] if base is None else [base])


def mean_and_error(values: Sequence[float], digits: int = 1, scale: float = 100.0) -> str:
    """The mean over seeds times ``scale``, with its standard error."""
    mean = f"{scale * np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {scale * np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def run_all(jobs: Sequence[Job], at_once: int) -> None:
    """Trains all, at most ``at_once`` side by side; what is done already ends at once.

    With one at a time their output is seen; else it is in DIRECTORY.log. SystemExit where one
    fails, after those that run have ended.
    """
    waiting = list(jobs)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    done: set[Path] = set()
    failed: list[Path] = []
    while (waiting and not failed) or running:
        for job in list(waiting):
            is_ready = done.issuperset(job.after)
            if is_ready and len(running) < at_once and not failed:
                waiting.remove(job)
                running[job.directory] = _start(job, shown=at_once == 1)
        for directory, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[directory]
            print(f"{directory}: {'done' if code == 0 else f'exit status {code}'}", flush=True)
            if code:
                failed.append(directory)
            else:
                done.add(directory)
        time.sleep(0.2)
    if failed:
        sys.exit(f"{failed[0]}: this run failed; its output says why.")


def _start(job: Job, shown: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reasoning_jax.main", *job.flags]
    command.append(f"--workdir={job.directory}")
    if shown:
        return subprocess.Popen(command, cwd=ROOT)
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{job.directory}.log", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
