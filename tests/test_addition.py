"""n-digit addition: every scratchpad true, splits that never meet, and a grader that is strict."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

import graded
import numpy as np
import pytest
from ml_collections import ConfigDict

from reasoning_jax import tasks
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, addition
from reasoning_jax.tokenizer import Characters

TASK = tasks.get("addition")
PAPER = {
    (29, 57): "29+57,C:0\n2+5,6C:1\n,86C:0\n086",
    (632, 175): "632+175,C:0\n3+7,7C:0\n6+1,07C:1\n,807C:0\n0807",
}


def example(a, b, id=0):
    return Example(
        id=id, question=f"{a}+{b}", answer=str(a + b), rationale=addition.scratchpad(a, b)
    )


def config(**changes):
    keys = {"max_digits": 3, "num_train": 300, "num_eval": 50, "given": (5, 40, 30)} | changes
    return ConfigDict(dataclasses.asdict(addition.Config(**keys)))


def grade(text, example):
    return graded.verdict(TASK, text, example)


def pairs(source):
    return [tuple(int(n) for n in source[i].question.split("+")) for i in range(len(source))]


# The scratchpad


@functools.cache
def parsed(line: str) -> tuple[str, str, int]:
    """The next pair of digits, the low digits so far and the carry of one line."""
    rest, low, carry = re.fullmatch(r"(\d\+\d|),(\d+)C:([01])", line).groups()
    return rest, low, int(carry)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_every_scratchpad_is_true(digits):
    """Of all pairs: each line holds the next digits of both, and the partial sum.

    That sum is the digits so far + 10^k carry.
    """
    powers = [10**k for k in range(digits + 1)]
    numbers = [(n, str(n), [n % p for p in powers]) for n in range(powers[-2], powers[-1])]
    for (a, first, low_a), (b, second, low_b) in itertools.product(numbers, numbers):
        whole, *lines, last = addition.scratchpad(a, b).split("\n")
        assert whole == f"{first}+{second},C:0" and len(lines) == digits
        for k, line in enumerate(lines, start=1):
            rest, low, carry = parsed(line)
            assert len(low) == k and int(low) + powers[k] * carry == low_a[k] + low_b[k]
            assert rest == (f"{first[-k - 1]}+{second[-k - 1]}" if k < digits else "")
        assert len(last) == digits + 1 and int(last) == a + b


def test_the_worked_examples_of_the_paper():
    """Its section 4.1 and its code, without the spaces."""
    assert {pair: addition.scratchpad(*pair) for pair in PAPER} == PAPER
    assert addition.target(example(29, 57)) == f"<scratch>\n{PAPER[29, 57]}\n</scratch>\n86"
    assert addition.target(example(29, 57), direct=True) == "86"
    with pytest.raises(ValueError, match="7 and 57"):
        addition.scratchpad(7, 57)


def test_prompts_and_targets_are_spelled_by_the_alphabet():
    tok = Characters(addition.ALPHABET)
    e = example(632, 175)
    cfg = config()
    assert addition.prompt(e, cfg) == "632+175\n"
    assert addition.prompt(e, cfg, hint=e.answer) == "632+175\n807\n"
    for text in (addition.prompt(e, cfg, hint=e.answer), addition.target(e)):
        assert tok.decode(tok.encode(text)) == text
    assert addition.difficulty(e) == ("digits", 3)
    assert addition.difficulty(example(5, 9)) == ("digits", 1)


# The grader


@pytest.mark.parametrize(
    "text, answer",
    [
        ("86", "86"),
        ("<scratch>\n29+57,C:0\n</scratch>\n86", "86"),
        ("</scratch>086", "86"),
        ("</scratch>\n 86 \n", "86"),
        ("0", "0"),
        ("000", "0"),
        ("</scratch>\n0", "0"),
        ("9</scratch>8</scratch>7", "7"),
        ("</scratch>00100", "100"),
        ("", None),
        ("</scratch>", None),
        ("<scratch>\n29+57,C:0", None),
        ("86</scratch>", None),
        ("</scratch>8 6", None),
        ("</scratch>\n8\n6", None),
        ("</scratch>86,", None),
        ("</scratch>86C:0", None),
        ("</scratch>+86", None),
        ("-86", None),
        ("8.6", None),
        ("29+57", None),
        ("</scratch>86<scratch>", None),
        ("٨٦", None),
        ("²", None),
        ("８６", None),
    ],
)
def test_extract(text, answer):
    assert addition.extract(text) == answer
    assert grade(text, example(29, 57)) == {None: UNPARSED, "86": CORRECT}.get(answer, WRONG)


def test_grade_looks_at_the_answer_alone_and_wrong_line_at_every_line():
    e = example(29, 57)
    text = addition.target(e)
    lines = text.split("\n")
    assert grade(text, e) == CORRECT and addition.wrong_line(text, e) is None
    for i in range(len(lines)):
        changed = "\n".join([*lines[:i], f"{lines[i]}1", *lines[i + 1 :]])
        # Not the tags: "<scratch>1" is below.
        assert addition.wrong_line(changed, e) == i or i in (0, len(lines) - 2)
    assert addition.wrong_line(text.replace("<scratch>\n2", "<scratch>1\n2"), e) == 0
    lucky = text.replace(",86C:0", ",96C:0")
    assert grade(lucky, e) == CORRECT and addition.wrong_line(lucky, e) == 3
    assert addition.wrong_line("\n".join([*lines, "1"]), e) == len(lines)
    # One that stops before the answer: its last line.
    assert addition.wrong_line("\n".join(lines[:-1]), e) == len(lines) - 2
    assert addition.wrong_line("\n".join([*lines[:2], *lines[3:]]), e) == 2
    assert addition.wrong_line("86", e) is None
    assert addition.wrong_line("87", e) == 0 and addition.wrong_line("", e) == 0
    assert addition.steps(text) == 3 and addition.steps("86") == 0


# The splits


def test_held_out_is_symmetric_and_of_the_right_size():
    a, b = np.meshgrid(np.arange(10, 400), np.arange(10, 400))
    split = addition.held_out(a, b)
    assert np.array_equal(split, addition.held_out(b, a)) and set(np.unique(split)) == {0, 2, 3}
    assert np.mean(split == 3) == pytest.approx(0.2, abs=0.01)
    assert np.mean(split == 2) == pytest.approx(0.1, abs=0.01)


def test_splits_never_meet_even_commuted():
    cfg = config(num_train=3000, num_eval=500)
    unordered = {
        split: {tuple(sorted(p)) for p in pairs(addition.load(cfg, split))}
        for split in ("train", "given", "validation", "test")
    }
    for seen, held in itertools.product(("train", "given"), ("validation", "test")):
        assert not unordered[seen] & unordered[held]
    assert not unordered["validation"] & unordered["test"]
    ids = [e.id for s in unordered for e in addition.load(cfg, s)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", ["train", "given", "validation", "test"])
def test_operands_have_the_same_number_of_digits(split):
    source = addition.load(config(), split)
    for (a, b), e in zip(pairs(source), source, strict=True):
        assert len(str(a)) == len(str(b)) in (1, 2, 3) and min(a, b) > 0
        assert e.answer == str(a + b)
        assert e.rationale == (addition.scratchpad(a, b) if split == "given" else None)
        assert grade(addition.target(example(a, b)), e) == CORRECT
    digits = [addition.difficulty(e)[1] for e in source]
    expected = {"train": [100, 100, 100], "given": [5, 40, 30]}.get(split)
    counts = [digits.count(d) for d in (1, 2, 3)]
    assert counts == expected if expected else counts[1:] == [50, 50] and 0 < counts[0] <= 50


@pytest.mark.parametrize("split", ["given", "validation", "test"])
def test_worked_and_held_out_sums_are_distinct(split):
    found = pairs(addition.load(config(given=(9, 300, 2000), num_eval=2000), split))
    assert len(set(found)) == len(found)


def test_seeds_change_the_problems_and_nothing_else_does():
    load = addition.load
    assert pairs(load(config(), "train")) == pairs(load(config(), "train"))
    assert pairs(load(config(seed=1), "train")) != pairs(load(config(), "train"))
    assert pairs(load(config(seed=1), "test")) != pairs(load(config(), "test"))
    assert pairs(load(config(given=(1, 1, 1)), "train")) == pairs(load(config(), "train"))
    source = load(config(), "train")
    assert source[7] == source[7] and [e.id for e in source] == list(range(300))


def test_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match=r"no split 'dev'.*train.*test"):
        addition.load(config(), "dev")
    with pytest.raises(ValueError, match=r"config\.task\.given"):
        addition.load(config(given=(1, 1, 1, 1)), "given")
    with pytest.raises(ValueError, match="given split of addition is empty"):
        addition.load(config(given=(0,)), "given")
