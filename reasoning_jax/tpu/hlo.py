"""The text of a compiled program (XLA's HLO), as far as its collectives are read from it."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1},
    **{"s16": 2, "u16": 2, "bf16": 2, "f16": 2},
    **{"s32": 4, "u32": 4, "f32": 4},
    **{"s64": 8, "u64": 8, "f64": 8},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """A line of a computation: %name = shape op(operands), attributes."""

    name: str
    shape: str
    op: str
    rest: str  # operands and attributes: all behind the op's opening parenthesis
    root: bool

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression that is looked for in ``rest``."""
        match = re.search(pattern, self.rest)
        return match[1] if match else None

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])


Computations = dict[str, list[Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """The computations of a module, and the name of the one that it begins with."""
    computations: Computations = {}
    entry = ""
    current: list[Instruction] | None = None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if head:
            current = computations.setdefault(head[2], [])
            if head[1]:
                entry = head[2]
        elif current is not None:
            instruction = _instruction(line)
            if instruction is not None:
                current.append(instruction)
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    """The instruction of a line; None where the line holds none."""
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not match:
        return None
    body = match[3]
    end = _closing(body) if body.startswith("(") else body.find(" ")
    op, _, rest = body[end:].strip().partition("(")
    return Instruction(name=match[2], shape=body[:end], op=op, rest=rest, root=bool(match[1]))


def _closing(text: str) -> int:
    """The index behind the parenthesis that closes the first."""
    depth = 0
    for index, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        if depth == 0:
            return index + 1
    return len(text)


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array of a shape, which may be a tuple."""
    sizes = []
    for dtype, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", shape):
        sizes.append(BYTES.get(dtype, 0) * math.prod(_numbers(dims)))
    return sizes


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


# ---- groups of devices ---------------------------------------------------------------------------


def device_groups(rest: str, devices: int) -> np.ndarray:
    """[groups, members] of a collective, as numbers of devices.

    rest: its operands and attributes; where they name no groups, all devices are one group.
    """
    for parse_notation in (_iota_groups, _mesh_groups, _listed_groups, _permuted_groups):
        groups = parse_notation(rest)
        if groups is not None:
            return groups
    return np.arange(devices)[None]


def _iota_groups(rest: str) -> np.ndarray | None:
    """replica_groups=[4,2]<=[2,4]T(1,0)."""
    match = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if not match:
        return None
    return _iota(match[2], match[3]).reshape(_numbers(match[1]))


def _mesh_groups(rest: str) -> np.ndarray | None:
    """replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}."""
    order = r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    match = re.search(r"replica_groups=mesh\[([^\]]*)\]" + order + r" \{([^}]*)\}", rest)
    if not match:
        return None
    axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    names = list(axes)
    inside = re.findall(r"'(\w+)'", match[4])
    outside = [name for name in names if name not in inside]
    devices = _iota(match[2] or ",".join(axes.values()), match[3])
    mesh = devices.reshape([int(size) for size in axes.values()])
    mesh = mesh.transpose([names.index(name) for name in (*outside, *inside)])
    return mesh.reshape(-1, math.prod(int(axes[name]) for name in inside))


def _listed_groups(rest: str) -> np.ndarray | None:
    """replica_groups={{0,1},{2,3}}; None where the groups differ in size."""
    match = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if not match:
        return None
    groups = [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", match[1])]
    sizes = {len(group) for group in groups}
    return np.array(groups) if len(sizes) == 1 else None


def _permuted_groups(rest: str) -> np.ndarray | None:
    """source_target_pairs={{0,1},{1,0}}."""
    match = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    if not match:
        return None
    return np.array([_numbers(pair) for pair in re.findall(r"\{(\d+,\d+)", match[1] + "}")])


def _iota(sizes: str, transposed: str | None) -> np.ndarray:
    """Numbers of devices in the order of XLA's notation [4,2]T(1,0)."""
    shape = _numbers(sizes)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(_numbers(transposed)) if transposed else numbers


# ---- loops ---------------------------------------------------------------------------------------


def trip_count(condition: list[Instruction], body: list[Instruction]) -> int | None:
    """How often a loop runs whose condition only compares a counter with a constant; else None."""
    plain = {"parameter", "get-tuple-element", "constant", "compare", "copy", "bitcast"}
    if not condition or any(i.op not in plain for i in condition):
        return None
    root = next((i for i in condition if i.root), condition[-1])
    constants = _integers(condition)
    ends = [constants[name] for name in root.operands() if name in constants]
    if len(ends) != 1 or "direction=LT" not in root.rest:
        return None
    return math.ceil(ends[0] / _increment(condition, body))


def _increment(condition: list[Instruction], body: list[Instruction]) -> int:
    """By how much a loop's counter grows in a trip: more than 1 where XLA has unrolled the loop."""
    compared = set(_element_indices(condition).values())
    elements = _element_indices(body)
    counters = {name for name, index in elements.items() if index in compared}
    constants = _integers(body)
    increments = []
    for instruction in body:
        if instruction.op == "add":
            counter, by = instruction.operands()
            if counter in counters and by in constants:
                increments.append(constants[by])
    return max(increments, default=1)


def _element_indices(instructions: list[Instruction]) -> dict[str, str]:
    """Which element of the loop's state each instruction holds that takes one out of it."""
    indices = {}
    for instruction in instructions:
        index = instruction.attribute(r"index=(\d+)")
        if instruction.op == "get-tuple-element" and index is not None:
            indices[instruction.name] = index
    return indices


def _integers(instructions: list[Instruction]) -> dict[str, int]:
    """The integer constants among instructions."""
    constants = {}
    for instruction in instructions:
        value = instruction.rest.partition(")")[0]
        if instruction.op == "constant" and value.isdigit():
            constants[instruction.name] = int(value)
    return constants
