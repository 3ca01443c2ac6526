"""How fast one device updates and samples, as a fraction of what its matrix unit does.

    python benchmarks/throughput.py [--preset=0.4m] [--rows=24] [--samples=256] [--workdir=DIR] \\
        [--quick] [--profile=DIR]

Prints a table, with compile times and memory, and one line of JSON. Updates train packed worked
sums, samples continue real prompts, in float32 on a CPU and in bfloat16 elsewhere. With random
parameters no token ends a sample, so every sequence runs to its limit; with --workdir the best
round of that run samples, and its completions end by themselves. Each figure is the median of
repeats that take turns.

Model FLOPs of an update are those of ``cases.flops``. A step of decoding has to read the model
once, and the cache's pages: the fraction "of the memory" is these bytes a second, of what a copy
of 1 GiB moves.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import machine  # beside this file
import profiling  # beside this file
from cases import (
    Compiled,
    Run,
    Timed,
    UpdateCase,
    cache_bytes,
    sample_case,
    timed,
    update_case,
)
from ml_collections import ConfigDict

from reasoning_jax import config, experiment
from reasoning_jax.model import decoder
from reasoning_jax.sampling import methods
from reasoning_jax.training import checkpoint, optim, state

Figures = dict[str, str | int | float]
METHODS = {"greedy": methods.Greedy(), "temperature": methods.Temperature(1.0)}
NOTES = {
    "update": "{update_model_gflops:,.1f} model GFLOP/s, "
    "{update_fraction_of_peak:.1%} of the peak; {update_useful_fraction:.0%} of the slots useful",
    "greedy": "{greedy_ms_a_step:.2f} ms a step, {greedy_fraction_of_bandwidth:.1%} of the memory; "
    "{greedy_useful_fraction:.0%} of the slots useful",
    "temperature": "{temperature_ms_a_step:.2f} ms a step, "
    "{temperature_fraction_of_bandwidth:.1%} of the memory; "
    "{temperature_useful_fraction:.0%} of the slots useful",
    "prefill": "",
}


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(usage=__doc__)
    flags.add_argument("--preset", default="0.4m", help="a size in reasoning_jax/model/presets.py")
    rows = "packed rows an update (default: the experiment's)"
    flags.add_argument("--rows", type=int, help=rows)
    samples = "prompts sampled at once (default: the experiment's)"
    flags.add_argument("--samples", type=int, help=samples)
    workdir = "sample with this run's best model, and take its config"
    flags.add_argument("--workdir", type=Path, help=workdir)
    quick = "few repeats and a small yardstick: to see that it works"
    flags.add_argument("--quick", action="store_true", help=quick)
    profile = "also trace one update and one batch of samples into this folder"
    flags.add_argument("--profile", type=Path, help=profile)
    return flags.parse_args()


def make_config(args: argparse.Namespace, device: jax.Device) -> ConfigDict:
    if args.workdir:
        cfg = config.rebuild(args.workdir)
    else:
        cfg = config.load(f"{ROOT}/configs/star_addition.py")
        cfg.model.preset = args.preset
        cfg.model.dtype = "float32" if device.platform == "cpu" else "bfloat16"
    cfg.mesh.update(data=1, fsdp=1, tensor=1)
    cfg.batch_size = args.rows or cfg.batch_size
    cfg.sampling.batch_size = args.samples or cfg.sampling.batch_size
    return cfg


def yardstick(quick: bool, device: jax.Device) -> tuple[int, str, Run]:
    """The largest product of square matrices that this device is measured by: size, type, run."""
    size, dtype = 8192, "bfloat16"
    if device.platform == "cpu":
        size, dtype = 2048, "float32"
    if quick:
        size, dtype = 512, "float32"
    # Random: a product of equal numbers draws less power, so that a GPU is faster at it.
    square = jax.device_put(jax.random.normal(jax.random.key(0), (size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    return size, dtype, lambda i: product(square, square)


def copy(quick: bool, device: jax.Device) -> tuple[int, Run]:
    """The bytes that it reads and writes, and an operation on a large array."""
    array = jax.device_put(jnp.ones(2**20 if quick else 2**28, jnp.float32), device)
    plus_one = jax.jit(lambda x: x + 1)
    return 2 * array.nbytes, lambda i: plus_one(array)


def measure(args: argparse.Namespace) -> tuple[Figures, dict[str, Compiled]]:
    """The figures, and what --profile traces."""
    device = jax.devices()[0]
    # Without --quick compiling is not reading a file.
    jax.config.update("jax_enable_compilation_cache", args.quick)
    cfg = make_config(args, device)
    exp = experiment.make(cfg, [device])
    about = machine.describe(device)  # the load as it was found
    init = state.init(0, exp.model_cfg, optim.make(cfg.optim), exp.mesh)
    params = jax.tree.map(jnp.copy, init.params)  # an update gives its state away
    if args.workdir:
        params, _ = checkpoint.load_params(args.workdir, exp.abstract_state().params)
    update = update_case(exp, init)
    new = cfg.sampling.max_new_tokens
    samples = functools.partial(sample_case, exp, params)
    size, dtype, product = yardstick(args.quick, device)
    copied, plus_one = copy(args.quick, device)
    cases: dict[str, Run] = {"matmul": product, "copy": plus_one, "update": update.step}
    drawn = {name: samples(method, new, bool(args.workdir)) for name, method in METHODS.items()}
    cases |= drawn
    cases["prefill"] = samples(METHODS["greedy"], 1, False)
    repeats, least = (2, 0.0) if args.quick else (7, 0.3)
    results = timed(cases, repeats, least)
    peak = 2 * size**3 / min(results.seconds["matmul"])
    bandwidth = copied / min(results.seconds["copy"])
    out = about | {
        "preset": cfg.model.preset,
        "parameters": decoder.num_params(params),
        "dtype": cfg.model.dtype,
        "rows": cfg.batch_size,
        "sequence_length": cfg.sequence_length,
        "samples": cfg.sampling.batch_size,
        "max_new_tokens": new,
        "repeats": len(results.seconds["update"]),
        "matmul": f"{dtype} {size}x{size}",
        "matmul_peak_gflops": peak / 1e9,
        "copy_gb_per_s": bandwidth / 1e9,
    }
    slots = cfg.batch_size * cfg.sequence_length
    out |= update_figures(update, results, peak, slots)
    matrices = decoder.num_params(params) * jnp.dtype(cfg.model.dtype).itemsize
    for name, case in drawn.items():
        pages = cache_bytes(exp.model_cfg, case.prompt_lengths, new - 1)
        out |= sampling_figures(name, results, (matrices + pages) / bandwidth)
    for name in cases:
        out |= time_figures(name, results)
    out["peak_memory_mib"] = machine.peak_memory_mib(device)
    return out, {"update": update.step, "sample": cases["greedy"]}


def update_figures(update: UpdateCase, results: Timed, peak: float, slots: int) -> Figures:
    """slots: tokens of a batch, padding included; peak: FLOP/s of the yardstick."""
    seconds = statistics.median(results.seconds["update"])
    tokens, rate = statistics.mean(update.tokens), statistics.mean(update.flops) / seconds
    return {
        "update_model_gflops": rate / 1e9,
        "update_fraction_of_peak": rate / peak,
        "update_useful_fraction": tokens / slots,
        "update_tokens_per_s": tokens / seconds,
    }


def sampling_figures(name: str, results: Timed, least: float) -> Figures:
    """least: seconds in which a step's bytes could be read."""
    lengths = results.last[name]
    seconds = statistics.median(results.seconds[name])
    decoding = seconds - statistics.median(results.seconds["prefill"])
    a_step = decoding / max(int(lengths.max()) - 1, 1)
    return {
        f"{name}_tokens_per_s": float(lengths.sum()) / seconds,
        f"{name}_useful_fraction": float(lengths.mean() / lengths.max()),
        f"{name}_ms_a_step": 1e3 * a_step,
        f"{name}_fraction_of_bandwidth": least / a_step,
    }


