"""The cases that the peers' scripts measure, on ours: a fine-tuning update and sampling.

    python benchmarks/peers.py             ours, one line of JSON a case
    PEERS_DIR=... TUNIX_PY=... TRL_PY=... python benchmarks/peers.py
                                           beside the peers, taking turns, and the ratios

PEERS_DIR is the folder of peers_train.py and peers_sample.py; TUNIX_PY and TRL_PY are the
interpreters that have tunix and transformers. Every figure comes from a process of its own, so that
its peak memory is its own. The model: 4 layers, width 256, 8 heads of 32, 4 key-value heads, MLP
1024, vocabulary 512, random parameters, 4M of them, in float32.

  sft      16 sequences of U[64, 256] tokens an update, packed into the 10 rows of 256 that their
           tokens fill: as in our loop
  padded   the same, each sequence padded to 256: the arrays that the peers compute
  sample   32 prompts of U[64, 128] tokens, temperature 1, 128 new tokens, no stop token
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import machine  # beside this file
import numpy as np

if TYPE_CHECKING:  # only a process that measures ours imports jax
    import jax
    from ml_collections import ConfigDict

    from reasoning_jax.model import decoder
    from reasoning_jax.training import state

ROOT = Path(__file__).resolve().parents[1]
VOCAB = 512
SEQUENCES, LENGTH = 16, 256  # of an update
PROMPTS, PROMPT, NEW = 32, 128, 128  # of sampling
CASES = ("sft", "padded", "sample")
PEERS = (("TUNIX_PY", "tunix", "tunix"), ("TRL_PY", "transformers", "trl"))
Figures = dict[str, str | int | float]


def ragged(rng: np.random.Generator, count: int, most: int, least: int) -> list[np.ndarray]:
    """Sequences of random tokens, the first of the largest length."""
    lengths = [most, *rng.integers(least, most + 1, count - 1)]
    return [rng.integers(1, VOCAB, n).astype(np.int32) for n in lengths]


def ours(case: str, steps: int) -> Figures:
    """One case, in this process."""
    sys.path.insert(0, str(ROOT))
    import jax

    from reasoning_jax import default
    from reasoning_jax.model import decoder, presets, sharding
    from reasoning_jax.training import optim, state

    # The first call's seconds are those of a first call.
    jax.config.update("jax_enable_compilation_cache", False)
    cfg = default.get_config(algorithm="sft")
    cfg.model.preset, cfg.sequence_length = "4m", LENGTH
    model_cfg = presets.model_config(cfg.model, VOCAB)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    jax.set_mesh(mesh)
    first = state.init(0, model_cfg, optim.make(cfg.optim), mesh)
    size = {
        "size": "default",
        "threads": machine.cores(),
        "n_params": decoder.num_params(first.params),
    }
    if case == "sample":
        script, figures = "peers_sample", sampling(first.params, model_cfg, mesh, steps)
    else:
        script, figures = "peers_train", updates(case, first, cfg, model_cfg, mesh, steps)
    memory = {"peak_rss_mb": round(machine.peak_memory_mib())}
    return {"script": script, "peer": "ours"} | size | figures | memory


def sampling(
    params: decoder.Params, model_cfg: decoder.ModelConfig, mesh: jax.sharding.Mesh, steps: int
) -> Figures:
    from reasoning_jax import prng
    from reasoning_jax.policy import Policy, Request
    from reasoning_jax.sampling import methods

    prompts = ragged(np.random.default_rng(0), PROMPTS, PROMPT, PROMPT // 2)
    lengths = np.asarray([len(p) for p in prompts], np.int32)
    requests = [Request(i, 0, prompt) for i, prompt in enumerate(prompts)]
    policy = Policy(
        params=params,
        model_cfg=model_cfg,
        mesh=mesh,
        batch_size=PROMPTS,
        max_length=PROMPT + NEW,
    )

    def call(i: int, new: int) -> float:
        began = time.perf_counter()
        options = {"method": methods.Temperature(1.0), "stop_ids": [-1], "max_new_tokens": new}
        drawn = policy.generate(requests, key=prng.key(i, "benchmark", 0), **options)
        assert sum(batch.lengths.sum() for batch in drawn) == PROMPTS * new
        return time.perf_counter() - began

    first, *seconds = [call(i, NEW) for i in range(steps + 1)]
    _, *prefill = [call(i, 1) for i in range(4)]
    median = statistics.median(seconds)
    return {
        "case": "uniform",
        "engine": "sample",
        "rows": PROMPTS,
        "prompt_max": PROMPT,
        "prompt_mean": float(lengths.mean()),
        "gen": NEW,
        "prefill_s": statistics.median(prefill),
        "useful_tokens_per_s": PROMPTS * NEW / median,
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "first_call_s": first,
        "warmup_s": max(0.0, first - median),
        "mean_len": float(NEW),
        "repeat": steps,
    }


def packed_batches(rows: Sequence[Mapping[str, np.ndarray]], updates: int) -> tuple[int, Iterator]:
    """Rows a batch, and batches of as many as hold the tokens of a mean update.

    What is left over opens the next batch.
    """
    from reasoning_jax.training import packing

    size = round(sum(len(row["tokens"]) for row in rows) / updates / LENGTH)
    return size, iter(packing.batches(rows, batch_size=size, length=LENGTH, seed=0))


def padded_batches(rows: Sequence[Mapping[str, np.ndarray]]) -> tuple[int, Iterator]:
    """Rows a batch, and batches of one padded sequence a row."""
    arrays = {}
    for key in ("tokens", "weights"):
        arrays[key] = np.stack([np.pad(row[key], (0, LENGTH - len(row[key]))) for row in rows])
    arrays["segment_ids"] = (arrays["tokens"] > 0).astype(np.int32)
    positions = np.arange(LENGTH, dtype=np.int32)
    arrays["positions"] = np.broadcast_to(positions, arrays["tokens"].shape)
    starts = range(0, len(rows), SEQUENCES)
    batches = [{key: x[i : i + SEQUENCES] for key, x in arrays.items()} for i in starts]
    return SEQUENCES, iter(batches)


def updates(
    case: str,
    current: state.TrainState,
    cfg: ConfigDict,
    model_cfg: decoder.ModelConfig,
    mesh: jax.sharding.Mesh,
    steps: int,
) -> Figures:
    import jax

    from reasoning_jax import algorithms
    from reasoning_jax.model import sharding
    from reasoning_jax.training import optim, train_step

    rng = np.random.default_rng(0)
    count = steps + 2  # the first compiles, the second warms up
    sequences = [s for _ in range(count) for s in ragged(rng, SEQUENCES, LENGTH, LENGTH // 4)]
    rows = [{"tokens": s, "weights": np.ones(len(s), np.float32)} for s in sequences]
    size, stream = packed_batches(rows, count) if case == "sft" else padded_batches(rows)
    optimizer = optim.make(cfg.optim)
    step = train_step.make_train_step(algorithms.get("sft"), model_cfg, optimizer, cfg)
    rate = sharding.put(np.float32(1e-5), mesh)
    seconds, tokens = [], []
    for _ in range(count):
        began = time.perf_counter()
        batch = next(stream)
        micro_batches = {key: x[None] for key, x in batch.items()}
        on_device = sharding.put(micro_batches, mesh, None, "batch", None)
        current, _ = jax.block_until_ready(step(current, on_device, rate))
        seconds.append(time.perf_counter() - began)
        tokens.append(int((batch["segment_ids"] > 0).sum()))
    steady, tokens = seconds[2:], tokens[2:]
    median = statistics.median(steady)
    arrangement = "packed" if case == "sft" else "padded"
    return {
        "algo": "sft",
        "batch": SEQUENCES,
        "len": LENGTH,
        "ragged": 1,
        "how": f"{size} rows of {LENGTH} an update, {arrangement}",
        "step_s": median,
        "step_min_s": min(steady),
        "step_max_s": max(steady),
        "first_step_s": seconds[0],
        "compile_s": max(0.0, seconds[0] - median),
        "mean_tokens": statistics.mean(tokens),
        "tokens_per_s": statistics.median(n / s for n, s in zip(tokens, steady, strict=True)),
    }


def peers(steps: int) -> dict[str, dict[str, list[str]]]:
    """The commands of each case: ours, and those of the peers that are there."""
    own = [sys.executable, str(Path(__file__).resolve()), f"--steps={steps}", "--case"]
    commands = {case: {"ours": [*own, case]} for case in CASES}
    folder = os.environ.get("PEERS_DIR")
    cores = f"--threads={machine.cores()}"
    for variable, package, trainer in PEERS:
        python = os.environ.get(variable)
        if not folder or not python or not has_package(python, package):
            sentence = f"{package}: left out (PEERS_DIR and {variable} do not lead to it)."
            print(sentence, file=sys.stderr)
            continue
        train = [f"{folder}/peers_train.py", f"--peer={trainer}", "--algo=sft", f"--steps={steps}"]
        sample = [f"{folder}/peers_sample.py", f"--peer={package}", f"--repeat={steps}"]
        commands["sft"][trainer] = [python, *train, cores]
        commands["padded"][trainer] = [python, *train, cores]
        commands["sample"][package] = [python, *sample, cores]
    return commands


def has_package(python: str, package: str) -> bool:
    done = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
    return done.returncode == 0


def measure(title: str, command: Sequence[str]) -> list[dict]:
    """The figures that a process prints, which are printed here too; [] where it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"script"')]
    if not lines:
        print(f"{title}: failed: {done.stderr[-300:]}", flush=True)
        return []
    print(lines[-1], flush=True)
    return [json.loads(lines[-1])]


