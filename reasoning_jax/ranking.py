"""Which of several responses is preferred: by scores, by lengths beside them, and by battles.

K responses to one instruction have scores [K] and lengths [K], in any unit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RIDGE = 1e-3  # of Elo ratings: keeps them finite where one wins every battle
STEPS = 100  # of Newton's method, at most


class Preferred(NamedTuple):
    chosen: int
    rejected: int


def standardized(values: Sequence[float] | np.ndarray) -> Float[np.ndarray, " K"]:
    """(v - mean) / std; 0 where all values are the same."""
    array = np.asarray(values, np.float64)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 0 else np.zeros_like(array)


def best_and_worst(
    scores: Sequence[float], lengths: Sequence[float], length_weight: float
) -> Preferred | None:
    """The highest and the lowest of z(score) - length_weight z(length); the first of equals.

    None where the former does not score more (Wu et al. 2024, arXiv:2410.10630, section 2.3).
    """
    values = standardized(scores) - length_weight * standardized(lengths)
    pair = Preferred(int(np.argmax(values)), int(np.argmin(values)))
    return pair if scores[pair.chosen] > scores[pair.rejected] else None


def shortest_and_longest(
    scores: Sequence[float], lengths: Sequence[float], tier: float
) -> Preferred | None:
    """The shortest of the best tier and the longest of the worst; the first of equals.

    The tiers reach from the highest score down, and from the lowest up, by ``tier`` (rho) of what
    lies between them. None where the former does not score more (Wu et al. 2024, arXiv:2407.19594,
    section 2.2).
    """
    array, size = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    low, high = array.min(), array.max()
    reach = tier * (high - low)
    in_best, in_worst = array >= high - reach, array <= low + reach
    chosen = int(np.argmin(np.where(in_best, size, np.inf)))
    rejected = int(np.argmax(np.where(in_worst, size, -np.inf)))
    return Preferred(chosen, rejected) if array[chosen] > array[rejected] else None


# ---- battles -------------------------------------------------------------------------------------


def side_weights(first_wins: int, second_wins: int) -> tuple[float, float]:
    """What a win in the first and in the second place counts: less where wins are more frequent.

    The place that a judge favours is the one that wins more (arXiv:2407.19594, equation 3); both
    count 1/2 where there are no wins.
    """
    total = first_wins + second_wins
    if total == 0:
        return 0.5, 0.5
    return second_wins / total, first_wins / total


def elo(battles: Float[np.ndarray, "K K"], ridge: float = RIDGE) -> Float[np.ndarray, " K"]:
    """Ratings e, with mean 0, of the greatest sum of battles[m, n] log sigmoid(e_m - e_n).

    battles[m, n]: how often, or with which weight, m beat n (arXiv:2407.19594, equation 4). The sum
    is less ridge / 2 sum(e^2), without which who wins or loses every battle has no finite rating.
    """
    count = len(battles)
    ratings = np.zeros(count)
    for _ in range(STEPS):
        wins = 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))  # P(m beats n)
        surprise = battles * (1 - wins)
        gradient = surprise.sum(1) - surprise.sum(0) - ridge * ratings
        weights = (battles + battles.T) * wins * (1 - wins)
        curvature = np.diag(weights.sum(1)) - weights + ridge * np.eye(count)
        step = np.linalg.solve(curvature, gradient)
        ratings = ratings + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return ratings - ratings.mean()


# ---- agreement -----------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """Of pairs of responses to one instruction of which one is better."""

    right: float  # those in the right order, and half of those with equal scores
    total: int

    @property
    def fraction(self) -> float:
        return self.right / self.total if self.total else 0.5


def agreement(quality: Sequence[float], scores: Sequence[float]) -> Agreement:
    """How often the scores order responses as their quality does."""
    right, total = 0.0, 0
    for m in range(len(quality)):
        for n in range(m):
            better = np.sign(quality[m] - quality[n])
            if better:
                total += 1
                right += (1 + better * np.sign(scores[m] - scores[n])) / 2
    return Agreement(float(right), total)


def together(found: Sequence[Agreement]) -> Agreement:
    """Of all their pairs."""
    return Agreement(sum(one.right for one in found), sum(one.total for one in found))


# ---- similarity ----------------------------------------------------------------------------------


def rouge_l(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """2 LCS / (m + n): ROUGE-L's F1 of two lists of words; 0 where both are empty."""
    if not first and not second:
        return 0.0
    return 2 * longest_common_subsequence(first, second) / (len(first) + len(second))


def longest_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Its length, a row of the usual table at a time, as bits of an integer (Hyyro 2004).

    A 0 in bit i says that the length grows at word i of ``first``.
    """
    places: dict[Hashable, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    all_ones = (1 << len(first)) - 1
    row = all_ones
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & all_ones
    return len(first) - row.bit_count()
