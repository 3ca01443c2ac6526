"""Real clusters of processes on this machine's CPU, and what is compared of their runs."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
from compiling import DEVICES, XLA_FLAGS

from reasoning_jax import algorithms, config, experiment, metrics
from reasoning_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = {
    "sequence_length": 64,
    "batch_size": 8,
    "log_every": 2,
    "task.max_digits": 1,
    "task.given": (40,),
    "task.num_train": 200,
    "task.num_eval": 8,
    "base.num_updates": 40,
    "base.algorithm.hinted": 1.0,
    "rounds.count": 2,
    "rounds.examples": 16,
    "rounds.updates": 8,
    "rounds.increment": 0,
    "rounds.min_kept_rows": 0,
    "rounds.patience": 0,
    "sampling.max_new_tokens": 32,
    "sampling.batch_size": 16,
    "optim.warmup": 5,
    "checkpoint.every": 1000,
    "eval.test_every": 0,
}


class Cluster:
    """``count`` processes with ``devices`` each; count 0 is one process outside of any cluster."""

    def __init__(
        self,
        count: int,
        devices: int,
        folder: pathlib.Path,
        name: str,
        values: dict[str, object],
        **environment: str,
    ):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.address = f"localhost:{port}"
        self.folder = folder
        self.lines: list[list[str]] = [[] for _ in range(count or 1)]
        self.processes: list[subprocess.Popen[str]] = []
        self.threads: list[threading.Thread] = []
        command = [sys.executable, "-m", "reasoning_jax.main", f"--workdir={folder}"]
        command.append(f"--config=configs/{name}.py:smoke")
        command += [f"--config.{key}={value}" for key, value in values.items()]
        shared = os.environ | {
            "XLA_FLAGS": f"{DEVICES}={devices} {XLA_FLAGS}",
            "PYTHONUNBUFFERED": "1",
        }
        for i in range(count or 1):
            own = {}
            if count:
                own["JAX_COORDINATOR_ADDRESS"] = self.address
                own["JAX_NUM_PROCESSES"] = str(count)
                own["JAX_PROCESS_ID"] = str(i)
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=shared | own | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.processes.append(process)
            thread = threading.Thread(target=self._read, args=(i,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _read(self, i: int) -> None:
        for line in self.processes[i].stdout:
            self.lines[i].append(line)

    def when(self, words: str, index: int, number: int) -> Cluster:
        """Sends a signal to one process as soon as the first has printed, or logged, ``words``."""
        while not self._has_said(words):
            assert all(p.poll() is None for p in self.processes), self.output()
            time.sleep(0.002)
        self.processes[index].send_signal(number)
        return self

    def _has_said(self, words: str) -> bool:
        log = self.folder / "metrics.jsonl"
        if any(words in line for line in self.lines[0]):
            return True
        return log.exists() and words in log.read_text()

    def end(self) -> list[int]:
        """The exit codes."""
        try:
            codes = [process.wait(timeout=900) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        for thread in self.threads:
            thread.join()
        return codes

    def output(self) -> str:
        return "\n".join("".join(lines) for lines in self.lines)


def final(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Every array of the newest checkpoint, read onto one device, and where the run was."""
    cfg = config.rebuild(folder)
    cfg.mesh.update(data=1, fsdp=1, tensor=1, sampling_tensor=0)
    exp = experiment.make(cfg, jax.devices()[:1])
    abstract = exp.abstract_state()
    memory = algorithms.get(cfg.algorithm.name).init_memory(cfg, len(exp.load(cfg.rounds.split)))
    rest = {"state": abstract.replace(params=()), "memory": memory}
    params, rest, meta = checkpoint.restore(folder / "checkpoints", abstract.params, rest)
    leaves = jax.tree_util.tree_flatten_with_path((params, rest))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, meta


def collected(folder: pathlib.Path) -> list[tuple[bytes, dict]]:
    """What each round sampled and trained on."""
    out = []
    for path in sorted((folder / "rounds").iterdir()):
        with np.load(path / "rows.npz") as file:
            out.append(
                ((path / "samples.jsonl").read_bytes(), {k: v.tobytes() for k, v in file.items()})
            )
    return out


def log(folder: pathlib.Path) -> list[tuple]:
    """What metrics.jsonl says, without times."""
    keys = ("step", "phase", "update/loss", "eval/accuracy", "collect/correct")
    return [tuple(line.get(key) for key in keys) for line in metrics.read(folder)]
