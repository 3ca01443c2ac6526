"""Parity with fillers: the answer is true, and at one position in every kind of row."""

from __future__ import annotations

import numpy as np
import pytest

from reasoning_jax import default, tasks, tokenizer
from reasoning_jax.tasks import Example, fillers, parity

EXAMPLE = Example(id=0, question="0 1 1 0 1", answer="odd")


def config(**changes):
    cfg = default.section(tasks, "parity")
    cfg.update({"num_train": 400, "num_held_out": 200} | changes)
    return cfg


def test_answers_are_true_and_symbols_say_how_many_ones_there_are():
    examples = parity.load(config(worked=1.0, num_fillers=0), "given")
    for example in examples:
        ones = example.question.split().count("1")
        assert example.answer == ("odd" if ones % 2 else "even")
        symbols = example.rationale.split()
        assert symbols == [str(int(ones >= i)) for i in range(1, 21)]
        signs = np.array([1, -1] * 10)
        assert np.sum(signs * np.array(symbols, int)) == (example.answer == "odd")
    odd = np.mean([example.answer == "odd" for example in examples])
    assert odd == pytest.approx(0.5, abs=4 * 0.5 / 400**0.5)


@pytest.mark.parametrize("num_bits", [5, 20])
def test_the_answer_is_at_one_position_in_worked_and_filler_rows(num_bits):
    words = tokenizer.Characters(parity.ALPHABET)
    cfg = config(num_bits=num_bits, num_fillers=num_bits, num_train=20, num_held_out=1)
    kinds = set()
    for example in parity.load(cfg, "given"):
        kinds.add(example.num_fillers)
        ids = words.encode(parity.prompt(example, cfg) + parity.target(example))
        assert len(ids) == 2 * num_bits + 2 and ids[-2:-1] == words.encode(" =")
    assert kinds == {None, num_bits}


def test_prompts_and_targets():
    cfg = config(num_fillers=2)
    worked = fillers.Row(id=0, question="0 1", answer="odd", rationale=" 1 0")
    filler = fillers.Row(id=0, question="0 1", answer="odd", rationale="", num_fillers=2)
    assert parity.prompt(worked, cfg) == " 0 1"
    assert parity.target(worked) == " 1 0 = odd"
    assert parity.prompt(filler, cfg) == " 0 1 . . ="
    assert parity.prompt(filler, cfg, hint="odd") == " 0 1 odd . . ="
    assert parity.target(filler) == " odd"


@pytest.mark.parametrize(
    "text, answer, line, steps",
    [
        (" 1 1 1 0 0 = odd", "odd", None, 5),
        (" odd", "odd", None, 0),
        (" = odd", "odd", None, 0),
        (" even", "even", 0, 0),
        (" 1 1 1 0 0 = even", "even", 0, 5),
        (" 1 1 0 1 0 = odd", "odd", 0, 5),
        (" 1 1 1 0 = odd", "odd", 0, 4),
        (" 1 1 1 0 0", None, 0, 0),
        (" = Odd", None, 0, 0),
        ("", None, 0, 0),
    ],
)
def test_reading_and_judging(text, answer, line, steps):
    assert parity.extract(text) == answer
    assert parity.wrong_line(text, EXAMPLE) == line
    assert parity.steps(text) == steps
