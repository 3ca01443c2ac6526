"""What ``plan`` prints of compiled programs."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from reasoning_jax.tpu.chips import GIB, Chip
from reasoning_jax.tpu.compiler import Compiled, Results
from reasoning_jax.tpu.phases import Phase
from reasoning_jax.tpu.programs import Step

INDENT = " " * 15


def gib(size: float) -> str:
    """Bytes for people: in GiB, or where that is too coarse in MiB."""
    if abs(size) >= GIB / 100:
        return f"{size / GIB:.2f} GiB"
    return f"{size / 2**20:.2f} MiB"


def fits(compiled: Compiled, chip: Chip) -> str:
    """Whether a program fits, and by how much."""
    if not compiled.needed:
        return "does not fit"
    to_spare = chip.hbm - compiled.needed
    if compiled.fits:
        return f"{gib(compiled.needed)} a device, fits, {gib(to_spare)} to spare"
    return f"{gib(compiled.needed)} a device, does not fit: {gib(-to_spare)} more"


def step_lines(step: Step, compiled: Compiled, phases: list[Phase], chip: Chip) -> list[str]:
    """The paragraph about a program: its memory and its phases."""
    lines = [
        "",
        f"{step.name}: {step.batch_size} x {step.length} tokens, compiled in "
        f"{compiled.seconds:.0f} s ({compiled.cpu_seconds:.0f} s of CPU)",
        f"  memory       {fits(compiled, chip)}",
    ]
    if compiled.fits or compiled.arguments:
        lines.append(INDENT + _memory(compiled))
    for phase in phases:
        lines += _phase_lines(phase)
        if phase.mbu is not None and step.mesh.shape["fsdp"] > 1:
            lines.append(
                f"{INDENT}each step gathers every layer: "
                "config.mesh.sampling_tensor samples from copies instead"
            )
    return lines


def _memory(compiled: Compiled) -> str:
    sizes = {
        "arguments": compiled.arguments,
        "temporaries": compiled.temporaries,
        "output": compiled.output,
        "donated": -compiled.donated,
        "also there (optimiser, reference)": compiled.resident,
    }
    return ", ".join(f"{name} {gib(size)}" for name, size in sizes.items() if size)


def _phase_lines(phase: Phase) -> list[str]:
    sent = []
    for kind, total in phase.collectives.items():
        sent.append(f"{kind} {total['count']} x, {gib(total['bytes'])}")
    times = [f"{name} {1e3 * seconds:,.3g} ms" for name, seconds in phase.seconds.items()]
    utilisation = f"MFU {phase.mfu:.0%}" if phase.mbu is None else f"MBU {phase.mbu:.0%}"
    return [
        f"  {phase.name:<12} collectives a device: {', '.join(sent) or 'none'}",
        f"{INDENT}{phase.flops:.3g} FLOPs; {', '.join(times)}: "
        f"at most {phase.tokens_per_second:,.0f} tokens/s, {utilisation}",
    ]


def advice(results: Results, cfg: ConfigDict, mesh_shape: Mapping[str, int], chip: Chip) -> str:
    """One sentence: what does not fit, and the keys that change it."""
    too_large = [(step, compiled) for step, compiled in results if not compiled.fits]
    step, compiled = max(too_large, key=lambda result: result[1].needed)
    remedies = []
    if mesh_shape["data"] > 1:
        fsdp = mesh_shape["fsdp"]
        remedies.append(f"config.mesh.fsdp above {fsdp} (it splits parameters and optimiser)")
    groups = mesh_shape["data"] * mesh_shape["fsdp"]
    if step.kind == "update":
        remedies += _smaller_update(cfg, groups)
    elif cfg.sampling.batch_size > groups:
        remedies.append(f"config.sampling.batch_size below {cfg.sampling.batch_size}")
    if len(remedies) < 2:
        remedies.append("a larger slice")
    figures = f" ({gib(compiled.needed)} of {gib(chip.hbm)})" if compiled.needed else ""
    return f"{step.name} does not fit{figures}: try {', or '.join(remedies)}."


def _smaller_update(cfg: ConfigDict, groups: int) -> list[str]:
    """The keys that make an update smaller, over so many groups of devices."""
    remedies = []
    if cfg.batch_size // cfg.micro_batches > groups:
        remedies.append(f"config.micro_batches above {cfg.micro_batches}")
    if cfg.model.remat != "full":
        remedies.append("config.model.remat=full")
    if cfg.batch_size > groups:
        remedies.append(f"config.batch_size below {cfg.batch_size}")
    return remedies
