"""TPU slices in numbers: the chips, the names of slices, and formulas for what a step must compute, read and send.

Letters of the formulas: N parameters that a token is multiplied with (a tied embedding counts once, as the head; an untied one,
which is only looked up, does not), L layers, H query heads, K key-value heads, h head size, S tokens a row, B sequences, c
cached tokens a sequence, C chips, F peak FLOP/s of a chip in bfloat16, W bytes/s of its memory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

GIB = 2**30
FORMULAS = """
Ceilings: the slowest of three times, as if they overlapped perfectly. N = parameters that a token is multiplied with.
  compute   FLOPs / (chips x peak in bfloat16). An update: 6 N + 6 layers x heads x head size x row a token (causal attention);
            a third more is executed with remat=full. Forward passes: a third of it. Decoding: 2 N + 4 layers x heads x
            head size x context a token.
  memory    bytes a chip / bandwidth. An update: 28 bytes a parameter and the gathered weights once a pass, no activations.
            Decoding: the weights once for each of data x fsdp replicas, and every row's cache at the middle of the completion.
  network   the collectives above, one after another, as rings over as many axes of the torus as their group fills; between
            slices 6.25e9 bytes/s a chip (assumed).
MFU: FLOPs without recomputation over peak. MBU: bytes that must be read over bandwidth."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a slice, as its maker publishes it; ``hbm`` is what the compiler leaves to a program."""

    flops: float  # bfloat16 FLOP/s
    bandwidth: float  # bytes/s of its memory
    hbm: float  # bytes
    ici: float  # bytes/s of one axis of the torus, both directions together
    sides: int  # dimensions of the torus
    cores: int = 1  # by how many a chip counts in a slice's name: v4-8 and v5p-8 are four chips
    compiler: tuple[tuple[str, Any], ...] = ()  # what get_topology_desc is told
    dcn: float = 6.25e9  # bytes/s a chip between slices, where 4 chips share a host's 200 Gbit/s: assumed, not published


CHIPS = {
    "v4": Chip(275e12, 1228e9, 30.75 * GIB, 9e10, 3, 2, (("chip_config_name", "megacore"),)),
    "v5e": Chip(197e12, 819e9, 15.75 * GIB, 9e10, 2),
    "v5p": Chip(459e12, 2765e9, 95.73 * GIB, 1.8e11, 3, 2),
    "v6e": Chip(918e12, 1638e9, 31.24 * GIB, 1.8e11, 2),
}
SHAPES = {  # number of chips -> the slice's shape
    2: {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
        1024: "8x8x16", 2048: "8x16x16"},
}  # fmt: skip
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v5": "v5p"}


@dataclasses.dataclass(frozen=True)
class Topology:
    kind: str  # a key of CHIPS
    shape: str  # "8x8"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.shape.split("x")))

    def ici(self, group: int) -> float:
        """bytes/s in and out of a chip to so many others: of as many axes of the torus as they fill at least."""
        sides, axes = sorted(map(int, self.shape.split("x")), reverse=True), 1
        while math.prod(sides[:axes]) < group and axes < len(sides):
            axes += 1
        return axes * self.chip.ici

    def __str__(self) -> str:
        return f"{self.kind}:{self.shape}"


