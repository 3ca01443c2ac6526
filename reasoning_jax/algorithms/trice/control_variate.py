"""TRICE's control variate from the past: a coefficient for every question.

For one question the gradient s(z') - b s(z~), where s is the score vector grad log p(z | x), has
the variance (1 - 2 b pi) V + b^2 F, with V = tr Cov s under the posterior, F = E |s|^2 under the
model and pi = p(correct). The best b is pi V / F. The paper's, b = pi of the batch, takes V / F for
1; it is far from 1 where few rationales lead to the answer, and then the paper's b makes the
variance larger. Ours is b_m = rho pi_m: pi_m from the chain's own acceptances, rho, the one V / F
for all, by least squares of s(z') on pi s(z~). Both come from earlier rounds only and know nothing
of the proposals that they multiply, so that the gradient's mean stays as it is for chains whose
state was right before.
"""

from __future__ import annotations

import numpy as np

from reasoning_jax.algorithms.trice.chains import Chains

PRIOR_VISITS = 2.0  # visits that the data's rate of acceptance counts for in a chain's own
DECAY = 0.9  # of the sums over past rounds, a round (a measurement)

# The sums: acceptances, proposals, products and squares of the least squares.
RATE_DECAY = np.array([DECAY, DECAY, 1.0, 1.0])
FIT_DECAY = np.array([1.0, 1.0, DECAY, DECAY])


def acceptance_rates(chains: Chains, indices: np.ndarray) -> np.ndarray:
    """pi_m [M]: how often these chains accepted, later visits counting more.

    Drawn to the rate of all chains.
    """
    accepted, proposed = chains.sums[:2]
    recent = chains.recent[indices]
    rate = accepted / max(proposed, 1.0)
    return (recent[:, 0] + PRIOR_VISITS * rate) / (recent[:, 1] + PRIOR_VISITS)


def rho(chains: Chains) -> float:
    """The common V / F; 0, no control variate, before anything was measured."""
    product, square = chains.sums[2:]
    return float(np.clip(product / square, 0.0, 1.0)) if square > 0 else 0.0


def count_acceptances(chains: Chains, accepted: np.ndarray) -> Chains:
    """Adds this round's acceptances [M] to the sums."""
    counts = [accepted.sum(), len(accepted), 0.0, 0.0]
    return chains._replace(sums=chains.sums * RATE_DECAY + counts)


def fit(
    chains: Chains, rates: np.ndarray, memory_vectors: np.ndarray, proposal_vectors: np.ndarray
) -> Chains:
    """Adds to the sums of the least squares.

    rates: [M]; the score vectors [M, D] of z' and z~, or a proxy of them: ``Policy.score_vectors``.
    """
    product = (rates * (memory_vectors * proposal_vectors).sum(-1)).sum()
    square = (rates**2 * (proposal_vectors**2).sum(-1)).sum()
    return chains._replace(sums=chains.sums * FIT_DECAY + [0.0, 0.0, product, square])


def variance(
    memory_weights: np.ndarray,
    proposal_weights: np.ndarray,
    memory_vectors: np.ndarray,
    proposal_vectors: np.ndarray,
) -> float:
    """The trace of the covariance of a minibatch's mean gradient, from its M > 1 terms."""
    memory_terms = memory_weights[:, None] * memory_vectors
    terms = memory_terms - proposal_weights[:, None] * proposal_vectors
    return float(terms.var(axis=0, ddof=1).sum() / len(terms))
