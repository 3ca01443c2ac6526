"""TRICE: tuning rationales with independence-chain EM (Phan, Hoffman, Dohan et al. 2023, arXiv 2312.02179, Algorithm 1).

Maximises the marginal likelihood of the right answers over the rationales z that lead to them,

    log p(y | x) = log sum_z p(z | x) c(z, y)             c(z, y) = 1 where z ends in the answer y, else 0
    grad log p(y | x) = E_{z ~ p(z | x, y)} [grad log p(z | x)],

with one Markov chain an example, whose stationary law is that posterior. Before round 1 each chain starts from the hinted
guide, z ~ q(z | x, y), right or wrong. A round, for M distinct examples:

    z~ ~ p(. | x)                                a proposal: temperature 1, no hint
    z' = z~ where c(z~, y) = 1, else z           the independence sampler: its ratio of Metropolis-Hastings is c(z~) / c(z)
    c' = c(z', y)                                only valid chains count

    gradient = 1 / sum c' * sum_m c'_m [grad log p(z'_m | x_m) - beta_m grad log p(z~_m | x_m)]

The last term is the control variate: E[grad log p(z~ | x)] = 0, so for valid chains any beta_m that does not look at z~_m
leaves the mean as it is. ``control_variate`` is "none" (beta 0), "batch" (the paper's: how often the other examples of the
batch accept) or "history" (ours: see control_variate.py). ``stochastic`` takes p(y | x, z) for c: see answers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import answers
from reasoning_jax import chains as mcmc
from reasoning_jax import control_variate as cv
from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.chains import Chains
from reasoning_jax.masked import sequence_nll
from reasoning_jax.tasks import Example


def plan(proposal_correct: np.ndarray, memory_correct: np.ndarray, beta: np.ndarray | None = None):
    """Which log-likelihoods of a minibatch the gradient takes, and how much of each.

    proposal_correct, memory_correct: [M] bool, c(z~) and c(z). beta: [M], None = the paper's, leave-one-out. Returns (valid,
    beta, memory_weight, proposal_weight, normaliser): the gradient is sum(memory_weight * grad log p(z') - proposal_weight *
    grad log p(z~)) / normaliser, with an accepted proposal, which is z' and z~ at once, under memory_weight alone.
    """
    c_new, c_old = np.asarray(proposal_correct, bool), np.asarray(memory_correct, bool)
    valid = c_new | c_old
    normaliser = int(valid.sum())
    if beta is None:
        beta = (c_new.sum() - c_new) / max(normaliser - 1, 1)  # a single valid chain has no others to learn from: 0
    beta = np.where(valid, beta, 0.0)
    return valid, beta, valid * (1 - beta * c_new), valid * beta * ~c_new, normaliser


def subsample(weights: np.ndarray, signs: np.ndarray, count: int, u: float) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of the terms by systematic resampling with probabilities w / sum(w); u is uniform in [0, 1).

    Term i is drawn floor or ceil of count * w_i / sum(w) times, and each draw weighs sum(w) / count with its sign, so that
    the weighted sum over the draws has the mean sum_i sign_i w_i f_i for any f. Returns (indices, weights), [count] each.
    """
    total = np.cumsum(weights, dtype=np.float64)
    if not total[-1] > 0:
        return np.zeros(0, int), np.zeros(0)
    places = (u + np.arange(count)) / count * total[-1]
    indices = np.minimum(np.searchsorted(total, places, side="right"), np.flatnonzero(weights)[-1])
    return indices, np.asarray(signs)[indices] * (total[-1] / count)


def init_memory(cfg: ConfigDict, num_examples: int) -> Chains:
    a, s = cfg.algorithm, cfg.sampling
    if (s.temperature, s.top_k, s.top_p) != (1.0, 0, 1.0):
        raise ValueError("config.sampling: TRICE's proposals are the model's own law: temperature 1, top_k 0, top_p 1.")
    if a.control_variate not in ("none", "batch", "history"):
        raise ValueError(f"config.algorithm.control_variate: {a.control_variate!r} is not none, batch or history.")
    if a.control_variate != "none" and not a.online:
        raise ValueError("config.algorithm.control_variate: after the first of a round's updates only 'none' is unbiased.")
    if a.stochastic and a.subsample:
        raise ValueError("config.algorithm.subsample: it needs config.algorithm.stochastic=False.")
    return mcmc.empty(num_examples, s.max_new_tokens)


def begin(rollout, examples: Sequence[Example], chains: Chains, cfg: ConfigDict):
    """The first states: one sample of the hinted guide q(z | x, y) for every example of the data."""
    guide = rollout(examples, hint=True)
    states = [answers.complete(rollout, s) for s in guide] if cfg.algorithm.stochastic else guide
    return mcmc.begin(chains, examples, states), guide


def collect(rollout, examples: Sequence[Example], chains: Chains, round: int, cfg: ConfigDict):
    a, at, rng = cfg.algorithm, mcmc.find(chains, examples), np.random.default_rng([cfg.seed, round])
    if a.refresh:  # this part of the minibatch gets proposals, first of all the chains that have yet to find a right answer
        order = np.argsort(mcmc.valid(chains, a.max_age)[at], kind="stable")
        examples, at = [examples[i] for i in order], at[order]
    new, memory_correct = slice(a.refresh or len(at)), mcmc.valid(chains, a.max_age)[at]
    drawn = rollout(examples[new])
    if a.stochastic:
        states = [chains.state(n) for n in at[new]]
        proposals, accepted = answers.step(rollout, drawn, states, memory_correct[new], rng.random(len(drawn)))
    else:
        proposals, accepted = drawn, np.array([s.correct for s in drawn])
    own = cv.own_rate(chains, at[new])
    betas = {"none": 0.0 * own, "batch": plan(accepted, memory_correct[new])[1], "history": cv.rho(chains) * own}
    accept, beta = np.zeros(len(at), bool), np.zeros(len(at))
    accept[new], beta[new] = accepted, betas[a.control_variate]
    valid, beta, memory_weight, proposal_weight, normaliser = plan(accept, memory_correct, beta)
    if a.stochastic:  # a state has the right answer, its proposal the one that was sampled: two terms, whatever is accepted
        memory_weight, proposal_weight = 1.0 * valid, valid * beta
    chains = cv.remember(mcmc.visit(chains, at[new], proposals, accepted), accepted)

    # Terms 0 ... M-1 are the states z', the others the proposals z~; an accepted proposal is a state by now.
    both, tokens = (*examples, *examples[new]), [chains.state(n) for n in at] + [s.tokens for s in drawn]
    weights = np.concatenate([memory_weight, -proposal_weight[new]])
    if a.subsample:
        indices, each = subsample(np.abs(weights), np.sign(weights), a.subsample, rng.random())
        weights = np.bincount(indices, each, minlength=len(weights))  # one drawn twice is one row of twice the weight
    terms = np.flatnonzero(weights)
    share = normaliser / max(len(terms), 1)
    rows = [rollout.weighted_row(both[i], tokens[i], weights[i], share) for i in terms]

    values = {"valid": valid.mean(), "accepted": accepted.mean(), "beta": beta[new].sum() / max(valid[new].sum(), 1),
              "kept_rows": len(rows)}  # fmt: skip
    if a.measure_every and round % a.measure_every == 0 and (here := valid[new]).sum() > 1:
        pairs = [chains.state(n) for n in at[new]] + [s.tokens for s in drawn]
        scores = rollout.scores([*examples[new]] * 2, pairs).reshape(2, len(drawn), -1)[:, here]
        for name, b in zip(("basic", "paper", "ours"), betas.values(), strict=True):
            _, _, w_memory, w_proposal, _ = plan(accepted, memory_correct[new], b)
            values[f"variance_{name}"] = cv.variance(w_memory[here], w_proposal[here], scores)
        chains = cv.fit(chains, own[here], *scores)
    figures, warnings = mcmc.summary(chains, a.max_age)
    kept = {(s.example.id, s.index, s.hinted) for s, taken in zip(drawn, accepted, strict=True) if taken}
    return rows, chains, Report({k: float(v) for k, v in (values | figures).items()}, drawn, kept, warnings)


def show(chains: Chains, examples: Sequence[Example], experiment) -> list[dict]:
    """Some chains as they are now, for the report."""
    return mcmc.show(chains, examples, experiment.task, experiment.tokenizer)


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    """1, as a second step on the same proposals would be off-policy; where not ``online``, as STaR's, on the states alone."""
    return 1 if cfg.algorithm.online else scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Negative log-likelihood of whole rationales with signed weights; the shares add up to sum c'."""
    return sequence_nll(logprobs, batch)
