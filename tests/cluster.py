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

from reasoning_jax import algorithms, checkpoint, command_line, experiment, metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = {
    "task.max_digits": 1, "task.given": (40,), "task.num_eval": 8, "base.num_updates": 40, "base.hinted": 1.0,
    "algorithm.examples_per_round": 16, "algorithm.num_rounds": 2, "algorithm.start_updates": 8, "algorithm.increment": 0,
    "algorithm.min_kept_rows": 0, "algorithm.patience": 0, "sampling.max_new_tokens": 32, "sampling.batch_size": 16,
    "sequence_length": 64, "batch_size": 8, "checkpoint.every": 1000, "log_every": 2, "eval.test_every": 0,
    "optim.warmup": 5,
}  # fmt: skip


class Cluster:
    """``count`` processes with ``devices`` each, on this machine; count 0 is one process that knows of no cluster."""

    def __init__(self, count: int, devices: int, folder: pathlib.Path, name: str, values: dict, **environment: str):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.address, self.folder = f"localhost:{port}", folder
        self.lines: list[list[str]] = [[] for _ in range(count or 1)]
        self.processes, self.threads = [], []
        flags = [f"--config=configs/{name}.py:smoke", *(f"--config.{k}={v}" for k, v in values.items())]
        for i in range(count or 1):
            own = {"JAX_COORDINATOR_ADDRESS": self.address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(i)}
            # Little optimisation: a process that is not the first compiles everything itself, as jax's cache is the first's.
            env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONUNBUFFERED": "1",
                                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (own if count else {}) | environment  # fmt: skip
            command = [sys.executable, "-m", "reasoning_jax.main", f"--workdir={folder}", *flags]
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.processes.append(process)
            self.threads.append(threading.Thread(target=self._read, args=(i,), daemon=True))
            self.threads[-1].start()

    def _read(self, i: int) -> None:
        for line in self.processes[i].stdout:
            self.lines[i].append(line)

    def when(self, words: str, index: int, number: int) -> Cluster:
        """Sends a signal to one process as soon as the first has printed, or logged, ``words``."""
        log = self.folder / "metrics.jsonl"
        while not any(words in line for line in self.lines[0]) and not (log.exists() and words in log.read_text()):
            assert all(p.poll() is None for p in self.processes), self.output()
            time.sleep(0.002)
        self.processes[index].send_signal(number)
        return self

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
    """Every array of the newest checkpoint, read by this process onto one device, and where the run was."""
    cfg = command_line.rebuild(folder)
    cfg.mesh.update(data=1, fsdp=1, tensor=1, sampling_tensor=0)
    exp = experiment.make(cfg, jax.devices()[:1])
    abstract = exp.abstract_state()
    memory = algorithms.get(cfg.algorithm.name).init_memory(cfg, len(exp.load(cfg.algorithm.split)))
    rest = {"state": abstract.replace(params=()), "memory": memory}
    params, rest, meta = checkpoint.restore(folder / "checkpoints", abstract.params, rest)
    leaves = jax.tree_util.tree_flatten_with_path((params, rest))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, meta


def collected(folder: pathlib.Path) -> list[tuple[bytes, dict]]:
    """What each round sampled and trained on."""
    out = []
    for path in sorted((folder / "rounds").iterdir()):
        with np.load(path / "rows.npz") as file:
            out.append(((path / "samples.jsonl").read_bytes(), {k: v.tobytes() for k, v in file.items()}))
    return out


def log(folder: pathlib.Path) -> list[tuple]:
    return [(m["step"], m["phase"], m.get("update/loss"), m.get("eval/accuracy"), m.get("collect/correct"))
            for m in metrics.read(folder)]  # fmt: skip
