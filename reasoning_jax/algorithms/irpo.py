"""IRPO: iterative reasoning preference optimisation (Pang et al. 2024, arXiv 2404.19733 v3).

A round t, for every question x, from the round's start model M_t:

    (z_n, y_n) ~ M_t(. | x), n = 1 ... num_samples
    W: those with the right answer, L: the others                                    (section 2)
    pair k = (W[k mod |W|], L[k mod |L|])      k = 0 ... pairs_per_question - 1
    loss = dpo_weight * DPO(pair; beta, reference M_t) - alpha * log M(w | x) / |w|      (eq. 1)

A question with an empty side has no pairs. Training goes on from M_t with the pairs of this round
alone. Where no sample is right and the question comes with a worked rationale, ``gold`` puts that
into W. ``alpha=0`` is DPO alone, under which log p(chosen) falls; ``dpo_weight=0`` is fine-tuning
on the chosen side alone. A truncated or unparsed sample is a loser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, Programs, check_prompts_and_rationales
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import above, between, each, key
from reasoning_jax.rollout import Rollout, Sample, groups_of
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_loss
from reasoning_jax.training.rows import Row, pair_row

T = TypeVar("T")
BATCH = ("weights", "ref")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SYSTEMS = True
CHARTS = preferences.CHARTS
check_data = check_prompts_and_rationales


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig):
    num_samples: int = key(4, between(2, 2**16))  # samples a question
    pairs_per_question: int = key(10, between(1, 2**16))
    # Of each round, the last for all that follow: later rounds need a higher one to find wrong
    # samples. () = sampling.temperature.
    temperatures: tuple[float, ...] = key((), each(above(0)))
    gold: bool = True  # a worked rationale wins where no sample is right


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    preferences.check_pairs(a, "irpo")
    if cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: irpo's reference is the model that a round's training "
            "starts from: False."
        )
    if not a.temperatures and cfg.sampling.temperature == 0:
        raise UserError("config.sampling.temperature: at 0 all samples of a question are alike.")


def temperature_of_round(round: int, cfg: ConfigDict) -> float:
    temperatures = cfg.algorithm.temperatures
    if not temperatures:
        return cfg.sampling.temperature
    return temperatures[min(round, len(temperatures)) - 1]


def zipped(winners: Sequence[T], losers: Sequence[T], count: int) -> list[tuple[T, T]]:
    """``count`` pairs that walk through both lists at once, each again and again.

    None where one of them is empty.
    """
    if not winners or not losers:
        return []
    return [(winners[k % len(winners)], losers[k % len(losers)]) for k in range(count)]


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """num_samples attempts at every example, and the pairs that they make."""
    a = cfg.algorithm
    temperature = temperature_of_round(round, cfg)
    samples = rollout(examples, num_samples=a.num_samples, temperature=temperature)
    rows: list[Row] = []
    kept = set()
    questions_with_pairs = 0
    too_long = 0
    golden = 0
    for group in groups_of(samples, a.num_samples):
        winners = [s for s in group if s.correct]
        losers = [s for s in group if not s.correct]
        if not winners and a.gold:
            winners = _worked_sample(rollout, group[0])
            golden += len(winners)
        fitting = 0
        for winner, loser in zipped(winners, losers, a.pairs_per_question):
            row = pair_row(winner.prompt_ids, [winner.tokens, loser.tokens])
            if len(row["tokens"]) > rollout.max_length:
                too_long += 1
                continue
            fitting += 1
            rows.append(row)
            kept.add(winner.key)
        if fitting:
            questions_with_pairs += 1
    correct = np.array([s.correct for s in samples]).reshape(len(examples), -1)
    stats = {
        "kept_rows": len(rows),
        "kept": questions_with_pairs / len(examples),
        "all_right": float(correct.all(1).mean()),
        "all_wrong": float((~correct).all(1).mean()),
        "gold": golden / len(examples),
        "pairs_too_long": too_long,
        "temperature": temperature,
    }
    return Collected(
        rows=preferences.attach_reference(rows, rollout.policy.logprobs(rows)),
        memory=memory,
        stats=stats,
        samples=samples,
        kept=kept,
        warnings=preferences.too_long_warnings(too_long),
    )


def _worked_sample(rollout: Rollout, sample: Sample) -> list[Sample]:
    """The example's given rationale in the place of a sample; [] where none fits."""
    worked = rollout.worked_tokens(sample.example)
    if worked is None:
        return []
    return [dataclasses.replace(sample, index=-1, tokens=worked)]


def programs(cfg: ConfigDict) -> Programs:
    return Programs(updates={"": BATCH}, logprobs=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """DPO on sums of log-probabilities and the chosen side's likelihood; summed over pairs."""
    return pair_loss(logprobs, batch, cfg.algorithm)
