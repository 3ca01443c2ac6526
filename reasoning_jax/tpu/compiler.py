"""TPU's own compiler, without the TPU: it compiles programs for a slice that is not here.

Nothing is computed: arrays are shapes and shardings. Needs libtpu, of which only the compiler is
used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from reasoning_jax import experiment
from reasoning_jax.errors import UserError
from reasoning_jax.tpu import chips, collectives, programs
from reasoning_jax.tpu.collectives import Collective
from reasoning_jax.tpu.programs import Step

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler says of a program; bytes are those of one device.

    A program that the compiler refuses has no other figure than ``needed``, what it asked for.
    """

    fits: bool
    needed: int  # arguments, temporaries, what of the output is no donated argument, and resident
    seconds: float
    cpu_seconds: float
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    donated: int = 0
    resident: int = 0  # what lies there meanwhile and is none of the arguments
    collectives: tuple[Collective, ...] = ()


Results = list[tuple[Step, Compiled]]


def devices(topology: chips.Topology, slices: int = 1) -> list[jax.Device]:
    """The devices of so many slices; UserError where libtpu is missing or knows no such slice."""
    try:
        import libtpu  # noqa: F401  (only whether it is there)
    except ImportError:
        raise UserError(
            'plan needs the compiler of TPUs: pip install "jax[tpu]" '
            "(x86-64 Linux; no TPU is needed)."
        ) from None
    options: dict[str, str | int | list[int]] = dict(topology.chip.compiler)
    if topology.chips == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]  # else a host is taken to have four
    if slices > 1:
        options["num_slices"] = slices
    try:
        description = topologies.get_topology_desc(str(topology), platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        names = chips.valid_names(topology.kind)
        raise UserError(f"--topology={topology}: {_reason(error)}; {names}") from None
    return list(description.devices)


def _reason(error: Exception) -> str:
    """What libtpu says of a slice that it does not know."""
    reason = str(error).partition("INVALID_ARGUMENT:")[2].strip().rstrip(".")
    return reason or str(error).splitlines()[0]


def compile_step(step: Step, chip: chips.Chip) -> Compiled:
    """Compiles a program; that it does not fit is an answer, not an error."""
    began = time.monotonic()
    cpu_began = time.process_time()
    refusal = ""
    try:
        with _no_cache():
            program = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = str(error)
        if "RESOURCE_EXHAUSTED" not in refusal or "bm" not in refusal.lower():
            raise
    seconds = time.monotonic() - began
    cpu_seconds = time.process_time() - cpu_began
    if refusal:
        return Compiled(
            fits=False,
            needed=requested_bytes(refusal) + step.resident,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            resident=step.resident,
        )
    memory = program.memory_analysis()
    arguments = int(memory.argument_size_in_bytes)
    temporaries = int(memory.temp_size_in_bytes)
    output = int(memory.output_size_in_bytes)
    donated = int(memory.alias_size_in_bytes)
    needed = arguments + temporaries + output - donated + step.resident
    slice_of = [getattr(device, "slice_index", 0) or 0 for device in step.mesh.devices.flat]
    return Compiled(
        fits=needed <= chip.hbm,
        needed=needed,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        arguments=arguments,
        temporaries=temporaries,
        output=output,
        donated=donated,
        resident=step.resident,
        collectives=tuple(collectives.find(program.as_text(), slice_of)),
    )


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Without the compilation cache.

    Programs for absent devices can be written to it, but not read.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it looks at the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def requested_bytes(message: str) -> int:
    """Bytes that the compiler says it would need; 0 where it does not say."""
    for pattern in (r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", r"Used ([\d.]+)([KMGT]?) of"):
        match = re.search(pattern, message)
        if match:
            exponent = " KMGT".index(match[2] or " ")
            return int(float(match[1]) * 1024**exponent)
    return 0


def compile_kinds(
    cfg: ConfigDict, topology: chips.Topology, slices: int, kinds: tuple[str, ...]
) -> list[Compiled]:
    """Every program of these kinds."""
    exp = experiment.make(cfg, devices(topology, slices))
    steps = [step for step in programs.steps(cfg, exp) if step.kind in kinds]
    return [compile_step(step, topology.chip) for step in steps]


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """function(*args, **kwargs) in a process of its own; None where that process dies.

    The compiler crashes on some sizes of arrays.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except concurrent.futures.process.BrokenProcessPool:
            return None
