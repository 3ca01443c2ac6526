"""TRICE's gradient as a weighted sum of log-likelihoods: the weights, and the rows to train on.

Shapes: M chains of a minibatch, of which the first R get a proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example
from reasoning_jax.training.rows import Row, weighted_row


class Coefficients(NamedTuple):
    """How much of each log-likelihood of a minibatch the gradient takes; arrays are [M].

    gradient = sum(memory * grad log p(z') - proposal * grad log p(z~)) / normaliser
    """

    valid: np.ndarray  # bool: c'
    beta: np.ndarray
    memory: np.ndarray  # of the state z' in the chain's memory
    proposal: np.ndarray  # of the proposal z~, subtracted
    normaliser: int  # sum c'


def coefficients(
    proposal_correct: np.ndarray, memory_correct: np.ndarray, beta: np.ndarray | None = None
) -> Coefficients:
    """The coefficients of Algorithm 1's gradient.

    proposal_correct, memory_correct: [M] bool, c(z~) and c(z). beta: [M]; None is the paper's,
    leave-one-out. An accepted proposal, which is z' and z~ at once, is under ``memory`` alone.
    """
    c_new = np.asarray(proposal_correct, bool)
    c_old = np.asarray(memory_correct, bool)
    valid = c_new | c_old
    normaliser = int(valid.sum())
    if beta is None:
        # A single valid chain has no others to learn from: 0.
        beta = (c_new.sum() - c_new) / max(normaliser - 1, 1)
    beta = np.where(valid, beta, 0.0)
    return Coefficients(
        valid=valid,
        beta=beta,
        memory=valid * (1 - beta * c_new),
        proposal=valid * beta * ~c_new,
        normaliser=normaliser,
    )


def terms(
    stochastic_answers: bool,
    proposal_correct: np.ndarray,
    memory_correct: np.ndarray,
    beta: np.ndarray,
) -> Coefficients:
    """``coefficients``, and those of stochastic answers."""
    plain = coefficients(proposal_correct, memory_correct, beta)
    if not stochastic_answers:
        return plain
    # z' ends in the right answer and z~ in the sampled one: two sequences even where accepted.
    return plain._replace(memory=1.0 * plain.valid, proposal=plain.valid * plain.beta)


def subsample(
    weights: np.ndarray, signs: np.ndarray, count: int, u: float
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of the terms by systematic resampling with probabilities w / sum(w).

    u is uniform in [0, 1). Term i is drawn floor or ceil of count * w_i / sum(w) times, and each
    draw weighs sum(w) / count with its sign, so that the weighted sum over the draws has the mean
    sum_i sign_i w_i f_i for any f. Returns (indices, weights), [count] each.
    """
    total = np.cumsum(weights, dtype=np.float64)
    if not total[-1] > 0:
        return np.zeros(0, int), np.zeros(0)
    positions = (u + np.arange(count)) / count * total[-1]
    last = np.flatnonzero(weights)[-1]
    indices = np.minimum(np.searchsorted(total, positions, side="right"), last)
    return indices, np.asarray(signs)[indices] * (total[-1] / count)


def rows(
    rollout: Rollout,
    examples: Sequence[Example],
    states: Sequence[np.ndarray],
    drawn: Sequence[Sample],
    terms: Coefficients,
    count: int,
    rng: np.random.Generator,
) -> list[Row]:
    """The rows whose weighted log-likelihoods have the gradient of ``terms``.

    states: the tokens of z' of all M chains, among them the accepted proposals; drawn: the R
    proposals z~. count: 0 takes all terms, else so many are drawn by
    ``subsample``.
    """
    weights = np.concatenate([terms.memory, -terms.proposal[: len(drawn)]])
    if count:
        indices, draw_weights = subsample(np.abs(weights), np.sign(weights), count, rng.random())
        # A term that was drawn twice is one row of twice the weight.
        weights = np.bincount(indices, draw_weights, minlength=len(weights))
    used = np.flatnonzero(weights)
    # Split evenly, so that the rows' normalisers add up to sum c'.
    normaliser = terms.normaliser / max(len(used), 1)
    tokens = [*states, *(s.tokens for s in drawn)]
    row_examples = [*examples, *(s.example for s in drawn)]
    return [
        weighted_row(rollout.prompt_ids(row_examples[i]), tokens[i], weights[i], normaliser)
        for i in used
    ]
