"""Killed with SIGKILL at any moment and started again, a run ends with the same bits as one that never was: every method."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from reasoning_jax import algorithms, config, experiment, metrics, workdir
from reasoning_jax.training import checkpoint

ROOT = Path(__file__).resolve().parent.parent

# Each run: its config, what makes it smaller, and the moments at which it is killed, as words of its output.
STAR = "star_addition.py:smoke", {
    "task.num_eval": 8,
    "base.num_updates": 80,
    "base.hinted": 1.0,  # so that rationalization keeps something even of a model that has hardly begun
    "algorithm.examples_per_round": 48,
    "algorithm.start_updates": 7,
    "algorithm.increment": 1,
    "algorithm.min_kept_rows": 1,
    "algorithm.patience": 0,
    "sampling.max_new_tokens": 40,
    "sampling.batch_size": 32,
    "checkpoint.every": 3,
    "log_every": 1,
}  # fmt: skip
EASY = {
    "base.num_updates": 250,
    "task.max_digits": 1,
    "task.given": (40,),
    "task.num_eval": 8,
    "log_every": 1,
}


def config(run):
    name, changes = run
    cfg = config.load(str(ROOT / "configs" / name))
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        (cfg[section] if section else cfg)[last] = value
    return cfg


def play(directory, run, moment=None):
    """Runs the command as a user types it, on one device, to its end or until ``moment(line, directory)``, when it is killed.
    Returns its output and its exit code."""
    name, changes = run
    command = [
        sys.executable,
        "-m",
        "reasoning_jax.main",
        f"--workdir={directory}",
        f"--config=configs/{name}",
    ]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    env = os.environ | {"XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if moment and moment(line, directory):
            process.send_signal(signal.SIGKILL)
            break
    output.append(process.stdout.read())
    process.wait()
    return "".join(output), process.returncode


def says(words):
    return lambda line, _: words in line


def play_broken(directory, run, moments):
    """Killed at each of these moments, then run to its end; its last output."""
    for moment in moments:
        output, code = play(directory, run, moment)
        assert code == -signal.SIGKILL, output
        time.sleep(0.05)
    output, code = play(directory, run)
    assert code == 0 and "going on in round" in output, output
    return output


def end(directory, run):
    """All that a run ends with: parameters, optimiser and memory, and where it is."""
    cfg = config(run)
    exp = experiment.make(cfg)
    abstract, method = exp.abstract_state(), algorithms.get(cfg.algorithm.name)
    rest = {
        "state": abstract.replace(params=()),
        "memory": method.init_memory(cfg, len(exp.load(cfg.algorithm.split))),
    }
    params, rest, meta = checkpoint.restore(directory / "checkpoints", abstract.params, rest)
    return jax.device_get((params, rest)), meta


def log(directory):
    """Every update and every collection once, in order."""
    return [(m["step"], m["round"], m.get("update/loss"), m.get("collect/correct"))
            for m in metrics.read(directory) if m["phase"] != "eval"]  # fmt: skip


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def check_same_end(whole, broken, run):
    (arrays, meta), (others, other_meta) = end(whole, run), end(broken, run)
    assert same(arrays, others)
    assert meta["finished"] and meta["samples"] == other_meta["samples"]
    assert (meta["best_round"], meta["best_accuracy"]) == (
        other_meta["best_round"],
        other_meta["best_accuracy"],
    )
    assert log(whole) == log(broken)
    return arrays, meta


def saving(line, directory):
    """Waits for a checkpoint that is being written, once updates of round 2 have begun."""
    if "round 2 update: 0/" not in line:
        return False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        folder = directory / "checkpoints"
        if any("tmp" in p.name for p in folder.iterdir()):
            return True
        time.sleep(0.0005)
    raise AssertionError("no save was seen")


def amid_rounds(line, directory):
    """Waits, once round 4 is over, for updates of rounds that nothing is saved after."""
    if "round 4 validation accuracy" not in line:
        return False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(m["round"] == 6 and m["phase"] == "update" for m in metrics.read(directory)):
            return True
        time.sleep(0.0005)
    raise AssertionError("round 6 was not seen")


def test_star_killed_in_every_phase(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, STAR)
    assert code == 0, output
    play_broken(broken, STAR, [
        says("round 0 update: 0/"),
        says("round 0 evaluate test: 0/"),
        says("round 1 rationalize: 0/"),
        says("round 1 update: 0/"),
        saving,
        says("round 2 validation accuracy"),
    ])  # fmt: skip
    check_same_end(whole, broken, STAR)
    for n in (1, 2):
        mine, theirs = (
            workdir.read_rows(d / f"rounds/000{n}/rows.npz", ())[0] for d in (whole, broken)
        )
        assert len(mine) == len(theirs) and all(
            same(a, b) for a, b in zip(mine, theirs, strict=True)
        )


def test_trice_with_rounds_that_are_not_written_out(tmp_path):
    """They are collected again, from the parameters and the memory of the last checkpoint."""
    run = (
        "trice_addition.py:online,smoke",
        EASY | {"algorithm.measure_every": 1, "checkpoint.every": 1000},
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    play_broken(
        broken, run, [says("round 1 rationalize: 0/"), says("round 4 evaluate"), amid_rounds]
    )
    (_, rest), meta = check_same_end(whole, broken, run)
    assert meta["samples"] == 2 * 64 + 8 * 16 - 64
    chains = rest["memory"]
    assert (
        chains.visits.sum() == 8 * 16 and 0 < chains.accepted.sum() < 8 * 16 and chains.sums[3] > 0
    )
    assert len(log(whole)) > 8


SMALL = EASY | {
    "base.num_updates": 60,
    "sequence_length": 128,
    "algorithm.start_updates": 8,
    "checkpoint.every": 3,
}
PREFERENCES = {
    # The reference's log-likelihoods are read in round 1 alone, and are the memory.
    "dpo": ("dpo_jsonl.py:smoke", SMALL, ["round 1 update: 0/", "round 2 update: 0/"]),
    "irpo": ("irpo_addition.py:smoke", SMALL, ["round 1 update: 0/", "round 2 update: 0/"]),
    # The verifier is trained in the last round, from all the samples that the memory holds.
    "vstar": ("vstar_addition.py:smoke", SMALL, ["round 1 update: 0/", "round 2 update: 0/"]),
}


@pytest.mark.parametrize("method", PREFERENCES)
def test_preferences(tmp_path, method):
    name, changes, moments = PREFERENCES[method]
    run, whole, broken = (name, changes), tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    play_broken(broken, run, map(says, moments))
    check_same_end(whole, broken, run)
    losses = [loss for *_, loss, _ in log(whole) if loss is not None]
    assert len(set(losses)) > 8, "there were pairs to train on"
    if method == "vstar":
        verifiers = [checkpoint.load_params(d / "verifier", experiment.make(config(run)).abstract_state().params)[0]
                     for d in (whole, broken)]  # fmt: skip
        assert same(*verifiers)
