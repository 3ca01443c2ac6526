"""Supervised fine-tuning on given rationales, or, ``direct``, on answers alone (the baseline of the STaR paper, table 1).

It is also round 0 of every run that starts from nothing: the worked examples of ``config.base`` that stand in for a
pre-trained model and its few-shot prompt. There, ``base.hinted`` shows a part of the worked examples a second time with
their hints, as the few-shot prompt for rationalization does, so that the model knows what a hint is.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Report
from reasoning_jax.masked import weighted_nll
from reasoning_jax.tasks import Example


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    return ()


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    """Every example that has a rationale (every example, where ``direct``), as it is given."""
    direct = cfg.algorithm.direct
    worked = [e for e in examples if direct or e.rationale is not None]
    if not worked:
        raise ValueError("None of the examples has a rationale to train on; did you mean config.algorithm.direct=True?")
    rows = [rollout.worked_row(e, direct=direct) for e in worked]
    if round == 0 and cfg.base.hinted:
        rows += [rollout.worked_row(e, hint=True) for e in worked[:: max(1, int(1 / cfg.base.hinted))]]
    fitting = [row for row in rows if row is not None]
    values = {"kept_rows": len(fitting), "kept": len(fitting) / len(rows), "samples": len(rows)}
    return fitting, memory, Report(values)


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return cfg.base.num_updates if round == 0 else cfg.algorithm.start_updates


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Negative log-likelihood of the completion's tokens, the end token included."""
    return weighted_nll(logprobs, batch)
