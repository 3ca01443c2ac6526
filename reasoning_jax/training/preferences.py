"""What methods that learn from preferences share: their keys, and the reference model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.charts import Chart, Curve
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import above, at_least, between, key, one_of
from reasoning_jax.training.rows import Row, attach

CHARTS = (
    Chart(
        title="Log-likelihood of the sides",
        note="sum over tokens, mean over an update's pairs",
        curves=(
            Curve("update", "update/chosen_logprob", "chosen"),
            Curve("update", "update/rejected_logprob", "rejected"),
        ),
        axis="step",
    ),
    Chart(
        title="Drift from the reference",
        note="log-likelihood less the reference's, times beta",
        curves=(
            Curve("update", "update/chosen_reward", "chosen"),
            Curve("update", "update/rejected_reward", "rejected"),
        ),
        axis="step",
    ),
    Chart(
        title="Preference",
        note="pairs whose margin is above 0",
        curves=(Curve("update", "update/accuracy", "accuracy"),),
        axis="step",
        fraction=True,
    ),
    Chart(
        title="Length of the sides",
        note="tokens",
        curves=(
            Curve("update", "update/chosen_length", "chosen"),
            Curve("update", "update/rejected_length", "rejected"),
        ),
        axis="step",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    # The loss; kto is for verdicts from a file only.
    preference: str = key("dpo", one_of("dpo", "ipo", "ipo_mean", "kto"))
    beta: float = key(0.1, above(0))  # of the implicit reward (ipo: tau)
    # How often the preferences are taken to be wrong.
    label_smoothing: float = key(0.0, between(0, 0.5, below=True))
    dpo_weight: float = key(1.0, at_least(0))  # of the preference loss; 0 = alpha's term alone
    # Weight of the chosen side's negative log-likelihood, a mean over tokens.
    alpha: float = key(0.0, at_least(0))


def check(cfg: ConfigDict) -> None:
    """UserError naming the keys of ``cfg`` that make no loss together, or that have no effect.

    cfg: a method's section with the keys of ``PreferenceConfig``.
    """
    if cfg.label_smoothing and cfg.preference != "dpo":
        _refuse("label_smoothing", f"{cfg.preference} has none")
    if cfg.dpo_weight == 0 and (cfg.label_smoothing or cfg.preference != "dpo"):
        _refuse("preference, label_smoothing", "with dpo_weight=0 they have no effect")
    if cfg.dpo_weight == 0 and cfg.alpha == 0:
        _refuse("dpo_weight, alpha", "both are 0: there is no loss")
    if cfg.preference == "kto" and (cfg.dpo_weight != 1 or cfg.alpha != 0):
        _refuse("dpo_weight, alpha", "kto has one term: 1 and 0")


def check_pairs(cfg: ConfigDict, method: str) -> None:
    """``check`` for a method that makes its own pairs; KTO reads verdicts."""
    check(cfg)
    if cfg.preference == "kto":
        _refuse("preference", f"{method} makes pairs, which need dpo, ipo or ipo_mean")


def _refuse(key: str, reason: str) -> None:
    raise UserError(f"config.algorithm.{key}: {reason}.")


def side_log_likelihoods(rows: Sequence[Row], logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """The log-likelihood of each pair's sides, [N, 2] float32; ``attach`` puts them into the rows.

    logprobs: log p of every token of each row, as ``Policy.logprobs`` gives them.
    """
    likelihoods = []
    for row, token_logprobs in zip(rows, logprobs, strict=True):
        completion = row["weights"] > 0
        for side in (0, 1):
            tokens = (row["side"] == side) & completion
            likelihoods.append(token_logprobs[tokens].sum(dtype=np.float64))
    return np.array(likelihoods, np.float32).reshape(-1, 2)


def attach_reference(rows: Sequence[Row], logprobs: Sequence[np.ndarray]) -> list[Row]:
    """The pairs with "ref", the reference's log-likelihood of each side."""
    likelihoods = side_log_likelihoods(rows, logprobs)
    return [attach(row, "ref", values) for row, values in zip(rows, likelihoods, strict=True)]


def too_long_warnings(count: int) -> list[str]:
    """A sentence about pairs that no sequence has room for; none where there are none."""
    if not count:
        return []
    return [f"{count} pairs are longer than config.sequence_length and left out."]
