"""Rejection sampling: what is kept of a question's samples, what it weighs, and the gradient that it stands for."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import exact
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.algorithms import rejection
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition


class Groups(scripted.Scripted):
    """``script[example id]`` lists the verdicts of an example's samples; each right one has a text of its own."""

    def attempt(self, e, index, hint):
        verdict = self.script[e.id][index]
        found = scripted.rollout({e.id: (verdict, verdict)}).attempt(e, index, hint)
        return (
            dataclasses.replace(found, text=f"{found.text}{' ' * index}")
            if found.correct
            else found
        )


def collect(script, **changes):
    kind = type("Script", (Groups,), {"script": script, "calls": []})
    roll = kind(None, None, TOK, addition, (), None, 8, 64, 256, None, None)
    changes = {"num_samples": len(script[0]), **changes}
    examples = [example(i, 10 + i, 40) for i in script]
    rows, memory, report = rejection.collect(roll, examples, (), 1, config(**changes))
    assert memory == () and roll.calls == [(False, list(script), changes["num_samples"])]
    return rows, report


def of(text, correct=True, wrong_line=None):
    return SimpleNamespace(text=text, correct=correct, wrong_line=wrong_line)


SCRIPT = {
    0: [WRONG, CORRECT, CORRECT, TRUNCATED],
    1: [WRONG, UNPARSED, WRONG, TRUNCATED],
    2: [CORRECT] * 4,
}


@pytest.mark.parametrize("per_question", [False, True])
def test_the_right_samples_and_their_weights(per_question):
    rows, report = collect(SCRIPT, per_question=per_question)
    assert [TOK.decode(row["tokens"]).split("\n")[0] for row in rows] == ["10+40"] * 2 + [
        "12+40"
    ] * 4
    weights = [0.5, 0.5, 0.25, 0.25, 0.25, 0.25] if per_question else [1.0] * 6
    for row, weight in zip(rows, weights, strict=True):
        prompt = 1 + len("10+40\n")
        assert not row["weights"][:prompt].any() and (row["weights"][prompt:] == weight).all()
        assert row["share"].sum() == weight and row["tokens"][-1] == TOK.eos_id
    assert (
        report.kept == {(0, 1, False), (0, 2, False), *((2, i, False) for i in range(4))}
        and len(report.samples) == 12
    )
    assert report.values == pytest.approx(
        {"kept_rows": 6, "kept": 0.5, "reached": 2 / 3, "distinct_paths": 2 / 3}
    )
    assert sum(row["share"].sum() for row in rows) == (
        2 if per_question else 6
    )  # what the gradient is divided by


def test_at_most_so_many_of_a_question():
    rows, report = collect(SCRIPT, max_kept=1, per_question=True)
    assert report.kept == {(0, 1, False), (2, 0, False)} and [
        row["share"].sum() for row in rows
    ] == [1, 1]
    assert len(collect(SCRIPT, max_kept=3)[0]) == 5


def test_nothing_right_is_no_rows():
    rows, report = collect({0: [WRONG, TRUNCATED], 1: [UNPARSED, WRONG]})
    assert (
        rows == []
        and report.kept == set()
        and report.values["reached"] == report.values["kept"] == 0
    )


def test_one_sample_of_each_path():
    """Of each list of equations the text that is least like the others'; none with a false line, none that is wrong."""
    first = [of("2+3=5 so 5"), of("2+3=5 and here we have something else: 5")]
    second = [of("3 + 2 = 5 so 5"), of("3+2=5 so 5")]
    false, wrong = of("9-4=5", wrong_line=0), of("1+4=5", correct=False)
    chosen = rejection.choose([wrong, *first, false, *second], distinct=True, max_kept=0)
    assert chosen[0] is first[1] and len(chosen) == 2 and chosen[1] in second
    assert (
        rejection.choose([*second, *first], True, 1)[0] in second
    )  # in the order that they were drawn
    assert rejection.choose([wrong, *first, false, *second], distinct=False, max_kept=0) == [
        *first,
        false,
        *second,
    ]
    assert rejection.choose([wrong], True, 0) == rejection.choose([], True, 0) == []
    same = [of("a a"), of("a  a"), of("b")]  # without equations: the text, but for its blanks
    assert len(rejection.choose(same, True, 0)) == 2


@pytest.mark.parametrize(
    "text, found",
    [
        ("He sold 48/2 = <<48/2=24>>24 clips. 48+24 = 72", ("48/2=24", "48+24=72")),
        ("48/2=24\n48+24=72\n#### 72", ("48/2=24", "48+24=72")),
        ("So it is 5.\n3+4=7", ("3+4=7",)),
        ("In 2020, 3 + 4 = 7.", ("3+4=7",)),
        ("2*(3+4) = 14, then 14 - 20 = -6", ("2*(3+4)=14", "14-20=-6")),
        ("0.5*10=5.0", ("0.5*10=5.0",)),
        ("no  equation\nhere", ("no equation here",)),
    ],
)
def test_equations(text, found):
    assert rejection.equations(text) == found


def test_the_order_of_operands_makes_another_path():
    assert (
        rejection.equations("2+3=5")
        != rejection.equations("3+2=5")
        == rejection.equations("3 + 2 = 5, fine")
    )


def test_updates_and_errors():
    assert rejection.num_updates(3, 100, config(online=True)) == 1
    offline = config(online=False, schedule="linear", start_updates=70, increment=20)
    assert [rejection.num_updates(n, 100, offline) for n in (1, 3)] == [70, 110]  # STaR's schedule
    assert rejection.init_memory(config(num_samples=1), 5) == ()
    with pytest.raises(ValueError, match=r"^config\.algorithm\.num_samples: 0"):
        rejection.init_memory(config(num_samples=0), 5)


def test_the_loss_is_weighted_and_divided_by_the_shares():
    logprobs = np.array([[-1.0, -2.0, np.nan], [-4.0, -8.0, -16.0]], np.float32)
    weights, share = [[1, 1, 0], [0.5, 0, 0.5]], [[0, 1, 0], [0, 0, 0.5]]
    batch = {"weights": np.array(weights, np.float32), "share": np.array(share, np.float32)}
    total, metrics = rejection.loss(logprobs, batch, config())
    assert (
        float(total) == 1 + 2 + 2 + 8 == float(metrics["loss"]) and float(metrics["weight"]) == 1.5
    )


@pytest.mark.parametrize("n", [1, 4])
def test_the_mean_gradient(n):
    """(1 - (1 - pi)^n) grad log p(y | x) for a question that weighs 1, n pi of it where each right sample does."""

    def weigh(correct, per_question):
        rows, _ = collect(
            {0: [CORRECT if c else WRONG for c in correct]}, per_question=per_question
        )
        weights = np.zeros(n)
        weights[correct] = [row["weights"][-1] for row in rows]
        return weights

    for q in exact.of_softmax():
        for per_question, c in ((True, 1 - (1 - exact.pi(q)) ** n), (False, n * exact.pi(q))):
            mean = exact.of_group(
                q, n, lambda correct, per_question=per_question: weigh(correct, per_question)
            )
            np.testing.assert_allclose(mean, c * exact.gradient(q), atol=1e-7)
            assert math.hypot(*mean) > 0.02
