"""Says whether an experiment fits a TPU slice, and how fast it could be there, without the slice.

    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e:8x8 [--slices=2] [--json] [--config.KEY=VALUE ...]
    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e-64 --fit=batch     the largest batches that fit
    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e-64 --fit=mesh      the best mesh that fits
    python -m reasoning_jax.plan --doctor [--workdir=DIR]                                what is wrong with this machine

The programs that the experiment would run are compiled by TPU's own compiler (pip install "jax[tpu]"; no TPU is needed): memory
and collectives are the compiler's, times are ceilings by the formulas of tpu.py, which nothing real reaches. Exit code 3 where
a program does not fit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from reasoning_jax import command_line, doctor, tpu

DOES_NOT_FIT = 3


def environment() -> None:
    """For a compiler without its chips. Before jax is imported."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    # libtpu asks for them, says so at length where they are missing, and then does without.
    for key, value in (("ACCELERATOR_TYPE", "v5litepod-4"), ("WORKER_HOSTNAMES", "localhost"), ("WORKER_ID", "0")):
        os.environ.setdefault(f"TPU_{key}", value)


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("topology", None, "The slice: v5e:8x8, or by its order name, v5e-64.", values)
    flags.DEFINE_integer("slices", 1, "How many such slices.", 1, flag_values=values)
    flags.DEFINE_enum("fit", None, ["batch", "mesh"], "Searches for the largest batches, or for the best mesh.", values)
    flags.DEFINE_boolean("json", False, "Prints one JSON object instead.", values)
    flags.DEFINE_boolean("doctor", False, "Checks this machine's environment instead.", values)


def main(cfg: Any, workdir: Path, values: Any) -> None:
    if values.doctor:
        sys.exit(doctor.main(values.workdir))
    if not len(cfg):
        raise ValueError("--config is missing: plan needs --config=configs/X.py, or the --workdir of a run.")
    if not values.topology:
        raise ValueError(f"--topology is missing; {tpu.valid_names()}")
    topology = tpu.topology(values.topology)
    environment()
    told = plan(cfg, topology, values.slices, values.fit, say=(lambda line: None) if values.json else print)
    if values.json:
        print(json.dumps({"config": values.config or values.workdir} | told))
    if not told["fits"]:
        print(told["advice"], file=sys.stderr)
        sys.exit(DOES_NOT_FIT)


def plan(cfg: Any, topology: tpu.Topology, slices: int, fit: str | None, say: Callable[[str], Any]) -> dict[str, Any]:
    """Compiles, says and returns what was found; a search leaves what it chose in ``cfg``."""
    import jax

    from reasoning_jax import aot, experiment

    devices, chip = aot.devices(topology, slices), topology.chip

    done: dict[tuple, Any] = {}  # a search ends with what it has compiled before

    def key(step: Any) -> tuple:
        return step.name, step.rows, tuple(step.mesh.shape.values())

    def compile_all() -> tuple[Any, list[tuple[Any, Any]]]:
        exp = experiment.make(cfg, devices)
        steps = aot.steps(cfg, exp)
        for step in steps:
            done[key(step)] = done.get(key(step)) or aot.compile_step(step, chip)
        return exp, [(step, done[key(step)]) for step in steps]

    told: dict[str, Any] = {"topology": str(topology), "slices": slices, "chips": len(devices), "jax": jax.__version__,
                            "libtpu": doctor.version("libtpu"), "hbm_bytes": int(chip.hbm)}  # fmt: skip
    if fit == "mesh":
        told["meshes"] = best_mesh(cfg, topology, slices, lambda: compile_all()[1], say)
    if fit == "batch":
        told["largest"] = {}
        for name, kinds, unit in units(cfg, experiment.make(cfg, devices).mesh.shape):
            holder = cfg.sampling if name == "sampling.batch_size" else cfg

            def compiled(n: int, holder: Any = holder, kinds: tuple[str, ...] = kinds) -> Any:
                holder.batch_size = n
                steps = [s for s in aot.steps(cfg, experiment.make(cfg, devices)) if s.kind in kinds]
                crashed = [aot.Compiled(False, 0, 0.0, 0.0)] * len(steps)
                found = aot.apart(aot.compile_kinds, cfg, topology, slices, kinds) or crashed
                done.update(zip(map(key, steps), found, strict=True))
                return max(found, key=lambda c: (not c.fits, c.needed))

            tell = lambda n, c, name=name: say(f"  config.{name}={n}: {fits(c, chip)}")  # noqa: E731
            found = largest(unit, holder.batch_size, compiled, chip.hbm, tell)
            holder.batch_size = found or unit
            told["largest"][name] = found
    exp, results = compile_all()
    told |= {"mesh": dict(exp.mesh.shape), "params": tpu.num_params(exp.model_cfg), "steps": []}
    several, axes = f"{slices} slices of " if slices > 1 else "", ", ".join(f"{a} {n}" for a, n in exp.mesh.shape.items())
    say(f"{len(devices)} chips: {several}{topology}, {chip.hbm / tpu.GIB:.2f} GiB each; mesh {axes}; "
        f"{told['params'] / 1e6:,.1f} million parameters; jax {told['jax']}, libtpu {told['libtpu']}")  # fmt: skip
    for step, result in results:
        told["steps"].append(report(step, result, cfg, exp, topology, say))
    told["fits"] = all(c.fits for _, c in results)
    if told["fits"]:
        say(tpu.FORMULAS)
    else:
        told["advice"] = advice(results, cfg, exp.mesh, chip)
    return told


