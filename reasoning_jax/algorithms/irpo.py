"""IRPO: iterative reasoning preference optimisation (Pang, Yuan, Cho, He, Sukhbaatar, Weston 2024, arXiv 2404.19733 v3).

A round t, for every question x, from the round's start model M_t:

    (z_n, y_n) ~ M_t(. | x), n = 1 ... num_samples       W: those with the right answer, L: the others (section 2)
    pair k = (W[k mod |W|], L[k mod |L|])                k = 0 ... pairs_per_question - 1; none where a side is empty
    loss = dpo_weight * DPO(pair; beta, reference M_t) - alpha * log M(w | x) / |w|                             (eq. 1)

Training goes on from M_t with the pairs of this round alone. Where no sample is right and the question comes with a worked
rationale, ``gold`` puts that into W. ``alpha=0`` is DPO alone, under which log p(chosen) falls; ``dpo_weight=0`` is fine-tuning
on the chosen side alone. ``temperatures`` holds one a round, the last for all that follow: later rounds need more heat to
find wrong samples. A truncated or unparsed sample is a loser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import preferences, sampling
from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.tasks import Example

T = TypeVar("T")


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    a = cfg.algorithm
    preferences.check(cfg)
    if a.preference == "kto":
        raise ValueError("config.algorithm.preference: irpo makes pairs, which need dpo, ipo or ipo_mean.")
    if a.restart:
        raise ValueError("config.algorithm.restart: irpo's reference is the model that a round's training starts from: False.")
    if a.num_samples < 2 or a.pairs_per_question < 1:
        raise ValueError("config.algorithm: irpo needs num_samples of 2 or more and pairs_per_question of 1 or more.")
    if not min(a.temperatures or (cfg.sampling.temperature,)) > 0:
        raise ValueError("config.sampling.temperature: at 0 all samples of a question are alike (also in temperatures).")
    return ()


def zipped(winners: Sequence[T], losers: Sequence[T], count: int) -> list[tuple[T, T]]:
    """``count`` pairs that walk through both lists at once, each again and again; none where one is empty."""
    if not winners or not losers:
        return []
    return [(winners[k % len(winners)], losers[k % len(losers)]) for k in range(count)]


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    a, s = cfg.algorithm, cfg.sampling
    heat = a.temperatures[min(round, len(a.temperatures)) - 1] if a.temperatures else s.temperature
    rollout = dataclasses.replace(rollout, rule=sampling.make_rule(heat, s.top_k, s.top_p))
    samples = rollout(examples, num_samples=a.num_samples)
    rows, kept, used, too_long, golden = [], set(), 0, 0, 0
    for i, example in enumerate(examples):
        group = samples[i * a.num_samples : (i + 1) * a.num_samples]
        winners, losers = [s for s in group if s.correct], [s for s in group if not s.correct]
        if not winners and a.gold and (worked := rollout.worked_tokens(example)) is not None:
            winners = [dataclasses.replace(group[0], index=-1, tokens=worked)]
            golden += 1
        before, prompt = len(rows), rollout.prompt_ids(example)
        for won, lost in zipped(winners, losers, a.pairs_per_question):
            row = preferences.pair(prompt, [won.tokens, lost.tokens])
            if len(row["tokens"]) > rollout.max_length:
                too_long += 1
                continue
            rows.append(row)
            kept.add((example.id, won.index, won.hinted))
        used += len(rows) > before
    right = np.array([s.correct for s in samples]).reshape(len(examples), -1)
    values = {"kept_rows": len(rows), "kept": used / len(examples), "all_right": right.all(1).mean(),
              "all_wrong": (~right).all(1).mean(), "gold": golden / len(examples), "pairs_too_long": too_long,
              "temperature": heat}  # fmt: skip
    warnings = [f"{too_long} pairs are longer than config.sequence_length and left out."] if too_long else []
    rows = preferences.with_reference(rollout, rows)
    return rows, memory, Report({k: float(v) for k, v in values.items()}, samples, kept, warnings)


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """DPO on sums of log-probs and the chosen side's negative log-likelihood, a mean over its tokens; summed over pairs."""
    return preferences.pair_loss(logprobs, batch, cfg)
