"""Compiles a step for a TPU topology that is not there, and prints one line of JSON: memory a device, collectives, seconds.

    python benchmarks/aot.py --model=qwen3-0.6b --topology=v5e:4x4 --step=update --batch=64 --length=2048

Needs ``pip install libtpu`` (x86-64 Linux) and no TPU: the compiler is the one of a TPU machine, the arrays are only shapes.
Steps: update (weighted NLL), dpo (an update of packed pairs), logprobs, sample (prefill and decoding loop). Collectives are
those of the compiled program by kind, [count, MB a device]: of a step, with what a loop's body holds counted as often as the
loop runs, where XLA knows it; and of a decoding step alone. Exit 3 where the program does not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
os.environ.setdefault("TPU_LIBRARY_LOG_LEVEL", "3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from configs import default
from reasoning_jax import logprobs, model, optim, presets, sampling, sharding, state, update
from reasoning_jax.algorithms import dpo, sft

# Published shapes; only the sizes, so Qwen's norms of queries and keys are not there.
SHAPES = {
    "qwen3-0.6b": dict(vocab_size=151_936, width=1024, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128, mlp_dim=3072),
    "qwen3-8b": dict(vocab_size=151_936, width=4096, num_layers=36, num_heads=32, num_kv_heads=8, head_dim=128,
                     mlp_dim=12_288, tied=False),
    "llama3.2-1b": dict(vocab_size=128_256, **presets.SIZES["1b"]),
    "llama3.1-8b": dict(vocab_size=128_256, **presets.SIZES["8b"]),
}  # fmt: skip
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}


def abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def lower(args: argparse.Namespace, cfg: model.ModelConfig, mesh: Any) -> Any:
    """The step, traced and lowered for the mesh."""
    experiment = default.get_config()
    if args.step == "dpo":
        experiment.algorithm.name = "dpo"
    optimizer = optim.make(experiment.optim)
    key = jax.eval_shape(lambda: jax.random.key(0))  # nothing can be computed: the mesh's devices are not there
    shapes = jax.eval_shape(lambda k: state.fresh(model.init(k, cfg), optimizer), key)
    whole = abstract(shapes, sharding.parameter_specs(shapes, mesh))

    def array(shape: tuple[int, ...], dtype: Any, *names: str | None) -> jax.ShapeDtypeStruct:
        where = jax.sharding.NamedSharding(mesh, sharding.spec(shape, names or (None,) * len(shape), mesh))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    rows = (args.micro_batches, args.batch // args.micro_batches, args.length)
    keys = {"tokens": jnp.int32, "positions": jnp.int32, "segment_ids": jnp.int32, "weights": jnp.float32}
    if args.step == "dpo":
        keys["ref"] = jnp.float32
    if args.step in ("update", "dpo"):
        batch = {k: array(rows, dtype, None, "batch", None) for k, dtype in keys.items()}
        step = update.make_update(sft if args.step == "update" else dpo, cfg, optimizer, experiment)
        return step.lower(whole, batch, array((), jnp.float32))
    if args.step == "logprobs":
        batch = {k: array(rows[1:], jnp.int32, "batch", None) for k in ("tokens", "positions", "segment_ids")}
        return logprobs.score.lower(whole.params, batch, cfg=cfg)
    ints = array((args.batch,), jnp.int32, "batch")
    prompts = array((args.batch, args.length), jnp.int32, "batch", None)
    key = array((), key.dtype)
    rule = jax.tree.map(lambda _: array((), jnp.float32), sampling.Temperature(1.0))
    params = whole.params
    if mesh.shape["fsdp"] == 1:  # a copy to sample with: sharding.to_mesh
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, cfg.dtype, sharding=x.sharding), params)
    return sampling.sample.lower(
        params, prompts, ints, ints, ints, key, rule, array((1,), jnp.int32), cfg=cfg, max_new_tokens=args.new
    )


def computations(program: str) -> dict[str, list[str]]:
    """The instructions of each computation of an HLO module; the entry's name is ""."""
    found: dict[str, list[str]] = {}
    name = None
    for line in program.splitlines():
        if line.endswith("{") and (m := re.match(r"(ENTRY )?%?([\w.\-]+) .*->.*{$", line)):
            name = "" if m[1] else m[2]
            found[name] = []
        elif name is not None and line.startswith("  "):
            found[name].append(line.strip())
    return found


