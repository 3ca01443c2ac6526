"""3SUM with fillers: balanced, near misses, and the answer at one position in every kind of row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasoning_jax import default, tasks, tokenizer
from reasoning_jax.tasks import Example, fillers, three_sum

# 12 + 34 + 64 = 0 0 modulo 10, digit by digit; no other three of them add up to zero.
NUMBERS = np.array([[1, 2], [3, 4], [0, 0], [6, 4]])
EXAMPLE = Example(id=0, question="12 34 00 64", answer="True")


def config(**changes):
    cfg = default.section(tasks, "three_sum")
    cfg.update({"num_train": 400, "num_held_out": 200} | changes)
    return cfg


def digits(example):
    return [tuple(map(int, number)) for number in example.question.split()]


def has_a_zero_triple(numbers):
    """By the definition."""
    for triple in itertools.combinations(numbers, 3):
        if all(sum(column) % 10 == 0 for column in zip(*triple, strict=True)):
            return True
    return False


@pytest.mark.parametrize("keys", [{}, {"num_numbers": 8}, {"num_numbers": 5, "dimension": 1}])
def test_answers_are_true_and_half_of_them_are_true(keys):
    examples = three_sum.load(config(**keys), "given")
    for example in examples:
        assert example.answer == str(has_a_zero_triple(digits(example)))
    true = np.mean([example.answer == "True" for example in examples])
    assert true == pytest.approx(0.5, abs=4 * 0.5 / 400**0.5)


def test_false_rows_are_near_misses():
    """Three of the numbers would add up to zero if one digit of one, two or three were another."""
    counts = {1: 0, 2: 0, 3: 0}
    for example in three_sum.load(config(num_train=300), "given"):
        if example.answer == "True":
            continue
        wrong_digits = []
        for triple in itertools.combinations(digits(example), 3):
            sums = [sum(column) % 10 for column in zip(*triple, strict=True)]
            wrong_digits.append(sum(total != 0 for total in sums))
        counts[min(wrong_digits)] = counts.get(min(wrong_digits), 0) + 1
    # At random a sixth of the rows without a solution have no triple with one right digit.
    assert counts[2] < 0.2 * sum(counts.values()) and counts[3] == 0


def test_digits_tell_nothing():
    """Each digit is uniform in true and in false rows, within five standard errors."""
    examples = three_sum.load(config(num_train=2000), "given")
    for answer in three_sum.ANSWERS:
        values = np.array([digits(e) for e in examples if e.answer == answer])
        for digit in range(10):
            found = np.mean(values == digit)
            assert found == pytest.approx(0.1, abs=5 * 0.3 / values.size**0.5), (answer, digit)


def test_the_symbols_of_pairs():
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert list(zip(pairs, three_sum.true_labels(NUMBERS), strict=True)) == [
        ((0, 1), [" D"]),
        ((0, 2), [" 1", "2"]),
        ((0, 3), [" B"]),
        ((1, 2), [" 3", "4"]),
        ((1, 3), [" A"]),
        ((2, 3), [" 6", "4"]),
    ]
    rng = np.random.default_rng(0)
    drawn = {tuple(three_sum.pair_labels(rng, NUMBERS)) for _ in range(200)}
    assert len(drawn) == 8
    assert three_sum.zero_triples(NUMBERS).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("num_numbers", [5, 6])
def test_the_answer_is_at_one_position_in_worked_and_filler_rows(num_numbers):
    words = tokenizer.Characters(three_sum.ALPHABET)
    pairs = num_numbers * (num_numbers - 1) // 2
    cfg = config(num_numbers=num_numbers, num_fillers=pairs)
    positions = set()
    kinds = set()
    for example in three_sum.load(cfg, "given"):
        kinds.add(example.num_fillers)
        text = three_sum.prompt(example, cfg) + three_sum.target(example)
        ids = words.encode(text)
        positions.add((len(ids), ids.index(words.encode(" =")[0])))
    assert positions == {(2 * num_numbers + pairs + 2, 2 * num_numbers + pairs)}
    assert kinds == {None, pairs}


@pytest.mark.parametrize(
    "worked, num_fillers, kinds, held_out",
    [
        (0.0, 0, {0}, 0),  # immediately
        (0.0, 15, {15}, 15),  # fillers alone
        (0.5, 15, {None, 15}, 15),  # the paper's mixture, evaluated with fillers
        (1.0, 0, {None}, None),  # worked rows alone
    ],
)
def test_the_arms(worked, num_fillers, kinds, held_out):
    cfg = config(worked=worked, num_fillers=num_fillers)
    given = three_sum.load(cfg, "given")
    assert {e.num_fillers for e in given} == kinds
    share = np.mean([e.num_fillers is None for e in given])
    assert share == pytest.approx(worked, abs=4 * 0.5 / 400**0.5)
    assert {e.num_fillers for e in three_sum.load(cfg, "test")} == {held_out}


def test_prompts_and_targets():
    cfg = config(num_fillers=2)
    worked = fillers.Row(id=0, question="12 34", answer="True", rationale=" 43C")
    filler = fillers.Row(id=0, question="12 34", answer="True", rationale="", num_fillers=2)
    assert three_sum.prompt(worked, cfg) == " 12 34"
    assert three_sum.target(worked) == " 43C = True"
    assert three_sum.target(worked, direct=True) == " = True"
    assert three_sum.prompt(filler, cfg) == three_sum.prompt(EXAMPLE, cfg).replace(" 00 64", "")
    assert three_sum.prompt(filler, cfg, hint="True") == " 12 34 True . . ="
    assert three_sum.target(filler) == three_sum.target(filler, direct=True) == " True"
    assert three_sum.difficulty(filler) == ("true", 1)


@pytest.mark.parametrize(
    "text, answer, line, steps",
    [
        (" D 1 B4 A 6 = True", "True", None, 6),
        (" D2 B 3 A4 = True", "True", None, 6),
        (" True", "True", None, 0),
        (" = True", "True", None, 0),
        (" False", "False", 0, 0),
        (" D 1 B4 A 6 = False", "False", 0, 6),
        (" C 1 B4 A 6 = True", "True", 0, 6),  # another third number
        (" 4 1 B4 A 6 = True", "True", 0, 6),  # a digit where there is a third number
        (" D1 B4 A 6 = True", "True", 0, 6),  # the first digit as the second
        (" D 1 B4 A = True", "True", 0, 5),
        (" D 1 B4 A 6 6 = True", "True", 0, 7),
        (" D 1 B4 A 6", None, 0, 0),
        (" = true", None, 0, 0),
        (" = True True", None, 0, 0),
        ("", None, 0, 0),
    ],
)
def test_reading_and_judging(text, answer, line, steps):
    assert three_sum.extract(text) == answer
    assert three_sum.wrong_line(text, EXAMPLE) == line
    assert three_sum.steps(text) == steps
