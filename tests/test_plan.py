"""The planner: its searches, the command, and, where libtpu is installed, programs for TPUs."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from reasoning_jax import plan
from reasoning_jax.model import presets
from reasoning_jax.tpu import chips, search

GIB = 2**30

# ---- searches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [2, 64, 10**6])
@pytest.mark.parametrize(
    "base, a_sequence, most", [(4, 0.1, 64), (4, 3, 2), (0.5, 0.001, 8192), (15.7, 0.01, 4)]
)
def test_the_largest_batch_in_few_compiles(base, a_sequence, most, start):
    tried = []

    def compile_with(n):
        tried.append(n)
        needed = base + a_sequence * n
        temporaries = a_sequence * n * 1.5
        return SimpleNamespace(fits=needed <= 15.75, needed=needed, temporaries=temporaries)

    assert search.largest(2, start, compile_with, 15.75) == most
    assert tried[0] == min(start, 2**17)
    assert len(tried) <= 6
    assert len(set(tried)) == len(tried)


def test_no_batch_fits():
    refused = SimpleNamespace(fits=False, needed=0, temporaries=0)
    assert search.largest(8, 8, lambda n: refused, 1.0) is None


def test_a_compiler_that_crashes_ends_its_own_process_only():
    from reasoning_jax.tpu import compiler

    assert compiler.in_own_process(os.getenv, "HOME") == os.environ["HOME"]
    assert compiler.in_own_process(os._exit, 139) is None


@pytest.mark.parametrize(
    "message, needed",
    [
        ("allocation (21.5G) exceeds available HBM", 21.5 * GIB),
        ("Ran out of memory in memory space hbm. Used 20.11M of 15.75G hbm.", 20.11 * 2**20),
        ("Used 512 of", 512),
        ("no figure", 0),
    ],
)
def test_what_the_compiler_asked_for(message, needed):
    from reasoning_jax.tpu import compiler

    assert compiler.requested_bytes(message) == int(needed)


def test_meshes_divide_batches_and_slices():
    cfg = SimpleNamespace(batch_size=16, micro_batches=2, sampling=SimpleNamespace(batch_size=64))
    found = search.meshes(cfg, 16, 2)
    assert {"data": 2, "fsdp": 4, "tensor": 2} in found
    assert {"data": 8, "fsdp": 1, "tensor": 2} in found
    for mesh in found:
        assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 16
        assert mesh["data"] % 2 == 0
        assert mesh["data"] * mesh["fsdp"] <= 8


# ---- the command ---------------------------------------------------------------------------------


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "reasoning_jax.plan", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"} | env,
    )


def assert_one_sentence(done: subprocess.CompletedProcess, sentence: str) -> None:
    """The command ended with exit code 1 and a line on standard error that contains this."""
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


STAR = "--config=configs/star_addition.py:smoke"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "--config is missing"),
        ([STAR], "--topology is missing; the names are v4-8"),
        (
            [STAR, "--topology=v5e-24"],
            "there is no such slice; the names are v5e-1 (v5e:1x1), v5e-4",
        ),
        ([STAR, "--topology=v5e-8", "--fit=speed"], "--fit=speed: this must be one of batch, mesh"),
        (["--workdir=/nope"], "--workdir=/nope holds no run"),
        ([STAR, "--topology=v5e-8", "--slices=0"], "--slices"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    done = command(*arguments)
    assert_one_sentence(done, sentence)
    assert done.stdout == ""


def test_without_libtpu_it_says_what_to_install(tmp_path):
    (tmp_path / "libtpu.py").write_text("raise ImportError\n")
    done = command(STAR, "--topology=v5e-8", PYTHONPATH=str(tmp_path))
    assert_one_sentence(done, 'pip install "jax[tpu]"')


# ---- with the compiler ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, sentence",
    [
        (
            "--config.mesh.fsdp=3",
            "config.mesh: {'data': -1, 'fsdp': 3, 'tensor': 1} does not fit 8 device(s).",
        ),
        ("--config.batch_size=12", "config.batch_size: 12 sequences do not split"),
        ("--topology=v5e:3x3", "not divisible"),
    ],
)
def test_a_shape_that_does_not_divide(tpu_compiler, argument, sentence):
    done = command(STAR, "--topology=v5e-8", argument)
    assert_one_sentence(done, sentence)


def test_what_it_says(tpu_compiler):
    done = command(
        STAR,
        "--topology=v5e-8",
        "--config.base.num_updates=0",
        "--config.mesh.data=1",
        "--config.mesh.fsdp=8",
    )
    assert done.returncode == 0, done.stderr
    head, update, prefill, decode, formulas = done.stdout.split("\n\n")
    assert head.startswith(
        "8 chips: v5e:2x4, 15.75 GiB each; mesh data 1, fsdp 8, tensor 1; "
        "0.0 million parameters; jax"
    )
    assert update.startswith("update (star): 16 x 128 tokens, compiled in ")
    assert "all-gather" in update
    assert "MFU" in update
    assert prefill.startswith("prefill: 64 x 16 tokens")
    assert "MFU" in prefill
    assert decode.startswith("decode: 64 x 128 tokens")
    assert "a decode step" in decode
    assert "MBU" in decode
    assert decode.endswith(
        "each step gathers every layer: config.mesh.sampling_tensor samples from copies instead"
    )
    assert formulas.startswith("Ceilings")


def test_what_does_not_fit_ends_with_3_and_advice(tpu_compiler):
    done = command(
        "--config=configs/sft_addition.py",
        "--topology=v5e-4",
        "--json",
        "--config.batch_size=65536",
        "--config.sampling.batch_size=4",
        "--config.sequence_length=2048",
    )
    assert done.returncode == 3, done.stderr
    assert "update (sft) does not fit (" in done.stderr
    assert "config.micro_batches above 1" in done.stderr
    printed = json.loads(done.stdout)
    assert not printed["fits"]
    assert printed["steps"][0]["needed"] > 15.75 * GIB
    assert printed["steps"][-1]["fits"]


# Bounds: temporaries in bytes, and collectives a layer, forward and backward together, a tenth
# above the larger of what was recorded with jax 0.10.2 and libtpu 0.0.42.1, and with jax 0.12.0.1
# and libtpu 0.0.50.1 (the updates on v5p).
# ``PYTHONPATH=. python tests/test_plan.py`` prints them anew.
LAYERS = 3
VOCAB = 8192
SLICES = {  # topology -> number of slices; data, fsdp, tensor
    "v5e:2x4": (1, (1, 8, 1)),
    "v6e:2x4": (1, (2, 4, 1)),
    "v5p:2x2x1": (1, (1, 2, 2)),
    "v5e:2x2": (2, (2, 4, 1)),
}
BOUNDS = {
    ("v5e:2x4", "update (star)"): (5963776, 15),
    ("v5e:2x4", "prefill"): (1710080, 7),
    ("v5e:2x4", "decode"): (1806848, 7),
    ("v5e:2x4", "update (dpo)"): (6092800, 15),
    ("v6e:2x4", "update (star)"): (5795808, 18),
    ("v6e:2x4", "prefill"): (1431552, 7),
    ("v6e:2x4", "decode"): (1595104, 7),
    ("v6e:2x4", "update (dpo)"): (6254048, 18),
    ("v5p:2x2x1", "update (star)"): (16967616, 23),
    ("v5p:2x2x1", "prefill"): (8837984, 9),
    ("v5p:2x2x1", "decode"): (8484256, 9),
    ("v5p:2x2x1", "update (dpo)"): (17691968, 23),
    ("v5e:2x2", "update (star)"): (7157248, 17),
    ("v5e:2x2", "prefill"): (1645568, 7),
    ("v5e:2x2", "decode"): (1968128, 7),
    ("v5e:2x2", "update (dpo)"): (7157248, 17),
}


def results(topology: str, name: str) -> dict:
    """{step: (Step, Compiled)} of a small model."""
    from reasoning_jax import experiment
    from reasoning_jax.tpu import compiler, programs

    slices, mesh = SLICES[topology]
    cfg = importlib.import_module(f"configs.{name}").get_config("smoke")
    cfg.model.num_layers = LAYERS
    cfg.model.vocab_size = VOCAB
    cfg.model.dtype = "bfloat16"
    cfg.model.remat = "full"
    cfg.sequence_length = 256
    cfg.batch_size = 16
    cfg.sampling.batch_size = 16
    cfg.base.num_updates = 0
    cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = mesh
    slice = chips.topology(topology)
    exp = experiment.make(cfg, compiler.devices(slice, slices))
    kinds = ("update", "prefill", "decode") if name == "star_addition" else ("update",)
    found = {}
    for step in programs.steps(cfg, exp):
        if step.kind in kinds:
            found[step.name] = step, compiler.compile_step(step, slice.chip)
    return found


def measured(compiled) -> tuple[int, int]:
    layers = [c for c in compiled.collectives if c.loop and c.count == LAYERS]
    return compiled.temporaries, len(layers)


def test_one_chip_is_a_slice(tpu_compiler):
    from reasoning_jax.tpu import compiler

    for name in ("v5e-1", "v6e-1"):
        assert len(compiler.devices(chips.topology(name))) == 1


@pytest.mark.parametrize("name", ["star_addition", "dpo_jsonl"])
@pytest.mark.parametrize(
    "topology",
    [
        "v5e:2x4",
        "v5e:2x2",
        *(pytest.param(t, marks=pytest.mark.slow) for t in ("v6e:2x4", "v5p:2x2x1")),
    ],
)
def test_the_steps_compile_for_tpu(tpu_compiler, topology, name):
    for step, compiled in results(topology, name).values():
        assert compiled.fits
        assert compiled.arguments > 0
        temporaries, layers = measured(compiled)
        most_temporaries, most_layers = BOUNDS[topology, step.name]
        assert temporaries <= 1.1 * most_temporaries, (step.name, temporaries)
        assert layers <= most_layers, (step.name, layers)
        # The vocabulary's matrix is never gathered, nor its gradient all-reduced, whole: it has 2
        # bytes a number at least.
        table = 2 * VOCAB * presets.SIZES["tiny"]["width"]
        whole = ("all-gather", "all-reduce")
        largest = max(c.bytes for c in compiled.collectives if c.kind in whole)
        assert largest < table, compiled.collectives
        if step.kind == "update":
            # The old state's memory is the new one's.
            assert compiled.donated > 0.95 * compiled.output
        if step.kind == "update" and SLICES[topology][0] > 1:
            kinds = {c.kind for c in compiled.collectives}
            assert "all-reduce between slices" in kinds


if __name__ == "__main__":
    plan.environment()
    for topology in SLICES:
        for name in ("star_addition", "dpo_jsonl"):
            for step, (_, compiled) in results(topology, name).items():
                print(f'    ("{topology}", "{step}"): {measured(compiled)},', flush=True)
                sizes = sorted(((c.bytes, c.kind) for c in compiled.collectives), reverse=True)
                print("    # largest:", sizes[:3])