def size(shape: str) -> int:
    """Bytes of the largest array in a shape: of an asynchronous pair of operand and result, the larger."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return max((BYTES.get(t, 0) * int(np.prod([int(n) for n in d.split(",") if n] or [1])) for t, d in arrays), default=0)


CONSTANT = re.compile(r"%?(\S+) = [su]32\[\]\S* constant\((\d+)\)")
COUNTER = re.compile(r"%?(\S+) = [su]32\[\]\S* get-tuple-element\(.*index=(\d+)")


def trips(condition: list[str], body: list[str]) -> int | None:
    """How often a loop runs that counts to a constant; None where its end depends on what it computes."""
    root = next((line for line in condition if line.startswith("ROOT")), "")
    ends = [int(m[2]) for line in condition if (m := CONSTANT.match(line))]
    if " compare(" not in root or "direction=LT" not in root or len(ends) != 1:
        return None
    place = {m[2] for line in condition if (m := COUNTER.match(line))}
    constants = {m[1]: int(m[2]) for line in body if (m := CONSTANT.match(line))}
    counters = {m[1] for line in body if (m := COUNTER.match(line)) and m[2] in place}
    added = [m.groups() for line in body if (m := re.search(r" add\(%(\S+), %(\S+)\)", line))]
    steps = [constants[by] for counter, by in added if counter in counters and by in constants]
    return -(-ends[0] // max(steps, default=1))  # a loop that XLA has unrolled counts by more than 1


def collectives(program: str) -> tuple[dict[str, list], dict[str, list], list[str]]:
    """By kind [count, MB]: of the whole step; of one turn of the loops whose length is not known; and the five largest."""
    parts, large, seen = computations(program), set(), set()
    total: dict[str, list] = {}
    turn: dict[str, list] = {}

    def walk(name: str, times: int, inside: bool) -> None:
        for line in parts.get(name, ()):
            m = re.match(r"(?:ROOT )?%?\S+ = (.*?) ([a-z\-]+)\(", line)
            if not m:
                continue
            kind, channel = m[2].removesuffix("-start"), re.search(r"channel_id=(\d+)", line)
            # A collective that is fused into several products is written once for each, with one channel.
            if kind in KINDS and (channel is None or channel[1] not in seen):
                seen.add(channel[1] if channel else None)
                mb = size(m[1]) / 1e6
                for out in (total, turn) if inside else (total,):
                    before = out.setdefault(kind, [0, 0.0])
                    out[kind] = [before[0] + times, before[1] + times * mb]
                array = re.search(r"\b[a-z]+\d*\[[\d,]*\]", m[1])
                large.add((mb, f"{mb:.1f} MB {kind} {array[0] if array else ''}, {times} times"))
            counted = 1
            if m[2] == "while":
                loop = [parts.get(re.search(rf"{name}=%?([\w.\-]+)", line)[1], []) for name in ("condition", "body")]
                counted = trips(*loop)
            for callee in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
                walk(callee, times * (counted or 1), inside or counted is None)
            for branches in re.findall(r"branch_computations={([^}]*)}", line):
                for callee in branches.replace("%", "").split(", "):
                    walk(callee, times, inside)

    walk("", 1, False)
    tidy = lambda d: {k: [n, round(mb, 1)] for k, (n, mb) in sorted(d.items())}  # noqa: E731
    return tidy(total), tidy(turn), [text for _, text in sorted(large, reverse=True)[:5]]


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(usage=__doc__)
    flags.add_argument("--model", choices=SHAPES, default="qwen3-0.6b")
    flags.add_argument("--topology", default="v5e:4x4")
    flags.add_argument("--step", choices=("update", "dpo", "logprobs", "sample"), default="update")
    flags.add_argument("--mesh", help="data,fsdp,tensor (default: all devices on fsdp)")
    flags.add_argument("--batch", type=int, default=64, help="packed rows an update, or prompts")
    flags.add_argument("--micro_batches", type=int, default=1)
    flags.add_argument("--length", type=int, default=2048, help="tokens a row, or a prompt")
    flags.add_argument("--new", type=int, default=1024, help="sample: tokens after the prompt")
    flags.add_argument("--layers", type=int, help="fewer layers")
    flags.add_argument("--remat", default="full")
    flags.add_argument("--dtype", default="bfloat16")
    flags.add_argument("--dump", type=Path, help="write the compiled program here")
    return flags.parse_args()


def main() -> int:
    args = arguments()
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would be reading a file
    topology = topologies.get_topology_desc(args.topology, platform="tpu")
    sizes = [int(n) for n in args.mesh.split(",")] if args.mesh else [1, -1, 1]
    mesh = sharding.make_mesh(*sizes, devices=topology.devices)
    shape = SHAPES[args.model] | ({"num_layers": args.layers} if args.layers else {})
    cfg = model.ModelConfig(**shape, dtype=args.dtype, remat=args.remat)
    out = {k: v for k, v in vars(args).items() if v is not None and k != "dump"} | {
        "mesh": {k: v for k, v in mesh.shape.items() if v > 1}, "jax": jax.__version__,
    }  # fmt: skip
    with jax.set_mesh(mesh):
        began = time.process_time()
        lowered = lower(args, cfg, mesh)
        out["lower_cpu_s"] = round(time.process_time() - began, 1)
        began = time.process_time()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            used = re.search(r"Used ([\d.]+[GMK]) of ([\d.]+[GMK])", str(error))
            print(json.dumps(out | {"fits": False, "needs": used[1] if used else str(error)[:300]}))
            if args.dump:
                args.dump.write_text(str(error))
            return 3
    out["compile_cpu_s"] = round(time.process_time() - began, 1)
    m = compiled.memory_analysis()
    memory = {k: getattr(m, f"{k}_size_in_bytes") for k in ("argument", "output", "temp", "alias")}
    total = memory["argument"] + memory["output"] + memory["temp"] - memory["alias"]
    program = compiled.as_text()
    if args.dump:
        args.dump.write_text(program)
    step, turn, large = collectives(program)
    out |= {"fits": True, "total_gib": round(total / 2**30, 3), "mb": {k: round(v / 1e6) for k, v in memory.items()}}
    out |= {"collectives": step} | ({"a_decoding_step": turn} if turn else {}) | {"largest": large}
    print(json.dumps(out | {"kernels": program.count("tpu_custom_call")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
