"""The estimators of an evaluation, against exact enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from reasoning_jax import api, default, estimators, evaluate, evaluation, graders, metrics, tasks
from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example
from reasoning_jax.training import checkpoint

ADDITION = tasks.get("addition")
WITHOUT_DIFFICULTY = dataclasses.replace(ADDITION, difficulty=lambda example: None)


def majority(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """P(a vote over these samples is right), where the most frequent answer wins, ties at random.

    Answers that could not be parsed do not vote. ``right[i]`` says whether answer i is correct
    (self-consistency, Wang et al. 2022, arXiv 2203.11171).
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = {answer for answer, count in votes.items() if count == most}
    right_answers = {answer for answer, is_right in zip(answers, right, strict=True) if is_right}
    return len(winners & right_answers) / len(winners)


def compositions(total: int, parts: int):
    """All tuples of ``parts`` counts that sum to ``total``."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        yield tuple(b - a - 1 for a, b in itertools.pairwise((-1, *bars, total + parts - 1)))


def expected_majority(distribution: tuple[float, ...], k: int) -> float:
    """E[majority] over k draws from ``distribution``, whose first answer is the right one."""
    total = 0.0
    for counts in compositions(k, len(distribution)):
        ways = math.factorial(k) / math.prod(map(math.factorial, counts))
        answers = [str(a) for a, count in enumerate(counts) for _ in range(count)]
        value = majority(answers, [a == "0" for a in answers])
        chance = math.prod(p**n for p, n in zip(distribution, counts, strict=True))
        total += ways * chance * value
    return total


def sample(
    id: int, index: int, answer: str | None, verdict: str, question: str = "1+1", length: int = 3
) -> Sample:
    return Sample(
        example=Example(id=id, question=question, answer="2"),
        index=index,
        hinted=False,
        prompt_ids=np.zeros(2, np.int32),
        tokens=np.zeros(length, np.int32),
        logprobs=np.zeros(length, np.float32),
        finished=verdict != TRUNCATED,
        text=answer or "",
        answer=answer,
        verdict=verdict,
    )


def test_pass_at_k_by_hand():
    assert estimators.pass_at_k(5, 3, 2) == pytest.approx(0.9, abs=1e-15)  # 1 - C(2,2) / C(5,2)
    assert estimators.pass_at_k(4, 0, 3) == 0.0
    assert estimators.pass_at_k(4, 2, 3) == 1.0  # fewer wrong ones than k
    assert estimators.pass_at_k(7, 3, 1) == pytest.approx(3 / 7, abs=1e-15)
    assert estimators.pass_at_k(10_000, 1, 5_000) == 0.5  # no overflow
    for n, correct, k in ((3, 1, 4), (3, 4, 1), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="pass@"):
            estimators.pass_at_k(n, correct, k)


@pytest.mark.parametrize(("n", "p", "k"), [(20, 0.1, 5), (6, 0.4, 6), (9, 0.7, 1), (8, 0.25, 3)])
def test_pass_at_k_is_unbiased(n, p, k):
    binomial = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(q * estimators.pass_at_k(n, c, k) for c, q in enumerate(binomial))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)  # 0.40951 for the first
    if (n, p, k) == (20, 0.1, 5):
        assert mean == pytest.approx(0.40951, abs=1e-12)
        plug_in = sum(q * (1 - (1 - c / n) ** k) for c, q in enumerate(binomial))
        assert plug_in < mean - 0.01  # what the naive estimate would say


@pytest.mark.parametrize(
    ("distribution", "curve"),
    [
        ((0.4, 0.3, 0.3), (0.400, 0.400, 0.424, 0.447, 0.489, 0.534)),
        ((0.3, 0.4, 0.3), (0.300, 0.300, 0.288, 0.276, 0.256, 0.233)),
    ],
)
def test_a_vote_tends_to_the_most_likely_answer_not_to_the_truth(distribution, curve):
    for k, value in zip((1, 2, 3, 5, 9, 15), curve, strict=True):
        assert expected_majority(distribution, k) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    "distribution",
    [(0.4, 0.3, 0.3), (0.1, 0.9), (0.25, 0.25, 0.25, 0.25), (0.6, 0.1, 0.1, 0.1, 0.1)],
)
def test_two_votes_are_as_good_as_one(distribution):
    assert expected_majority(distribution, 1) == pytest.approx(distribution[0], abs=1e-12)
    assert expected_majority(distribution, 2) == pytest.approx(distribution[0], abs=1e-12)


def test_majority_by_hand():
    assert majority(["2", "3", "2"], [True, False, True]) == 1.0
    assert majority(["2", "3", "3"], [True, False, False]) == 0.0
    assert majority(["2", "3", "4"], [True, False, False]) == pytest.approx(1 / 3)
    # What is unparsed has no vote.
    assert majority(["2", None, None, None], [True, False, False, False]) == 1.0
    assert majority([None, None], [False, False]) == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_never_below_maj_at_k(k):
    """For every outcome of k samples."""
    for answers in itertools.product(["2", "3", "4", None], repeat=k):
        verdicts = {"2": CORRECT, None: UNPARSED}
        samples = [sample(0, i, a, verdicts.get(a, WRONG)) for i, a in enumerate(answers)]
        values = evaluation.vote_metrics(samples, k)
        assert values[f"eval/pass_at_{k}"] >= values[f"eval/maj_at_{k}"]
        assert values["eval/pass_at_1"] == pytest.approx(answers.count("2") / k)


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
    curve = estimators.maj_at_k(answers, right, sizes)
    for k, mean in zip(sizes, curve, strict=True):
        outcomes = []
        for choice in itertools.combinations(range(len(answers)), k):
            chosen, chosen_right = [answers[i] for i in choice], [right[i] for i in choice]
            outcomes.append(majority(chosen, chosen_right))
        assert mean == pytest.approx(np.mean(outcomes), abs=1e-12)
    assert estimators.maj_at_k(answers, right, [3, 1]) == [curve[2], curve[0]]


def test_maj_at_k_of_many_samples():
    """64 samples: no overflow, between its ends, and quickly."""
    drawn = np.random.default_rng(0).integers(0, 9, 40)
    answers = [*(str(a) for a in drawn), *["2"] * 20, *[None] * 4]
    curve = estimators.maj_at_k(answers, [a == "2" for a in answers], [1, 2, 4, 8, 16, 32, 64])
    assert curve[0] == pytest.approx(answers.count("2") / 64) and curve[-1] == 1.0
    assert curve == sorted(curve)
    for sizes in ([0, 1], [65]):
        with pytest.raises(ValueError, match="maj@"):
            estimators.maj_at_k(answers, [False] * 64, sizes)


def exact_majority(counts: Sequence[int], silent: int, k: int) -> Fraction:
    """maj@k where ``counts`` samples give each answer, the first of which is right."""
    total = 0
    for chosen in itertools.product(*(range(count + 1) for count in counts)):
        quiet = k - sum(chosen)
        most = max(chosen)
        if not 0 <= quiet <= silent or not most or chosen[0] < most:
            continue
        ways = math.comb(silent, quiet)
        ways *= math.prod(math.comb(c, m) for c, m in zip(counts, chosen, strict=True))
        total += Fraction(ways, chosen.count(most))
    return total / math.comb(sum(counts) + silent, k)


@pytest.mark.parametrize(
    ("counts", "silent"),
    [((5, 7, 6), 2), ((1,) * 9, 3), ((2, 2, 2, 2, 2, 1), 0), ((12, 3, 1, 1), 4), ((1, 15), 0)],
)
def test_maj_at_k_equals_exact_fractions(counts, silent):
    answers = [str(a) for a, count in enumerate(counts) for _ in range(count)] + [None] * silent
    sizes = range(1, len(answers) + 1)
    curve = estimators.maj_at_k(answers, [a == "0" for a in answers], sizes)
    expected = [float(exact_majority(counts, silent, k)) for k in sizes]
    assert curve == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "silent", "k"),
    [((330, 320, 310), 140, 512), ((1100, 1090), 900, 1024), ((90,) * 33, 30, 1500)],
)
def test_maj_at_k_of_thousands_of_samples(counts, silent, k):
    answers = [str(a) for a, count in enumerate(counts) for _ in range(count)] + [None] * silent
    [mean] = estimators.maj_at_k(answers, [a == "0" for a in answers], [k])
    rng = np.random.default_rng(0)
    votes = rng.multivariate_hypergeometric([*counts, silent], k, size=40_000)[:, :-1]
    is_most = votes == votes.max(axis=1, keepdims=True)
    wins = is_most[:, 0] / is_most.sum(axis=1)
    assert mean == pytest.approx(wins.mean(), abs=4 * wins.std() / 200)


def test_best_of_k_by_hand():
    ranked = [False, True, True, False, True]
    curve = [estimators.best_of_k(ranked, k) for k in range(1, 6)]
    assert curve == pytest.approx([0.6, 0.5, 0.4, 0.2, 0.0], abs=1e-12)
    thousands = [True] + [False] * 4999
    assert estimators.best_of_k(thousands, 2500) == pytest.approx(0.5, abs=1e-12)
    for k in (0, 6):
        with pytest.raises(ValueError, match="best-of-"):
            estimators.best_of_k([True] * 5, k)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_best_of_k_is_the_mean_over_all_choices_of_k(n):
    for correct in itertools.product([False, True], repeat=n):
        curve = [estimators.best_of_k(correct, k) for k in range(1, n + 1)]
        for k, mean in enumerate(curve, 1):
            choices = itertools.combinations(range(n), k)
            best = [correct[min(choice)] for choice in choices]  # the best rank of those chosen
            assert mean == pytest.approx(np.mean(best), abs=1e-12)
            assert mean <= estimators.pass_at_k(n, sum(correct), k) + 1e-12
        assert curve[0] == pytest.approx(sum(correct) / n) and curve[-1] == correct[0]
        perfect = sorted(correct, reverse=True)
        for k in range(1, n + 1):
            expected = estimators.pass_at_k(n, sum(correct), k)
            assert estimators.best_of_k(perfect, k) == pytest.approx(expected, abs=1e-12)


def test_a_verifier_that_knows_nothing_is_no_better_than_one_sample():
    orders = list(itertools.permutations([True, True, False, False, False]))
    for k in range(1, 6):
        mean = np.mean([estimators.best_of_k(order, k) for order in orders])
        assert mean == pytest.approx(0.4, abs=1e-12)


def test_a_verifier_ranks_the_samples():
    """Two examples with the verdicts 01101 and 10000 in the order of their scores.

    Another verifier gives every sample the same score.
    """
    verdicts = [[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]]
    samples = []
    for i, line in enumerate(verdicts):
        samples += [sample(i, j, "2", CORRECT if v else WRONG) for j, v in enumerate(line)]
    scores = {"best_of": -np.arange(10.0), "blind": np.zeros(10)}
    values = evaluation.vote_metrics(samples, 5, scores)
    assert [values[f"eval/best_of_{k}"] for k in (1, 2, 4, 5)] == pytest.approx(
        [0.4, 0.45, 0.5, 0.5]
    )
    assert values["eval/best_of_5_stderr"] == pytest.approx(0.5 / math.sqrt(2))
    assert values["eval/blind_1"] == pytest.approx(values["eval/pass_at_1"]) == pytest.approx(0.4)
    # In another order they give the same; ties are broken the same way.
    order = np.random.default_rng(0).permutation(10)
    shuffled = {name: score[order] for name, score in scores.items()}
    assert evaluation.vote_metrics([samples[i] for i in order], 5, shuffled) == values
    assert not [name for name in evaluation.vote_metrics(samples, 5) if "best" in name]


def test_what_a_verifier_scores(tmp_path, monkeypatch):
    """Its log-likelihood of a completion, and that less the base model's.

    What is cut off or has no answer comes last.
    """
    saved = {"verifier": -1.0, "base": -1.5}  # the parameters: log p of every token

    def restore(folder, _):
        if folder.name not in saved:
            return None
        return checkpoint.Restored(params=saved[folder.name], rest=None, meta={})

    def rollout(params, purpose, round):
        def logprobs(rows):
            return [np.full(len(row["tokens"]), params) for row in rows]

        return types.SimpleNamespace(policy=types.SimpleNamespace(logprobs=logprobs))

    def abstract_state():
        return types.SimpleNamespace(params=None)

    monkeypatch.setattr(checkpoint, "restore", restore)
    monkeypatch.setattr(checkpoint, "load_params", lambda folder, _: (saved[folder.name], {}))
    exp = types.SimpleNamespace(
        rollout=rollout, abstract_state=abstract_state, task=ADDITION, cfg=default.get_config()
    )
    run = api.SavedRun(tmp_path, cfg=None)
    verdicts = (CORRECT, WRONG, TRUNCATED, UNPARSED)
    answers = ("2", "3", "2", None)
    samples = [
        sample(0, i, answer, verdict, length=2 + i)
        for i, (answer, verdict) in enumerate(zip(answers, verdicts, strict=True))
    ]
    scores = run._verifier_scores(samples, exp)
    assert {name: score.tolist() for name, score in scores.items()} == {
        "best_of": [-2.0, -3.0, -np.inf, -np.inf],
        "best_of_ratio": [1.0, 1.5, -np.inf, -np.inf],
    }
    values = evaluation.vote_metrics(samples, 4, scores)
    # The short one is right.
    assert values["eval/best_of_4"] == 1.0 and values["eval/best_of_ratio_4"] == 0.0
    del saved["verifier"]
    assert run._verifier_scores(samples, exp) == {}


def test_the_table_has_a_line_for_each_measure_and_k():
    samples = []
    for id, question in enumerate(("1+1", "11+11")):
        for i in range(3):
            samples.append(sample(id, i, str(i), CORRECT if i == 2 else WRONG, question))
    scores = {name: np.arange(6.0) for name in ("best_of", "best_of_ratio")}
    values = evaluation.accuracy_metrics(samples[::3], ADDITION)
    values |= evaluation.vote_metrics(samples, 3, scores, ADDITION)
    rows = dict(evaluate.table_rows(values))
    measures = ("maj@", "pass@", "best-of-", "best-of-ratio-")
    assert list(rows) == ["greedy", *(f"{name}{k}" for name in measures for k in (1, 2, 3))]
    assert rows["pass@2"]["eval/accuracy"] == values["eval/pass_at_2"] == pytest.approx(2 / 3)
    assert rows["best-of-3"]["eval/accuracy_digits_2"] == values["eval/best_of_3_digits_2"] == 1
    table = metrics.accuracy_table([*rows.items()]).splitlines()
    assert len(table) == 1 + len(rows) and "digits 1" in table[0] and "digits 2" in table[0]


def test_votes_over_several_examples():
    samples = [sample(0, i, a, CORRECT if a == "2" else WRONG) for i, a in enumerate("2234")]
    samples += [sample(1, i, "3", WRONG) for i in range(4)]
    values = evaluation.vote_metrics(samples, 4)
    assert values["eval/maj_at_4"] == 0.5 and values["eval/pass_at_1"] == 0.25
    assert values["eval/pass_at_2"] == pytest.approx((5 / 6) / 2)
    assert values["eval/pass_at_4"] == 0.5
    assert values["eval/maj_at_4_stderr"] == pytest.approx(math.sqrt(0.25 / 2))
    assert values["eval/pass_at_1_stderr"] == pytest.approx(0.25 / math.sqrt(2))
    assert evaluation.vote_metrics(list(reversed(samples)), 4) == values
    names = {name for name in evaluation.vote_metrics(samples[:3], 3) if "stderr" not in name}
    assert names == {f"eval/{name}_at_{k}" for name in ("maj", "pass") for k in (1, 2, 3)}


def test_votes_by_difficulty():
    samples, scores = [], []
    for id, question in enumerate(("1+1", "11+11", "2+2")):
        for i in range(2):
            samples.append(sample(id, i, str(i), CORRECT if i else WRONG, question))
            scores.append(float(id * i))
    scores = {"best_of": scores}
    values = evaluation.vote_metrics(samples, 2, scores, ADDITION)
    for level, members in (("digits_1", (0, 1, 4, 5)), ("digits_2", (2, 3))):
        part = {"best_of": [scores["best_of"][i] for i in members]}
        own = evaluation.vote_metrics([samples[i] for i in members], 2, part)
        assert {name: values[f"{name}_{level}"] for name in own} == own
    whole = evaluation.vote_metrics(samples, 2, scores)
    assert {name: values[name] for name in whole} == whole
    assert evaluation.vote_metrics(samples, 2, scores, WITHOUT_DIFFICULTY) == whole


def test_answers_vote_in_one_form_and_what_was_cut_off_does_not_vote():
    answers = [("72", CORRECT), ("72.0", CORRECT), ("71", WRONG), ("71", WRONG), ("$72", CORRECT)]
    samples = [sample(0, i, a, v) for i, (a, v) in enumerate(answers)]
    assert evaluation.vote_metrics(samples, 5)["eval/maj_at_5"] == 1.0
    cut = [sample(0, 0, "2", CORRECT), *(sample(0, i, "3", TRUNCATED) for i in (1, 2, 3))]
    assert evaluation.vote_metrics(cut, 4)["eval/maj_at_4"] == 1.0


def graded(task, texts, gold, grader=""):
    """The samples of one question, with the grader's verdicts, and the grader's equality."""
    cfg = default.get_config(task=task, grader=grader)
    made = graders.make(cfg, tasks.get(task))
    example = Example(id=0, question="?", answer=gold)
    samples = [
        dataclasses.replace(sample(0, i, None, WRONG), example=example, text=text)
        for i, text in enumerate(texts)
    ]
    grades = made(samples, None)
    changes = [{"answer": grade.answer, "verdict": grade.verdict} for grade in grades]
    samples = [dataclasses.replace(s, **change) for s, change in zip(samples, changes, strict=True)]
    return samples, made.equal


@pytest.mark.parametrize(
    "task, grader, gold, right, wrong",
    [
        ("bbh", "", "(B)", "(B)|B|(B) y", "(C)|C"),
        ("bbh", "", "(C)", "(C)|C", "(B)|B|(B) y"),
        ("bbh", "", "no", "no|implausible", "yes|plausible|'yes'"),
        ("bbh", "", "a b", "a, b|a b", "b, a|b a|b; a"),
        ("bbh", "", "] }", "] }|]}", "] )|])|`] )`"),
        ("gsm8k", "", "72", "72|72.0", "$1,000|1000|1e3"),
        ("gsm8k", "", "72", "72|72.0", "50%|0.5|1/2"),
        ("gsm8k", "rewards", "0.5", "50%|1/2", "7 200|7,200|7200.0"),
    ],
)
def test_equal_answers_are_one_party_right_or_wrong(task, grader, gold, right, wrong):
    statement = {"bbh": "So the answer is {}.", "gsm8k": "#### {}"}[task]
    texts = [statement.format(a) for a in (*right.split("|"), *wrong.split("|"))]
    samples, equal = graded(task, texts, gold, grader)
    values = evaluation.vote_metrics(samples, 5, equal=equal)
    assert values["eval/maj_at_5"] == (1.0 if len(right.split("|")) == 3 else 0.0)
    # Were the wrong ones three parties, the right ones would win.
    assert len({s.answer for s in samples if not s.correct}) == 1 or task == "gsm8k"


def test_accuracy_with_its_standard_error_by_difficulty():
    samples = [sample(i, 0, "2", CORRECT if i < 3 else WRONG, "1+1") for i in range(4)]
    samples += [sample(4 + i, 0, None, TRUNCATED, "11+11") for i in range(2)]
    values = evaluation.accuracy_metrics(samples, ADDITION)
    assert values["eval/accuracy"] == 0.5 and values["eval/accuracy_digits_2"] == 0.0
    assert values["eval/accuracy_stderr"] == pytest.approx(math.sqrt(0.25 / 6))
    assert values["eval/accuracy_digits_1"] == 0.75 and values["eval/count_digits_1"] == 4
    assert values["eval/accuracy_stderr_digits_1"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert values["eval/truncated"] == pytest.approx(1 / 3)
    whole = {name: value for name, value in values.items() if "digits" not in name}
    assert evaluation.accuracy_metrics(samples, WITHOUT_DIFFICULTY) == whole
    with pytest.raises(UserError, match="empty"):
        evaluation.accuracy_metrics([], ADDITION)


def test_a_summary_of_samples():
    samples = [
        dataclasses.replace(sample(0, 0, "2", CORRECT, "1+1", length=4), wrong_line=1),
        sample(1, 0, "2", CORRECT, "11+11", length=6),
        sample(2, 0, "3", WRONG, "11+11", length=5),
        sample(3, 0, None, UNPARSED, "11+11", length=1),
        sample(4, 0, None, TRUNCATED, "111+111", length=9),
    ]
    scores = (1.0, 0.25, 0.25, 0.0, 0.0)
    samples = [dataclasses.replace(s, score=x) for s, x in zip(samples, scores, strict=True)]
    expected = {
        "samples": 5,
        "correct": 0.4,
        "score": 0.3,
        "unparsed": 0.2,
        "truncated": 0.2,
        "true_lines": 0.5,
        "tokens": 5.0,
        "steps": 0.0,
    }
    levels = {"correct_digits_1": 1.0, "correct_digits_2": 1 / 3, "correct_digits_3": 0.0}
    assert evaluation.summary(samples, ADDITION) == expected | levels
    assert evaluation.summary(samples, WITHOUT_DIFFICULTY) == expected
    assert evaluation.summary([], ADDITION)["correct"] == 0
