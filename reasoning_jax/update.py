"""The M-step: one gradient update; and the scores of single samples. The only place that differentiates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from reasoning_jax import logprobs, model, sharding
from reasoning_jax.masked import masked_sum
from reasoning_jax.state import TrainState

Batch = dict[str, jax.Array]


def make_update(
    algorithm: ModuleType, model_cfg: model.ModelConfig, optimizer: optax.GradientTransformation, cfg: ConfigDict
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled function (state, batch, learning_rate) -> (state, metrics) of a method; it consumes the state.

    Each array of the batch is [M, B, S]: M micro-batches, whose gradients are summed before one division by the weight of
    the whole global batch, so that M and the number of devices change nothing but the order of the sum; metrics too, but of
    those named ..._max the largest is taken. A non-finite loss or gradient leaves parameters and optimiser as they were and is
    counted.
    """
    forward = getattr(algorithm, "forward", None)  # a method whose forward pass differs has its own

    def loss_sum(params: model.Params, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        log_p = forward(params, batch, cfg) if forward else logprobs.token_logprobs(params, batch, model_cfg)
        return algorithm.loss(log_p, batch, cfg)

    gradients = jax.value_and_grad(loss_sum, has_aux=True)

    @partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch: Batch, learning_rate: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def micro(total: Any, part: Batch) -> tuple[Any, None]:
            (loss, metrics), grads = gradients(state.params, part)
            (loss_before, before), grads_before = total
            metrics = {k: jnp.maximum(v, before[k]) if k.endswith("_max") else v + before[k] for k, v in metrics.items()}
            return ((loss_before + loss, metrics), jax.tree.map(jnp.add, grads_before, grads)), None

        first = jax.tree.map(lambda x: x[0], batch)
        if next(iter(batch.values())).shape[0] == 1:
            sums = gradients(state.params, first)
        else:
            rest = jax.tree.map(lambda x: x[1:], batch)
            sums, _ = jax.lax.scan(micro, gradients(state.params, first), rest)
        (_, metrics), grads = sums
        weight = metrics["weight"]
        divisor = jnp.maximum(weight, 1.0)
        metrics = {k: v if k.endswith("_max") else v / divisor for k, v in metrics.items()} | {"weight": weight}
        grads = jax.tree.map(lambda g: g / divisor, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])

        direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            skipped=state.skipped + ~finite,
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        return state, metrics | {
            "grad_norm": norm,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }

    return update


@partial(jax.jit, static_argnames="cfg")
def scores(params: model.Params, batch: Batch, cfg: model.ModelConfig) -> jax.Array:
    """The gradient of each row's weighted log-likelihood by a vector that is added to all of its final hidden states.

    batch: one sequence a row, with ``weights`` [B, S]. Returns [B, D] float32. It costs a forward pass and little more, and
    stands for the gradient by the parameters where only sizes and correlations of gradients are asked for.
    """
    hidden, _ = model.apply(params, batch["tokens"], batch["positions"], batch["segment_ids"], cfg=cfg)

    def total(shift: jax.Array) -> jax.Array:
        log_p = logprobs.of_hidden(params, hidden + shift[:, None].astype(hidden.dtype), batch, cfg)
        return masked_sum(log_p, batch["weights"])

    return jax.grad(total)(sharding.shard(jnp.zeros((hidden.shape[0], hidden.shape[2])), "batch", None))
