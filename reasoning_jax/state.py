"""What a gradient step reads and replaces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from reasoning_jax import model, prng, sharding


@struct.dataclass
class TrainState:
    """Everything on the devices that a checkpoint holds."""

    step: jax.Array  # scalar int32: updates so far, over all rounds
    params: model.Params
    opt_state: optax.OptState
    skipped: jax.Array  # scalar int32: non-finite updates that were left out
    skipped_in_a_row: jax.Array


def init(seed: int, cfg: model.ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A new state, sharded from birth: shapes first, then shardings, then one jit that makes each shard in its place."""

    def create(key: jax.Array) -> TrainState:
        return fresh(model.init(key, cfg), optimizer)

    key = prng.key(seed, "init")
    shardings = sharding.parameter_specs(jax.eval_shape(create, key), mesh)
    return jax.jit(create, out_shardings=shardings)(key)


def fresh(params: model.Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state at step 0 around these parameters; under jit with out_shardings, as in ``init``."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # not one buffer: each is donated
    return TrainState(step, params, optimizer.init(params), skipped, in_a_row)
