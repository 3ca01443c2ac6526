"""The programs that a run of an experiment would compile: updates, log-probabilities, the sampler.

Their arguments are shapes and shardings; nothing is computed.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reasoning_jax import algorithms, forwards, starting
from reasoning_jax.algorithms import Algorithm
from reasoning_jax.experiment import Experiment
from reasoning_jax.graders.judge import OTHERS
from reasoning_jax.model import decoder
from reasoning_jax.sampling import engine
from reasoning_jax.tpu import sampler
from reasoning_jax.tpu.sampler import Lower, abstract_array
from reasoning_jax.training import optim, train_step
from reasoning_jax.training.state import TrainState

TOKEN_ARRAYS = ("tokens", "positions", "segment_ids")  # in every batch
INTEGERS = frozenset((*TOKEN_ARRAYS, "side", "position"))  # the arrays of int32; others: float32

# Tokens of a sequence in a call of the sampler.
LENGTHS = {"prefill": engine.PREFILL_BLOCK, "think": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A program of the run."""

    name: str
    kind: Literal["update", "score", "prefill", "think", "decode"]
    batch_size: int  # sequences
    length: int  # tokens of a sequence; of prefill, of a block of a prompt; of a thought, 1
    lower: Lower
    resident: int  # bytes a device of what lies there meanwhile and is none of its arguments
    mesh: Mesh


def steps(cfg: ConfigDict, exp: Experiment) -> list[Step]:
    """The programs of a run.

    They are the update of each kind of batch that the config's method trains on, round 0's where
    its batch is another, the log-probabilities outside updates where the method has them, and the
    sampler's. Left out: the measurements of TRICE's variance and part-filled calls of the
    sampler, a quarter of the size.
    """
    state = exp.abstract_state()
    frozen = exp.abstract_frozen()
    algorithm = algorithms.get(cfg.algorithm.name)
    needed = algorithm.programs_of(cfg)
    keeps_base = needed.keeps_base or cfg.grader.get("judge") in OTHERS
    base_model = size(state.params) if keeps_base else 0
    # The optimiser's moments and the base model stay where they are while samples are drawn.
    idle = size(state) - size(state.params) + base_model

    steps = []
    for kind, arrays in needed.updates.items():
        name = f"update ({algorithm.name}, {kind})" if kind else f"update ({algorithm.name})"
        lower = partial(_lower_update, cfg, exp, state, algorithm, arrays)
        steps.append(_update(name, cfg, exp, lower, base_model))
    steps += _base_updates(cfg, exp, state, needed, base_model)
    if needed.logprobs:
        steps.append(
            Step(
                name="reference log-probs",
                kind="score",
                batch_size=cfg.sampling.batch_size,
                length=cfg.sequence_length,
                lower=partial(_lower_logprobs, cfg, exp, frozen | state.params),
                resident=idle,
                mesh=exp.mesh,
            )
        )
    steps += _sampler(cfg, exp, frozen | state.params, idle)
    return steps


def size(tree: TrainState | decoder.Params) -> int:
    """Bytes a device of abstract arrays."""
    total = 0
    for array in jax.tree.leaves(tree):
        total += math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
    return total


# ---- updates -------------------------------------------------------------------------------------


def _update(name: str, cfg: ConfigDict, exp: Experiment, lower: Lower, resident: int) -> Step:
    return Step(
        name=name,
        kind="update",
        batch_size=cfg.batch_size,
        length=cfg.sequence_length,
        lower=lower,
        resident=resident,
        mesh=exp.mesh,
    )


def _base_updates(
    cfg: ConfigDict,
    exp: Experiment,
    state: TrainState,
    needed: algorithms.Programs,
    resident: int,
) -> list[Step]:
    """The update of round 0, where there is one and it has arrays that no update has.

    needed: the programs of the rounds that follow.
    """
    if not cfg.base.num_updates:
        return []
    base_cfg = starting.base_config(cfg)
    algorithm = algorithms.get(base_cfg.algorithm.name)
    known = [set(arrays) for arrays in needed.updates.values()]
    steps = []
    for arrays in algorithm.programs_of(base_cfg).updates.values():
        if set(arrays) not in known:
            name = f"update ({algorithm.name}, round 0)"
            lower = partial(_lower_update, base_cfg, exp, state, algorithm, arrays)
            steps.append(_update(name, base_cfg, exp, lower, resident))
    return steps


def _lower_update(
    cfg: ConfigDict,
    exp: Experiment,
    state: TrainState,
    algorithm: Algorithm,
    arrays: tuple[str, ...],
) -> jax.stages.Lowered:
    shape = (cfg.micro_batches, cfg.batch_size // cfg.micro_batches, cfg.sequence_length)
    batch = {}
    for name in sorted({*TOKEN_ARRAYS, *arrays}):
        dtype = jnp.int32 if name in INTEGERS else jnp.float32
        batch[name] = abstract_array(exp.mesh, shape, dtype, None, "batch", None)
    learning_rate = abstract_array(exp.mesh, (), jnp.float32)
    optimizer = optim.make(cfg.optim)
    step = train_step.make_train_step(algorithm, exp.model_cfg, optimizer, cfg)
    return step.lower(state, batch, learning_rate, exp.abstract_frozen())


# ---- log-probabilities and samples ---------------------------------------------------------------


def _lower_logprobs(cfg: ConfigDict, exp: Experiment, params: decoder.Params) -> jax.stages.Lowered:
    shape = (cfg.sampling.batch_size, cfg.sequence_length)
    batch = {
        name: abstract_array(exp.mesh, shape, jnp.int32, "batch", None) for name in TOKEN_ARRAYS
    }
    batch["weights"] = abstract_array(exp.mesh, shape, jnp.float32, "batch", None)
    return forwards.compiled_logprobs.lower(
        params,
        batch,
        None,
        forward=exp.forward,
        model_cfg=exp.model_cfg,
        cfg=exp.forward_cfg,
    )


def _sampler(cfg: ConfigDict, exp: Experiment, params: decoder.Params, idle: int) -> list[Step]:
    """The sampler's programs, with the parameters as they are or from copies on another mesh."""
    mesh = exp.mesh
    original = params
    if exp.sampling_mesh is not None:
        mesh = exp.sampling_mesh
        params = sampler.copied(params, mesh, exp.model_cfg.dtype)
    with jax.set_mesh(mesh):
        params = sampler.prepared(params, exp.model_cfg, cfg.sampling.int8)
    # What is trained waits beside what is sampled with, unless they are the same arrays.
    same = {id(x) for x in jax.tree.leaves(params)}
    waiting = [x for x in jax.tree.leaves(original) if id(x) not in same]
    steps = []
    for name, lower in sampler.lowerings(cfg, exp.model_cfg, params, mesh).items():
        steps.append(
            Step(
                name=name,
                kind=name,
                batch_size=cfg.sampling.batch_size,
                length=LENGTHS.get(name, cfg.sequence_length),
                lower=lower,
                resident=idle + size(waiting),
                mesh=mesh,
            )
        )
    return steps
