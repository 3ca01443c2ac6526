"""What the benchmarks beside other libraries share: a model, random texts, and taking turns.

The other libraries are measured by two scripts of their own, peers_train.py and peers_sample.py.
PEERS_DIR is the folder of these; TUNIX_PY and TRL_PY are the interpreters that have tunix and
transformers. Every figure comes from a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import machine  # beside this file
import numpy as np

if TYPE_CHECKING:  # only a process that measures ours imports jax
    import jax
    from ml_collections import ConfigDict

    from reasoning_jax.model import decoder
    from reasoning_jax.training import state

ROOT = Path(__file__).resolve().parents[1]
VOCAB = 512
SIZE = "4m"  # a preset: 4 layers, width 256, 8 heads of 32, 4 key-value heads, MLP 1024
INTERPRETERS = {  # of a library: the variable that names it, and what it imports
    "tunix": ("TUNIX_PY", "tunix"),
    "transformers": ("TRL_PY", "transformers"),
    "trl": ("TRL_PY", "trl"),
    "torch": ("TRL_PY", "torch"),
}
Figures = dict[str, str | int | float]
Commands = dict[str, list[str]]  # by who is measured: "ours" and other libraries


class Model(NamedTuple):
    """A random model on one device, in float32."""

    cfg: ConfigDict
    model_cfg: decoder.ModelConfig
    mesh: jax.sharding.Mesh
    state: state.TrainState


def make_model(sequence_length: int, algorithm: str = "sft") -> Model:
    sys.path.insert(0, str(ROOT))
    import jax

    from reasoning_jax import default
    from reasoning_jax.model import presets, sharding
    from reasoning_jax.training import optim, state

    # The first call's seconds are those of a first call.
    jax.config.update("jax_enable_compilation_cache", False)
    cfg = default.get_config(algorithm=algorithm)
    cfg.model.preset, cfg.sequence_length = SIZE, sequence_length
    model_cfg = presets.model_config(cfg.model, VOCAB)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    jax.set_mesh(mesh)
    first = state.init(0, model_cfg, optim.make(cfg.optim), mesh)
    return Model(cfg=cfg, model_cfg=model_cfg, mesh=mesh, state=first)


def ragged(rng: np.random.Generator, count: int, most: int, least: int) -> list[np.ndarray]:
    """Sequences of random tokens, the first of the largest length."""
    lengths = [most, *rng.integers(least, most + 1, count - 1)]
    return [rng.integers(1, VOCAB, n).astype(np.int32) for n in lengths]


def timing(seconds: Sequence[float], first: float) -> Figures:
    """Of calls, and of the first, which also compiles."""
    median = statistics.median(seconds)
    return {
        "step_s": median,
        "step_min_s": min(seconds),
        "step_max_s": max(seconds),
        "first_step_s": first,
        "compile_s": max(0.0, first - median),
    }


# ---- commands ------------------------------------------------------------------------------------


def ours(script: str, case: str, steps: int) -> list[str]:
    """The command for a case of ours, with huge pages as the commands that train have them."""
    huge_pages = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
    return ["env", huge_pages, sys.executable, script, f"--steps={steps}", f"--case={case}"]


def others(script: str, arguments: Mapping[str, Sequence[str]]) -> Commands:
    """The commands of the libraries that are here; arguments: of each."""
    commands = {}
    for name, own in arguments.items():
        library = name.split(",")[0]
        variable, package = INTERPRETERS[library]
        folder, python = os.environ.get("PEERS_DIR"), os.environ.get(variable)
        if not folder or not python or not has_package(python, package):
            sentence = f"{name}: left out (PEERS_DIR and {variable} do not lead to it)."
            print(sentence, file=sys.stderr)
            continue
        threads = f"--threads={machine.cores()}"
        commands[name] = [python, f"{folder}/{script}", f"--peer={library}", *own, threads]
    return commands


def has_package(python: str, package: str) -> bool:
    done = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
    return done.returncode == 0


def measure(title: str, command: Sequence[str]) -> list[Figures]:
    """The figures that a process prints, which are printed here too; [] where it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"script"')]
    if not lines:
        print(f"{title}: failed: {done.stderr[-300:]}", flush=True)
        return []
    print(lines[-1], flush=True)
    return [json.loads(lines[-1])]


def take_turns(case: str, commands: Mapping[str, Sequence[str]], repeats: int, rate: str) -> None:
    """Prints the figures of a case's processes, and the ratios of their medians.

    rate: the figure that is compared.
    """
    rates: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            rates[name] += [float(f[rate]) for f in measure(f"{case}, {name}", command)]
    medians = {name: statistics.median(values) for name, values in rates.items() if values}
    own = medians.pop("ours", None)
    if own is None:
        return
    for name, other in sorted(medians.items()):
        print(f"{case}: ours / {name} = {own / other:.2f} ({own:,.4g} / {other:,.4g} {rate})")


def main(
    document: str,
    cases: Sequence[str],
    commands: Callable[[str, int], Commands],
    own_figures: Callable[[str, int], Figures],
    rates: Mapping[str, str],
) -> None:
    """The command line: --case measures ours in this process, else all take turns.

    rates: the figure of each case that is compared.
    """
    flags = argparse.ArgumentParser(usage=document)
    flags.add_argument("--case", choices=cases, help="measure this case of ours, in this process")
    flags.add_argument("--only", default=",".join(cases), help="these cases, separated by commas")
    flags.add_argument("--steps", type=int, default=5, help="timed calls of a process")
    repeats = "processes of each case and library; they take turns"
    flags.add_argument("--repeats", type=int, default=1, help=repeats)
    args = flags.parse_args()
    if args.case:
        figures = own_figures(args.case, args.steps)
        figures["peak_rss_mb"] = round(machine.peak_memory_mib())
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
        print(json.dumps(rounded))
        return
    for case in args.only.split(","):
        take_turns(case, commands(case, args.steps), args.repeats, rates[case])
