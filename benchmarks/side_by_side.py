"""What studies of one config's arms share: flags, runs side by side, means over seeds."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reasoning_jax import config, experiment
from reasoning_jax.experiment import Experiment
from reasoning_jax.model import decoder
from reasoning_jax.training import checkpoint, checkpoint_folders


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


def parser_of(
    description: str | None, arms: Sequence[str] = (), *, has_smoke: bool = True
) -> argparse.ArgumentParser:
    """The flags that studies share; arms: the default of --arms, which only some have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    if arms:
        parser.add_argument("--arms", default=",".join(arms), type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--at_once", type=at_least(1), default=1, help="runs side by side")
    if has_smoke:
        parser.add_argument("--smoke", action="store_true", help="models that learn nothing")
    return parser


class at_least:
    """The type of a flag: an integer from ``least`` on."""

    def __init__(self, least: int):
        self.least = least

    def __call__(self, text: str) -> int:
        if not text.isdecimal() or int(text) < self.least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {self.least} on")
        return int(text)


def with_beginnings(arms: Sequence[str], begins_from: Mapping[str, str]) -> list[str]:
    """The arms, each once and after those that it begins from."""
    found: dict[str, None] = {}
    for arm in arms:
        chain = [arm]
        while chain[0] in begins_from:
            chain.insert(0, begins_from[chain[0]])
        found |= dict.fromkeys(chain)
    return list(found)


def restored(
    directory: Path, folder: str = "checkpoints", **changes: int | bool
) -> tuple[Experiment, decoder.Params]:
    """The experiment of a run, on one device, and the newest parameters of this folder.

    changes: to keys of its config, such as "eval.num_test".
    """
    cfg = config.rebuild(directory)
    cfg.update_from_flattened_dict(changes)
    exp = experiment.make(cfg, jax.devices()[:1])
    return exp, checkpoint.restore(directory / folder, exp.abstract_state().params).params


def params_after(exp: Experiment, directory: Path, round: int) -> decoder.Params:
    """Those of the run as this round ended; of 0, as the rounds began."""
    folder = directory / "checkpoints"
    number = checkpoint_folders.steps(folder)[::-1][round]
    with tempfile.TemporaryDirectory() as temporary:
        alone = Path(temporary) / folder.name
        shutil.copytree(folder / str(number), alone / str(number))
        return checkpoint.restore(alone, exp.abstract_state().params).params


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
