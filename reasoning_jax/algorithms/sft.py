"""Supervised fine-tuning on given rationales, or, ``direct``, on answers alone.

The latter is the baseline of the STaR paper (Zelikman et al. 2022, table 1). This method also
trains the base model that the rounds of a run from scratch begin with, on worked examples that
stand in for a pre-trained model and its few-shot prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, left_out_warnings
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, weighted_nll
from reasoning_jax.training.rows import Row

BATCH = ("weights",)
SYSTEMS = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    direct: bool = False  # answers without rationales
    # The fraction of worked examples that is shown with the hint too.
    hinted: float = key(0.0, between(0, 1))


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """Every worked example can be written, and some of them fit into a sequence."""
    rows = _rows(rollout, examples, cfg)
    too_long = rows.count(None)
    if too_long == len(rows):
        raise UserError(
            f"config.sequence_length: {rollout.max_length} tokens have no room for any of the "
            f"{len(rows)} worked examples."
        )
    return left_out_warnings(too_long, len(rows), "worked examples")


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """Every example that has a rationale (every example, where ``direct``), as it is given.

    The hinted ones teach the model what a hint is, as the few-shot prompt for rationalization does.
    """
    rows = _rows(rollout, examples, cfg)
    fitting = [row for row in rows if row is not None]
    stats = {
        "kept_rows": len(fitting),
        "kept": len(fitting) / len(rows),
        "samples": len(rows),
    }
    return Collected(rows=fitting, memory=memory, stats=stats)


def _rows(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[Row | None]:
    """The worked examples, some of them with the hint too; None for what is too long."""
    direct = cfg.algorithm.direct
    worked = [e for e in examples if direct or e.rationale is not None]
    if not worked:
        raise UserError(
            "None of the examples has a rationale to train on; "
            "did you mean config.algorithm.direct=True?"
        )
    rows = [rollout.worked_row(e, direct=direct) for e in worked]
    if cfg.algorithm.hinted:
        every = max(1, int(1 / cfg.algorithm.hinted))
        rows += [rollout.worked_row(e, hint=True) for e in worked[::every]]
    return rows


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of the completion's tokens, the end token included."""
    return weighted_nll(logprobs, batch)
