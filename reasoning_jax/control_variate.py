"""TRICE's control variate from the past: a coefficient for every question, and how much variance each choice leaves.

For one question the gradient s(z') - b s(z~), where s is the score grad log p(z | x), has the variance (1 - 2 b pi) V + b^2 F,
with V = tr Cov s under the posterior, F = E |s|^2 under the model and pi = p(correct). The best b is pi V / F. The paper's,
b = pi of the batch, takes V / F for 1; it is far from 1 where few rationales lead to the answer, and then the paper's b makes
the variance larger. Ours is b_m = rho pi_m: pi_m from the chain's own acceptances, rho, the one V / F for all, by least
squares of s(z') on pi s(z~). Both come from earlier rounds only and know nothing of the proposals they multiply, so that the
gradient's mean stays as it is.
"""

from __future__ import annotations

import numpy as np

from reasoning_jax.chains import Chains

PRIOR = 2.0  # visits that the data's rate of acceptance counts for in a chain's own
DECAY = 0.9  # of the sums over past rounds, a round (a measurement)


def own_rate(chains: Chains, at: np.ndarray) -> np.ndarray:
    """pi_m [M]: how often these chains accepted, later visits counting more; drawn to the rate of all chains."""
    accepted, proposed = chains.sums[:2]
    recent = chains.recent[at]
    return (recent[:, 0] + PRIOR * accepted / max(proposed, 1.0)) / (recent[:, 1] + PRIOR)


def rho(chains: Chains) -> float:
    """The common V / F; 0, no control variate, before anything was measured."""
    product, square = chains.sums[2:]
    return float(np.clip(product / square, 0.0, 1.0)) if square > 0 else 0.0


def remember(chains: Chains, accept: np.ndarray) -> Chains:
    """Adds this round's acceptances [M] to the sums."""
    sums = chains.sums * [DECAY, DECAY, 1.0, 1.0]
    return chains._replace(sums=sums + [accept.sum(), len(accept), 0.0, 0.0])


def fit(chains: Chains, own: np.ndarray, memory_scores: np.ndarray, proposal_scores: np.ndarray) -> Chains:
    """Adds to the sums of the least squares; own [M], scores [M, D] of z' and z~ (in any projection: update.scores)."""
    product = (own * (memory_scores * proposal_scores).sum(-1)).sum()
    square = (own**2 * (proposal_scores**2).sum(-1)).sum()
    return chains._replace(sums=chains.sums * [1.0, 1.0, DECAY, DECAY] + [0.0, 0.0, product, square])


def variance(memory_weight: np.ndarray, proposal_weight: np.ndarray, scores: tuple[np.ndarray, np.ndarray]) -> float:
    """The trace of the covariance of a minibatch's mean gradient, estimated from its M > 1 terms."""
    terms = memory_weight[:, None] * scores[0] - proposal_weight[:, None] * scores[1]
    return float(terms.var(axis=0, ddof=1).sum() / len(terms))
