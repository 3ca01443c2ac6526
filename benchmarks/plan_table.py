"""Which updates and samplers fit which TPU slices, how large a batch, and at most how fast: a table in markdown.

    python benchmarks/plan_table.py --out=runs/plan_table.jsonl [--presets=llama-3.2-1b] [--topologies=v5e-16,v5p-32]
        [--algorithms=star,trice,dpo] [--sampling_tensor=4] [--seconds=3600]

Each cell is a process of its own, ``python -m reasoning_jax.plan --json`` with rows of 2,048 tokens, bfloat16, remat=full and
one micro-batch, on a mesh of fsdp alone, with samples from copies that are split over --sampling_tensor
chips, and one line of the file --out. The first method of a model and slice searches for the largest batches (--fit=batch), the
others are compiled at these. Cells that are there are not made again, so it can be stopped and started; the table of those
asked for is printed at the end. Needs pip install "jax[tpu]"; no TPU is used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"star": "star_gsm8k", "trice": "trice_addition:online", "dpo": "dpo_jsonl"}


def command(preset: str, topology: str, algorithm: str, batches: dict[str, int], args: argparse.Namespace) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from reasoning_jax import tpu

    chips = tpu.topology(topology).chips
    name, _, words = CONFIGS[algorithm].partition(":")
    values = {
        "model.preset": preset, "model.dtype": "bfloat16", "model.remat": "full", "tokenizer.name": "bytes",
        "base.num_updates": 0, "sequence_length": 2048, "sampling.max_new_tokens": 1024, "mesh.data": 1,
        "mesh.fsdp": chips, "mesh.sampling_tensor": args.sampling_tensor,
    } | (batches or {"batch_size": 4 * chips, "sampling.batch_size": 16 * chips})  # fmt: skip
    return [sys.executable, "-m", "reasoning_jax.plan", f"--config={ROOT}/configs/{name}.py{':' + words if words else ''}",
            f"--topology={topology}", "--json", *([] if batches else ["--fit=batch"]),
            *(f"--config.{k}={v}" for k, v in values.items())]  # fmt: skip


def cell(key: dict[str, str], batches: dict[str, int], args: argparse.Namespace) -> dict:
    """One run of plan, with these batches, or a search for the largest; what it said, and how it ended."""
    began = time.monotonic()
    try:
        line = command(**key, batches=batches, args=args)
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=args.seconds)
        told = json.loads(done.stdout) if done.stdout.strip() else {}
        said = done.stderr.strip().splitlines()
        ended = {"exit": done.returncode, "said": said[-1] if said else ""}
    except subprocess.TimeoutExpired:
        told, ended = {}, {"exit": None, "said": f"not done after {args.seconds} s"}
    return key | ended | {"seconds": round(time.monotonic() - began), "told": told}


def row(found: dict) -> str:
    """A line of the table; of a batch that does not fit only why."""
    name, told = [found[k] for k in ("preset", "topology", "algorithm")], found["told"]
    if not told.get("steps"):
        return "| " + " | ".join([*name, found["said"], *[""] * 8]) + " |"
    steps = {s["name"].split(" (")[0]: s for s in told["steps"]}
    update, sample = steps["update"], steps["sample"]

    def memory(step: dict) -> str:
        return f"{step['needed'] / 2**30:.1f}{'' if step['fits'] else ' **no**'}"

    cells = [f"{update['rows']}", memory(update), f"{update['cpu_seconds']:.0f}"]
    cells += [f"{p['tokens_per_second']:,.0f} | {p['mfu']:.0%}" for p in update["phases"]] or [" | "]
    cells += [f"{sample['rows']}", memory(sample)]
    cells += [f"{p['tokens_per_second']:,.0f} | {p['mbu']:.0%}" for p in sample["phases"] if "mbu" in p] or [" | "]
    return "| " + " | ".join([*name, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/plan_table.jsonl"))
    parser.add_argument("--presets", default="llama-3.2-1b,llama-3.1-8b")
    parser.add_argument("--topologies", default="v5e-16,v5e-64,v5p-32,v6e-64")
    parser.add_argument("--algorithms", default="star,trice,dpo")
    parser.add_argument("--sampling_tensor", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3600, help="for one cell")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    there = {(r["preset"], r["topology"], r["algorithm"]): r for r in lines if r["exit"] in (0, 3)}
    keys = [(p, t, a) for p in args.presets.split(",") for t in args.topologies.split(",") for a in args.algorithms.split(",")]
    for key in keys:
        if key not in there:
            print(" ".join(key), "...", file=sys.stderr, flush=True)
            searched = [r["told"].get("largest", {}) for k, r in there.items() if k[:2] == key[:2]]
            batches = next((found for found in searched if found and all(found.values())), {})
            there[key] = cell(dict(zip(("preset", "topology", "algorithm"), key, strict=True)), batches, args)
            with args.out.open("a") as file:
                file.write(json.dumps(there[key]) + "\n")
    heads = "model, slice, method, largest batch, GiB a chip, compile CPU s, tokens/s at most, MFU at most"
    heads += ", sampler: rows, GiB a chip, tokens/s at most, MBU at most"
    print("| " + heads.replace(", ", " | ") + " |")
    print("|---|---|---|" + "---|" * 9)
    for key in keys:
        print(row(there[key]))


if __name__ == "__main__":
    main()
