"""The M-step: one gradient step; and the gradients of single sequences.

No other file differentiates a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from reasoning_jax import forwards, prng
from reasoning_jax.forwards import Aux
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.training.losses import Loss, masked_sum
from reasoning_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class HasLoss(Protocol):
    """A method (algorithms.Algorithm), as far as an update needs it."""

    @property
    def loss(self) -> Callable[[jax.Array, Batch, ConfigDict], Loss]: ...


class TrainStep(Protocol):
    """One update: the state is consumed; ``frozen`` is what it does not train of the model."""

    def __call__(
        self,
        state: TrainState,
        batch: Batch,
        learning_rate: jax.Array,
        frozen: decoder.Params | None = None,
    ) -> tuple[TrainState, Metrics]: ...


def make_train_step(
    algorithm: HasLoss,
    model_cfg: decoder.ModelConfig,
    optimizer: optax.GradientTransformation,
    cfg: ConfigDict,
) -> TrainStep:
    """The compiled function (state, batch, learning_rate, frozen) -> (state, metrics) of a method.

    It consumes the state. Each array of the batch is [M, B, S]: M micro-batches, whose gradients
    are summed before one division by the weight of the whole global batch, so that M and the number
    of devices change nothing but the order of a sum. A non-finite loss or gradient leaves
    parameters and optimiser as they were and is counted. ``frozen`` are the parameters beside the
    state's: no gradient of them is taken. What the forward draws is named by the number of the
    update and of the sequence in the global batch.
    """
    forward = forwards.get(cfg.forward.name)
    settings = forwards.settings(cfg.forward)

    def loss_total(
        trained: decoder.Params, frozen: decoder.Params, batch: Batch, keys: jax.Array | None
    ) -> tuple[jax.Array, Loss]:
        params = frozen | trained if frozen else trained
        token_logprobs, aux = forward.logprobs(params, batch, keys, model_cfg, settings)
        loss = _with_aux(algorithm.loss(token_logprobs, batch, cfg), aux)
        return loss.total, loss

    gradient = jax.value_and_grad(loss_total, has_aux=True)

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState,
        batch: Batch,
        learning_rate: jax.Array,
        frozen: decoder.Params | None = None,
    ) -> tuple[TrainState, Metrics]:
        keys = None
        if forward.RANDOM:
            keys = _sequence_keys(prng.key(cfg.seed, "thoughts"), state.step, batch)
        loss, grads = _sum_over_micro_batches(gradient, state.params, frozen or {}, batch, keys)
        divisor = jnp.maximum(loss.weight, 1.0)
        mean_loss = loss.total / divisor
        means = {name: total / divisor for name, total in loss.means.items()}
        grads = jax.tree.map(lambda g: g / divisor, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(mean_loss)
        state = _apply_gradients(optimizer, state, grads, learning_rate, finite)
        return state, {
            "loss": mean_loss,
            "weight": loss.weight,
            **means,
            **loss.maxima,
            "grad_norm": norm,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }

    return train_step


def _sum_over_micro_batches(
    gradient: Callable,
    trained: decoder.Params,
    frozen: decoder.Params,
    batch: Batch,
    keys: jax.Array | None,
) -> tuple[Loss, decoder.Params]:
    """The losses and gradients of M micro-batches [M, B, S], added up; maxima are the largest.

    keys: [M, B], or None where the forward draws nothing.
    """

    def add(sums: tuple, micro_batch: tuple[Batch, jax.Array | None]) -> tuple[tuple, None]:
        loss_before, grads_before = sums
        (_, loss), grads = gradient(trained, frozen, *micro_batch)
        loss = _add_losses(loss_before, loss)
        return (loss, jax.tree.map(jnp.add, grads_before, grads)), None

    first = jax.tree.map(lambda x: x[0], (batch, keys))
    (_, loss), grads = gradient(trained, frozen, *first)
    if batch["tokens"].shape[0] == 1:
        return loss, grads
    rest = jax.tree.map(lambda x: x[1:], (batch, keys))
    sums, _ = jax.lax.scan(add, (loss, grads), rest)
    return sums


def _sequence_keys(key: jax.Array, update: jax.Array, batch: Batch) -> jax.Array:
    """[M, B]: a key for each sequence of this update, whatever M is."""
    shape = batch["tokens"].shape[:2]
    numbers = jnp.arange(shape[0] * shape[1]).reshape(shape)
    numbers = sharding.shard(numbers, None, "batch")
    of_update = jax.random.fold_in(key, update)
    return jax.vmap(jax.vmap(lambda number: jax.random.fold_in(of_update, number)))(numbers)


def _with_aux(loss: Loss, aux: Aux) -> Loss:
    """The method's loss with what the forward adds to it, and to what is logged."""
    if not aux:
        return loss
    means = {name: total for name, total in aux.items() if name != "loss"}
    return loss._replace(total=loss.total + aux.get("loss", 0.0), means={**loss.means, **means})


def _add_losses(a: Loss, b: Loss) -> Loss:
    return Loss(
        total=a.total + b.total,
        weight=a.weight + b.weight,
        means={name: a.means[name] + b.means[name] for name in a.means},
        maxima={name: jnp.maximum(a.maxima[name], b.maxima[name]) for name in a.maxima},
    )


def _apply_gradients(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    grads: decoder.Params,
    learning_rate: jax.Array,
    finite: jax.Array,
) -> TrainState:
    """The state after one update; with the old parameters and optimiser where not ``finite``."""
    direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)

    def keep_if_finite(new: optax.Params, old: optax.Params) -> optax.Params:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    return TrainState(
        step=state.step + 1,
        params=keep_if_finite(params, state.params),
        opt_state=keep_if_finite(opt_state, state.opt_state),
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )


@partial(jax.jit, static_argnames="cfg")
def score_vectors(params: decoder.Params, batch: Batch, cfg: decoder.ModelConfig) -> jax.Array:
    """The gradient of each sequence's log-likelihood by a shift of all its final hidden states.

    batch: one row a sequence, with ``weights`` [B, S]. Returns [B, D] float32. It costs a forward
    pass and little more, and stands for the gradient by the parameters where only sizes and
    correlations of gradients are asked for.
    """
    inputs = decoder.embed(params, batch["tokens"], cfg)
    mask = CausalMask(batch["segment_ids"])
    hidden = decoder.apply(params, inputs, batch["positions"], mask, cfg=cfg)

    def total(shift: jax.Array) -> jax.Array:
        shifted = hidden + shift[:, None].astype(hidden.dtype)
        token_logprobs = logprobs.of_hidden(params, shifted, batch, cfg)
        return masked_sum(token_logprobs, batch["weights"])

    zeros = jnp.zeros((hidden.shape[0], hidden.shape[2]))
    return jax.grad(total)(sharding.shard(zeros, "batch", None))
