"""Killed with SIGKILL at any moment and started again, a run ends with the bits of an unharmed one.

Every kind of method is tried.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from cluster import TINY
from compiling import XLA_FLAGS
from golden import make_models
from published import chat_model
from safetensors.numpy import save_file

from reasoning_jax import algorithms, config, experiment, metrics, overrides, rows_file
from reasoning_jax.training import checkpoint, checkpoint_folders

ROOT = Path(__file__).resolve().parent.parent

# Each run: its config, and what makes it smaller.
STAR = (
    "star_addition.py:smoke",
    TINY
    | {
        "rounds.updates": 7,
        "rounds.increment": 1,
        "rounds.min_kept_rows": 1,
        "checkpoint.every": 3,
        "eval.test_every": 1,
        "log_every": 1,
    },
)


def config_of(run):
    name, changes = run
    cfg = config.load(str(ROOT / "configs" / name))
    overrides.change(cfg, changes)
    return cfg


def play(directory, run, moment=None):
    """Runs the command as a user types it, on one device; returns its output and its exit code.

    To its end, or until ``moment(line, directory)``, when it is killed.
    """
    name, changes = run
    command = [sys.executable, "-m", "reasoning_jax.main", f"--workdir={directory}"]
    command.append(f"--config=configs/{name}")
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    env = os.environ | {"XLA_FLAGS": XLA_FLAGS, "PYTHONUNBUFFERED": "1"}
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
    cfg = config_of(run)
    exp = experiment.make(cfg, jax.devices()[:1])
    abstract, method = exp.abstract_state(), algorithms.get(cfg.algorithm.name)
    memory = method.init_memory(cfg, len(exp.load(cfg.rounds.split)))
    rest = {"state": abstract.replace(params=()), "memory": memory}
    restored = checkpoint.restore(directory / "checkpoints", abstract.params, rest)
    return jax.device_get((restored.params, restored.rest)), restored.meta


def log(directory):
    """Every update and every collection once, in order."""
    keys = ("step", "round", "update/loss", "collect/correct")
    lines = [line for line in metrics.read(directory) if line["phase"] != "eval"]
    return [tuple(line.get(key) for key in keys) for line in lines]


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def check_same_end(whole, broken, run):
    arrays, meta = end(whole, run)
    other_arrays, other_meta = end(broken, run)
    assert same(arrays, other_arrays)
    assert meta["finished"]
    for key in ("samples", "best_round", "best_accuracy"):
        assert meta[key] == other_meta[key]
    assert log(whole) == log(broken)
    return arrays, meta


def wait_until(condition, otherwise):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.0005)
    raise AssertionError(otherwise)


def saving(line, directory):
    """Waits for a checkpoint that is being written, once updates of round 2 have begun."""
    if "round 2 update: 0/" not in line:
        return False
    folder = directory / "checkpoints"
    return wait_until(lambda: any("tmp" in p.name for p in folder.iterdir()), "no save was seen")


def amid_rounds(line, directory):
    """Waits, once round 4 is over, for updates of rounds that nothing is saved after."""
    if "round 4 validation accuracy" not in line:
        return False

    def in_round_6():
        lines = metrics.read(directory)
        return any(m["round"] == 6 and m["phase"] == "update" for m in lines)

    return wait_until(in_round_6, "round 6 was not seen")


def test_star_killed_in_every_phase(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, STAR)
    assert code == 0, output
    moments = [
        says("round 0 update: 0/"),
        says("round 0 evaluate test: 0/"),
        says("round 1 rationalize: 0/"),
        saving,
        says("round 2 validation accuracy"),
    ]
    play_broken(broken, STAR, moments)
    check_same_end(whole, broken, STAR)
    for n in (1, 2):
        paths = [folder / f"rounds/000{n}/rows.npz" for folder in (whole, broken)]
        mine, theirs = (rows_file.read_rows(path, ())[0] for path in paths)
        assert len(mine) == len(theirs)
        assert all(same(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.slow
def test_trice_with_rounds_that_are_not_written_out(tmp_path):
    """They are collected again, from the parameters and the memory of the last checkpoint."""
    changes = {
        "base.num_updates": 120,
        "task.num_train": 64,  # chains
        "rounds.count": 8,
        "rounds.updates": 1,
        "algorithm.measure_every": 1,
        "log_every": 1,
    }
    run = ("trice_addition.py:online,smoke", TINY | changes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    moments = [says("round 1 rationalize: 0/"), says("round 4 evaluate"), amid_rounds]
    play_broken(broken, run, moments)
    (_, rest), meta = check_same_end(whole, broken, run)
    assert meta["samples"] == 2 * 64 + 8 * 16 - 64
    chains = rest["memory"]
    assert chains.visits.sum() == 8 * 16
    assert 0 < chains.accepted.sum() < 8 * 16
    assert chains.sums[3] > 0
    assert len(log(whole)) > 8


PAIRS = TINY | {
    "sequence_length": 96,  # room for both sides
    "batch_size": 4,
    "base.num_updates": 60,
    "checkpoint.every": 3,
    "log_every": 1,
}
ALL = {"rounds.examples": 0}  # in every round
PREFERENCES = {
    # The reference's log-likelihoods are read in round 1 alone, and are the memory.
    "dpo": ("dpo_jsonl.py:smoke", PAIRS | ALL),
    "irpo": ("irpo_addition.py:smoke", PAIRS),
    # The verifier is trained in the last round, from all the samples that the memory holds.
    "vstar": ("vstar_addition.py:smoke", PAIRS | ALL | {"task.num_train": 32}),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", PREFERENCES)
def test_preferences(tmp_path, method):
    """Each round's pairs are trained on as they were drawn; irpo draws some in both rounds."""
    run, whole, broken = PREFERENCES[method], tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    rounds = (1, 2) if method == "irpo" else (2,)
    play_broken(broken, run, [says(f"round {n} update: 0/") for n in rounds])
    check_same_end(whole, broken, run)
    losses = [loss for *_, loss, _ in log(whole) if loss is not None]
    assert len(set(losses)) > 8, "there were pairs to train on"
    if method == "vstar":
        exp = experiment.make(config_of(run), jax.devices()[:1])
        abstract = exp.abstract_state().params
        folders = [folder / "verifier" for folder in (whole, broken)]
        assert same(*(checkpoint.load_params(folder, abstract)[0] for folder in folders))


