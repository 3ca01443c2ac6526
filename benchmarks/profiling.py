"""Where the time goes: a profiler trace of compiled functions, with operations added up by kind."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import jax

# Their time is their body's.
CONTAINERS = {"while", "call", "conditional", "parameter", "get-tuple-element", "tuple"}
MOVES = {
    "bitcast",
    "broadcast",
    "concatenate",
    "constant",
    "convert",
    "copy",
    "dynamic-slice",
    "dynamic-update-slice",
    "gather",
    "get-tuple-element",
    "iota",
    "pad",
    "parameter",
    "reshape",
    "slice",
    "transpose",
    "tuple",
}
HEAVY = ("dot", "scatter", "sort", "reduce")  # what a fusion is named after, if it has one of these
COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\(")


class Case(Protocol):
    """A compiled function of i: a call runs it, ``lower`` is its program."""

    lower: Callable[[], jax.stages.Lowered]

    def __call__(self, i: int) -> object: ...


def kinds(hlo: str) -> dict[str, str]:
    """The kind of each instruction of a compiled module: of a fusion, what costs most in it."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    calls: dict[str, str] = {}
    opcodes: dict[str, str] = {}
    computation = ""
    for line in hlo.splitlines():
        if head := COMPUTATION.match(line):
            computation = head[1]
        elif instruction := INSTRUCTION.match(line):
            name, opcode = instruction.groups()
            is_product = "gemm" in line or opcode == "convolution"
            opcodes[name] = "dot" if is_product else opcode
            inside[computation].add(opcodes[name])
            target = re.search(r"calls=%?([\w.-]+)", line)
            if opcode == "fusion" and target:
                calls[name] = target[1]
    out = {}
    for name, opcode in opcodes.items():
        body = inside[calls[name]] if name in calls else None
        out[name] = kind_of(opcode, body)
    return out


def kind_of(opcode: str, body: set[str] | None) -> str:
    """The kind of an instruction; body: the operations that a fusion calls."""
    if opcode in CONTAINERS:
        return ""
    operations = {opcode} if body is None else body
    for heavy in HEAVY:
        if any(operation.startswith(heavy) for operation in operations):
            return heavy
    if operations <= MOVES or operations & {"copy", "transpose"}:
        return "copy/transposition"
    return opcode if body is None else "elementwise"


def traced_operations(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of each operation in the newest trace of a folder."""
    path = max(folder.rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if not name and line.name == "XLA Ops":
                    name = event.name
                if name:
                    yield str(name).split(" = ")[0].lstrip("%"), event.duration_ns / 1e6


def report(cases: dict[str, Case], folder: Path, most: int = 15) -> str:
    """Traces one call of each case into ``folder``; the kinds and the top operations."""
    lines = []
    for title, run in cases.items():
        kind = kinds(run.lower().compile().as_text())
        jax.block_until_ready(run(0))
        with jax.profiler.trace(folder / title):
            jax.block_until_ready(run(1))
        lines += ["", *describe(title, kind, folder / title, most)]
    return "\n".join(lines)


def describe(title: str, kind: dict[str, str], folder: Path, most: int) -> list[str]:
    """The lines of ``report`` about one trace."""
    spent: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    by_kind: collections.Counter[str] = collections.Counter()
    for name, milliseconds in traced_operations(folder):
        if kind.get(name, "other"):
            spent[name] += milliseconds
            count[name] += 1
            by_kind[kind.get(name, "other")] += milliseconds
    total = sum(spent.values()) or 1.0
    lines = [f"one {title}: {total:.1f} ms in operations (summed over threads); trace in {folder}"]
    for name, milliseconds in by_kind.most_common():
        lines.append(f"  {milliseconds:9.1f} ms {milliseconds / total:6.1%}  {name}")
    lines.append(f"the {most} longest operations")
    for name, milliseconds in spent.most_common(most):
        fraction = f"{milliseconds:9.1f} ms {milliseconds / total:6.1%}"
        lines.append(f"  {fraction}  {count[name]:5} x  {kind.get(name, 'other'):20} {name}")
    return lines