def topology(name: str) -> Topology:
    """The slice of a name: v5e:8x8, or as it is ordered: v5e-64, v5litepod-64 and v6e-64 count chips, v4-8 and v5p-8 cores.

    ValueError that lists the valid names.
    """
    found = re.fullmatch(r"(\w+?)(?:-(\d+)|[:=_](\d+(?:x\d+){1,2}))", name.strip())
    kind = ALIASES.get(found[1], found[1]) if found else ""
    if kind in CHIPS:
        chip, size, shape = CHIPS[kind], found[2], found[3]
        if shape and len(shape.split("x")) == chip.sides and "0" not in shape.split("x"):
            return Topology(kind, shape)
        if size and int(size) % chip.cores == 0 and int(size) // chip.cores in SHAPES[chip.sides]:
            return Topology(kind, SHAPES[chip.sides][int(size) // chip.cores])
    raise ValueError(f"--topology={name}: there is no such slice; {valid_names(kind)}")


def valid_names(kind: str = "") -> str:
    """A sentence with the names of this kind of chip, or of all."""
    lines = []
    for k, chip in CHIPS.items():
        if kind in ("", k) or kind not in CHIPS:
            lines.append(", ".join(f"{k}-{n * chip.cores} ({k}:{shape})" for n, shape in SHAPES[chip.sides].items()))
    return f"the names are {'; '.join(lines)}."


# ---- formulas --------------------------------------------------------------------------------------------------------


def num_params(m: Any) -> int:
    """Of a ModelConfig, norms left out."""
    attention = 2 * m.width * m.head_dim * (m.num_heads + m.num_kv_heads)
    return m.num_layers * (attention + 3 * m.width * m.mlp_dim) + m.vocab_size * m.width * (1 if m.tied else 2)


def multiplied_params(m: Any) -> int:
    """N."""
    return num_params(m) - (0 if m.tied else m.vocab_size * m.width)


def kv_bytes(m: Any, itemsize: int = 2) -> int:
    """Of one cached token: 2 L K h."""
    return 2 * m.num_layers * m.num_kv_heads * m.head_dim * itemsize


def train_flops(m: Any, tokens: int, length: int) -> float:
    """6 N + 6 L H h S a token: forward and backward; causal attention, the half of the full square, or a band of it."""
    n = min(m.window or length, length)
    seen = n - n * n / (2 * length) if length else 0.0  # tokens that a token sees on average: S / 2 without a window
    return tokens * (6.0 * multiplied_params(m) + 12.0 * m.num_layers * m.num_heads * m.head_dim * seen)


def forward_flops(m: Any, tokens: int, length: int, heads: int | None = None) -> float:
    """A third of the training's; ``heads``: how many tokens get logits, where not all do."""
    without = (tokens - heads) * 2.0 * m.vocab_size * m.width if heads is not None else 0.0
    return train_flops(m, tokens, length) / 3 - without


def decode_flops(m: Any, batch: int, context: float) -> float:
    """2 N B + 4 L H h c B, of one step of all sequences."""
    context = min(context, m.window or context)
    return batch * (2.0 * multiplied_params(m) + 4.0 * m.num_layers * m.num_heads * m.head_dim * context)


def decode_bytes(m: Any, batch: int, context: float, replicas: int = 1, itemsize: int = 2) -> float:
    """R N b + B c kv, all chips together: each of R replicas reads the weights, each sequence its own cache."""
    return replicas * multiplied_params(m) * float(itemsize) + batch * context * kv_bytes(m, itemsize)


def executed(m: Any, flops: float) -> float:
    """What the hardware computes for training FLOPs: a third more where each layer's forward pass is made again."""
    return flops * (4 / 3 if m.remat == "full" else 1.0)


def train_bytes(m: Any, mesh: dict[str, int], micro_batches: int) -> float:
    """Of one chip: its part of float32 parameters, gradient and two moments read, and parameters and moments written (28 bytes
    a parameter); and the gathered weights in the computation's type, in every forward pass, recomputation and backward pass.
    Activations are left out: a lower bound."""
    passes = (3 if m.remat == "full" else 2) * micro_batches
    gathered = multiplied_params(m) / mesh["tensor"] * itemsize(m) * passes
    return 28.0 * num_params(m) / (mesh["fsdp"] * mesh["tensor"]) + gathered


def itemsize(m: Any) -> int:
    return 2 if m.dtype == "bfloat16" else 4


def network_seconds(slice: Topology, collectives: Iterable[Any]) -> float:
    """Of ``hlo.Collective``s, one after another: rings over the axes of the torus that a group fills move (n - 1) / n of the
    bytes through every chip, twice for all-reduce; what is permuted moves once; and across slices each chip then sends its n-th
    part over the data-centre network."""
    total = 0.0
    for c in collectives:
        inside = max(1, c.group // c.slices)
        passes = c.count * (2 if c.kind.startswith("all-reduce") else 1)
        ring = 1.0 if c.kind == "collective-permute" else (inside - 1) / inside
        total += passes * c.bytes * ring / slice.ici(inside)
        total += passes * c.bytes / inside * (c.slices - 1) / c.slices / slice.chip.dcn
    return total


def predicted_network(m: Any, slice: Topology, mesh: dict[str, int], slices: int, micro_batches: int, tokens: int) -> float:
    """Seconds of an update's collectives, for choosing a mesh before anything is compiled.

    In every micro-batch weights are gathered over fsdp (forward, backward, recomputation) and gradients reduce-scattered in
    float32, then all-reduced over data; over tensor two all-reduces of the activations a layer in each of these passes.
    """
    passes, parts = (3 if m.remat == "full" else 2), mesh["fsdp"] * mesh["tensor"]
    inside = mesh["data"] // slices
    seconds = {n: (n - 1) / n / slice.ici(n) for n in (mesh["fsdp"], mesh["tensor"], inside)}  # of a byte
    total = num_params(m) / mesh["tensor"] * (passes * itemsize(m) + 4) * seconds[mesh["fsdp"]]
    total += 2 * 4 * num_params(m) / parts * seconds[inside]
    rows = tokens / micro_batches / (mesh["data"] * mesh["fsdp"])
    total += 2 * m.num_layers * passes * rows * m.width * itemsize(m) * 2 * seconds[mesh["tensor"]]
    between = 2 * 4 * num_params(m) / parts / inside * (slices - 1) / slices
    return micro_batches * (total + between / slice.chip.dcn)
