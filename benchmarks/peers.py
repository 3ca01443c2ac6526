"""The cases that the peers' scripts measure, on ours: a fine-tuning update and sampling, at 4M parameters in float32.

    python benchmarks/peers.py                         ours, one line of JSON a case
    PEERS_DIR=... TUNIX_PY=... TRL_PY=... python benchmarks/peers.py     beside the peers, taking turns, and the ratios

PEERS_DIR is the folder of peers_train.py and peers_sample.py; TUNIX_PY and TRL_PY are the interpreters that have tunix and
transformers. Every figure comes from a process of its own, so that its peak memory is its own. The model: 4 layers, width
256, 8 heads of 32, 4 key-value heads, MLP 1024, vocabulary 512, random parameters.

  sft      16 rows of U[64, 256] tokens an update, packed into the 10 rows of 256 that their tokens fill: as in our loop
  padded   the same, each row padded to 256: the arrays that the peers compute
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
from pathlib import Path
from typing import Any

import machine  # beside this file

ROOT = Path(__file__).resolve().parents[1]
VOCAB, ROWS, LENGTH, PROMPTS, PROMPT, NEW = 512, 16, 256, 32, 128, 128
CASES = ("sft", "padded", "sample")


def ours(case: str, steps: int) -> dict[str, Any]:
    """One case, in this process."""
    sys.path.insert(0, str(ROOT))
    import jax
    import numpy as np

    from configs import default
    from reasoning_jax import data, model, optim, presets, prng, sampling, sharding, state, update
    from reasoning_jax.algorithms import sft

    jax.config.update("jax_enable_compilation_cache", False)  # the first call's seconds are those of a first call
    cfg, rng = default.get_config(), np.random.default_rng(0)
    cfg.model.preset, cfg.sequence_length = "4m", LENGTH
    model_cfg = presets.model_config(cfg.model, VOCAB)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    jax.set_mesh(mesh)
    now = state.init(0, model_cfg, optim.make(cfg.optim), mesh)
    out = {"size": "default", "threads": machine.cores(), "n_params": model.num_params(now.params)}

    def ragged(count: int, most: int, least: int) -> list[np.ndarray]:
        lengths = [most, *rng.integers(least, most + 1, count - 1)]
        return [rng.integers(1, VOCAB, n).astype(np.int32) for n in lengths]

    if case == "sample":
        prompts = ragged(PROMPTS, PROMPT, PROMPT // 2)
        lengths = np.asarray([len(p) for p in prompts], np.int32)
        tokens = np.stack([np.pad(p, (0, PROMPT - len(p))) for p in prompts])
        ids = np.arange(PROMPTS, dtype=np.int32)
        arrays = sharding.put((tokens, lengths, ids, 0 * ids), mesh, "batch", None)
        rule, stop = sharding.put((jax.tree.map(np.float32, sampling.Temperature(1.0)), np.asarray([-1], np.int32)), mesh)

        def call(i: int, new: int) -> float:
            began, key = time.perf_counter(), prng.key(i, "benchmark", 0)
            done = sampling.sample(now.params, *arrays, key, rule, stop, cfg=model_cfg, max_new_tokens=new)
            assert np.all(np.asarray(done.lengths) == new)
            return time.perf_counter() - began

        first, *seconds = [call(i, NEW) for i in range(steps + 1)]
        mid, prefill = statistics.median(seconds), [call(i, 1) for i in range(4)][1:]
        out |= {
            "script": "peers_sample", "case": "uniform", "engine": "sample", "rows": PROMPTS, "prompt_max": PROMPT,
            "prompt_mean": float(lengths.mean()), "gen": NEW, "prefill_s": statistics.median(prefill),
            "useful_tokens_per_s": PROMPTS * NEW / mid, "median_s": mid, "min_s": min(seconds), "max_s": max(seconds),
            "first_call_s": first, "warmup_s": max(0.0, first - mid), "mean_len": float(NEW), "repeat": steps,
        }  # fmt: skip
    else:
        groups = [ragged(ROWS, LENGTH, LENGTH // 4) for _ in range(steps + 2)]
        rows = [{"tokens": t, "weights": np.ones(len(t), np.float32)} for group in groups for t in group]
        if case == "sft":  # as many rows as hold the tokens of a mean update; what is left over opens the next batch
            size = round(sum(len(r["tokens"]) for r in rows) / len(groups) / LENGTH)
            stream = iter(data.batches(rows, batch_size=size, length=LENGTH, seed=0))
        else:
            size, full = ROWS, {k: np.stack([np.pad(r[k], (0, LENGTH - len(r[k]))) for r in rows]) for k in rows[0]}
            full["segment_ids"] = (full["tokens"] > 0).astype(np.int32)
            full["positions"] = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), full["tokens"].shape)
            stream = iter([{k: v[i : i + ROWS] for k, v in full.items()} for i in range(0, len(rows), ROWS)])
        step, rate = update.make_update(sft, model_cfg, optim.make(cfg.optim), cfg), sharding.put(np.float32(1e-5), mesh)
        seconds, counts = [], []
        for _ in range(steps + 2):
            began, batch = time.perf_counter(), next(stream)
            on_device = sharding.put({k: v[None] for k, v in batch.items()}, mesh, None, "batch", None)
            now, _ = jax.block_until_ready(step(now, on_device, rate))
            seconds.append(time.perf_counter() - began)
            counts.append(int((batch["segment_ids"] > 0).sum()))
        first, steady, counts = seconds[0], seconds[2:], counts[2:]  # the first compiles, the second warms up
        mid = statistics.median(steady)
        out |= {
            "script": "peers_train", "algo": "sft", "batch": ROWS, "len": LENGTH, "ragged": 1,
            "how": f"{size} rows of {LENGTH} an update, " + ("packed" if case == "sft" else "padded"),
            "step_s": mid, "step_min_s": min(steady), "step_max_s": max(steady), "first_step_s": first,
            "compile_s": max(0.0, first - mid), "mean_tokens": statistics.mean(counts),
            "tokens_per_s": statistics.median(n / s for n, s in zip(counts, steady, strict=True)),
        }  # fmt: skip
    return {"script": out.pop("script"), "peer": "ours"} | out | {"peak_rss_mb": round(machine.peak_memory_mib())}


def peers(steps: int) -> dict[str, dict[str, list[str]]]:
    """The commands of each case: ours, and those of the peers that are there."""
    me = [sys.executable, str(Path(__file__).resolve()), f"--steps={steps}", "--case"]
    commands = {case: {"ours": [*me, case]} for case in CASES}
    folder, cores = os.environ.get("PEERS_DIR"), f"--threads={machine.cores()}"
    for variable, package, trainer in (("TUNIX_PY", "tunix", "tunix"), ("TRL_PY", "transformers", "trl")):
        python = os.environ.get(variable)
        if not folder or not python or subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode:
            print(f"{package}: left out (PEERS_DIR and {variable} do not lead to it).", file=sys.stderr)
            continue
        train = [python, f"{folder}/peers_train.py", f"--peer={trainer}", "--algo=sft", f"--steps={steps}", cores]
        sample = [python, f"{folder}/peers_sample.py", f"--peer={package}", f"--repeat={steps}", cores]
        commands["sft"][trainer], commands["padded"][trainer], commands["sample"][package] = train, train, sample
    return commands


def main() -> None:
    flags = argparse.ArgumentParser(usage=__doc__)
    flags.add_argument("--case", choices=CASES, help="measure this one case of ours, in this process")
    flags.add_argument("--steps", type=int, default=5, help="timed updates, or batches of samples, of a process")
    flags.add_argument("--repeats", type=int, default=1, help="processes of each case and peer; they take turns")
    args = flags.parse_args()
    if args.case:
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in ours(args.case, args.steps).items()}))
        return
    for case, commands in peers(args.steps).items():
        rate = "useful_tokens_per_s" if case == "sample" else "tokens_per_s"
        rates: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, command in commands.items():
                done = subprocess.run(command, capture_output=True, text=True)
                found = [line for line in done.stdout.splitlines() if line.startswith('{"script"')]
                print(*found[-1:] or [f"{case}, {name}: failed: {done.stderr[-300:]}"], flush=True)
                rates[name] += [json.loads(line)[rate] for line in found[-1:]]
        mid = {name: statistics.median(values) for name, values in rates.items() if values}
        for name in sorted(mid.keys() - {"ours"}) if "ours" in mid else ():
            print(f"{case}: ours / {name} = {mid['ours'] / mid[name]:.2f} ({mid['ours']:,.0f} / {mid[name]:,.0f} tokens/s)")


if __name__ == "__main__":
    main()
