"""The estimators of an evaluation, against exact enumeration."""

from __future__ import annotations

import itertools
import math
import types

import numpy as np
import pytest

from reasoning_jax import evaluate
from reasoning_jax.rollout import Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, addition


def compositions(total: int, parts: int):
    """All tuples of ``parts`` counts that sum to ``total``."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        yield tuple(b - a - 1 for a, b in itertools.pairwise((-1, *bars, total + parts - 1)))


def expected_majority(law: tuple[float, ...], k: int) -> float:
    """E[majority] over k draws from ``law``, whose first answer is the right one."""
    total = 0.0
    for counts in compositions(k, len(law)):
        ways = math.factorial(k) / math.prod(map(math.factorial, counts))
        answers = [str(a) for a, count in enumerate(counts) for _ in range(count)]
        value = evaluate.majority(answers, [a == "0" for a in answers])
        total += ways * math.prod(p**n for p, n in zip(law, counts, strict=True)) * value
    return total


def sample(id: int, index: int, answer: str | None, verdict: str, question: str = "1+1") -> Sample:
    nothing = np.zeros(3, np.int32)
    example = Example(id, question, "2")
    return Sample(example, index, False, nothing, nothing.astype(np.float32), answer or "", answer, verdict, None)


def test_pass_at_k_by_hand():
    assert evaluate.pass_at_k(5, 3, 2) == pytest.approx(0.9, abs=1e-15)  # 1 - C(2,2) / C(5,2)
    assert evaluate.pass_at_k(4, 0, 3) == 0.0
    assert evaluate.pass_at_k(4, 2, 3) == 1.0  # fewer wrong ones than k
    assert evaluate.pass_at_k(7, 3, 1) == pytest.approx(3 / 7, abs=1e-15)
    assert evaluate.pass_at_k(10_000, 1, 5_000) == 0.5  # no overflow
    for n, correct, k in ((3, 1, 4), (3, 4, 1), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="pass@"):
            evaluate.pass_at_k(n, correct, k)


@pytest.mark.parametrize(("n", "p", "k"), [(20, 0.1, 5), (6, 0.4, 6), (9, 0.7, 1), (8, 0.25, 3)])
def test_pass_at_k_is_unbiased(n, p, k):
    law = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(q * evaluate.pass_at_k(n, c, k) for c, q in enumerate(law))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)  # 0.40951 for the first
    if (n, p, k) == (20, 0.1, 5):
        assert mean == pytest.approx(0.40951, abs=1e-12)
        plug_in = sum(q * (1 - (1 - c / n) ** k) for c, q in enumerate(law))
        assert plug_in < mean - 0.01  # what the naive estimate would say


@pytest.mark.parametrize(
    ("law", "curve"),
    [
        ((0.4, 0.3, 0.3), (0.400, 0.400, 0.424, 0.447, 0.489, 0.534)),
        ((0.3, 0.4, 0.3), (0.300, 0.300, 0.288, 0.276, 0.256, 0.233)),
    ],
)
def test_a_vote_tends_to_the_most_likely_answer_not_to_the_truth(law, curve):
    for k, value in zip((1, 2, 3, 5, 9, 15), curve, strict=True):
        assert expected_majority(law, k) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("law", [(0.4, 0.3, 0.3), (0.1, 0.9), (0.25, 0.25, 0.25, 0.25), (0.6, 0.1, 0.1, 0.1, 0.1)])
def test_two_votes_are_as_good_as_one(law):
    assert expected_majority(law, 1) == pytest.approx(law[0], abs=1e-12)
    assert expected_majority(law, 2) == pytest.approx(law[0], abs=1e-12)


def test_majority_by_hand():
    assert evaluate.majority(["2", "3", "2"], [True, False, True]) == 1.0
    assert evaluate.majority(["2", "3", "3"], [True, False, False]) == 0.0
    assert evaluate.majority(["2", "3", "4"], [True, False, False]) == pytest.approx(1 / 3)
    assert evaluate.majority(["2", None, None, None], [True, False, False, False]) == 1.0  # what is unparsed has no vote
    assert evaluate.majority([None, None], [False, False]) == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_never_below_maj_at_k(k):
    """For every outcome of k samples."""
    for answers in itertools.product(["2", "3", "4", None], repeat=k):
        verdicts = [CORRECT if a == "2" else UNPARSED if a is None else WRONG for a in answers]
        found = evaluate.vote_metrics([sample(0, i, a, v) for i, (a, v) in enumerate(zip(answers, verdicts, strict=True))], k)
        assert found[f"eval/pass_at_{k}"] >= found[f"eval/maj_at_{k}"]
        assert found["eval/pass_at_1"] == pytest.approx(answers.count("2") / k)


def test_votes_over_several_examples():
    samples = [
        *(sample(0, i, a, CORRECT if a == "2" else WRONG) for i, a in enumerate(["2", "2", "3", "4"])),
        *(sample(1, i, a, WRONG) for i, a in enumerate(["3", "3", "3", "3"])),
    ]
    found = evaluate.vote_metrics(samples, 4)
    assert found["eval/maj_at_4"] == 0.5 and found["eval/pass_at_1"] == 0.25
    assert found["eval/pass_at_2"] == pytest.approx((5 / 6) / 2) and found["eval/pass_at_4"] == 0.5
    assert found["eval/maj_at_4_stderr"] == pytest.approx(math.sqrt(0.25 / 2))
    assert found["eval/pass_at_1_stderr"] == pytest.approx(0.25 / math.sqrt(2))
    assert evaluate.vote_metrics(list(reversed(samples)), 4) == found
    assert {k for k in evaluate.vote_metrics(samples[:3], 3) if "stderr" not in k} == {
        "eval/maj_at_3", "eval/pass_at_1", "eval/pass_at_2", "eval/pass_at_3"
    }  # fmt: skip


def test_answers_vote_in_one_form_and_what_was_cut_off_does_not_vote():
    answers = [("72", CORRECT), ("72.0", CORRECT), ("71", WRONG), ("71", WRONG), ("$72", CORRECT)]
    samples = [sample(0, i, a, v) for i, (a, v) in enumerate(answers)]
    assert evaluate.vote_metrics(samples, 5)["eval/maj_at_5"] == 1.0
    cut = [sample(0, 0, "2", CORRECT), *(sample(0, i, "3", TRUNCATED) for i in (1, 2, 3))]
    assert evaluate.vote_metrics(cut, 4)["eval/maj_at_4"] == 1.0


def test_accuracy_with_its_standard_error_by_difficulty():
    samples = [sample(i, 0, "2", CORRECT if i < 3 else WRONG, "1+1") for i in range(4)]
    samples += [sample(4 + i, 0, None, TRUNCATED, "11+11") for i in range(2)]
    found = evaluate.accuracy_metrics(samples, addition)
    assert found["eval/accuracy"] == 0.5 and found["eval/accuracy_stderr"] == pytest.approx(math.sqrt(0.25 / 6))
    assert found["eval/accuracy_digits_1"] == 0.75 and found["eval/count_digits_1"] == 4
    assert found["eval/accuracy_stderr_digits_1"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert found["eval/accuracy_digits_2"] == 0.0 and found["eval/truncated"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="empty"):
        evaluate.accuracy_metrics([], types.SimpleNamespace())
