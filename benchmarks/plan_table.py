"""Which updates and samplers fit which TPU slices, how large a batch, and at most how fast.

    python benchmarks/plan_table.py --out=runs/plan_table.jsonl [--presets=llama-3.2-1b] \\
        [--topologies=v5e-16,v5p-32] [--tune=full,lora] [--algorithms=star,trice,dpo] \\
        [--sampling_tensor=4] [--no-search] [--seconds=3600]

A table in Markdown. Each line is a process of its own, ``python -m reasoning_jax.plan --json`` with
packed rows of 2,048 tokens, bfloat16, remat=full and one micro-batch, on a mesh of fsdp alone, with
samples from copies that are split over --sampling_tensor chips, and one line of the file --out. The
first method of a model and slice searches for the largest batches (--fit=batch), the others are
compiled at these; with --no-search all are compiled at 4 rows a chip, 16 for samples. Lines that
are there are not made again, so it can be stopped and started; the table of those asked for is
printed at the end. Needs pip install "jax[tpu]"; no TPU is used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reasoning_jax.tpu import chips

CONFIGS = {
    "star": "star_gsm8k.py",
    "trice": "trice_addition.py:online",
    "dpo": "dpo_jsonl.py",
}
HEADINGS = (
    "model",
    "slice",
    "tune",
    "method",
    "batch",
    "GiB a chip",
    "compile CPU s",
    "tokens/s at most",
    "MFU at most",
    "sampler: sequences",
    "GiB a chip",
    "tokens/s at most",
    "MBU at most",
)


class Key(NamedTuple):
    """What a line of the table is about."""

    preset: str
    topology: str
    tune: str
    algorithm: str


def command(key: Key, batches: Mapping[str, int], sampling_tensor: int, search: bool) -> list[str]:
    """One run of plan, at these batches; where there are none at the smallest, or a search."""
    num_chips = chips.topology(key.topology).chips
    values: dict[str, str | int] = {
        "model.preset": key.preset,
        "tune": key.tune,
        "model.dtype": "bfloat16",
        "model.remat": "full",
        "tokenizer.name": "bytes",
        "base.num_updates": 0,
        "sequence_length": 2048,
        "sampling.max_new_tokens": 1024,
        "mesh.data": 1,
        "mesh.fsdp": num_chips,
        "mesh.sampling_tensor": sampling_tensor,
    }
    smallest = {"batch_size": 4 * num_chips, "sampling.batch_size": 16 * num_chips}
    values |= batches or smallest
    words = [
        sys.executable,
        "-m",
        "reasoning_jax.plan",
        f"--config={ROOT}/configs/{CONFIGS[key.algorithm]}",
        f"--topology={key.topology}",
        "--json",
    ]
    if search and not batches:
        words.append("--fit=batch")
    return words + [f"--config.{name}={value}" for name, value in values.items()]


def measure(key: Key, batches: Mapping[str, int], args: argparse.Namespace) -> dict:
    """A line of --out: what plan printed, and how it ended."""
    began = time.monotonic()
    plan, code = {}, None
    try:
        words = command(key, batches, args.sampling_tensor, args.search)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=args.seconds)
        if done.stdout.strip():
            plan = json.loads(done.stdout)
        code = done.returncode
        message = (done.stderr.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired:
        message = f"not done after {args.seconds} s"
    seconds = round(time.monotonic() - began)
    ended = {"exit": code, "message": message, "seconds": seconds}
    return key._asdict() | ended | {"plan": plan}


def table_line(measured: dict) -> str:
    """A line of the table; of a batch that does not fit only why."""
    key = [measured[field] for field in Key._fields]
    steps = {step["name"].split(" (")[0]: step for step in measured["plan"].get("steps", ())}
    if not steps:
        empty = [""] * (len(HEADINGS) - len(key) - 1)
        return f"| {' | '.join([*key, measured['message'], *empty])} |"
    update, sample = steps["update"], steps["sample"]
    cells = [f"{update['rows']}", memory(update), f"{update['cpu_seconds']:.0f}"]
    cells += speed(update, "mfu")
    cells += [f"{sample['rows']}", memory(sample)]
    cells += speed(sample, "mbu")
    return f"| {' | '.join([*key, *cells])} |"


def memory(step: dict) -> str:
    gib = f"{step['needed'] / 2**30:.1f}"
    return gib if step["fits"] else f"{gib} **no**"


def speed(step: dict, utilisation: str) -> list[str]:
    """Tokens/s and MFU or MBU of the phase that has it; empty where the program was not timed."""
    for phase in step["phases"]:
        if utilisation in phase:
            return [f"{phase['tokens_per_second']:,.0f}", f"{phase[utilisation]:.0%}"]
    return ["", ""]


def largest_batches(key: Key, lines: Mapping[Key, dict]) -> dict[str, int]:
    """What a search for this model and slice found; {} where there was none."""
    for other, line in lines.items():
        batches = line["plan"].get("largest", {})
        same_slice = (other.preset, other.topology) == (key.preset, key.topology)
        alike = same_slice and other.tune == key.tune
        if alike and batches and all(batches.values()):
            return batches
    return {}


def read_lines(path: Path) -> dict[Key, dict]:
    """The lines of --out that need not be made again."""
    lines = path.read_text().splitlines() if path.exists() else []
    out = {}
    for line in map(json.loads, lines):
        if line["exit"] in (0, 3):
            out[Key(*(line[field] for field in Key._fields))] = line
    return out


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/plan_table.jsonl"))
    parser.add_argument("--presets", default="llama-3.2-1b,llama-3.1-8b")
    parser.add_argument("--topologies", default="v5e-16,v5e-64,v5p-32,v6e-64")
    parser.add_argument("--tune", default="full")
    parser.add_argument("--algorithms", default="star,trice,dpo")
    parser.add_argument("--search", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--sampling_tensor", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3600, help="for one line")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = read_lines(args.out)
    keys = [
        Key(preset=preset, topology=topology, tune=tune, algorithm=algorithm)
        for preset in args.presets.split(",")
        for topology in args.topologies.split(",")
        for tune in args.tune.split(",")
        for algorithm in args.algorithms.split(",")
    ]
    for key in keys:
        if key in lines:
            continue
        print(" ".join(key), "...", file=sys.stderr, flush=True)
        lines[key] = measure(key, largest_batches(key, lines), args)
        with args.out.open("a") as file:
            file.write(json.dumps(lines[key]) + "\n")
    print(f"| {' | '.join(HEADINGS)} |")
    print("|---" * len(HEADINGS) + "|")
    for key in keys:
        print(table_line(lines[key]))


if __name__ == "__main__":
    main()
