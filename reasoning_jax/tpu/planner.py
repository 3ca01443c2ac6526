"""Whether an experiment fits a TPU slice, and how fast it could be there: what ``plan`` does."""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from reasoning_jax import experiment
from reasoning_jax.experiment import Experiment
from reasoning_jax.tpu import (
    ceilings,
    chips,
    compiler,
    programs,
    search,
    software,
    summary,
)
from reasoning_jax.tpu.compiler import Compiled, Results
from reasoning_jax.tpu.phases import Phase, phases
from reasoning_jax.tpu.programs import Step
from reasoning_jax.tpu.search import PrintLine, RankedMesh

JSON = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A program, what the compiler says of it, and the ceilings of its phases."""

    step: Step
    compiled: Compiled
    phases: list[Phase]
    to_spare: int  # bytes a device

    def as_json(self) -> JSON:
        """The fields of the program in one object; collectives only by kind."""
        figures: JSON = dataclasses.asdict(self.compiled)
        del figures["collectives"]
        return figures | {
            "name": self.step.name,
            "rows": self.step.batch_size,
            "length": self.step.length,
            "to_spare": self.to_spare,
            "phases": [phase.as_json() for phase in self.phases],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found of an experiment on a slice."""

    topology: str
    slices: int
    chips: int
    jax: str  # versions
    libtpu: str | None
    hbm_bytes: int
    meshes: list[RankedMesh] | None  # of a search for the best mesh
    largest: dict[str, int | None] | None  # of a search for the largest batches
    mesh: dict[str, int]
    params: int
    steps: list[PlannedStep]
    advice: str | None  # what to change where a program does not fit

    @property
    def fits(self) -> bool:
        return self.advice is None

    def as_json(self) -> JSON:
        """What ``plan --json`` prints."""
        figures: JSON = {
            "topology": self.topology,
            "slices": self.slices,
            "chips": self.chips,
            "jax": self.jax,
            "libtpu": self.libtpu,
            "hbm_bytes": self.hbm_bytes,
        }
        if self.meshes is not None:
            figures["meshes"] = [mesh.as_json() for mesh in self.meshes]
        if self.largest is not None:
            figures["largest"] = self.largest
        figures["mesh"] = self.mesh
        figures["params"] = self.params
        figures["steps"] = [step.as_json() for step in self.steps]
        figures["fits"] = self.fits
        if self.advice is not None:
            figures["advice"] = self.advice
        return figures


class _Compiler:
    """Compiles an experiment's programs as its config is then, each program once."""

    def __init__(self, cfg: ConfigDict, topology: chips.Topology, slices: int) -> None:
        self.cfg = cfg
        self.topology = topology
        self.slices = slices
        self.devices = compiler.devices(topology, slices)
        self._compiled: dict[tuple[str, int, tuple[int, ...]], Compiled] = {}

    def experiment(self) -> Experiment:
        return experiment.make(self.cfg, self.devices)

    def compile_all(self) -> Results:
        """Every program of the experiment."""
        results = []
        for step in programs.steps(self.cfg, self.experiment()):
            key = _key(step)
            if key not in self._compiled:
                self._compiled[key] = compiler.compile_step(step, self.topology.chip)
            results.append((step, self._compiled[key]))
        return results

    def compile_kinds(self, kinds: tuple[str, ...]) -> list[Compiled]:
        """The programs of these kinds; none fits where the compiler crashes on their sizes."""
        steps = programs.steps(self.cfg, self.experiment())
        steps = [step for step in steps if step.kind in kinds]
        results = compiler.in_own_process(
            compiler.compile_kinds, self.cfg, self.topology, self.slices, kinds
        )
        if results is None:
            crashed = Compiled(fits=False, needed=0, seconds=0.0, cpu_seconds=0.0)
            results = [crashed] * len(steps)
        for step, compiled in zip(steps, results, strict=True):
            self._compiled[_key(step)] = compiled
        return results


def _key(step: Step) -> tuple[str, int, tuple[int, ...]]:
    """What tells the programs of a search apart."""
    return step.name, step.batch_size, tuple(step.mesh.shape.values())


def plan(
    cfg: ConfigDict, topology: chips.Topology, slices: int, fit: str | None, print_line: PrintLine
) -> Plan:
    """Compiles an experiment for a slice, prints what was found and returns it.

    fit: "batch" and "mesh" search first, and leave what they chose in ``cfg``; None compiles it as
    it is. UserError as of ``compiler.devices``, ``experiment.make`` and ``search.best_mesh``.
    """
    experiment.check(cfg)
    chip = topology.chip
    programs_of = _Compiler(cfg, topology, slices)
    meshes = None
    largest = None
    if fit == "mesh":
        meshes = search.best_mesh(cfg, topology, slices, programs_of.compile_all, print_line)
    if fit == "batch":
        mesh_shape = programs_of.experiment().mesh.shape
        largest = search.largest_batches(
            cfg, mesh_shape, programs_of.compile_kinds, chip, print_line
        )
    exp = programs_of.experiment()
    results = programs_of.compile_all()
    advice = None
    if not all(compiled.fits for _, compiled in results):
        advice = summary.advice(results, cfg, exp.mesh.shape, chip)
    found = Plan(
        topology=str(topology),
        slices=slices,
        chips=len(programs_of.devices),
        jax=jax.__version__,
        libtpu=software.version("libtpu"),
        hbm_bytes=int(chip.hbm),
        meshes=meshes,
        largest=largest,
        mesh=dict(exp.mesh.shape),
        params=ceilings.num_params(exp.model_cfg),
        steps=_planned_steps(results, cfg, exp, topology),
        advice=advice,
    )
    print_line(_heading(found))
    for planned in found.steps:
        lines = summary.step_lines(planned.step, planned.compiled, planned.phases, chip)
        print_line("\n".join(lines))
    if found.fits:
        print_line(ceilings.FORMULAS)
    return found


def _planned_steps(
    results: Results, cfg: ConfigDict, exp: Experiment, topology: chips.Topology
) -> list[PlannedStep]:
    planned = []
    for step, compiled in results:
        known = compiled.fits or compiled.arguments  # not of a program that the compiler refused
        planned.append(
            PlannedStep(
                step=step,
                compiled=compiled,
                phases=phases(step, compiled, cfg, exp.model_cfg, topology) if known else [],
                to_spare=int(topology.chip.hbm - compiled.needed),
            )
        )
    return planned


def _heading(found: Plan) -> str:
    slices = f"{found.slices} slices of " if found.slices > 1 else ""
    axes = ", ".join(f"{axis} {size}" for axis, size in found.mesh.items())
    return (
        f"{found.chips} chips: {slices}{found.topology}, "
        f"{found.hbm_bytes / chips.GIB:.2f} GiB each; mesh {axes}; "
        f"{found.params / 1e6:,.1f} million parameters; jax {found.jax}, libtpu {found.libtpu}"
    )