# ---- what is said of a program ---------------------------------------------------------------------------------------


def gib(n: float) -> str:
    return f"{n / tpu.GIB:.2f} GiB" if abs(n) >= tpu.GIB / 100 else f"{n / 2**20:.2f} MiB"


def fits(c: Any, chip: tpu.Chip) -> str:
    if not c.needed:
        return "does not fit"
    less = chip.hbm - c.needed
    return f"{gib(c.needed)} a device, " + (f"fits, {gib(less)} to spare" if c.fits else f"does not fit: {gib(-less)} more")


def report(step: Any, c: Any, cfg: Any, exp: Any, topology: tpu.Topology, say: Callable[[str], Any]) -> dict[str, Any]:
    """One program, said and as a dict."""
    from reasoning_jax import hlo

    chip = topology.chip
    told = {k: v for k, v in dataclasses.asdict(c).items() if k != "collectives"}
    told |= {"name": step.name, "rows": step.rows, "length": step.length, "to_spare": int(chip.hbm - c.needed), "phases": []}
    say(f"\n{step.name}: {step.rows} x {step.length} tokens, compiled in {c.seconds:.0f} s ({c.cpu_seconds:.0f} s of CPU)")
    say(f"  memory       {fits(c, chip)}")
    if c.fits or c.arguments:
        parts = {"arguments": c.arguments, "temporaries": c.temporaries, "output": c.output, "donated": -c.donated,
                 "also there (optimiser, reference)": c.resident}  # fmt: skip
        say("               " + ", ".join(f"{k} {gib(v)}" for k, v in parts.items() if v))
        for phase in phases(step, c, cfg, exp, topology):
            sent = hlo.by_kind(phase.pop("collectives"))
            told["phases"].append(phase | {"collectives": sent})
            lines = ", ".join(f"{kind} {v['count']} x, {gib(v['bytes'])}" for kind, v in sent.items()) or "none"
            say(f"  {phase['name']:<12} collectives a device: {lines}")
            times = ", ".join(f"{k} {1e3 * v:,.3g} ms" for k, v in phase["seconds"].items())
            say(f"               {phase['flops']:.3g} FLOPs; {times}: at most {phase['tokens_per_second']:,.0f} tokens/s, "
                + ", ".join(f"{k.upper()} {phase[k]:.0%}" for k in ("mfu", "mbu") if k in phase))  # fmt: skip
            if "mbu" in phase and step.mesh.shape["fsdp"] > 1:
                say("               each step gathers every layer: config.mesh.sampling_tensor samples from copies instead")
    return told


