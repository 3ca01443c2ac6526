"""Pairs of judgements: one model as its own meta-judge (arXiv:2407.19594, section 2.3)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import ranking
from reasoning_jax.answers.judgements import FIRST, SECOND
from reasoning_jax.graders import judge
from reasoning_jax.graders.judge import Judgement, Verdicts
from reasoning_jax.judged import Scored
from reasoning_jax.rollout import Rollout, Sample, groups_of
from reasoning_jax.training.rows import Row, pair_row


@dataclasses.dataclass(frozen=True)
class Contest:
    """The judgements of one response, each text once, and who met whom."""

    sample: Sample
    judgements: list[Judgement]

    @property
    def meetings(self) -> list[tuple[int, int]]:
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
        response = rollout.task.judged_part(contest.sample.text) or ""
        shown = (contest.sample.example.question, response)
        texts = [one.written.text for one in contest.judgements]
        asked += [(*shown, texts[m], texts[n]) for m, n in contest.meetings]
    verdicts = judge.compare_judgements(
        rollout, asked, a.meta_template, max_new_tokens=a.meta_tokens, purpose="meta-judge"
    )
    weights = ranking.side_weights(*wins_by_side(verdicts))
    rows = []
    remaining = iter(verdicts)
    for contest in contests:
        met = list(itertools.islice(remaining, len(contest.meetings)))
        pair = best_judgement(contest, met, weights, a.max_judgement_tokens)
        if pair is not None:
            chosen, rejected = pair
            tokens = [chosen.written.tokens, rejected.written.tokens]
            rows.append(pair_row(chosen.written.prompt_ids, tokens))
    return rows, meta_statistics(contests, verdicts)


def most_disputed(
    samples: Sequence[Sample], judgements: Sequence[Sequence[Judgement]]
) -> Contest | None:
    """The response whose scores have the highest variance; None where none has two of them."""
    spreads = []
    for own in judgements:
        scores = [one.score for one in own if one.score is not None]
        spreads.append(float(np.var(scores)) if scores else 0.0)
    most = int(np.argmax(spreads))
    if spreads[most] == 0:
        return None
    readable = [one for one in judgements[most] if one.score is not None]
    by_text = {one.written.text: one for one in readable}
    return Contest(samples[most], list(by_text.values()))


def wins_by_side(verdicts: Sequence[Verdicts]) -> tuple[int, int]:
    """How often who is shown first, and who is shown second, wins."""
    shown_first = [one.shown for one in verdicts] + [
        None if one.swapped is None else judge.SWAPPED[one.swapped] for one in verdicts
    ]
    return shown_first.count(FIRST), shown_first.count(SECOND)


def best_judgement(
    contest: Contest, met: Sequence[Verdicts], weights: tuple[float, float], max_tokens: int
) -> tuple[Judgement, Judgement] | None:
    """The judgements with the highest and the lowest rating; None where no battle was won."""
    count = len(contest.judgements)
    battles = np.zeros((count, count))
    first_weight, second_weight = weights
    for (m, n), verdict in zip(contest.meetings, met, strict=True):
        # Shown first, m wins with FIRST; the other way round it is the second that it wins as.
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
    """Of the comparisons: the fractions with the same verdict in both orders, for the judgement
    shown first, and, where one of the two scores more, for that one."""
    first, second = wins_by_side(verdicts)
    scores = [
        (contest.judgements[m].score or 0, contest.judgements[n].score or 0)
        for contest in contests
        for m, n in contest.meetings
    ]
    higher = [
        verdict.agreed == (FIRST if m > n else SECOND)
        for (m, n), verdict in zip(scores, verdicts, strict=True)
        if m != n and verdict.agreed in (FIRST, SECOND)
    ]
    agreed = [verdict.agreed in (FIRST, SECOND) for verdict in verdicts]
    return {
        "meta_agreed": float(np.mean(agreed)) if agreed else 0.0,
        "meta_first": first / (first + second) if first + second else 0.5,
        "meta_higher": float(np.mean(higher)) if higher else 0.5,
    }
