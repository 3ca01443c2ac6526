"""How fast a compiled program could be: ceilings of its phases, by the formulas of ceilings.py."""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from reasoning_jax import tune
from reasoning_jax.model import paged_attention
from reasoning_jax.model.decoder import ModelConfig
from reasoning_jax.tpu import ceilings, collectives
from reasoning_jax.tpu.chips import Topology
from reasoning_jax.tpu.collectives import Collective
from reasoning_jax.tpu.compiler import Compiled
from reasoning_jax.tpu.programs import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a program that has a speed of its own: an update, prefill, a step of decoding."""

    name: str
    flops: float  # without recomputation
    seconds: dict[str, float]  # compute, memory, network
    tokens_per_second: float
    mfu: float | None  # FLOPs over peak; None for decoding, whose limit is the memory
    mbu: float | None  # bytes that must be read over bandwidth; None where the limit is compute
    collectives: dict[str, dict[str, int]]  # count and bytes a device of each kind

    def as_json(self) -> dict[str, object]:
        """The fields that are not None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def phases(
    step: Step, compiled: Compiled, cfg: ConfigDict, model_cfg: ModelConfig, topology: Topology
) -> list[Phase]:
    """Ceilings of a program."""
    mesh = dict(step.mesh.shape)
    tokens = step.batch_size * step.length
    a_weight = 1 if step.kind == "prefill" and cfg.sampling.int8 else ceilings.itemsize(model_cfg)
    weights = ceilings.multiplied_params(model_cfg) * a_weight / mesh["tensor"]
    once = [collective for collective in compiled.collectives if not collective.repeated]
    if step.kind == "update":
        frozen = tune.get(cfg.tune.name).FREEZES
        update = _phase(
            "update",
            step,
            topology,
            tokens=tokens,
            flops=ceilings.train_flops(model_cfg, tokens, step.length, frozen),
            executed=ceilings.executed_flops(model_cfg, tokens, step.length, frozen),
            bytes_a_chip=ceilings.train_bytes(model_cfg, mesh, cfg.micro_batches, frozen),
            sent=once,
        )
        return [update]
    if step.kind == "decode":
        return [_decoding(step, compiled, cfg, model_cfg, topology)]
    with_logits = step.batch_size if step.kind == "prefill" else None
    flops = ceilings.forward_flops(model_cfg, tokens, step.length, with_logits)
    forward = _phase(
        "forward" if step.kind == "score" else step.kind,
        step,
        topology,
        tokens=tokens,
        flops=flops,
        executed=flops,
        bytes_a_chip=weights,
        sent=once,
    )
    return [forward]


def _decoding(
    step: Step, compiled: Compiled, cfg: ConfigDict, model_cfg: ModelConfig, topology: Topology
) -> Phase:
    """A step of decoding, at the middle of the longest completion."""
    context = step.length - cfg.sampling.max_new_tokens / 2
    flops = ceilings.decode_flops(model_cfg, step.batch_size, context)
    with jax.set_mesh(step.mesh):
        token_bytes = paged_attention.token_bytes(model_cfg, cfg.sampling.int8_cache)
    read = ceilings.decode_bytes(
        model_cfg,
        step.batch_size,
        context,
        token_bytes,
        replicas=step.mesh.shape["data"] * step.mesh.shape["fsdp"],
        itemsize=ceilings.itemsize(model_cfg),
        in_int8=cfg.sampling.int8,
    )
    phase = _phase(
        "a decode step",
        step,
        topology,
        tokens=step.batch_size,
        flops=flops,
        executed=flops,
        bytes_a_chip=read / step.mesh.size,
        sent=[collective for collective in compiled.collectives if collective.repeated],
    )
    mbu = phase.seconds["memory"] / max(phase.seconds.values())
    return dataclasses.replace(phase, mfu=None, mbu=mbu)


def _phase(
    name: str,
    step: Step,
    topology: Topology,
    *,
    tokens: int,
    flops: float,
    executed: float,
    bytes_a_chip: float,
    sent: list[Collective],
) -> Phase:
    """A phase whose limit is compute. executed: FLOPs with recomputation; sent: its collectives."""
    peak = step.mesh.size * topology.chip.flops
    seconds = {
        "compute": executed / peak,
        "memory": bytes_a_chip / topology.chip.bandwidth,
        "network": ceilings.network_seconds(topology, sent),
    }
    longest = max(seconds.values())
    return Phase(
        name=name,
        flops=flops,
        seconds=seconds,
        tokens_per_second=tokens / longest,
        mfu=flops / peak / longest,
        mbu=None,
        collectives=collectives.by_kind(sent),
    )