def phases(step: Any, c: Any, cfg: Any, exp: Any, topology: tpu.Topology) -> list[dict[str, Any]]:
    """Ceilings of a program; of a sampler those of prefill and of a decoding step."""
    m, mesh, chips, tokens = exp.model_cfg, dict(step.mesh.shape), step.mesh.size, step.rows * step.length
    chip, peak, once = topology.chip, chips * topology.chip.flops, [x for x in c.collectives if not x.repeated]
    weights = tpu.multiplied_params(m) * tpu.itemsize(m) / mesh["tensor"]

    def phase(name: str, tokens: int, flops: float, executed: float, bytes_a_chip: float, sent: list[Any]) -> dict[str, Any]:
        seconds = {"compute": executed / peak, "memory": bytes_a_chip / chip.bandwidth}
        seconds["network"] = tpu.network_seconds(topology, sent)
        longest = max(seconds.values())
        return {"name": name, "flops": flops, "seconds": seconds, "tokens_per_second": tokens / longest,
                "mfu": flops / peak / longest, "collectives": sent}  # fmt: skip

    if step.kind == "update":
        flops = tpu.train_flops(m, tokens, step.length)
        return [phase("update", tokens, flops, tpu.executed(m, flops), tpu.train_bytes(m, mesh, cfg.micro_batches), once)]
    if step.kind == "score":
        flops = tpu.forward_flops(m, tokens, step.length)
        return [phase("forward", tokens, flops, flops, weights, once)]
    flops, context = tpu.forward_flops(m, tokens, step.length, heads=step.rows), step.length + cfg.sampling.max_new_tokens / 2
    prefill = phase("prefill", tokens, flops, flops, weights, once)
    flops = tpu.decode_flops(m, step.rows, context)
    read = tpu.decode_bytes(m, step.rows, context, mesh["data"] * mesh["fsdp"], tpu.itemsize(m)) / chips
    decode = phase("a decode step", step.rows, flops, flops, read, [x for x in c.collectives if x.repeated])
    del decode["mfu"]
    return [prefill, decode | {"mbu": decode["seconds"]["memory"] / max(decode["seconds"].values())}]


def advice(results: list[tuple[Any, Any]], cfg: Any, mesh: Any, chip: tpu.Chip) -> str:
    """One sentence: what does not fit, and the keys that change it."""
    step, c = max((r for r in results if not r[1].fits), key=lambda r: r[1].needed)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    ways = []
    if mesh.shape["data"] > 1:
        ways.append(f"config.mesh.fsdp above {mesh.shape['fsdp']} (it splits parameters and optimiser)")
    if step.kind == "update":
        if cfg.batch_size // cfg.micro_batches > rows:
            ways.append(f"config.micro_batches above {cfg.micro_batches}")
        if cfg.model.remat != "full":
            ways.append("config.model.remat=full")
        if cfg.batch_size > rows:
            ways.append(f"config.batch_size below {cfg.batch_size}")
    elif cfg.sampling.batch_size > rows:
        ways.append(f"config.sampling.batch_size below {cfg.sampling.batch_size}")
    ways += ["a larger slice"] if len(ways) < 2 else []
    more = f" ({gib(c.needed)} of {gib(chip.hbm)})" if c.needed else ""
    return f"{step.name} does not fit{more}: try {', or '.join(ways)}."


# ---- searches --------------------------------------------------------------------------------------------------------


def units(cfg: Any, shape: Any) -> list[tuple[str, tuple[str, ...], int]]:
    """(key, kinds of programs, smallest size) of each batch that can be enlarged."""
    rows = shape["data"] * shape["fsdp"]
    return [("batch_size", ("update",), rows * cfg.micro_batches), ("sampling.batch_size", ("sample", "score"), rows)]


