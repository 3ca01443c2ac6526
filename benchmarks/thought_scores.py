"""Log-probabilities of rows' tokens, without thoughts and with Quiet-STaR's greedy ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reasoning_jax.experiment import Experiment
from reasoning_jax.forwards import quiet_star
from reasoning_jax.forwards.quiet_star import columns, scores
from reasoning_jax.model import decoder, logprobs

BATCH = 50  # the most rows whose thoughts are computed at once
Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model makes of n rows, [n, S] each; S: the longest row."""

    logprobs: np.ndarray  # of each token; 0 where the row does not count it
    mixing_weights: np.ndarray  # of the thought before it; 0 where the row does not count it
    thoughts: np.ndarray  # [n, S, t]: after each token; those of padding mean nothing


def with_thoughts(
    exp: Experiment, params: decoder.Params, rows: Sequence[Row], others: bool = False
) -> Scored:
    """others: the thoughts are those of the row before (``rows_before``), at the same position."""
    cfg, model_cfg = exp.forward_cfg, exp.model_cfg
    if others and len(rows) < 2:
        raise ValueError("A row alone has no other row's thoughts.")

    @jax.jit
    def scored(batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        whole = quiet_star.with_markers(params, cfg)
        hidden, past, visible = scores.read_text(whole, batch, model_cfg)
        at = scores.positions_of(batch, hidden, visible, 1)
        found = scores.score(
            whole,
            past,
            at,
            None,
            length=cfg.thought_length,
            num_thoughts=1,
            together=cfg.positions_at_once,
            model_cfg=model_cfg,
        )
        of_next = jnp.pad(found.logprobs[:, :-1, 0, 0], ((0, 0), (1, 0)))
        weights = jnp.pad(found.mixing_weights[:, :-1, 0], ((0, 0), (1, 0)))
        return of_next, weights, found.thoughts[:, :, 0]

    draw = columns.draw
    if others:
        columns.draw = lambda *args: jnp.roll(draw(*args), 1, axis=0)
    try:
        parts = [scored(batch) for batch in batches(rows)]
    finally:
        columns.draw = draw
    found = [np.concatenate(part) for part in zip(*jax.device_get(parts), strict=True)]
    return Scored(logprobs=found[0], mixing_weights=found[1], thoughts=found[2])


def without_thoughts(exp: Experiment, params: decoder.Params, rows: Sequence[Row]) -> np.ndarray:
    """[n, S]: log p of each token; 0 where the row does not count it."""

    @jax.jit
    def scored(batch: dict[str, jax.Array]) -> jax.Array:
        hidden, _, _ = scores.read_text(params, batch, exp.model_cfg)
        return logprobs.of_hidden(params, hidden, batch, exp.model_cfg) * batch["weights"]

    return np.concatenate([scored(batch) for batch in batches(rows)])


def rows_before(count: int) -> np.ndarray:
    """[count]: of each row, the one whose thoughts it gets with ``others``: in its own batch."""
    return np.concatenate([np.roll(part, 1) for part in _parts(count)])


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // BATCH))


def batches(rows: Sequence[Row]) -> list[dict[str, jax.Array]]:
    """Of one shape, or two if the numbers of rows differ by one."""
    size = max(len(row["tokens"]) for row in rows)
    return [batch_of([rows[number] for number in part], size) for part in _parts(len(rows))]


def batch_of(rows: Sequence[Row], size: int) -> dict[str, jax.Array]:
    """The rows, each from slot 0 of ``size`` on."""
    batch = {
        "tokens": np.zeros((len(rows), size), np.int32),
        "weights": np.zeros((len(rows), size), np.float32),
        "segment_ids": np.zeros((len(rows), size), np.int32),
    }
    for i, row in enumerate(rows):
        length = len(row["tokens"])
        batch["tokens"][i, :length] = row["tokens"]
        batch["weights"][i, :length] = row["weights"]
        batch["segment_ids"][i, :length] = 1
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), batch["tokens"].shape)
    return {name: jnp.asarray(x) for name, x in (batch | {"positions": positions}).items()}
