"""What a gradient step reads and replaces."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from reasoning_jax import prng
from reasoning_jax.model import decoder, sharding


@struct.dataclass(kw_only=True)
class TrainState:
    """Everything on the devices that a checkpoint holds."""

    step: jax.Array  # scalar int32: updates so far, over all rounds
    params: decoder.Params
    opt_state: optax.OptState
    skipped: jax.Array  # scalar int32: non-finite updates that were left out
    skipped_in_a_row: jax.Array  # scalar int32: the newest of these, without a finite one between


def init(
    seed: int, cfg: decoder.ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A new state of a model from scratch, sharded from the start.

    First shapes, then shardings, then one jit whose outputs are created as shards.
    """

    def create(key: jax.Array) -> TrainState:
        return fresh(decoder.init(key, cfg), optimizer)

    key = prng.key(seed, "init")
    shardings = sharding.parameter_specs(jax.eval_shape(create, key), mesh)
    return jax.jit(create, out_shardings=shardings)(key)


def around(params: decoder.Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state at step 0 with these parameters, which it consumes, on their mesh."""
    create = partial(fresh, optimizer=optimizer)
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    shardings = sharding.parameter_specs(jax.eval_shape(create, params), mesh)
    return jax.jit(create, out_shardings=shardings, donate_argnums=0)(params)


def fresh(params: decoder.Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state at step 0 around these parameters; under jit with out_shardings, as in ``around``."""
    # Each counter is an array of its own: an update donates them all.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )
