"""How good a model is: accuracy with its standard error, by difficulty; maj@k and unbiased pass@k over samples.

    python -m reasoning_jax.evaluate --config=configs/star_addition.py --workdir=DIR [--split=test] [--samples=k]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

from reasoning_jax.rollout import Sample, summary


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of P(one of k samples is correct) from n samples: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least k samples and 0 <= correct <= n, got n={n}, correct={correct}.")
    return 1.0 - float(Fraction(math.comb(n - correct, k), math.comb(n, k)))


def majority(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """The probability that a vote over these samples is right: the most frequent answer, ties broken at random.

    Answers that could not be parsed do not vote. ``right[i]`` says whether answer i is correct (Wang et al. 2022).
    """
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [a for a, count in votes.items() if count == most]
    return sum(any(r for a, r in zip(answers, right, strict=True) if a == w) for w in winners) / len(winners)


def accuracy_metrics(samples: Sequence[Sample], task: ModuleType) -> dict[str, float]:
    """eval/* of one sample an example: accuracy, its standard error sqrt(p (1 - p) / n), both by difficulty too."""
    if not samples:
        raise ValueError("There is nothing to evaluate: the split is empty.")
    stats = summary(samples, task)
    counts = Counter("{}_{}".format(*task.difficulty(s.example)) for s in samples)
    out = {f"eval/{k}": stats[k] for k in ("unparsed", "truncated", "true_lines", "tokens", "steps")}
    for suffix, n in [("", len(samples)), *((f"_{level}", n) for level, n in counts.items())]:
        p = stats[f"correct{suffix}"]
        out |= {
            f"eval/accuracy{suffix}": p,
            f"eval/accuracy_stderr{suffix}": math.sqrt(p * (1 - p) / n),
            f"eval/count{suffix}": n,
        }
    return out


def vote_metrics(samples: Sequence[Sample], k: int) -> dict[str, float]:
    """maj@k and pass@1, pass@2, pass@4 ... pass@k over k samples an example."""
    groups: dict[int, list[Sample]] = {}
    for s in samples:
        groups.setdefault(s.example.id, []).append(s)
    votes = [majority([s.answer for s in g], [s.correct for s in g]) for g in groups.values()]
    hits = [(len(g), sum(s.correct for s in g)) for g in groups.values()]
    sizes = sorted({k, *(1 << i for i in range(k.bit_length()))})
    passes = {f"eval/pass_at_{j}": sum(pass_at_k(n, c, j) for n, c in hits) / len(hits) for j in sizes if j <= k}
    return {f"eval/maj_at_{k}": sum(votes) / len(votes)} | passes