@pytest.mark.slow
def test_a_curriculum_of_own_labels(tmp_path):
    """Its place, and the rows of earlier rounds, are in the memory."""
    changes = {"rounds.updates": 7, "checkpoint.every": 3, "log_every": 1}
    run = ("sector_addition.py:smoke", changes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    play_broken(broken, run, [says("round 1 update: 0/"), saving])
    (_, rest), _ = check_same_end(whole, broken, run)
    assert rest["memory"].num_rows > 0 and rest["memory"].lengths.any()
    [best] = checkpoint_folders.steps(whole / "best")
    assert best == 2  # the last round, whatever its accuracy on sums that it was not shown


@pytest.mark.slow
def test_a_model_that_judges_itself(tmp_path):
    """Killed while it judges, and amid updates; its instructions are in the memory."""
    run = ("self_rewarding_cards.py:smoke", {"checkpoint.every": 2, "log_every": 1})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    play_broken(broken, run, [says("round 1 judge: 0/"), says("round 2 judge: 0/"), saving])
    (_, rest), _ = check_same_end(whole, broken, run)
    assert (rest["memory"][:16] >= 0).any() and (rest["memory"][16:] >= 0).any()


@pytest.mark.slow
def test_an_adapter_of_a_published_model(tmp_path):
    """A LoRA, whose frozen model is read again at each start; then the model is another one."""
    model = chat_model(tmp_path / "model")
    changes = {"tune": "lora", "model.source": str(model), "base.num_updates": 6}
    changes["sequence_length"] = 256  # its tokens are bytes
    run = ("dpo_jsonl.py:smoke", PAIRS | ALL | changes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, code = play(whole, run)
    assert code == 0, output
    play_broken(broken, run, [says("round 1 update: 0/"), saving])
    (params, _), _ = check_same_end(whole, broken, run)
    assert set(params) == {"lora"} and np.abs(params["lora"]["down_b"]).max() > 0
    values = make_models.tensors("qwen2", vocab_size=258)
    values["model.layers.1.mlp.up_proj.weight"][0, 0] += 0.5
    save_file(values, model / "model.safetensors", {"format": "pt"})
    output, code = play(broken, run)
    assert code == 1 and "with the fingerprint" in output.splitlines()[-1], output
