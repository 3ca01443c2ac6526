"""Where the time goes: a profiler trace of compiled functions, their operations added up by kind."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from pathlib import Path

import jax

CONTAINERS = {"while", "call", "conditional", "parameter", "get-tuple-element", "tuple"}  # their time is their body's
MOVES = {"copy", "transpose", "reshape", "bitcast", "broadcast", "slice", "concatenate", "pad", "gather", "dynamic-slice",
         "dynamic-update-slice", "iota", "constant", "convert", "parameter", "tuple", "get-tuple-element"}  # fmt: skip


def kinds(hlo: str) -> dict[str, str]:
    """The kind of each instruction of a compiled module: of a fusion, what it does that costs most."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    calls: dict[str, str] = {}
    opcodes: dict[str, str] = {}
    computation = ""
    for line in hlo.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = head[1]
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\(", line):
            name, opcode = found.groups()
            opcodes[name] = "dot" if "gemm" in line or opcode == "convolution" else opcode
            inside[computation].add(opcodes[name])
            if opcode == "fusion" and (target := re.search(r"calls=%?([\w.-]+)", line)):
                calls[name] = target[1]

    out = {}
    for name, opcode in opcodes.items():
        ops = inside[calls[name]] if name in calls else {opcode}
        heavy = next((k for k in ("dot", "scatter", "sort", "reduce") if any(o.startswith(k) for o in ops)), None)
        moved = ops <= MOVES or ops & {"copy", "transpose"}
        out[name] = heavy or ("copy/transposition" if moved else "elementwise" if name in calls else opcode)
        if opcode in CONTAINERS:
            out[name] = ""
    return out


def report(cases: dict[str, Callable], folder: Path, most: int = 15) -> str:
    """Traces one call of each case (``run(i)``, with ``run.lower()``) into ``folder``; the kinds and the top operations."""
    lines = []
    for title, run in cases.items():
        kind = kinds(run.lower().compile().as_text())
        jax.block_until_ready(run(0))
        with jax.profiler.trace(folder / title):
            jax.block_until_ready(run(1))
        path = max((folder / title).rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
        spent, count = collections.Counter(), collections.Counter()
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op") or (event.name if line.name == "XLA Ops" else None)
                    name = str(name).split(" = ")[0].lstrip("%") if name else None
                    if name and kind.get(name, "other"):
                        spent[name] += event.duration_ns / 1e6
                        count[name] += 1
        total = sum(spent.values()) or 1.0
        lines += ["", f"one {title}: {total:.1f} ms in operations (summed over threads); trace in {folder / title}"]
        by_kind = collections.Counter()
        for name, ms in spent.items():
            by_kind[kind.get(name, "other")] += ms
        lines += [f"  {ms:9.1f} ms {ms / total:6.1%}  {name}" for name, ms in by_kind.most_common()]
        lines += [f"the {most} longest operations"]
        for name, ms in spent.most_common(most):
            lines.append(f"  {ms:9.1f} ms {ms / total:6.1%}  {count[name]:5} x  {kind.get(name, 'other'):20} {name}")
    return "\n".join(lines)
