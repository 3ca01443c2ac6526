"""One model as actor, judge and meta-judge: tiers, battles and pairs of judgements, by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from judging import card, config, rollout, sides

from reasoning_jax import algorithms
from reasoning_jax.algorithms.meta_rewarding import judgements
from reasoning_jax.algorithms.meta_rewarding.judgements import Contest
from reasoning_jax.answers.judgements import FIRST, SECOND, TIE
from reasoning_jax.errors import UserError
from reasoning_jax.graders.judge import Judgement, Verdicts

METHOD = algorithms.get("meta_rewarding")
QUESTION = "EVEN ; START 1"
EXAMPLES = [card(QUESTION, 1)]
ANSWERS = {QUESTION: [" 1 2 3 4 . .", " 1 2 3 4", " 2 2 3 4"]}


def collect(say, round=1, request=None, **changes):
    settings = {"num_samples": 3, "num_judgements": 2, "meta_template": "cards_meta"}
    cfg = config("meta_rewarding", **(settings | changes))
    METHOD.check(cfg)
    roll = rollout(cfg, ANSWERS, say)
    if request is not None:
        task = dataclasses.replace(roll.task, judged_request=lambda example: request)
        roll = dataclasses.replace(roll, task=task)
    return METHOD.collect(roll, EXAMPLES, METHOD.init_memory(cfg, 1), round, cfg), roll


def say(prompt, index):
    """Scores 5 and 5, 5 and 4, 0 and 3; of two judgements the one with the lower score wins."""
    if "[M]" in prompt:
        first, _, second = prompt.partition(" [A] ")[2].removesuffix(" [V]").partition(" [B] ")
        return " [[A]]" if first[-1] < second[-1] else " [[B]]"
    response = prompt.partition("[W] ")[2].removesuffix(" [V]")
    said = {"1 2 3 4 . .": "55", "1 2 3 4": "54", "2 2 3 4": "03"}
    return f" + Score: {said[response][index]}"


def test_pairs_of_both_kinds():
    found, roll = collect(say)
    # Means 5, 4.5 and 1.5. The third has the highest variance: its judgements 0 and 3 meet.
    assert [sides(row) for row in found.rows] == [
        (" 1 2 3 4 . .", " 2 2 3 4"),
        (" + Score: 0", " + Score: 3"),
    ]
    met = [prompt for prompt in roll.prompts if "[M]" in prompt]
    shown = f" [M] {QUESTION} [W] 2 2 3 4"
    assert met == [
        f"{shown} [A] + Score: 0 [B] + Score: 3 [V]",
        f"{shown} [A] + Score: 3 [B] + Score: 0 [V]",
    ]
    assert found.stats["judge_pairs"] == 1 and found.stats["kept_rows"] == 2
    assert found.stats["meta_agreed"] == 1 and found.stats["meta_higher"] == 0
    assert found.stats["meta_first"] == 0.5


def test_the_meta_judge_sees_the_request_that_the_judge_saw():
    """As of a conversation: all turns, and not the last question alone."""
    _, roll = collect(say, request="NOT 7 ; EVEN")
    by_kind = {kind: [p for p in roll.prompts if p.startswith(kind)] for kind in (" [J]", " [M]")}
    for kind, prompts in by_kind.items():
        assert prompts and all(p.startswith(f"{kind} NOT 7 ; EVEN [W] ") for p in prompts)


def test_a_tier_prefers_what_is_short():
    found, _ = collect(say, tiers=(0.0, 0.2))
    assert sides(found.rows[0])[0] == " 1 2 3 4 . ."
    found, _ = collect(say, round=2, tiers=(0.0, 0.2))  # 4.5 is within .2 of 3.5 points of 5
    assert sides(found.rows[0])[0] == " 1 2 3 4"


def test_later_rounds_train_the_actor_alone():
    found, roll = collect(say, round=3)
    assert len(found.rows) == 1 and not [p for p in roll.prompts if "[M]" in p]


def test_a_long_judgement_is_not_chosen():
    found, _ = collect(say, max_judgement_tokens=3)  # "+ Score: 0" and the end are four
    assert len(found.rows) == 1
    found, _ = collect(say, max_judgement_tokens=4)
    assert len(found.rows) == 2


def test_a_meta_judge_of_places_makes_no_pair():
    def by_place(prompt, index):
        return " [[A]]" if "[M]" in prompt else say(prompt, index)

    found, _ = collect(by_place)
    assert len(found.rows) == 1 and found.stats["judge_pairs"] == 0
    assert found.stats["meta_agreed"] == 0 and found.stats["meta_first"] == 1


# ---- battles -------------------------------------------------------------------------------------


def contest(roll, scores):
    cfg_judgements = [
        Judgement(roll.sample(EXAMPLES[0], np.arange(3), i, f" + Score: {score}"), score)
        for i, score in enumerate(scores)
    ]
    return Contest(None, cfg_judgements)


@pytest.fixture
def roll():
    return rollout(config("meta_rewarding"), ANSWERS)


def test_what_varies_most_is_disputed(roll):
    def judged(scores):
        return contest(roll, scores).judgements

    found = judgements.most_disputed(["a", "b", "c"], [judged([3, 3]), judged([0, 5]), judged([4])])
    assert found.sample == "b" and [one.score for one in found.judgements] == [0, 5]
    alike = [one._replace(score=3.7) for one in judged([3, 3, 3])]  # np.var of these is 2e-31
    assert judgements.most_disputed(["a"], [alike]) is None
    found = judgements.most_disputed(["a"], [judged([3, 3, 1])])
    assert [one.score for one in found.judgements] == [3, 1]  # equal judgements are one
    unread = [judged([2])[0]._replace(score=None), *judged([1, 4])]
    assert [one.score for one in judgements.most_disputed(["a"], [unread]).judgements] == [1, 4]


def test_wins_are_counted_by_side():
    """(shown, swapped) are said of the given order: a second who wins swapped was shown first."""
    verdicts = [Verdicts(FIRST, SECOND), Verdicts(FIRST, FIRST), Verdicts(TIE, None)]
    assert judgements.wins_by_side(verdicts) == (3, 1)


def test_the_best_judgement_by_hand(roll):
    three = contest(roll, [1, 2, 3])
    assert three.comparisons == [(0, 1), (0, 2), (1, 2)]
    won = [Verdicts(SECOND, SECOND), Verdicts(FIRST, FIRST), Verdicts(FIRST, FIRST)]
    best, worst = judgements.preference_pair(
        three, won, (0.5, 0.5), 0
    )  # 1 beats 0 and 2; 0 beats 2
    assert (best.score, worst.score) == (2, 3)
    assert judgements.preference_pair(three, [Verdicts(TIE, None)] * 3, (0.5, 0.5), 0) is None


def test_a_win_in_the_favoured_place_counts_less(roll):
    """With one win each, in the first and in the second place, the latter's counts more."""
    two = contest(roll, [1, 2])
    met = [Verdicts(FIRST, TIE), Verdicts(SECOND, TIE)]
    for verdict, expected in zip(met, (1, 2), strict=True):
        best, _ = judgements.preference_pair(two, [verdict], (0.3, 0.7), 0)
        assert best.score == expected
    three = contest(roll, [1, 2, 3])
    # 0 beats 1 shown first; 2 beats 1 shown second.
    won = [Verdicts(FIRST, TIE), Verdicts(TIE, TIE), Verdicts(SECOND, TIE)]
    best, worst = judgements.preference_pair(three, won, (0.3, 0.7), 0)
    assert (best.score, worst.score) == (3, 2)