def time_figures(name: str, results: Timed) -> Figures:
    seconds = results.seconds[name]
    middle = statistics.median(seconds)
    return {
        f"{name}_ms": 1e3 * middle,
        f"{name}_ms_min": 1e3 * min(seconds),
        f"{name}_ms_max": 1e3 * max(seconds),
        f"{name}_compile_s": max(results.first[name] - middle, 0.0),
    }


# ---- showing -------------------------------------------------------------------------------------


def table(out: Figures) -> str:
    """The figures for people."""
    device = "{device}, {cores} cores, load {load}, jax {jax}, {matmul} at "
    device += "{matmul_peak_gflops:,.0f} GFLOP/s, a copy at {copy_gb_per_s:,.0f} GB/s"
    sizes = "{preset}, {parameters:,} parameters, {dtype}; {rows} x {sequence_length} tokens an "
    sizes += "update, {samples} samples of up to {max_new_tokens} tokens"
    lines = [device.format(**out), sizes.format(**out), ""]
    header = f"{'':12}{'useful tokens/s':>16}{'ms':>10}{'min - max':>20}{'compile s':>11}"
    lines.append(f"{header}  of which")
    for name, note in NOTES.items():
        rate = out.get(f"{name}_tokens_per_s")
        shown = "" if rate is None else f"{rate:,.0f}"
        spread = f"{out[f'{name}_ms_min']:.1f} - {out[f'{name}_ms_max']:.1f}"
        line = f"{name:12}{shown:>16}{out[f'{name}_ms']:>10.1f}{spread:>20}"
        line += f"{out[f'{name}_compile_s']:>11.1f}  {note.format(**out)}"
        lines.append(line.rstrip())
    return "\n".join([*lines, f"peak memory {out['peak_memory_mib']:,.0f} MiB"])


def main() -> None:
    args = arguments()
    out, cases = measure(args)
    print(table(out))
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in out.items()}
    print(json.dumps(rounded))
    if args.profile:
        print(profiling.report(cases, args.profile))


if __name__ == "__main__":
    main()
