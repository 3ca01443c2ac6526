"""Thoughts by preference: what a judge sees, which texts are paired, what cannot be split."""

from __future__ import annotations

import pytest
from judging import card, config, rollout, sides

from reasoning_jax import algorithms
from reasoning_jax.errors import UserError

METHOD = algorithms.get("thought_preference")
QUESTIONS = ("CHECK", "EVEN", "NOT 7", "START 1")


def collect(answers, say=None, **changes):
    examples = [card(question, i) for i, question in enumerate(answers)]
    keys = {} if say else {"judge": "grader", "template": "additive", "judge_tokens": 256}
    size = len(next(iter(answers.values())))
    cfg = config("thought_preference", **({"num_samples": size} | keys | changes))
    METHOD.check(cfg)
    roll = rollout(cfg, answers, say, max_length=160)
    return METHOD.collect(roll, examples, METHOD.init_memory(cfg, 1), 1, cfg), roll


def test_whole_texts_are_paired_by_their_responses():
    right = " <think> 5 5 6 1 </think> 5 6 . 1"
    wrong = " <think> 5 6 </think> 5 6 . 2"
    found, _ = collect({"CHECK": [wrong, right, wrong]})
    assert [sides(row) for row in found.rows] == [(right, wrong)]
    assert found.kept == {(0, 1, False)}


def test_the_judge_sees_the_response_alone():
    """Another thought before the same response changes nothing that it is shown."""
    thoughts = ["<think> </think>", "<think> 9 9 9 </think>", "<think> [J] + </think>"]

    def say(prompt, index):
        return f" Score: {4 if ' 1 2 3 4 ' in prompt else 1}"

    shown = []
    for thought in thoughts:
        answers = {"EVEN": [f" {thought} 1 2 3 4", f" {thought} 4 4 4 4"]}
        found, roll = collect(answers, say, judge="policy")
        shown.append(roll.prompts)
        assert sides(found.rows[0]) == tuple(answers["EVEN"])
    assert shown[0] == shown[1] == shown[2]
    assert not any("think" in prompt for prompt in shown[0])


def test_lengths_are_those_of_responses():
    """A long thought before a short response is no length to control."""
    short = " <think> 1 1 1 1 1 1 1 1 1 1 1 1 1 </think> 1 2 3 4"
    long = " <think> </think> 1 2 3 4 . . . . . ."
    bad = " <think> </think> 1 2 3 4 5 6 7"
    said = {"1 2 3 4": "4", "1 2 3 4 . . . . . .": "5", "1 2 3 4 5 6 7": "0"}

    def say(prompt, index):
        return f" Score: {said[prompt.partition('[W] ')[2].removesuffix(' [V]')]}"

    for weight, chosen in ((0.0, long), (1.0, short)):
        answers = {"EVEN": [short, long, bad]}
        found, _ = collect(answers, say, judge="policy", length_weight=weight)
        assert sides(found.rows[0]) == (chosen, bad)


def test_what_cannot_be_split_is_rejected_and_never_chosen():
    broken = " <think> 1 2 3 4"
    answers = {q: [" <think> </think> 1 1 1 1", broken] for q in QUESTIONS}
    answers["CHECK"] = [" <think> </think> 5 5 . 0", broken]
    with pytest.raises(UserError, match="all responses to an instruction score the same"):
        collect(answers)  # no pair of two responses that were read
    answers = {
        q: [" <think> </think> 1 1 1 1", broken, " <think> </think> 7 1 1"] for q in QUESTIONS
    }
    answers["CHECK"] = [" <think> </think> 5 5 . 0", broken, " <think> </think> 5 5 . 1"]
    answers["NOT 7"] = [" <think> </think> 1 1 1 1", broken, " <think> </think> 7 1 1 1"]
    for most, expected in ((0.0, 0), (0.4, 2), (1.0, 4)):  # of four other pairs
        found, _ = collect(answers, max_unparsed=most)
        rejected = [sides(row)[1] for row in found.rows]
        assert rejected.count(broken) == expected
        assert all(sides(row)[0] != broken for row in found.rows)
        assert found.stats["unparsed_pairs"] == pytest.approx(expected / len(rejected))


def test_how_long_thoughts_are():
    found, _ = collect({"CHECK": [" <think> 5 </think> 5 6 . 1", " <think> </think> 5 6 . 2"]})
    assert found.stats["thought_characters"] == (len(" <think> 5 </think>") * 2 - 2) / 2


def test_what_does_not_go_together():
    cfg = config("thought_preference", judge="random")
    with pytest.raises(UserError, match=r"config\.algorithm\.template: with .*judge=random"):
        METHOD.check(cfg)
    cfg = config("thought_preference")
    cfg.rounds.restart = True
    with pytest.raises(UserError, match=r"config\.rounds\.restart"):
        METHOD.check(cfg)
