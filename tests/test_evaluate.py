"""The estimators of an evaluation, against exact enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest

from reasoning_jax import checkpoint, evaluate
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


@pytest.mark.parametrize(
    "answers",
    [
        ["2", "2", "3", "3", None, "4"],
        ["3", "3", "3", "2", "two", "two", "4"],  # two forms of the right answer
        ["3", "4", None],
        [None] * 3,
        ["2"] * 4,
        ["2", "3", "4", "5", "6", "7", "2", "3"],
    ],
)
def test_maj_at_k_is_the_mean_over_all_choices_of_k(answers):
    right, sizes = [a in ("2", "two") for a in answers], range(1, len(answers) + 1)
    for k, found in zip(sizes, evaluate.maj_at_k(answers, right, sizes), strict=True):
        every = [evaluate.majority([answers[i] for i in c], [right[i] for i in c])
                 for c in itertools.combinations(range(len(answers)), k)]  # fmt: skip
        assert found == pytest.approx(np.mean(every), abs=1e-12)
    assert evaluate.maj_at_k(answers, right, [3, 1]) == [evaluate.maj_at_k(answers, right, [k])[0] for k in (3, 1)]


def test_maj_at_k_of_many_samples():
    """64 samples: no overflow, between its ends, and quickly."""
    answers = [str(a) for a in np.random.default_rng(0).integers(0, 9, 40)] + ["2"] * 20 + [None] * 4
    curve = evaluate.maj_at_k(answers, [a == "2" for a in answers], [1, 2, 4, 8, 16, 32, 64])
    assert curve[0] == pytest.approx(answers.count("2") / 64) and curve[-1] == 1.0
    assert curve == sorted(curve)
    for sizes in ([0, 1], [65]):
        with pytest.raises(ValueError, match="maj@"):
            evaluate.maj_at_k(answers, [False] * 64, sizes)


def test_best_of_k_by_hand():
    assert [evaluate.best_of_k([False, True, True, False, True], k) for k in range(1, 6)] == [0.6, 0.5, 0.4, 0.2, 0.0]
    assert evaluate.best_of_k([True] + [False] * 127, 64) == 0.5  # no overflow
    for k in (0, 6):
        with pytest.raises(ValueError, match="best-of-"):
            evaluate.best_of_k([True] * 5, k)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_best_of_k_is_the_mean_over_all_choices_of_k(n):
    for correct in itertools.product([False, True], repeat=n):
        curve = [evaluate.best_of_k(correct, k) for k in range(1, n + 1)]
        for k, found in enumerate(curve, 1):
            every = [correct[min(c)] for c in itertools.combinations(range(n), k)]  # the best rank of those chosen
            assert found == pytest.approx(np.mean(every), abs=1e-12)
            assert found <= evaluate.pass_at_k(n, sum(correct), k) + 1e-12
        assert curve[0] == pytest.approx(sum(correct) / n) and curve[-1] == correct[0]
        perfect = sorted(correct, reverse=True)
        for k in range(1, n + 1):
            assert evaluate.best_of_k(perfect, k) == pytest.approx(evaluate.pass_at_k(n, sum(correct), k), abs=1e-12)


def test_a_verifier_that_knows_nothing_is_no_better_than_one_sample():
    orders = list(itertools.permutations([True, True, False, False, False]))
    for k in range(1, 6):
        assert np.mean([evaluate.best_of_k(order, k) for order in orders]) == pytest.approx(0.4, abs=1e-12)


def test_a_verifier_ranks_the_samples():
    """Two examples with the verdicts 01101 and 10000 in the order of their scores; another verifier knows nothing."""
    verdicts = [[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]]
    samples = [sample(i, j, "2", CORRECT if v else WRONG) for i, row in enumerate(verdicts) for j, v in enumerate(row)]
    scores = {"best_of": -np.arange(10.0), "blind": np.zeros(10)}
    order, expected = np.random.default_rng(0).permutation(10), None
    for at in (np.arange(10), order):  # in whatever order they come
        found = evaluate.vote_metrics([samples[i] for i in at], 5, {k: v[at] for k, v in scores.items()})
        assert [found[f"eval/best_of_{k}"] for k in (1, 2, 4, 5)] == pytest.approx([0.4, 0.45, 0.5, 0.5])
        assert found["eval/best_of_5_stderr"] == pytest.approx(0.5 / math.sqrt(2))
        assert found["eval/blind_1"] == pytest.approx(found["eval/pass_at_1"]) == pytest.approx(0.4)
        blind = [found[f"eval/blind_{k}"] for k in (1, 2, 4, 5)]
        assert expected is None or blind == expected  # ties are broken the same way
        expected = blind
    assert not [name for name in evaluate.vote_metrics(samples, 5) if "best" in name]


def test_what_a_verifier_scores(tmp_path, monkeypatch):
    """Its log-likelihood of a completion, and that less the base model's; what is cut off or has no answer comes last."""
    saved = {"verifier": -1.0, "base": -1.5}
    monkeypatch.setattr(
        checkpoint, "restore", lambda folder, _: (saved[folder.name], None, {}) if folder.name in saved else None
    )
    monkeypatch.setattr(checkpoint, "load_params", lambda folder, _: (saved[folder.name], {}))

    def rollout(each, *_):
        return types.SimpleNamespace(logprobs=lambda examples, tokens: [np.full(len(t), each) for t in tokens])

    exp = types.SimpleNamespace(rollout=rollout, abstract_state=lambda: types.SimpleNamespace(params=None))
    verdicts = (CORRECT, WRONG, TRUNCATED, UNPARSED)
    samples = [dataclasses.replace(sample(0, i, "2", v), tokens=np.zeros(2 + i, int)) for i, v in enumerate(verdicts)]
    found = {name: scores.tolist() for name, scores in evaluate.verifier_scores(samples, exp, tmp_path).items()}
    assert found == {"best_of": [-2.0, -3.0, -np.inf, -np.inf], "best_of_ratio": [1.0, 1.5, -np.inf, -np.inf]}
    curve = evaluate.vote_metrics(samples, 4, {k: np.array(v) for k, v in found.items()})
    assert curve["eval/best_of_4"] == 1.0 and curve["eval/best_of_ratio_4"] == 0.0  # the short one is right
    del saved["verifier"]
    assert evaluate.verifier_scores(samples, exp, tmp_path) == {}


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
        f"eval/{name}_at_{k}" for name in ("maj", "pass") for k in (1, 2, 3)
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