def test_order_of_judgements_does_not_matter(roll):
    strengths = [4, 1, 2, 5]
    for order in itertools.permutations(range(4)):
        own = contest(roll, [strengths[i] for i in order])
        met = [
            Verdicts(*(FIRST if strengths[order[m]] > strengths[order[n]] else SECOND,) * 2)
            for m, n in own.comparisons
        ]
        best, worst = judgements.preference_pair(own, met, (0.4, 0.6), 0)
        assert (best.score, worst.score) == (5, 1)


def test_what_does_not_go_together():
    for changes, sentence in (
        ({"num_judgements": 1}, r"config\.algorithm\.num_judgements: one judgement has no other"),
        (
            {"judge_rounds": 0, "max_judgement_tokens": 5},
            r"max_judgement_tokens: without judge_rou",
        ),
        ({"judge_rounds": 0, "meta_template": "absent"}, r"meta_template: without judge_rounds"),
        ({"tiers": ()}, r"config\.algorithm\.tiers: name that of one round"),
        ({"meta_template": "cards_pair"}, r"cards_pair\.txt: the field \{response\} is missing"),
    ):
        cfg = config("meta_rewarding", **({"meta_template": "cards_meta"} | changes))
        with pytest.raises(UserError, match=sentence):
            METHOD.check(cfg)
