"""Judges of pairs of responses to rule cards, and what their verdicts are worth (systems_study.py).

A verdict is that of both orders of the two responses: what is not the same in both is a tie.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from evaluator_study import NEAR, PLAIN, fixed_pairs
from judge_study import RIGHT, longer

from reasoning_jax import templates
from reasoning_jax.answers.judgements import SWAPPED, TIE, read_verdict
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.tasks import Example
from reasoning_jax.tasks.comparisons import Comparison

# Of a card: the columns of pairs by the number of its rules.
NUM_RULES = {"1-2 rules": (1, 2), "3 rules": (3,), "4-5 rules": (4, 5)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge says of a pair."""

    verdict: str | None  # FIRST, SECOND or TIE; None where it cannot be read
    flipped: bool  # whether the verdicts in the two orders differ
    calls: int = 0
    tokens: int = 0  # drawn in all calls


def near_pairs(examples: Sequence[Example], count: int) -> list[Comparison]:
    """Responses of which one follows one rule more."""
    return [pair for pair in fixed_pairs(examples, count) if pair.part == NEAR]


# ---- judges --------------------------------------------------------------------------------------


def by_passes(
    rollout: Rollout, pairs: Sequence[Comparison], count: int, temperature: float
) -> list[Judged]:
    """In each order the majority of ``count`` judgements, each of all rules in one call."""
    template = templates.read(PLAIN, templates.PAIR_FIELDS, "template")
    prompts = []
    for pair in pairs:
        for first, second in (pair.responses, pair.responses[::-1]):
            prompts.append(template.fill(instruction=pair.instruction, first=first, second=second))
    written = rollout.write(
        prompts,
        num_samples=count,
        temperature=temperature,
        max_new_tokens=rollout.max_new_tokens,
        purpose="study passes",
    )
    judged = []
    for shown, swapped in zip(written[::2], written[1::2], strict=True):
        verdicts = Verdicts(majority(shown), SWAPPED.get(majority(swapped) or ""))
        judged.append(
            Judged(
                verdict=verdicts.agreed,
                flipped=verdicts.shown != verdicts.swapped,
                calls=2 * count,
                tokens=sum(len(sample.tokens) for sample in (*shown, *swapped)),
            )
        )
    return judged


def majority(judgements: Sequence[Sample]) -> str | None:
    """What most of those say that can be read: a tie where no verdict has the most votes."""
    read = [read_verdict(one.text) for one in judgements if one.finished]
    ranked = Counter(verdict for verdict in read if verdict is not None).most_common(2)
    if not ranked:
        return None
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return TIE
    return ranked[0][0]


def by_system(samples: Sequence[Sample]) -> list[Judged]:
    """The verdicts of branch, solve, merge."""
    return [
        Judged(
            verdict=read_verdict(sample.text),
            flipped=bool(sample.stats["flipped"]),
            calls=len(sample.calls),
            tokens=sample.num_drawn,
        )
        for sample in samples
    ]


def oracle(pairs: Sequence[Comparison]) -> list[Judged]:
    return [Judged(verdict=RIGHT[pair.answer], flipped=False) for pair in pairs]


# ---- figures -------------------------------------------------------------------------------------


def figures(pairs: Sequence[Comparison], judged: Sequence[Judged]) -> dict[str, float]:
    """Fractions of the pairs, ties being neither right nor wrong.

    for the longer: of verdicts for one of two, where lengths differ.
    """
    right = [one.verdict == RIGHT[pair.answer] for pair, one in zip(pairs, judged, strict=True)]
    wrong = [one.verdict == SWAPPED[RIGHT[p.answer]] for p, one in zip(pairs, judged, strict=True)]
    found = {
        "right": float(np.mean(right)),
        "wrong": float(np.mean(wrong)),
        "flipped": float(np.mean([one.flipped for one in judged])),
    }
    of_lengths = []
    for pair, one in zip(pairs, judged, strict=True):
        if one.verdict not in (None, TIE) and longer(pair) != TIE:
            of_lengths.append(one.verdict == longer(pair))
    if of_lengths:
        found["for the longer"] = float(np.mean(of_lengths))
    found["calls"] = float(np.mean([one.calls for one in judged]))
    found["tokens"] = float(np.mean([one.tokens for one in judged]))
    sizes = [pair.instruction.count(";") + 1 for pair in pairs]
    for title, numbers in NUM_RULES.items():
        own = [is_right for is_right, size in zip(right, sizes, strict=True) if size in numbers]
        if own:
            found[title] = float(np.mean(own))
    return found
