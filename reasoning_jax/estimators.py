"""Unbiased estimates, from n samples of a question, of what k samples give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def pass_at_k(n: int, correct: int, k: int) -> float:
    """P(one of k samples is correct), from n samples of which ``correct`` are.

    1 - C(n - correct, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1). Raises ValueError
    where n, k or ``correct`` is out of range.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(
            f"pass@{k} needs at least k samples and 0 <= correct <= n, got n={n}, "
            f"correct={correct}."
        )
    return 1.0 - float(Fraction(math.comb(n - correct, k), math.comb(n, k)))


def best_of_k(correct: Sequence[bool], k: int) -> float:
    """P(the best of k samples is correct), from n samples in the verifier's order, the best first.

    sum_i correct_i C(n-i-1, k-1) / C(n, k), i = 0 ... n-k (V-STaR, Hosseini et al. 2024, arXiv
    2402.06457, eq. 3). Raises ValueError where k is below 1 or above n.
    """
    n = len(correct)
    if not 1 <= k <= n:
        raise ValueError(f"best-of-{k} needs at least k samples, got {n}.")
    ways = sum(math.comb(n - i - 1, k - 1) for i, is_right in enumerate(correct) if is_right)
    return float(Fraction(ways, math.comb(n, k)))


def maj_at_k(
    answers: Sequence[str | None], right: Sequence[bool], sizes: Sequence[int]
) -> list[float]:
    """For each k of ``sizes`` the mean of ``majority`` over all choices of k of these samples.

    The choices are counted, not listed. For each right answer and each number r of its votes: the
    choices in which it has r votes and no other answer has more, by how many others have r too. In
    a tie of t + 1 answers each wins with probability 1 / (t + 1). Raises ValueError where a k is
    below 1 or above the number of samples.
    """
    n, largest = len(answers), max(sizes)
    if min(sizes) < 1 or largest > n:
        raise ValueError(f"maj@{largest} needs at least k samples, got {n}.")
    votes = Counter(answer for answer in answers if answer is not None)
    silent = n - votes.total()
    right_answers = {a for a, is_right in zip(answers, right, strict=True) if is_right}
    wins = np.zeros(largest + 1)  # by k: the number of choices, where a tie counts as its share
    for answer, count in votes.items():
        if answer not in right_answers:
            continue
        others = [votes[other] for other in votes if other != answer]
        for r in range(1, min(count, largest) + 1):
            ways = _ways_to_lose(others, silent, r, largest - r)
            winners = 1 + np.arange(len(ways))  # of the tie, this answer included
            wins[r:] += math.comb(count, r) * (ways / winners[:, None]).sum(0)
    return [float(wins[k] / math.comb(n, k)) for k in sizes]


def _ways_to_lose(others: Sequence[int], silent: int, r: int, largest: int) -> np.ndarray:
    """How the rest of a choice can be made where one answer has r votes and no other has more.

    ``others``: the number of samples of each other answer; ``silent``: of those without an answer.
    Returns [T, largest + 1]: the number of ways to choose so many samples (second axis) with so
    many other answers that have r votes (first axis).
    """
    most_ties = (largest + r) // r
    ways = np.zeros((most_ties, largest + 1))
    ways[0, 0] = 1
    for count in others:
        fewer = sum(_choose(ways, count, m) for m in range(min(count, r - 1) + 1))
        if count >= r:
            fewer[1:] += _choose(ways, count, r)[:-1]  # it has r votes too: one more in the tie
        ways = fewer
    return sum(_choose(ways, silent, m) for m in range(silent + 1))


def _choose(ways: np.ndarray, count: int, m: int) -> np.ndarray:
    """The ways [T, K] after another m samples were chosen from ``count`` more."""
    chosen = np.zeros_like(ways)
    if m < ways.shape[1]:
        chosen[:, m:] = math.comb(count, m) * ways[:, : ways.shape[1] - m]
    return chosen