def largest(
    unit: int, start: int, compiled: Callable[[int], Any], hbm: float, tell: Callable[[int, Any], Any]
) -> int | None:
    """The largest unit x 2^k that fits, k at most 16; None where unit itself does not.

    It begins at ``start``; what is compiled next is chosen as if memory were linear in the batch.
    """
    known: list[tuple[int, float]] = []
    low, high, k = -1, 17, min(16, max(0, int(math.log2(start / unit))))
    while high - low > 1:
        c = compiled(unit * 2**k)
        tell(unit * 2**k, c)
        low, high = (k, high) if c.fits else (low, k)
        if high == 0:
            return None
        if c.needed:
            known.append((2**k, c.needed))
        guess = low + 1
        if len(known) == 1 and c.temporaries:
            guess = k + int(math.log2(max(2.0, (hbm - c.needed) / c.temporaries + 1)))
        elif len(known) > 1 and known[-1][1] != known[-2][1]:
            (x0, y0), (x1, y1) = known[-2:]
            guess = int(math.log2(max(1.0, x1 + (hbm - y1) * (x1 - x0) / (y1 - y0))))
        k = min(max(guess, low + 1), high - 1)
    return unit * 2**low


def meshes(cfg: Any, chips: int, slices: int) -> list[dict[str, int]]:
    """Every shape that divides chips, slices and both batches."""
    out = []
    for tensor in (n for n in range(1, chips // slices + 1) if chips // slices % n == 0):
        for data in (n for n in range(1, chips // tensor + 1) if (chips // tensor) % n == 0 and n % slices == 0):
            rows = chips // tensor
            if cfg.batch_size % (cfg.micro_batches * rows) == 0 and cfg.sampling.batch_size % rows == 0:
                out.append({"data": data, "fsdp": rows // data, "tensor": tensor})
    return out


def best_mesh(
    cfg: Any, topology: tpu.Topology, slices: int, compiled: Callable[[], list], say: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """The meshes by predicted seconds of an update, the best that fits first compiled and left in ``cfg``."""
    from reasoning_jax import presets, tasks, tokenizer

    m = presets.model_config(cfg.model, tokenizer.make(cfg.tokenizer, tasks.get(cfg.task.name)).vocab_size)
    chip, chips, tokens, ranked = topology.chip, topology.chips * slices, cfg.batch_size * cfg.sequence_length, []
    for mesh in meshes(cfg, chips, slices):
        seconds = max(tpu.executed(m, tpu.train_flops(m, tokens, cfg.sequence_length)) / chips / chip.flops,
                      tpu.train_bytes(m, mesh, cfg.micro_batches) / chip.bandwidth)  # fmt: skip
        network = tpu.predicted_network(m, topology, mesh, slices, cfg.micro_batches, tokens)
        state = 16 * tpu.num_params(m) / mesh["fsdp"] / mesh["tensor"]  # parameters, gradients and two moments
        ranked.append({"mesh": mesh, "seconds": max(seconds, network), "network": network, "state_bytes": state})
    if not ranked:
        raise ValueError(
            f"--fit=mesh: no mesh of {chips} chips divides batch_size {cfg.batch_size} in {cfg.micro_batches} micro-batches "
            f"and sampling.batch_size {cfg.sampling.batch_size}."
        )
    ranked.sort(key=lambda r: (r["seconds"], r["network"]))
    hopeful = [r for r in ranked if r["state_bytes"] < chip.hbm] or ranked[-1:]
    for r in hopeful[:8]:
        cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = r["mesh"].values()
        results = compiled()
        r["fits"] = all(c.fits for _, c in results)
        say(f"  mesh {r['mesh']}: predicted {1e3 * r['seconds']:,.3g} ms an update ({1e3 * r['network']:,.3g} ms network), "
            + "; ".join(f"{s.name} {fits(c, chip)}" for s, c in results))  # fmt: skip
        if r["fits"]:
            break
    return ranked


if __name__ == "__main__":
    command_line.run(main, define, needs_run=False)
