"""Preferences by scores, lengths and battles: small cases by hand, and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasoning_jax import ranking
from reasoning_jax.ranking import Preferred


def test_standardized():
    np.testing.assert_allclose(ranking.standardized([1, 2, 3]), [-(1.5**0.5), 0, 1.5**0.5])
    np.testing.assert_array_equal(ranking.standardized([2, 2]), [0, 0])


def test_best_and_worst_by_hand():
    scores, lengths = [1, 4, 3, 0], [5, 90, 10, 7]
    assert ranking.best_and_worst(scores, lengths, 0.0) == Preferred(1, 3)
    # z(score) = (-.63, 1.26, .63, -1.26), z(length) = (-.65, 1.73, -.51, -.59)
    assert ranking.best_and_worst(scores, lengths, 0.5) == Preferred(2, 3)
    assert ranking.best_and_worst([2, 2, 2], [1, 5, 9], 1.0) is None
    # What is shorter and no better is not preferred.
    assert ranking.best_and_worst([2, 2, 1], [1, 99, 50], 5.0) is None


def test_scale_and_shift_of_scores_do_not_matter():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, lengths = rng.normal(size=8), rng.normal(size=8)
        pair = ranking.best_and_worst(scores, lengths, 0.4)
        assert ranking.best_and_worst(3 * scores + 7, 2 * lengths - 1, 0.4) == pair


def test_tiers_by_hand():
    scores, lengths = [5, 4, 3.2, 1], [40, 10, 5, 30]
    assert ranking.shortest_and_longest(scores, lengths, 0.0) == Preferred(0, 3)
    assert ranking.shortest_and_longest(scores, lengths, 0.25) == Preferred(1, 3)
    # Ties within a tier go by length.
    assert ranking.shortest_and_longest([5, 5, 1, 1], [9, 3, 4, 8], 0.0) == Preferred(1, 3)
    assert ranking.shortest_and_longest([3, 3], [1, 2], 0.5) is None
    # Where the tiers overlap, the shortest and the longest may be one, or score the same.
    assert ranking.shortest_and_longest([1, 2, 3], [5, 1, 9], 1.0) is None


def test_length_control_reduces_length():
    """The mean of length(chosen) - length(rejected) does not rise with rho, nor with the weight."""
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(500):
        quality, length = rng.normal(size=7), rng.normal(size=7)
        drawn.append((quality + 0.5 * length + rng.normal(size=7), length))
    for select in (ranking.shortest_and_longest, ranking.best_and_worst):
        drifts = []
        for strength in (0.0, 0.2, 0.4, 0.6):
            pairs = [(select(*one, strength), one[1]) for one in drawn]
            drifts.append(np.mean([n[p.chosen] - n[p.rejected] for p, n in pairs if p]))
        assert (np.diff(drifts) < 0).all(), select.__name__
        assert drifts[0] > 0.4


# ---- battles -------------------------------------------------------------------------------------


def test_side_weights():
    assert ranking.side_weights(70, 30) == (0.3, 0.7)
    first, second = ranking.side_weights(70, 30)
    assert 70 * first == pytest.approx(30 * second)  # both places earn the same
    assert ranking.side_weights(0, 0) == (0.5, 0.5)


def test_elo_recovers_ratings():
    """battles[m, n] = sigmoid(e_m - e_n) has its maximum at e."""
    true = np.array([1.2, -0.3, 0.4, -1.3])
    battles = 1 / (1 + np.exp(true[None] - true[:, None]))
    np.fill_diagonal(battles, 0)
    np.testing.assert_allclose(ranking.elo(battles, 0.0 + 1e-9), true, atol=1e-4)


def test_elo_of_two_in_closed_form():
    """Of w wins and l losses the ratings differ by ln(w / l)."""
    ratings = ranking.elo(np.array([[0, 6], [2, 0]]), 1e-9)
    assert ratings[0] - ratings[1] == pytest.approx(np.log(3), abs=1e-6)


def test_elo_of_who_wins_everything_is_finite():
    perfect = 2 * np.triu(np.ones((3, 3)), 1)  # once in each order
    ratings = ranking.elo(perfect, 1e-2)
    np.testing.assert_allclose(ratings, [3.93, 0, -3.93], atol=5e-3)
    # The first one's battles pull it up as hard as the ridge pulls it down.
    pull = sum(2 / (1 + np.exp(ratings[0] - other)) for other in ratings[1:])
    assert pull == pytest.approx(1e-2 * ratings[0])
    assert ranking.elo(perfect, 1e-4)[0] > ratings[0]  # the height is the ridge's
    np.testing.assert_array_equal(ranking.elo(np.zeros((3, 3))), [0, 0, 0])


# ---- agreement, similarity -----------------------------------------------------------------------


def test_agreement_by_hand():
    found = ranking.agreement([2, 1, 1, 0], [5, 4, 3, 4])
    # Of six pairs one is equal; 2 > 1, 2 > 1 and 2 > 0 are right, 1 > 0 is once a tie, once wrong.
    assert found == (3.5, 5) and found.fraction == 0.7
    assert ranking.agreement([1, 1], [0, 5]).fraction == 0.5


def test_the_longest_common_subsequence_is_that_of_all_subsequences():
    rng = np.random.default_rng(2)
    for _ in range(200):
        first = rng.integers(3, size=rng.integers(0, 7)).tolist()
        second = rng.integers(3, size=rng.integers(0, 7)).tolist()
        common = {
            n
            for n in range(len(first) + 1)
            if set(itertools.combinations(first, n)) & set(itertools.combinations(second, n))
        }
        assert ranking.longest_common_subsequence(first, second) == max(common)


def test_rouge_l():
    assert ranking.rouge_l("the cat sat".split(), "the cat ran off".split()) == 4 / 7
    assert ranking.rouge_l([], []) == 0 and ranking.rouge_l(["a"], ["a"]) == 1
