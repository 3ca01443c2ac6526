"""Searches of ``plan``: the largest batches that fit a slice, and the fastest mesh."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping

from ml_collections import ConfigDict

from reasoning_jax import default, named_model, tasks, tune
from reasoning_jax.errors import UserError
from reasoning_jax.model.decoder import ModelConfig
from reasoning_jax.tpu import ceilings, chips
from reasoning_jax.tpu.compiler import Compiled, Results
from reasoning_jax.tpu.summary import fits

PrintLine = Callable[[str], None]

MOST_DOUBLINGS = 16
MOST_MESHES = 8  # that are compiled


# ---- batches -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BatchKey:
    """A key of the config that can be enlarged."""

    name: str
    kinds: tuple[str, ...]  # of the programs that grow with it
    smallest: int


def batch_keys(cfg: ConfigDict, mesh_shape: Mapping[str, int]) -> list[BatchKey]:
    """Each batch that can be enlarged."""
    groups = mesh_shape["data"] * mesh_shape["fsdp"]
    return [
        BatchKey("batch_size", ("update",), groups * cfg.micro_batches),
        BatchKey("sampling.batch_size", ("prefill", "think", "decode", "score"), groups),
    ]


def largest_batches(
    cfg: ConfigDict,
    mesh_shape: Mapping[str, int],
    compile_kinds: Callable[[tuple[str, ...]], list[Compiled]],
    chip: chips.Chip,
    print_line: PrintLine,
) -> dict[str, int | None]:
    """The largest size of each batch, None where the smallest does not fit; left in ``cfg``.

    compile_kinds: compiles the programs of some kinds with ``cfg`` as it is then.
    """
    found: dict[str, int | None] = {}
    for key in batch_keys(cfg, mesh_shape):

        def compile_with(size: int, key: BatchKey = key) -> Compiled:
            cfg.update_from_flattened_dict({key.name: size})
            compiled = _hungriest(compile_kinds(key.kinds))
            print_line(f"  config.{key.name}={size}: {fits(compiled, chip)}")
            return compiled

        start = operator.attrgetter(key.name)(cfg)
        size = largest(key.smallest, start, compile_with, chip.hbm)
        cfg.update_from_flattened_dict({key.name: size or key.smallest})
        found[key.name] = size
    return found


def _hungriest(compiled: Iterable[Compiled]) -> Compiled:
    """The program that decides whether all fit."""
    return max(compiled, key=lambda program: (not program.fits, program.needed))


def largest(
    smallest: int, start: int, compile_with: Callable[[int], Compiled], hbm: float
) -> int | None:
    """The largest smallest x 2^k that fits; None where ``smallest`` itself does not.

    k is at most 16, and the batch one that a config can have. The search begins at ``start``; what
    is compiled next is chosen as if memory were linear in the batch.
    """
    low = -1  # 2^low fits, as far as is known
    most = min(MOST_DOUBLINGS, int(math.log2(default.MOST_SEQUENCES / smallest)))
    high = most + 1  # 2^high does not
    k = min(most, max(0, int(math.log2(start / smallest))))
    measured: list[tuple[int, int]] = []  # 2^k and the bytes needed
    while high - low > 1:
        compiled = compile_with(smallest * 2**k)
        if compiled.fits:
            low = k
        else:
            high = k
        if compiled.needed:
            measured.append((2**k, compiled.needed))
        guess = _next_guess(measured, k, compiled, hbm)
        k = min(max(guess, low + 1), high - 1)
    return None if low < 0 else smallest * 2**low


def _next_guess(measured: list[tuple[int, int]], k: int, compiled: Compiled, hbm: float) -> int:
    """The k at which memory would be full; 0 where nothing is known.

    k, compiled: the newest, which is in ``measured`` unless the compiler did not say what it needs.
    """
    if len(measured) == 1 and compiled.temporaries:
        growth = (hbm - compiled.needed) / compiled.temporaries + 1
        return k + int(math.log2(max(2.0, growth)))
    if len(measured) > 1:
        (size_before, needed_before), (size, needed) = measured[-2:]
        if needed != needed_before:
            full = size + (hbm - needed) * (size - size_before) / (needed - needed_before)
            return int(math.log2(max(1.0, full)))
    return 0


# ---- meshes --------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class RankedMesh:
    """A mesh and what is predicted of an update on it."""

    mesh: dict[str, int]
    seconds: float  # of an update
    network: float  # seconds of its collectives
    state_bytes: float  # bytes a chip of parameters, gradients and moments
    fits: bool | None = None  # None = not compiled

    def as_json(self) -> dict[str, object]:
        """The fields that are not None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def meshes(cfg: ConfigDict, chips: int, slices: int) -> list[dict[str, int]]:
    """Every shape that divides chips, slices and both batches."""
    shapes = []
    for tensor in _divisors(chips // slices):
        groups = chips // tensor
        if cfg.batch_size % (cfg.micro_batches * groups) or cfg.sampling.batch_size % groups:
            continue
        for data in _divisors(groups):
            if data % slices == 0:
                shapes.append({"data": data, "fsdp": groups // data, "tensor": tensor})
    return shapes


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def ranked_meshes(cfg: ConfigDict, topology: chips.Topology, slices: int) -> list[RankedMesh]:
    """The meshes by predicted seconds of an update; UserError where none divides the batches."""
    model_cfg = named_model.of(cfg, tasks.get(cfg.task.name)).config
    num_chips = topology.chips * slices
    ranked = []
    for mesh in meshes(cfg, num_chips, slices):
        ranked.append(_predict(cfg, model_cfg, topology, slices, mesh))
    if not ranked:
        raise UserError(
            f"--fit=mesh: no mesh of {num_chips} chips divides batch_size {cfg.batch_size} "
            f"in {cfg.micro_batches} micro-batches and "
            f"sampling.batch_size {cfg.sampling.batch_size}."
        )
    return sorted(ranked, key=lambda candidate: (candidate.seconds, candidate.network))


def _predict(
    cfg: ConfigDict,
    model_cfg: ModelConfig,
    topology: chips.Topology,
    slices: int,
    mesh: dict[str, int],
) -> RankedMesh:
    chip = topology.chip
    tokens = cfg.batch_size * cfg.sequence_length
    frozen = tune.get(cfg.tune.name).FREEZES
    executed = ceilings.executed_flops(model_cfg, tokens, cfg.sequence_length, frozen)
    compute = executed / (topology.chips * slices) / chip.flops
    memory = ceilings.train_bytes(model_cfg, mesh, cfg.micro_batches, frozen) / chip.bandwidth
    network = ceilings.predicted_network(
        model_cfg,
        topology,
        mesh,
        slices=slices,
        micro_batches=cfg.micro_batches,
        tokens=tokens,
        frozen=frozen,
    )
    return RankedMesh(
        mesh=mesh,
        seconds=max(compute, memory, network),
        network=network,
        state_bytes=ceilings.state_bytes(model_cfg, mesh, frozen),
    )


def best_mesh(
    cfg: ConfigDict,
    topology: chips.Topology,
    slices: int,
    compile_all: Callable[[], Results],
    print_line: PrintLine,
) -> list[RankedMesh]:
    """The meshes, the fastest first; the first that fits is compiled and left in ``cfg``.

    compile_all: compiles every program with ``cfg`` as it is then.
    """
    ranked = ranked_meshes(cfg, topology, slices)
    hopeful = [candidate for candidate in ranked if candidate.state_bytes < topology.chip.hbm]
    for candidate in (hopeful or ranked[-1:])[:MOST_MESHES]:
        cfg.mesh.update(candidate.mesh)
        results = compile_all()
        candidate.fits = all(compiled.fits for _, compiled in results)
        programs = [f"{step.name} {fits(compiled, topology.chip)}" for step, compiled in results]
        print_line(
            f"  mesh {candidate.mesh}: predicted {1e3 * candidate.seconds:,.3g} ms an update "
            f"({1e3 * candidate.network:,.3g} ms network), {'; '.join(programs)}"
        )
        if candidate.fits:
            break
    return ranked
