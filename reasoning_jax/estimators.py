"""Unbiased estimates, from n samples of a question, of what k samples give.

Thousands of samples overflow no float: they are exact fractions, or sums of probabilities.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import gammaln

MOST_SAMPLES = 16_384  # of a question: maj@k of so many takes some seconds a question
NEGLIGIBLE = 1e-20  # probabilities below it are left out of sums


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
    # The chance that sample i is the best: k / n for the first, then by the ratio of neighbours.
    i = np.arange(n - k)
    ratios = (n - i - k) / (n - i - 1)
    chances = k / n * np.cumprod(np.concatenate([[1.0], ratios]))
    return float(chances[np.asarray(correct, bool)[: n - k + 1]].sum())


def maj_at_k(
    answers: Sequence[str | None], right: Sequence[bool], sizes: Sequence[int]
) -> list[float]:
    """For each k of ``sizes`` the mean of ``majority`` over all choices of k of these samples.

    In a tie of t + 1 answers each wins with probability 1 / (t + 1); None does not vote. Raises
    ValueError where a k is below 1 or above the number of samples.
    """
    n, largest = len(answers), max(sizes)
    if min(sizes) < 1 or largest > n:
        raise ValueError(f"maj@{largest} needs at least k samples, got {n}.")
    votes = Counter(answer for answer in answers if answer is not None)
    right_answers = {a for a, is_right in zip(answers, right, strict=True) if is_right}
    means = []
    for k in sizes:
        mean = 0.0
        for answer in right_answers & votes.keys():
            others = [votes[other] for other in votes if other != answer]
            mean += _wins(votes[answer], others, n, k)
        means.append(min(max(mean, 0.0), 1.0))  # rounding
    return means


def _wins(count: int, others: Sequence[int], n: int, k: int) -> float:
    """P(an answer that ``count`` of n samples give wins the vote of k samples).

    others: the number of samples of each other answer. Where each sample is chosen with probability
    k / n by itself, the votes of different answers are independent, and once k are chosen, all
    choices of k are equally likely. Where the answer has r votes and is preferred in a tie with
    probability s, it wins with r = 1, 2 ... if each other answer has fewer votes, or has r and
    loses the tie; the mean over s from 0 to 1 is 1 / (t + 1) for t ties. That the others, and those
    who do not vote, have k - r samples is read from a product of generating functions.

    Letters of shapes: R numbers of votes, S values of s, F roots of unity.
    """
    p = k / n
    own = _binomial(count, p)
    r = np.flatnonzero(own[: k + 1] > NEGLIGIBLE)
    r = r[r > 0]
    if not len(r):
        return 0.0
    width = min(n, math.ceil(20 * math.sqrt(k * (1 - p)))) + 1  # sums further apart are impossible
    f = np.arange(width // 2 + 1)
    roots = np.exp(-2j * np.pi * np.arange(width) / width)
    rivals = Counter(c for c in others if c >= r[0])
    s, weights = _mean_over_s(min(rivals.total(), k // int(r[0]) - 1))
    free = n - count - sum(rivals.elements())  # those who cannot win are as good as no votes
    product = np.tile((1 - p + p * roots[f]) ** free, (len(s), len(r), 1))  # [S, R, F]
    for c, times in rivals.items():
        votes = np.arange(c + 1)
        terms = _binomial(c, p)[:, None] * roots[votes[:, None] * f % width]
        nothing = np.zeros((1, len(f)))
        fewer = np.cumsum(np.concatenate([nothing, terms]), axis=0)[np.minimum(r, c + 1)]
        equal = np.concatenate([terms, nothing])[np.minimum(r, c + 1)]
        product *= (fewer + s[:, None, None] * equal) ** times
    chances = np.fft.irfft(np.einsum("s,srf->rf", weights, product), width)
    chances = chances[np.arange(len(r)), (k - r) % width]
    return float(own[r] @ chances / _binomial(n, p)[k])


@functools.lru_cache(maxsize=1024)
def _mean_over_s(most_ties: int) -> tuple[np.ndarray, np.ndarray]:
    """Points from 0 to 1 and their weights: the mean of s^t up to so many ties, to rounding."""
    number = min(most_ties // 2 + 1, 2 + 3 * math.isqrt(most_ties))
    points, weights = np.polynomial.legendre.leggauss(number)
    return (points + 1) / 2, weights / 2


@functools.lru_cache(maxsize=1024)
def _binomial(count: int, p: float) -> np.ndarray:
    """The probabilities of 0 ... count successes in so many trials, each with probability p."""
    m = np.arange(count + 1)
    if p == 1:
        return (m == count).astype(float)
    ways = gammaln(count + 1) - gammaln(m + 1) - gammaln(count - m + 1)
    return np.exp(ways + m * math.log(p) + (count - m) * math.log1p(-p))
