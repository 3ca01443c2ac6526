"""How fast one device updates and samples, as a share of what its matrix unit does, with compile times and memory.

    python benchmarks/throughput.py [--preset=0.4m] [--rows=24] [--samples=256] [--workdir=DIR] [--quick] [--profile=DIR]

Prints a table and one line of JSON. Updates train packed worked sums, samples continue real prompts, in float32 on a CPU
and in bfloat16 elsewhere. With random parameters no token ends a sample, so every row runs to its limit; with --workdir the
best round of that run samples, and its completions end by themselves. Each figure is the median of repeats that take turns.

Model FLOPs of an update: (6 N + 6 L n_q d_h S) a token, N being the parameters of matrix products (the output matrix
counts, the embedding's lookup does not) and S the length of the token's own segment: forward and backward, causal attention
counted as the half that is needed, nothing for padding or rematerialisation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import machine  # beside this file
import numpy as np
import profiling  # beside this file

from configs import star_addition
from reasoning_jax import checkpoint, command_line, data, experiment, model, optim, prng, sampling, sharding, state, update
from reasoning_jax.algorithms import sft


def flops(cfg: model.ModelConfig, params: Any, segment_ids: np.ndarray) -> float:
    """Model FLOPs of one update of a batch, by the formula above."""
    weights = sum(x.size for path, x in jax.tree_util.tree_leaves_with_path(params) if not path[-1].key.endswith("norm"))
    weights -= 0 if cfg.tied else cfg.vocab_size * cfg.width
    lengths = np.concatenate([np.bincount(row)[1:] for row in segment_ids.reshape(-1, segment_ids.shape[-1])]).astype(float)
    return float(6 * weights * lengths.sum() + 6 * cfg.num_layers * cfg.num_heads * cfg.head_dim * (lengths**2).sum())


def update_case(exp: experiment.Experiment, first: state.TrainState) -> tuple[Callable, list[int], list[float]]:
    """A function of i that runs update i, and the useful tokens and model FLOPs of each batch that it cycles through."""
    cfg, optimizer, roll = exp.cfg, optim.make(exp.cfg.optim), exp.rollout(first.params, "benchmark", 0)
    given = exp.load("given")
    rows = [roll.worked_row(e, hint=hint) for e in given for hint in (False, True)]
    stream = iter(data.batches([r for r in rows if r], batch_size=cfg.batch_size, length=cfg.sequence_length, seed=0))
    host = [next(stream) for _ in range(4)]
    parts = [{k: v.reshape(cfg.micro_batches, -1, v.shape[-1]) for k, v in batch.items()} for batch in host]
    batches = sharding.put(parts, exp.mesh, None, "batch", None)
    step = update.make_update(sft, exp.model_cfg, optimizer, cfg)
    now, rate = [first], sharding.put(np.float32(1e-4), exp.mesh)

    def run(i: int) -> jax.Array:
        now[0], metrics = step(now[0], batches[i % 4], rate)
        return metrics["loss"]

    run.lower = lambda: step.lower(now[0], batches[0], rate)  # type: ignore[attr-defined]
    segments = [b["segment_ids"] for b in host]
    return run, [int((s > 0).sum()) for s in segments], [flops(exp.model_cfg, first.params, s) for s in segments]


def sample_case(exp: experiment.Experiment, params: Any, rule: sampling.Rule, new: int, ends: bool) -> Callable:
    """A function of i that samples one full batch of real prompts with the i-th key."""
    roll, train = exp.rollout(params, "benchmark", 0, rule), exp.load("train")
    size = exp.cfg.sampling.batch_size
    examples = [train[int(i)] for i in np.linspace(0, len(train) - 1, size)]
    ids = [roll.prompt_ids(e) for e in examples]
    lengths = np.asarray([len(x) for x in ids], np.int32)
    tokens = np.zeros((size, sampling.bucket(int(lengths.max()))), np.int32)
    for row, prompt in zip(tokens, ids, strict=True):
        row[: len(prompt)] = prompt
    numbers = np.asarray([e.id for e in examples], np.int32)
    arrays = sharding.put((tokens, lengths, numbers, np.zeros_like(numbers)), exp.mesh, "batch", None)
    stop = sharding.put(np.asarray([exp.tokenizer.eos_id if ends else -1], np.int32), exp.mesh)
    rule, static = sharding.put(jax.tree.map(np.float32, rule), exp.mesh), {"cfg": exp.model_cfg, "max_new_tokens": new}

    def run(i: int) -> sampling.Samples:
        return sampling.sample(params, *arrays, prng.key(i, "benchmark", 0), rule, stop, **static)

    run.lower = lambda: sampling.sample.lower(params, *arrays, prng.key(0, "benchmark", 0), rule, stop, **static)  # type: ignore
    return run


def timed(cases: dict[str, Callable], repeats: int, least: float) -> tuple[dict, dict, dict]:
    """Seconds of each case's first call; of a call in each repeat; and the last result. The cases take turns; a repeat
    is as many calls as last ``least`` seconds."""
    first, calls, seconds, last = {}, {}, {name: [] for name in cases}, {}
    for name, run in cases.items():
        for key in (first, calls):  # compile and run, then run
            began = time.perf_counter()
            last[name] = jax.block_until_ready(run(0))
            key[name] = time.perf_counter() - began
    for repeat in range(repeats):
        for name, run in cases.items():
            count = max(1, round(least / calls[name]))
            began = time.perf_counter()
            for i in range(count):
                last[name] = run(repeat * count + i)
            jax.block_until_ready(last[name])
            seconds[name].append((time.perf_counter() - began) / count)
    return first, seconds, last


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(usage=__doc__)
    flags.add_argument("--preset", default="0.4m", help="a size in reasoning_jax/presets.py")
    flags.add_argument("--rows", type=int, help="packed rows an update (default: the experiment's)")
    flags.add_argument("--samples", type=int, help="prompts sampled at once (default: the experiment's)")
    flags.add_argument("--workdir", type=Path, help="sample with this run's best model, and take its config")
    flags.add_argument("--quick", action="store_true", help="few repeats and a small yardstick: to see that it works")
    flags.add_argument("--profile", type=Path, help="also trace one update and one batch of samples into this folder")
    return flags.parse_args()


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Callable]]:
    """The figures, and what --profile traces."""
    device = jax.devices()[0]
    jax.config.update("jax_enable_compilation_cache", args.quick)  # or compiling would be reading a file
    if args.workdir:
        cfg = command_line.rebuild(args.workdir)
    else:
        cfg = star_addition.get_config()
        cfg.model.preset, cfg.model.dtype = args.preset, "float32" if device.platform == "cpu" else "bfloat16"
    cfg.mesh.update(data=1, fsdp=1, tensor=1)
    cfg.batch_size, cfg.sampling.batch_size = args.rows or cfg.batch_size, args.samples or cfg.sampling.batch_size
    exp, about = experiment.make(cfg, [device]), machine.describe(device)  # the load as it was found
    init = state.init(0, exp.model_cfg, optim.make(cfg.optim), exp.mesh)
    params = jax.tree.map(jnp.copy, init.params)  # an update gives its state away
    if args.workdir:
        params, _ = checkpoint.load_params(args.workdir, exp.abstract_state().params)
    step, tokens, work = update_case(exp, init)
    new, rules = cfg.sampling.max_new_tokens, {"greedy": sampling.Greedy(), "temperature": sampling.Temperature(1.0)}
    n, dtype = (512, "float32") if args.quick else (2048, "float32") if device.platform == "cpu" else (8192, "bfloat16")
    square, product = jax.device_put(jnp.ones((n, n), dtype), device), jax.jit(jnp.matmul)
    cases: dict[str, Callable] = {"matmul": lambda i: product(square, square), "update": step}
    cases |= {name: sample_case(exp, params, rule, new, bool(args.workdir)) for name, rule in rules.items()}
    cases["prefill"] = sample_case(exp, params, rules["greedy"], 1, False)
    first, seconds, last = timed(cases, 2 if args.quick else 7, 0.0 if args.quick else 0.3)

    mid = {name: statistics.median(values) for name, values in seconds.items()}
    peak, per_update = 2 * n**3 / min(seconds["matmul"]), statistics.mean(tokens)
    out = about | {
        "preset": cfg.model.preset, "parameters": model.num_params(params), "dtype": cfg.model.dtype,
        "rows": cfg.batch_size, "sequence_length": cfg.sequence_length, "samples": cfg.sampling.batch_size,
        "max_new_tokens": new, "repeats": len(seconds["update"]), "matmul": f"{dtype} {n}x{n}",
        "matmul_peak_gflops": peak / 1e9, "update_model_gflops": statistics.mean(work) / mid["update"] / 1e9,
        "update_fraction_of_peak": statistics.mean(work) / mid["update"] / peak,
        "update_useful_fraction": per_update / (cfg.batch_size * cfg.sequence_length),
        "update_tokens_per_s": per_update / mid["update"],
    }  # fmt: skip
    for name in rules:
        lengths = np.asarray(last[name].lengths)
        out[f"{name}_tokens_per_s"] = float(lengths.sum()) / mid[name]
        out[f"{name}_useful_fraction"] = float(lengths.mean() / lengths.max())
        out[f"{name}_ms_a_step"] = 1e3 * (mid[name] - mid["prefill"]) / max(int(lengths.max()) - 1, 1)
    for name in mid:
        out |= {f"{name}_ms": 1e3 * mid[name], f"{name}_ms_min": 1e3 * min(seconds[name])}
        out |= {f"{name}_ms_max": 1e3 * max(seconds[name]), f"{name}_compile_s": max(first[name] - mid[name], 0.0)}
    return out | {"peak_memory_mib": machine.peak_memory_mib(device)}, {"update": step, "sample": cases["greedy"]}


def table(out: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["{device}, {cores} cores, load {load}, jax {jax}, {matmul} at {matmul_peak_gflops:,.0f} GFLOP/s".format(**out)]
    lines += ["{preset}, {parameters:,} parameters, {dtype}; {rows} x {sequence_length} tokens an update, "
              "{samples} samples of up to {max_new_tokens} tokens".format(**out), ""]  # fmt: skip
    lines.append(f"{'':12}{'useful tokens/s':>16}{'ms':>10}{'min - max':>20}{'compile s':>11}  of which")
    notes = {
        "update": "{update_model_gflops:,.1f} model GFLOP/s, {update_fraction_of_peak:.1%} of the peak; "
        "{update_useful_fraction:.0%} of the slots useful",
        "greedy": "{greedy_ms_a_step:.2f} ms a step; {greedy_useful_fraction:.0%} of the slots useful",
        "temperature": "{temperature_ms_a_step:.2f} ms a step; {temperature_useful_fraction:.0%} of the slots useful",
        "prefill": "",
    }
    for name, note in notes.items():
        rate = f"{out[f'{name}_tokens_per_s']:,.0f}" if f"{name}_tokens_per_s" in out else ""
        spread = f"{out[f'{name}_ms_min']:.1f} - {out[f'{name}_ms_max']:.1f}"
        figures = f"{rate:>16}{out[f'{name}_ms']:>10.1f}{spread:>20}{out[f'{name}_compile_s']:>11.1f}"
        lines.append(f"{name:12}{figures}  {note.format(**out)}".rstrip())
    return "\n".join([*lines, f"peak memory {out['peak_memory_mib']:,.0f} MiB"])


def main() -> None:
    args = arguments()
    out, cases = measure(args)
    print(table(out))
    print(json.dumps({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in out.items()}))
    if args.profile:
        print(profiling.report(cases, args.profile))


if __name__ == "__main__":
    main()
