"""What the devices say to each other: the collectives in the text of a compiled program."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
         "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    kind: str
    bytes: int  # of the whole array on a device: what is gathered, or what is reduced
    count: int  # how often it runs; in a loop with an unknown number of trips, in one of them
    group: int  # devices that take part together
    slices: int  # over how many slices they lie
    repeated: bool  # in a loop whose number of trips the program decides, such as that of decoding
    loop: str  # the loop that it is in; "" = none


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    op: str
    rest: str
    root: bool


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The computations of a module, and the name of the one that it begins with."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)):
            body = found[3]
            end = _closing(body) if body.startswith("(") else body.find(" ")
            op, _, rest = body[end:].strip().partition("(")
            current.append(_Instruction(found[2], body[:end], op, rest, bool(found[1])))
    return computations, entry


def _closing(text: str) -> int:
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _sizes(shape: str) -> list[int]:
    found = re.findall(r"\b(\w+)\[([\d,]*)\]", shape)
    return [BYTES.get(t, 0) * math.prod(int(n) for n in dims.split(",") if n) for t, dims in found]


def _groups(rest: str, devices: int) -> np.ndarray:
    """[groups, members] of a collective, as numbers of devices; all devices in one group where it does not say."""
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _iota(found[2], found[3]).reshape([int(n) for n in found[1].split(",")])
    order = r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]" + order + r" \{([^}]*)\}", rest):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        names, inside = list(axes), re.findall(r"'(\w+)'", found[4])
        mesh = _iota(found[2] or ",".join(axes.values()), found[3]).reshape([int(n) for n in axes.values()])
        mesh = mesh.transpose([names.index(n) for n in names if n not in inside] + [names.index(n) for n in inside])
        return mesh.reshape(-1, math.prod(int(axes[n]) for n in inside))
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        groups = [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
        return np.array(groups) if len({len(g) for g in groups}) == 1 else np.arange(devices)[None]
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return np.array([[int(n) for n in pair.split(",")] for pair in re.findall(r"\{(\d+,\d+)", found[1] + "}")])
    return np.arange(devices)[None]


def _iota(sizes: str, transposed: str | None) -> np.ndarray:
    """Numbers of devices in the order of XLA's notation [4,2]T(1,0)."""
    numbers = np.arange(math.prod(int(n) for n in sizes.split(","))).reshape([int(n) for n in sizes.split(",")])
    return numbers.transpose([int(n) for n in transposed.split(",")]) if transposed else numbers


def _trips(condition: list[_Instruction], body: list[_Instruction]) -> int | None:
    """How often a loop runs whose condition does nothing but compare a counter with a constant; else None."""
    plain = {"parameter", "get-tuple-element", "constant", "compare", "copy", "bitcast"}
    if not condition or any(i.op not in plain for i in condition):
        return None
    root = next((i for i in condition if i.root), condition[-1])
    end = [_integers(condition)[name] for name in _operands(root) if name in _integers(condition)]
    if len(end) != 1 or "direction=LT" not in root.rest:
        return None
    # A loop that XLA has unrolled counts by more than 1.
    places = {found[1] for i in condition if (found := re.search(r"index=(\d+)", i.rest)) and i.op == "get-tuple-element"}
    counters = {i.name for i in body if i.op == "get-tuple-element" and re.search(r"index=(\d+)", i.rest)[1] in places}
    constants, sums = _integers(body), [_operands(i) for i in body if i.op == "add"]
    steps = [constants[by] for counter, by in sums if counter in counters and by in constants]
    return -(-end[0] // max(steps, default=1))


def _operands(i: _Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", i.rest.partition(")")[0])


def _integers(instructions: list[_Instruction]) -> dict[str, int]:
    """The constants among them."""
    found = {i.name: i.rest.partition(")")[0] for i in instructions if i.op == "constant"}
    return {name: int(value) for name, value in found.items() if value.isdigit()}


def collectives(text: str, slice_of: Sequence[int]) -> list[Collective]:
    """Every collective of a compiled program's text; ``slice_of``: the slice of each device, in the mesh's order.

    The parts of an asynchronous one (start, the fusions and loops that run meanwhile, done) share a channel and count once.
    Those in a loop with a known number of trips count that often, those in another once.
    """
    computations, entry = _parse(text)
    found: dict[str, Collective] = {}

    def add(key: str, c: Collective) -> None:
        if key not in found or c.count < found[key].count:
            found[key] = c

    def walk(name: str, frame: str, times: int, repeated: bool) -> None:
        for i in computations.get(name, ()):
            kind = i.op.removesuffix("-start")
            if kind in KINDS:
                scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")  # TPU's fusion of two steps
                channel = re.search(r"channel_id=(\d+)", i.rest)
                key = channel[1] if channel else f"{name} {i.name}"
                groups, sizes = _groups(i.rest, len(slice_of)), _sizes(i.shape)
                size = max(sizes) if i.op.endswith("-start") else sum(sizes)
                size *= groups.shape[1] if kind == "reduce-scatter" else 1
                spread = max(len({slice_of[d] for d in group}) for group in groups)
                kind = "reduce-scatter" if scattered else kind
                add(key, Collective(kind, size, times, groups.shape[1], spread, repeated, frame))
            elif i.op == "send" and (kind := re.search(r'_xla_megascale_transfer_type="(\w+)"', i.rest)):
                slices = len(set(slice_of))  # what is left to do between slices goes through the hosts
                what, size = f"{kind[1].lower().replace('_', '-')} between slices", _sizes(i.shape)[0]
                add(f"{name} {i.name}", Collective(what, size, times, slices, slices, repeated, frame))
            elif i.op == "while":
                condition, body = (re.search(rf"{key}=%?([\w.\-]+)", i.rest)[1] for key in ("condition", "body"))
                trips = _trips(computations.get(condition, []), computations.get(body, []))
                for part in (body, condition):
                    walk(part, f"{frame}/{i.name}", times * (trips or 1), repeated or trips is None)
            elif i.op in ("fusion", "call", "async-start", "conditional", "custom-call"):
                for called in re.findall(r"(?:calls|to_apply|\w+_computations?)=\{?((?:%?[\w.\-]+(?:, )?)+)", i.rest):
                    for one in called.split(", "):
                        walk(one.lstrip("%"), frame, times, repeated)

    walk(entry, "", 1, False)
    return list(found.values())


def by_kind(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """count and bytes (the sum over all that run) of each kind that occurs."""
    out: dict[str, dict[str, int]] = {}
    for c in found:
        one = out.setdefault(c.kind, {"count": 0, "bytes": 0})
        one["count"] += c.count
        one["bytes"] += c.count * c.bytes
    return dict(sorted(out.items()))
