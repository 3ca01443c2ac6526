"""Branch, solve, merge: criteria apart, both orders, and what is summed."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import speaking
from speaking import problem, section

from reasoning_jax import evaluation
from reasoning_jax.errors import UserError
from reasoning_jax.systems import bsm
from reasoning_jax.tasks import CORRECT, Example, cards, rule_cards
from reasoning_jax.tasks.comparisons import Comparison
from reasoning_jax.tokenizer import Characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(Example):
    responses: tuple[str, ...] = ("short", "a longer one")
    instruction: str = "Say something."


CRITERIA = ["It is short.", "It is kind.", "It rhymes."]


def judge(folder, marks, criteria=CRITERIA, examples=None):
    """Verdicts of a model whose marks are a function of (criterion, first, second)."""

    def speak(text):
        stage, *fields = text.split("\n")
        if stage == "BRANCH":
            return "\n".join(f"- {criterion}" for criterion in criteria)
        values = dict(field.removeprefix("<").split("> ", 1) for field in fields)
        first, second = marks(values["criterion"], values["first"], values["second"])
        return f"Well. A: {first}\nB: {second}"

    roll = speaking.rollout(speak)
    examples = examples or [Compared(id=0, question="Which?", answer="A")]
    cfg = section("bsm", variant="judge", prompts=folder)
    return roll, bsm.answer(roll, examples, cfg)


def by_length(criterion, first, second):
    return (5, 2) if len(first) < len(second) else (2, 5)


def test_the_better_response_wins_in_both_orders(short):
    for responses, verdict in ((("ab", "abc"), "A"), (("abc", "ab"), "B")):
        example = Compared(id=0, question="Which?", answer="A", responses=responses)
        _, [sample] = judge(short, by_length, examples=[example])
        assert sample.text == f"#### {verdict}" and sample.finished
        assert sample.stats == {"criteria": 3, "unmarked": 0, "flipped": 0}
        assert len(sample.calls) == 1 + 2 * 3
        assert speaking.TOK.decode(sample.tokens.tolist()) == sample.text


def test_a_call_marks_one_criterion_and_criteria_come_of_the_question_alone(short):
    roll, _ = judge(short, by_length)
    branch, *solved = roll.policy.asked
    assert "longer" not in branch and "Say something." in branch
    for prompt in solved:
        assert "Which?" not in prompt and "Say something." in prompt
        assert len([criterion for criterion in CRITERIA if criterion in prompt]) == 1
        assert "short" in prompt and "a longer one" in prompt


def test_a_judge_of_positions_only_sees_ties():
    def first(criterion, first, second):
        return 5, 1

    examples = [
        Compared(id=n, question="?", answer="A", responses=("x" * n, "y")) for n in range(1, 9)
    ]
    for marks in (first, lambda *shown: (1, 5)):
        roll, samples = judge_in_words(marks, examples)
        assert [s.text for s in samples] == ["[[C]]"] * len(examples)
        assert evaluation.system_metrics(samples)["eval/system_flipped"] == 1.0


def judge_in_words(marks, examples):
    """The same in the prompts that come with the package."""

    def speak(text):
        if text.startswith("Answers"):
            return "Clarity\nTone"
        first, second = marks("", "", "")
        return f"Both are fine.\nA: {first}\nB: {second}"

    roll = speaking.rollout(speak)
    return roll, bsm.answer(roll, examples, section("bsm", variant="judge"))


# ---- rule cards ----------------------------------------------------------------------------------

CARD = "START 3 ; EVEN"
WORDS = Characters(rule_cards.ALPHABET)


def judge_cards(first, second, solve=None):
    """A verdict by the prompts in symbols, of a model that splits cards and marks by the rules.

    solve: what it says in the place of true marks.
    """

    def speak(text):
        asked = text.removeprefix(" [J] ").removesuffix(" [S]")
        assert text == f" [J] {asked} [S]"
        if "[A]" not in asked:
            return "\n".join(f" {rule}" for rule in cards.read_card(asked))
        rule, _, shown = asked.partition(" [A] ")
        responses = [response.split() for response in shown.split(" [B] ")]
        [own] = cards.read_card(rule)  # it sees no other
        marks = [int(cards.FOLLOWS[own.kind](own, response)) for response in responses]
        return solve or f" [A] {marks[0]} [B] {marks[1]}"

    pair = Comparison(
        id=0, question=CARD, instruction=CARD, answer="A", first=first, second=second, part=""
    )
    fields = {"task": "rule_cards", "tokenizer": WORDS, "max_length": 128}
    roll = speaking.rollout(speak, max_new_tokens=32, **fields)
    [sample] = bsm.answer(roll, [pair], section("bsm", variant="judge", prompts="symbols"))
    assert sample.finished and WORDS.decode(sample.tokens.tolist()) == sample.text
    return sample, roll.policy.asked


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("3 1 5 2", "4 1 5 2", "A"),  # both rules against EVEN
        ("4 1 5 2 6", "3 1 5 2 6", "B"),  # none against START
        ("3 1 5 2 6", "4 1 5 2", "C"),  # START against EVEN
        ("3 1 5 2", "3 . 5 2 . 6", "C"),  # both rules each
    ],
)
def test_the_verdict_on_a_rule_card(first, second, verdict):
    sample, _ = judge_cards(first, second)
    assert sample.text == f" [[{verdict}]]"
    assert sample.stats == {"criteria": 2, "unmarked": 0, "flipped": 0}


def test_a_call_sees_one_rule_and_the_responses_in_each_order():
    sample, asked = judge_cards("3 1 5 2", "4 1 5 2")
    assert asked == [
        " [J] START 3 ; EVEN [S]",
        " [J] START 3 [A] 3 1 5 2 [B] 4 1 5 2 [S]",
        " [J] EVEN [A] 3 1 5 2 [B] 4 1 5 2 [S]",
        " [J] START 3 [A] 4 1 5 2 [B] 3 1 5 2 [S]",
        " [J] EVEN [A] 4 1 5 2 [B] 3 1 5 2 [S]",
    ]
    texts = [call.text for call in sample.calls]
    assert texts[1:] == [" [A] 1 [B] 0", " [A] 1 [B] 1", " [A] 0 [B] 1", " [A] 1 [B] 1"]
    assert sample.num_drawn == 5 + 4 * 5  # START 3, a line's end, EVEN, the end; marks and the end


@pytest.mark.parametrize(
    ("solve", "flipped", "unmarked"),
    [(" [A] 1 [B] 0", 1, 0), (" [A] 0 [B] 1", 1, 0), (" [A] 1 [B]", 0, 1), (" [A] [B] 1", 0, 1)],
)
def test_a_judge_of_places_on_rule_cards_says_a_tie(solve, flipped, unmarked):
    sample, _ = judge_cards("3 1 5 2", "4 1 5 2", solve)
    assert sample.text == " [[C]]"
    assert sample.stats == {"criteria": 2, "unmarked": unmarked, "flipped": flipped}


# ---- marks ---------------------------------------------------------------------------------------


def test_the_sum_of_marks_does_not_depend_on_the_order_of_criteria():
    values = [0.1, 0.2, 0.3, 4.7, 2.6]
    marks = [bsm.Marks(a, b) for a, b in zip(values, reversed(values), strict=True)]
    marks.append(None)
    verdicts = {bsm.merge(order) for order in itertools.permutations(marks)}
    assert verdicts == {bsm.TIE}
    more = [*marks, bsm.Marks(1.0, 2.0)]
    rng = np.random.default_rng(0)
    assert {bsm.merge(rng.permutation(np.array(more, object))) for _ in range(20)} == {bsm.B}
    assert bsm.merge([]) == bsm.merge([None]) == bsm.TIE


def test_verdicts_that_do_not_agree_are_ties():
    """``swapped`` is said of the responses in the other order."""
    agreed = {(a, b): bsm.agreed(a, b) for a in "ABC" for b in "ABC"}
    assert {pair for pair, verdict in agreed.items() if verdict != "C"} == {("A", "B"), ("B", "A")}
    assert agreed["A", "B"] == "A" and agreed["B", "A"] == "B"


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("A: 4\nB: 2", (4, 2)),
        ("[A] 3 [B] 4.5", (3, 4.5)),
        ("A: 1, B: 1. No: A: 5\nB: 4", (5, 4)),
        ("**A**: 2\n**B**: 3", (2, 3)),
        (" A 4 B 1", (4, 1)),
        ("A: 4", None),
        ("A: -3\nB: 2", None),  # marks are from 0 to 5
        ("A: 45\nB: 2", None),
        ("A: 0\nB: 5", (0, 5)),
        ("A is better than B", None),
        ("BA: 4, AB: 2", None),
        ("", None),
    ],
)
def test_marks_are_read(text, marks):
    assert bsm.read_marks(text) == marks


def test_marks_that_cannot_be_read_do_not_count(short):
    def some(criterion, first, second):
        return by_length(criterion, first, second) if "kind" in criterion else ("?", "?")

    _, [sample] = judge(short, some)
    assert sample.text == "#### A" and sample.stats["unmarked"] == pytest.approx(2 / 3)


def test_marks_of_a_call_that_was_cut_off_do_not_count(short):
    """Its text has both marks, and goes on beyond the limit."""

    def some(criterion, first, second):
        a, b = by_length(criterion, first, second)
        return (a, b) if "kind" in criterion else (b, f"{a}{' and so on' * speaking.LIMIT}")

    _, [sample] = judge(short, some)
    assert sample.text == "#### A" and sample.stats["unmarked"] == pytest.approx(2 / 3)


def test_parts_are_done_apart_and_merged(short):
    def speak(text):
        stage, *fields = text.split("\n")
        if stage == "SPLIT":
            return "the start\nthe end"
        if stage == "PART":
            return f"[{fields[-1].removeprefix('<part> ')}]"
        return "#### 42" if "[the start]\n[the end]" in text else "#### 0"

    roll = speaking.rollout(speak)
    [sample] = bsm.answer(roll, [problem(0, "Write.")], section("bsm", prompts=short))
    assert sample.verdict == CORRECT and sample.stats == {"parts": 2}
    assert [call.stage for call in sample.calls] == ["split", "part", "part", "merge"]
    for prompt in roll.policy.asked[1:3]:
        assert ("the start" in prompt) != ("the end" in prompt)

    whole = speaking.rollout(lambda text: "" if text.startswith("SPLIT") else "#### 42")
    [sample] = bsm.answer(whole, [problem(0, "Write.")], section("bsm", prompts=short))
    assert sample.stats == {"parts": 0} and "<part> Write." in whole.policy.asked[1]


def test_a_task_without_two_responses_cannot_be_judged(short):
    with pytest.raises(UserError, match=r"^config\.system\.variant: judge compares the two"):
        judge(short, by_length, examples=[problem(0, "Which?")])