def take_turns(case: str, commands: Mapping[str, Sequence[str]], repeats: int) -> None:
    """Prints the figures of a case's processes, and the ratios of their medians."""
    key = "useful_tokens_per_s" if case == "sample" else "tokens_per_s"
    rates: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            rates[name] += [figures[key] for figures in measure(f"{case}, {name}", command)]
    medians = {name: statistics.median(values) for name, values in rates.items() if values}
    own = medians.pop("ours", None)
    if own is None:
        return
    for name, rate in sorted(medians.items()):
        print(f"{case}: ours / {name} = {own / rate:.2f} ({own:,.0f} / {rate:,.0f} tokens/s)")


def main() -> None:
    flags = argparse.ArgumentParser(usage=__doc__)
    case = "measure this one case of ours, in this process"
    flags.add_argument("--case", choices=CASES, help=case)
    steps = "timed updates, or batches of samples, of a process"
    flags.add_argument("--steps", type=int, default=5, help=steps)
    repeats = "processes of each case and peer; they take turns"
    flags.add_argument("--repeats", type=int, default=1, help=repeats)
    args = flags.parse_args()
    if args.case:
        figures = ours(args.case, args.steps)
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
        print(json.dumps(rounded))
        return
    for name, commands in peers(args.steps).items():
        take_turns(name, commands, args.repeats)


if __name__ == "__main__":
    main()
