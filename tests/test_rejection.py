"""Rejection sampling: what is kept, what it weighs, and the gradient that it stands for."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import exact
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax import algorithms
from reasoning_jax.algorithms import rejection
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG

REJECTION = algorithms.get("rejection")


class Groups(scripted.Groups):
    """Each right sample has a text of its own."""

    def attempt(self, e, index, hint):
        sample = super().attempt(e, index, hint)
        if not sample.correct:
            return sample
        return dataclasses.replace(sample, text=f"{sample.text}{' ' * index}")


def collect(script, **changes):
    roll = scripted.rollout(script, kind=Groups)
    changes = {"num_samples": len(script[0]), **changes}
    examples = [example(i, 10 + i, 40) for i in script]
    result = rejection.collect(roll, examples, (), 1, config("rejection", **changes))
    assert result.memory == ()
    assert roll.calls == [(False, list(script), changes["num_samples"])]
    return result


def of(text, correct=True, wrong_line=None):
    return SimpleNamespace(text=text, correct=correct, wrong_line=wrong_line)


SCRIPT = {
    0: [WRONG, CORRECT, CORRECT, TRUNCATED],
    1: [WRONG, UNPARSED, WRONG, TRUNCATED],
    2: [CORRECT] * 4,
}


@pytest.mark.parametrize("per_question", [False, True])
def test_the_right_samples_and_their_weights(per_question):
    result = collect(SCRIPT, per_question=per_question)
    questions = [TOK.decode(row["tokens"]).split("\n")[0] for row in result.rows]
    assert questions == ["10+40"] * 2 + ["12+40"] * 4
    weights = [0.5, 0.5, 0.25, 0.25, 0.25, 0.25] if per_question else [1.0] * 6
    for row, weight in zip(result.rows, weights, strict=True):
        prompt = 1 + len("10+40\n")
        assert not row["weights"][:prompt].any() and (row["weights"][prompt:] == weight).all()
        assert row["normaliser"].sum() == weight and row["tokens"][-1] == TOK.eos_id
    assert result.kept == {(0, 1, False), (0, 2, False), *((2, i, False) for i in range(4))}
    assert len(result.samples) == 12
    stats = {"kept_rows": 6, "kept": 0.5, "reached": 2 / 3, "distinct_paths": 2 / 3}
    assert result.stats == pytest.approx(stats)
    # What the gradient is divided by.
    total = sum(row["normaliser"].sum() for row in result.rows)
    assert total == (2 if per_question else 6)


def test_at_most_so_many_of_a_question():
    result = collect(SCRIPT, max_kept=1, per_question=True)
    assert result.kept == {(0, 1, False), (2, 0, False)}
    assert [row["normaliser"].sum() for row in result.rows] == [1, 1]
    assert len(collect(SCRIPT, max_kept=3).rows) == 5


def test_nothing_right_is_no_rows():
    result = collect({0: [WRONG, TRUNCATED], 1: [UNPARSED, WRONG]})
    assert result.rows == [] and result.kept == set()
    assert result.stats["reached"] == result.stats["kept"] == 0


def test_one_sample_of_each_path():
    """Of each list of equations the text that is least like the others'.

    None with a false line, none that is wrong.
    """
    first = [of("2+3=5 so 5"), of("2+3=5 and here we have something else: 5")]
    second = [of("3 + 2 = 5 so 5"), of("3+2=5 so 5")]
    false, wrong = of("9-4=5", wrong_line=0), of("1+4=5", correct=False)
    samples = [wrong, *first, false, *second]
    chosen = rejection.choose(samples, distinct=True, max_kept=0)
    assert chosen[0] is first[1] and len(chosen) == 2 and chosen[1] in second
    # In the order that they were drawn.
    assert rejection.choose([*second, *first], True, 1)[0] in second
    every = rejection.choose(samples, distinct=False, max_kept=0)
    assert every == [*first, false, *second]
    assert rejection.choose([wrong], True, 0) == rejection.choose([], True, 0) == []
    same = [of("a a"), of("a  a"), of("b")]  # without equations: the text, but for its blanks
    assert len(rejection.choose(same, True, 0)) == 2


@pytest.mark.parametrize(
    "text, expected",
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
def test_equations(text, expected):
    assert rejection.equations(text) == expected


def test_the_order_of_operands_makes_another_path():
    assert rejection.equations("2+3=5") != rejection.equations("3+2=5")
    assert rejection.equations("3+2=5") == rejection.equations("3 + 2 = 5, fine")


def test_updates_and_errors():
    online = config("rejection", rounds={"online": True, "updates": 1, "growth": 1.0})
    assert REJECTION.num_updates(3, 100, online) == 1
    rounds = {"online": False, "updates": 70, "growth": 1.0, "increment": 20}
    offline = config("rejection", rounds=rounds)
    assert [REJECTION.num_updates(n, 100, offline) for n in (1, 3)] == [70, 110]  # STaR's schedule
    REJECTION.check(config("rejection", num_samples=1))
    assert REJECTION.init_memory(config("rejection", num_samples=1), 5) == ()


def test_several_samples_at_temperature_0_are_refused():
    cfg = config("rejection", num_samples=2)
    cfg.sampling.temperature = 0.0
    sentence = r"^config\.sampling\.temperature: at 0 [^\n]*config\.algorithm\.num_samples=1\.$"
    with pytest.raises(ValueError, match=sentence):
        REJECTION.check(cfg)
    cfg.algorithm.num_samples = 1
    REJECTION.check(cfg)
    cfg.algorithm.num_samples = 2
    cfg.sampling.temperature = 0.1
    REJECTION.check(cfg)


def test_the_loss_is_weighted_and_divided_by_the_normalisers():
    logprobs = jnp.array([[-1.0, -2.0, np.nan], [-4.0, -8.0, -16.0]])
    batch = {
        "weights": jnp.array([[1, 1, 0], [0.5, 0, 0.5]]),
        "normaliser": jnp.array([[0, 1, 0], [0, 0, 0.5]]),
    }
    loss = rejection.loss(logprobs, batch, config("rejection"))
    assert float(loss.total) == 1 + 2 + 2 + 8 and float(loss.weight) == 1.5


@pytest.mark.parametrize("n", [1, 4])
def test_the_mean_gradient(n):
    """The mean is a multiple of grad log p(y | x).

    (1 - (1 - pi)^n) of it for a question that weighs 1, n pi where each right sample does.
    """

    def weigh(correct, per_question):
        verdicts = [CORRECT if c else WRONG for c in correct]
        weights = np.zeros(n)
        rows = collect({0: verdicts}, per_question=per_question).rows
        weights[correct] = [row["weights"][-1] for row in rows]
        return weights

    for q in exact.of_softmax():
        for per_question, c in ((True, 1 - (1 - exact.pi(q)) ** n), (False, n * exact.pi(q))):
            mean = exact.of_group(q, n, lambda correct, each=per_question: weigh(correct, each))
            np.testing.assert_allclose(mean, c * exact.gradient(q), atol=1e-7)
            assert math.hypot(*mean) > 0.02
