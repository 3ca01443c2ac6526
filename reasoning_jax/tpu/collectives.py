"""The collectives of a compiled program: what devices send to each other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from reasoning_jax.tpu import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
CALLERS = ("fusion", "call", "async-start", "conditional", "custom-call")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective of a program, as each device runs it."""

    kind: str
    bytes: int  # of the whole array on a device: what is gathered, or what is reduced
    count: int  # how often it runs; in a loop with an unknown number of trips, in one of them
    group: int  # devices that take part together
    slices: int  # over how many slices they lie
    repeated: bool  # in a loop whose number of trips the program decides, such as that of decoding
    loop: str  # the loop that it is in; "" = none


def find(text: str, slice_of: Sequence[int]) -> list[Collective]:
    """Every collective of a compiled program's text.

    slice_of: the slice of each device, in the mesh's order.
    The pieces of an asynchronous one (start, the fusions and loops that run meanwhile, done) share
    a channel and count once. Those in a loop with a known number of trips count that often, those
    in another once.
    """
    computations, entry = hlo.parse(text)
    walk = _Walk(computations, slice_of)
    walk.computation(entry, _Context(loop="", times=1, repeated=False))
    return list(walk.collectives.values())


def by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """count and bytes (the sum over all that run) of each kind that occurs."""
    totals: dict[str, dict[str, int]] = {}
    for collective in collectives:
        total = totals.setdefault(collective.kind, {"count": 0, "bytes": 0})
        total["count"] += collective.count
        total["bytes"] += collective.count * collective.bytes
    return dict(sorted(totals.items()))


# ---- the walk ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Context:
    """Where in the program an instruction stands: see the fields of Collective."""

    loop: str
    times: int
    repeated: bool


class _Walk:
    """Follows a program from its entry into everything that it calls."""

    def __init__(self, computations: hlo.Computations, slice_of: Sequence[int]) -> None:
        self.computations = computations
        self.slice_of = slice_of
        self.collectives: dict[str, Collective] = {}  # by channel

    def computation(self, name: str, context: _Context) -> None:
        for instruction in self.computations.get(name, ()):
            if instruction.op.removesuffix("-start") in KINDS:
                self._collective(instruction, name, context)
            elif instruction.op == "send":
                self._send(instruction, name, context)
            elif instruction.op == "while":
                self._while(instruction, context)
            elif instruction.op in CALLERS:
                for called in _called(instruction):
                    self.computation(called, context)

    def _add(self, channel: str, collective: Collective) -> None:
        """Keeps it, unless another piece of the same collective runs as seldom."""
        known = self.collectives.get(channel)
        if known is None or collective.count < known.count:
            self.collectives[channel] = collective

    def _collective(
        self, instruction: hlo.Instruction, computation: str, context: _Context
    ) -> None:
        kind = instruction.op.removesuffix("-start")
        groups = hlo.device_groups(instruction.rest, len(self.slice_of))
        sizes = hlo.array_bytes(instruction.shape)
        size = max(sizes) if instruction.op.endswith("-start") else sum(sizes)
        if kind == "reduce-scatter":
            size *= groups.shape[1]
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # TPU's fusion of two steps
        collective = Collective(
            kind=kind,
            bytes=size,
            count=context.times,
            group=groups.shape[1],
            slices=max(len({self.slice_of[device] for device in group}) for group in groups),
            repeated=context.repeated,
            loop=context.loop,
        )
        channel = instruction.attribute(r"channel_id=(\d+)")
        self._add(channel or f"{computation} {instruction.name}", collective)

    def _send(self, instruction: hlo.Instruction, computation: str, context: _Context) -> None:
        """What is left to do between slices goes through the hosts."""
        transfer = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
        if not transfer:
            return
        slices = len(set(self.slice_of))
        collective = Collective(
            kind=f"{transfer.lower().replace('_', '-')} between slices",
            bytes=hlo.array_bytes(instruction.shape)[0],
            count=context.times,
            group=slices,
            slices=slices,
            repeated=context.repeated,
            loop=context.loop,
        )
        self._add(f"{computation} {instruction.name}", collective)

    def _while(self, instruction: hlo.Instruction, context: _Context) -> None:
        condition = instruction.attribute(r"condition=%?([\w.\-]+)") or ""
        body = instruction.attribute(r"body=%?([\w.\-]+)") or ""
        trips = hlo.trip_count(
            self.computations.get(condition, []), self.computations.get(body, [])
        )
        times = context.times if trips is None else context.times * trips
        inner = _Context(
            loop=f"{context.loop}/{instruction.name}",
            times=times,
            repeated=context.repeated or trips is None,
        )
        self.computation(body, inner)
        self.computation(condition, inner)


def _called(instruction: hlo.Instruction) -> list[str]:
    """The computations that an instruction calls."""
    pattern = r"(?:calls|to_apply|\w+_computations?)=\{?((?:%?[\w.\-]+(?:, )?)+)"
    names = []
    for called in re.findall(pattern, instruction.rest):
        names += [name.lstrip("%") for name in called.split(", ")]
    return names
