"""TPU slices in numbers: the chips, and the names and shapes of slices."""

from __future__ import annotations

import dataclasses
import math
import re

from reasoning_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One device of a slice, as its maker publishes it."""

    flops: float  # bfloat16 FLOP/s
    bandwidth: float  # bytes/s of its memory
    hbm: float  # bytes that the compiler leaves to a program
    ici: float  # bytes/s of one axis of the torus, both directions together
    dimensions: int  # of the torus
    cores: int = 1  # by how many a chip counts in a slice's name: v4-8 and v5p-8 are four chips
    compiler: tuple[tuple[str, str], ...] = ()  # further arguments of get_topology_desc
    # Bytes/s a chip between slices; where 4 chips share a host's 200 Gbit/s: assumed, not published
    dcn: float = 6.25e9


CHIPS = {
    "v4": Chip(
        flops=275e12,
        bandwidth=1228e9,
        hbm=30.75 * GIB,
        ici=9e10,
        dimensions=3,
        cores=2,
        compiler=(("chip_config_name", "megacore"),),
    ),
    "v5e": Chip(flops=197e12, bandwidth=819e9, hbm=15.75 * GIB, ici=9e10, dimensions=2),
    "v5p": Chip(flops=459e12, bandwidth=2765e9, hbm=95.73 * GIB, ici=1.8e11, dimensions=3, cores=2),
    "v6e": Chip(flops=918e12, bandwidth=1638e9, hbm=31.24 * GIB, ici=1.8e11, dimensions=2),
}
# Dimensions of the torus -> number of chips -> the slice's shape.
SHAPES = {
    2: {
        **{1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4"},
        **{32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    },
    3: {
        **{4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
        **{128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16"},
    },
}
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v5": "v5p"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: its kind of chip and the shape of its torus."""

    kind: str  # a key of CHIPS
    shape: str  # "8x8"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def sides(self) -> list[int]:
        return [int(side) for side in self.shape.split("x")]

    @property
    def chips(self) -> int:
        return math.prod(self.sides)

    def ici(self, group: int) -> float:
        """Bytes/s in and out of a chip in collectives of ``group`` chips.

        A group takes as few axes of the torus as hold it, the longest first; their links add up.
        """
        sides = sorted(self.sides, reverse=True)
        axes = 1
        while math.prod(sides[:axes]) < group and axes < len(sides):
            axes += 1
        return axes * self.chip.ici

    def __str__(self) -> str:
        return f"{self.kind}:{self.shape}"


def topology(name: str) -> Topology:
    """The slice of a name: v5e:8x8, or as it is ordered, v5e-64.

    v5e-64, v5litepod-64 and v6e-64 count chips, v4-8 and v5p-8 cores. UserError that lists the
    valid names.
    """
    match = re.fullmatch(r"(\w+?)(?:-(\d+)|[:=_](\d+(?:x\d+){1,2}))", name.strip())
    kind = ALIASES.get(match[1], match[1]) if match else ""
    if match and kind in CHIPS:
        shape = match[3] or _ordered_shape(CHIPS[kind], int(match[2]))
        sides = shape.split("x")
        if len(sides) == CHIPS[kind].dimensions and "0" not in sides:
            return Topology(kind, shape)
    raise UserError(f"--topology={name}: there is no such slice; {valid_names(kind)}")


def _ordered_shape(chip: Chip, size: int) -> str:
    """The shape of the slice that is ordered by this number of cores; "" where there is none."""
    if size % chip.cores:
        return ""
    return SHAPES[chip.dimensions].get(size // chip.cores, "")


def valid_names(kind: str = "") -> str:
    """A sentence with the names of this kind of chip, or of all."""
    kinds = [kind] if kind in CHIPS else list(CHIPS)
    lists = []
    for known in kinds:
        chip = CHIPS[known]
        names = []
        for chips, shape in SHAPES[chip.dimensions].items():
            names.append(f"{known}-{chips * chip.cores} ({known}:{shape})")
        lists.append(", ".join(names))
    return f"the names are {'; '.join(lists)}."
