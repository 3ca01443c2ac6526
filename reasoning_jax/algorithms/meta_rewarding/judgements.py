"""Pairs of judgements: one model as its own meta-judge (arXiv:2407.19594, section 2.3)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import ranking
from reasoning_jax.answers.judgements import FIRST, SECOND, SWAPPED
from reasoning_jax.graders import judge
from reasoning_jax.graders.judge import Judgement, Verdicts
from reasoning_jax.judged import Scored
from reasoning_jax.rollout import Rollout, Sample, groups_of
from reasoning_jax.training.rows import Row, pair_row


@dataclasses.dataclass(frozen=True)
class Contest:
    """The judgements of one response that can be read; equal texts once, as they cannot differ."""

    sample: Sample
    judgements: list[Judgement]

    @property
    def comparisons(self) -> list[tuple[int, int]]:
        """All pairs (m, n) of them, m < n, in the order in which they are asked."""
        return list(itertools.combinations(range(len(self.judgements)), 2))


def pairs(
    rollout: Rollout, samples: Sequence[Sample], scored: Scored, cfg: ConfigDict
) -> tuple[list[Row], dict[str, float]]:
    """The best judgement against the worst, of one response to each instruction; statistics."""
    a = cfg.algorithm
    contests = []
    judgements = groups_of(scored.judgements, a.num_samples)
    for group, own in zip(groups_of(samples, a.num_samples), judgements, strict=True):
        contest = most_disputed(group, own)
        if contest is not None:
            contests.append(contest)
    asked = []
    for contest in contests:
        shown = judge.request_and_part(rollout.task, contest.sample)
        if shown is None:
            raise ValueError("What has been judged has a part to judge.")
        texts = [one.written.text for one in contest.judgements]
        asked += [(*shown, texts[m], texts[n]) for m, n in contest.comparisons]
    verdicts = judge.compare_judgements(
        rollout, asked, a.meta_template, max_new_tokens=a.meta_tokens, purpose="meta-judge"
    )
    weights = ranking.side_weights(*wins_by_side(verdicts))
    rows = []
    remaining = iter(verdicts)
    for contest in contests:
        met = list(itertools.islice(remaining, len(contest.comparisons)))
        pair = preference_pair(contest, met, weights, a.max_judgement_tokens)
        if pair is not None:
            chosen, rejected = pair
            tokens = [chosen.written.tokens, rejected.written.tokens]
            rows.append(pair_row(chosen.written.prompt_ids, tokens))
    return rows, meta_statistics(contests, verdicts)


def most_disputed(
    samples: Sequence[Sample], judgements: Sequence[Sequence[Judgement]]
) -> Contest | None:
    """The response whose scores have the highest variance; None where no two scores differ."""
    spreads = []
    for own in judgements:
        scores = [one.score for one in own if one.score is not None]
        # Of equal scores with decimals the variance is not always exactly 0.
        spreads.append(float(np.var(scores)) if len(set(scores)) > 1 else 0.0)
    most = int(np.argmax(spreads))
    if spreads[most] == 0:
        return None
    readable = [one for one in judgements[most] if one.score is not None]
    by_text = {one.written.text: one for one in readable}
    return Contest(samples[most], list(by_text.values()))


def wins_by_side(verdicts: Sequence[Verdicts]) -> tuple[int, int]:
    """How many wins the judgement shown first has, and how many the one shown second."""
    by_place = [one.shown for one in verdicts]
    for one in verdicts:
        if one.swapped is not None:  # said of the given order, and not of the one that was shown
            by_place.append(SWAPPED[one.swapped])
    return by_place.count(FIRST), by_place.count(SECOND)


def preference_pair(
    contest: Contest, met: Sequence[Verdicts], weights: tuple[float, float], max_tokens: int
) -> tuple[Judgement, Judgement] | None:
    """The judgements with the highest and the lowest Elo rating.

    None where all ratings are equal, as without wins, and where the highest has more than
    ``max_tokens`` tokens (0: it may have any number).
    """
    count = len(contest.judgements)
    battles = np.zeros((count, count))
    first_weight, second_weight = weights
    for (m, n), verdict in zip(contest.comparisons, met, strict=True):
        # m is shown first in the given order, and second in the other; each place has its weight.
        battles[m, n] += first_weight * (verdict.shown == FIRST)
        battles[n, m] += second_weight * (verdict.shown == SECOND)
        battles[m, n] += second_weight * (verdict.swapped == FIRST)
        battles[n, m] += first_weight * (verdict.swapped == SECOND)
    ratings = ranking.elo(battles)
    chosen, rejected = int(np.argmax(ratings)), int(np.argmin(ratings))
    best = contest.judgements[chosen]
    is_long = 0 < max_tokens < len(best.written.tokens)
    if is_long or np.isclose(ratings[chosen], ratings[rejected]):
        return None
    return best, contest.judgements[rejected]


def meta_statistics(contests: Sequence[Contest], verdicts: Sequence[Verdicts]) -> dict[str, float]:
    """How the meta-judge decides, as fractions.

    meta_agreed: of the comparisons, those with the same winner in both orders. meta_first: of all
    wins, those of the judgement shown first; 1/2 is no taste for a place. meta_higher: of the
    comparisons with the same winner in both orders and two different scores, those that the higher
    score wins.
    """
    first, second = wins_by_side(verdicts)
    scores = []
    for contest in contests:
        own = [one.score for one in contest.judgements if one.score is not None]  # all have one
        scores += [(own[m], own[n]) for m, n in contest.comparisons]
    higher = []
    for (first_score, second_score), verdict in zip(scores, verdicts, strict=True):
        if first_score != second_score and verdict.agreed in (FIRST, SECOND):
            higher.append(verdict.agreed == (FIRST if first_score > second_score else SECOND))
    agreed = [verdict.agreed in (FIRST, SECOND) for verdict in verdicts]
    return {
        "meta_agreed": float(np.mean(agreed)) if agreed else 0.0,
        "meta_first": first / (first + second) if first + second else 0.5,
        "meta_higher": float(np.mean(higher)) if higher else 0.5,
    }
