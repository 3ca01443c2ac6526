"""Metrics of graded samples: accuracy, and what votes and verifiers make of several samples."""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.estimators import best_of_k, maj_at_k, pass_at_k
from reasoning_jax.rollout import Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, Task

Equality = Callable[[str, str], bool]


def summary(samples: Sequence[Sample], task: Task) -> dict[str, float]:
    """Accuracy, scores, verdicts, lengths and true lines of samples, as fractions and means.

    Where the task has difficulties, also the accuracy of each as ``correct_NAME_VALUE``.
    """
    n = max(len(samples), 1)
    right = [s for s in samples if s.correct]
    stats = {
        "samples": len(samples),
        "correct": len(right) / n,
        "score": sum(s.score for s in samples) / n,
        "unparsed": sum(s.verdict == UNPARSED for s in samples) / n,
        "truncated": sum(s.verdict == TRUNCATED for s in samples) / n,
        "true_lines": sum(s.wrong_line is None for s in right) / max(len(right), 1),
        "tokens": sum(len(s.tokens) for s in samples) / n,
        "steps": sum(task.steps(s.text) for s in samples) / n,
    }
    hits: dict[str, list[bool]] = {}
    for sample in samples:
        level = level_name(sample.example, task)
        if level is not None:
            hits.setdefault(level, []).append(sample.correct)
    for level in sorted(hits):
        stats[f"correct_{level}"] = sum(hits[level]) / len(hits[level])
    return stats


def level_name(example: Example, task: Task) -> str | None:
    """The example's difficulty as metrics are named by it, such as "digits_3"; None without one."""
    difficulty = task.difficulty(example)
    if difficulty is None:
        return None
    name, value = difficulty
    return f"{name}_{value}"


def accuracy_metrics(samples: Sequence[Sample], task: Task) -> dict[str, float]:
    """eval/*: accuracy and its standard error sqrt(p (1 - p) / n), by difficulty too.

    ``samples``: one of each example. Raises UserError where there is none.
    """
    if not samples:
        raise UserError("There is nothing to evaluate: the split is empty.")
    stats = summary(samples, task)
    counts = Counter(level_name(s.example, task) for s in samples)
    names = ("score", "unparsed", "truncated", "true_lines", "tokens", "steps")
    values = {f"eval/{name}": stats[name] for name in names}
    sizes = {"": len(samples)}
    sizes |= {f"_{level}": n for level, n in counts.items() if level is not None}
    for suffix, n in sizes.items():
        p = stats[f"correct{suffix}"]
        values[f"eval/accuracy{suffix}"] = p
        values[f"eval/accuracy_stderr{suffix}"] = math.sqrt(p * (1 - p) / n)
        values[f"eval/count{suffix}"] = n
    return values | system_metrics(samples)


def system_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """eval/*: what a system's answers took, as means; {} where there is none.

    These are its calls, the tokens drawn over all of them, and as system_NAME what it counts.
    """
    if not any(sample.calls for sample in samples):
        return {}
    values = {
        "eval/calls": float(np.mean([len(sample.calls) for sample in samples])),
        "eval/drawn_tokens": float(np.mean([sample.num_drawn for sample in samples])),
    }
    for name in sorted({name for sample in samples for name in sample.stats}):
        counted = [sample.stats[name] for sample in samples if name in sample.stats]
        values[f"eval/system_{name}"] = float(np.mean(counted))
    return values


def vote_metrics(
    samples: Sequence[Sample],
    k: int,
    scores: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    task: Task | None = None,
    equal: Equality = operator.eq,
) -> dict[str, float]:
    """maj@j and pass@j for j = 1, 2, 4 ... k over k samples an example, with standard errors.

    These are eval/maj_at_J and eval/pass_at_J, and the same with _stderr, over examples. Answers
    that the grader calls ``equal`` vote together; what was cut off does not vote. ``scores``: the
    samples' scores by the name of a verifier's curve, of which a best-of-j is made each; ties are
    broken at random, the same in every run. With a ``task`` that has difficulties, all of that for
    each of them too, as eval/maj_at_J_NAME_VALUE.
    """
    scores = scores or {}
    levels: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        level = level_name(sample.example, task) if task else None
        if level is not None:
            levels.setdefault(level, []).append(i)
    values = {}
    for level, members in levels.items():
        part = [samples[i] for i in members]
        part_scores = {name: [score[i] for i in members] for name, score in scores.items()}
        for name, value in _curves(part, k, part_scores, equal).items():
            values[f"{name}_{level}"] = value
    return values | _curves(samples, k, scores, equal)


def _curves(
    samples: Sequence[Sample],
    k: int,
    scores: Mapping[str, Sequence[float] | np.ndarray],
    equal: Equality,
) -> dict[str, float]:
    groups: dict[int, list[int]] = {}  # example id -> its samples' positions
    for i, sample in enumerate(samples):
        groups.setdefault(sample.example.id, []).append(i)
    sizes = sorted({k, *(1 << i for i in range(k.bit_length()))})
    tables: dict[str, list[list[float]]] = {"maj_at": [], "pass_at": []}  # a line for each example
    tables |= {name: [] for name in scores}
    for members in groups.values():
        group = [samples[i] for i in members]
        right = [s.correct for s in group]
        tables["maj_at"].append(maj_at_k(_parties(group, equal), right, sizes))
        tables["pass_at"].append([pass_at_k(len(right), sum(right), j) for j in sizes])
        for name, score in scores.items():
            ranked = _ranking(group, [score[i] for i in members])
            tables[name].append([best_of_k([right[n] for n in ranked], j) for j in sizes])
    values = {}
    for name, table in tables.items():
        curves = np.array(table)  # [examples, sizes]
        errors = curves.std(0) / math.sqrt(len(curves))
        for j, mean, error in zip(sizes, curves.mean(0), errors, strict=True):
            values[f"eval/{name}_{j}"] = float(mean)
            values[f"eval/{name}_{j}_stderr"] = float(error)
    return values


def _parties(group: Sequence[Sample], equal: Equality) -> list[int | None]:
    """Which answer each sample of an example votes for, by number; None = it does not vote.

    All right answers are one party, -1; so are wrong ones that are equal, or equal to a third,
    whatever the order of the samples.
    """
    wrong = sorted({sample.answer or "" for sample in group if sample.verdict == WRONG})
    party = {answer: number for number, answer in enumerate(wrong)}
    for first, second in itertools.combinations(wrong, 2):
        if party[first] != party[second] and equal(first, second):
            joined = party[second]
            party = {a: party[first] if n == joined else n for a, n in party.items()}
    parties: list[int | None] = []
    for sample in group:
        if sample.verdict == CORRECT:
            parties.append(-1)
        else:
            parties.append(party[sample.answer or ""] if sample.verdict == WRONG else None)
    return parties


def _ranking(group: Sequence[Sample], scores: Sequence[float]) -> list[int]:
    """The positions of an example's samples, the highest score first, ties in a random order."""
    tie = np.random.default_rng(group[0].example.id).permutation(len(group))

    def key(n: int) -> tuple[float, int]:
        return -scores[n], tie[group[n].index]

    return sorted(range(len(group)), key=key)
