"""The study of systems: its figures by hand, and all of it on models that learn nothing."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import judging
import numpy as np
import pytest
from compiling import XLA_FLAGS

from reasoning_jax import default, tasks
from reasoning_jax.answers.judgements import FIRST, SECOND, TIE
from reasoning_jax.graders import judge
from reasoning_jax.rollout import Sample
from reasoning_jax.samples import Call
from reasoning_jax.tasks import Example, cards, distractors
from reasoning_jax.tasks.comparisons import Comparison

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import systems_study

    return systems_study


def sample(example, answer, index=0, verdict="wrong", finished=True):
    return Sample(
        example=example,
        index=index,
        hinted=False,
        prompt_ids=np.zeros(2, np.int32),
        tokens=np.zeros(4, np.int32),
        logprobs=np.zeros(4, np.float32),
        finished=finished,
        text="",
        answer=answer,
        verdict=verdict,
    )


def test_precision_is_of_all_names_and_recall_of_each_list(study):
    first = Example(id=0, question="", answer="p1 p2 p3 p4")
    second = Example(id=1, question="", answer="p5 p6")
    lists = [
        sample(first, "p1 p2 p9"),
        sample(second, "none"),
        sample(second, None),
        sample(second, "p5", finished=False),
    ]
    assert study.list_figures(lists) == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(0.5 / 4),
        "right names": 0.5,
        "wrong names": 0.25,
    }
    assert study.list_figures(lists[1:2])["precision"] == 0.0


def test_votes_are_the_names_of_two_drafts(study):
    examples = [Example(id=n, question="", answer="p1") for n in range(2)]
    answers = [["p1 p2", "p2 p3", "none"], ["p4", "none", None]]
    samples = []
    for example, own in zip(examples, answers, strict=True):
        samples += [sample(example, answer, index) for index, answer in enumerate(own)]
    assert [one.answer for one in study.voted(samples, 3)] == ["p2", "none"]


def test_a_problem_counts_where_every_distractor_leaves_it_right(study):
    problems = [distractors.Problem(id=n, question="", answer="1", plain=str(n)) for n in range(2)]
    samples = [sample(problem, "1", verdict="correct") for problem in problems]
    samples[1] = sample(problems[1], "2")
    for problem in problems:
        for kind in distractors.DISTRACTORS:
            right = problem.id == 0 or not kind.in_topic
            asked = dataclasses.replace(problem, distractor=kind)
            samples.append(sample(asked, "1", verdict="correct" if right else "wrong"))
    found = study.distracted(samples)
    assert (found["clean"], found["micro"], found["macro"]) == (0.5, 0.75, 0.5)
    assert found["norm"] == 1.5
    assert (found["in topic"], found["off topic"]) == (0.5, 1.0)
    assert found["role overlaps"] == found["another role"] == found["in range"] == 0.75
    assert (found["calls"], found["tokens"]) == (1.0, 4.0)


# ---- rule cards ----------------------------------------------------------------------------------


def pair(card, first, second, answer="A", id=0):
    shown = {"first": first, "second": second, "part": "near"}
    return Comparison(id=id, question=card, instruction=card, answer=answer, **shown)


def test_pairs_of_responses_are_one_rule_apart(study):
    cfg = default.section(tasks, "rule_cards")
    cfg.num_held_out = 40
    examples = tasks.get("rule_cards").load(cfg, "test")
    pairs = study.card_judges.near_pairs(examples, 60)
    assert len(pairs) == 60 and [one.answer for one in pairs].count("A") == 30
    for one in pairs:
        card = cards.read_card(one.instruction)
        first, second = (cards.quality(card, text.split()) for text in one.responses)
        assert first - second == (1 if one.answer == "A" else -1)


def test_what_judges_of_cards_are_worth_by_hand(study):
    judged = study.card_judges.Judged
    pairs = [
        pair("EVEN", "1 2 3 4", "1 2 3"),  # the first is longer, and right
        pair("EVEN ; SORTED", "1 2 3 4", "1 2 3 . ."),  # the second is longer, and wrong
        pair("EVEN ; SORTED ; NOT 1", "1 2 3", "1 2 3 4", "B"),
        pair("EVEN ; SORTED ; NOT 1 ; START 2", "1 2 3 4", "1 2 3 5"),  # neither is longer
    ]
    said = [
        judged(verdict=FIRST, flipped=False, calls=2, tokens=10),
        judged(verdict=SECOND, flipped=False, calls=2, tokens=20),
        judged(verdict=TIE, flipped=True, calls=2, tokens=30),
        judged(verdict=FIRST, flipped=False, calls=2, tokens=40),
    ]
    assert study.card_judges.figures(pairs, said) == {
        "right": 0.5,
        "wrong": 0.25,
        "flipped": 0.25,
        "for the longer": 1.0,
        "calls": 2.0,
        "tokens": 25.0,
        "1-2 rules": 0.5,
        "3 rules": 0.0,
        "4-5 rules": 1.0,
    }
    oracle = study.card_judges.figures(pairs, study.card_judges.oracle(pairs))
    assert (oracle["right"], oracle["for the longer"]) == (1.0, pytest.approx(2 / 3))
    unread = study.card_judges.figures(pairs[:1], [judged(verdict=None, flipped=False)])
    assert unread["right"] == 0 and not {"for the longer", "3 rules"} & set(unread)


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        ([" [[A]]", " [[B]]", " [[A]]"], FIRST),
        ([" [[B]]", " EVEN", " [[A]]..."], SECOND),  # what is cut off has no vote
        ([" [[A]]", " [[B]]", " EVEN"], TIE),
        ([" EVEN", " [[A]] [[B]]", ""], None),
    ],
)
def test_most_votes_are_the_verdict(study, texts, verdict):
    roll = judging.rollout(default.get_config(task="rule_cards"), {}, lambda _, i: texts[i])
    [written] = roll.write([" EVEN"], num_samples=3, temperature=1, max_new_tokens=9, purpose="")
    assert study.card_judges.majority(written) == verdict


def test_what_the_system_says_of_cards(study):
    calls = tuple(Call(stage="solve", prompt="", text="", num_tokens=n) for n in (5, 5, 9))
    asked = pair("EVEN", "1 2 3 4", "1 2 3 4 5")
    samples = []
    for text, flipped in ((" [[B]]", 0.0), (" [[C]]", 1.0), ("", 0.0)):  # the last is cut off
        said = sample(asked, None, finished=bool(text))
        more = {"text": text, "stats": {"flipped": flipped}, "calls": calls}
        samples.append(dataclasses.replace(said, **more))
    judged = study.card_judges.by_system(samples)
    assert [(one.verdict, one.flipped) for one in judged] == [
        (SECOND, False),
        (TIE, True),
        (None, False),
    ]
    assert {(one.calls, one.tokens) for one in judged} == {(3, 19)}


def test_votes_are_over_about_as_many_tokens_and_odd(study):
    for times, votes in ((0.8, 3), (1.5, 3), (2.2, 3), (3.9, 3), (4.1, 5), (5.9, 5), (6.0, 7)):
        assert study.num_votes(times) == votes


def test_passes_by_hand(study):
    """Each of three judges: one of places, one that can be right, one that cannot be read."""
    pairs = [
        pair("EVEN", "1 2 3 4", "1 2 3 4 5"),
        pair("SORTED", "1 2 3 4", "2 1 3 4", id=1),
        pair("START 3", "3 1 5 2", "1 2 3 4", id=2),
    ]

    def say(prompt, index):
        if "EVEN" in prompt:
            return " EVEN - + [[A]]"
        if "SORTED" in prompt:
            letter = "A" if "[A] 1" in prompt else "B"
            return f" [[{letter}]]" if index < 2 else f" [[{'B' if letter == 'A' else 'A'}]]"
        return " START 3 [A]"

    roll = judging.rollout(default.get_config(task="rule_cards"), {}, say)
    judged = study.card_judges.by_passes(roll, pairs, 3, 0.7)
    assert [(one.verdict, one.flipped) for one in judged] == [
        (TIE, True),
        (FIRST, False),
        (None, False),
    ]
    assert [(one.calls, one.tokens) for one in judged] == [(6, 6 * 5), (6, 6 * 2), (6, 6 * 4)]
    assert roll.prompts[:2] == [
        " [J] EVEN [A] 1 2 3 4 [B] 1 2 3 4 5 [V]",
        " [J] EVEN [A] 1 2 3 4 5 [B] 1 2 3 4 [V]",
    ]
    once = study.card_judges.by_passes(roll, pairs, 1, 0.0)
    asked = [(one.instruction, *one.responses) for one in pairs]
    same = judge.compare(roll, asked, "cards_pair", max_new_tokens=26, purpose="compare")
    assert [one.verdict for one in once] == [verdicts.agreed for verdicts in same]


def test_an_arm_that_is_not_there_is_one_sentence(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--arms=people,cove"])
    with pytest.raises(SystemExit):
        study.main()
    assert "--arms: there is no 'cove'; there are people, opinions, clean, distracted, cards." in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_systems_study_smoke(study, tmp_path):
    flags = ["--seeds=1", "--smoke", "--arms=people,opinions,clean,cards", f"--out={tmp_path}"]
    done = subprocess.run(
        [sys.executable, study.__file__, *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": XLA_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"}
    assert {"draft", "joint", "two step", "factored", "factor revise", "facts asked alone"} <= rows
    assert {"no opinion", "wrong opinion, S2A", "the oracle's text, S2A", "alone", "S2A"} <= rows
    assert {"one pass", "votes", "bsm", "oracle"} <= rows
    arms = ["people", "opinions", "clean", "cards"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{arm}_0" for arm in arms}
