"""TRICE: tuning rationales with independence-chain EM (Phan et al. 2023, arXiv 2312.02179).

Algorithm 1 maximises the marginal likelihood of the right answers over the rationales z that lead
to them,

    log p(y | x) = log sum_z p(z | x) c(z, y)         c(z, y) = 1 where z ends in y, else 0
    grad log p(y | x) = E_{z ~ p(z | x, y)} [grad log p(z | x)],

with one Markov chain an example, whose stationary distribution is that posterior. Before round 1
each chain starts from the hinted guide, z ~ q(z | x, y), right or wrong. A round, for M distinct
examples:

    z~ ~ p(. | x)                          a proposal: temperature 1, no hint
    z' = z~ where c(z~, y) = 1, else z     the independence sampler: its Metropolis-Hastings ratio
                                           is c(z~) / c(z)
    c' = c(z', y)                          only valid chains count

    gradient = 1 / sum c' * sum_m c'_m [grad log p(z'_m | x_m) - beta_m grad log p(z~_m | x_m)]

The last term is the control variate: E[grad log p(z~ | x)] = 0, so where the state was right before
the step (c(z, y) = 1) any beta_m that does not look at z~_m leaves the mean as it is. A chain that
is valid through z~_m alone counts 1 - beta_m. ``control_variate`` is "none" (beta 0), "batch" (the
paper's: how often the other examples of the batch accept) or "history" (ours: control_variate.py).
``stochastic`` takes p(y | x, z) for c: stochastic.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Programs, Record, check_hinted_prompts
from reasoning_jax.algorithms.trice import chains as mcmc
from reasoning_jax.algorithms.trice import control_variate as cv
from reasoning_jax.algorithms.trice import gradient, stochastic
from reasoning_jax.algorithms.trice.chains import Chains
from reasoning_jax.algorithms.trice.charts import CHARTS
from reasoning_jax.algorithms.trice.gradient import coefficients
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, key, one_of
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.sampling.methods import check_untruncated
from reasoning_jax.tasks import Example, Task
from reasoning_jax.tokenizer import Tokenizer
from reasoning_jax.training.losses import Loss, sequence_nll
from reasoning_jax.training.rows import completion_row

__all__ = ["BATCH", "CHARTS", "Config", "collect", "loss"]
BATCH = ("weights", "normaliser")
FORWARDS = ("plain", "pause")  # score vectors are of one pass
check_data = check_hinted_prompts  # the guide's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # Batch is the paper's, history ours.
    control_variate: str = key("history", one_of("none", "batch", "history"))
    # How many of a round's chains get a proposal; the others stay; 0 = all.
    refresh: int = key(0, at_least(0))
    stochastic: bool = False  # p(y | x, z) is the model's own, not whether the answer is right
    # Terms of a gradient, by systematic resampling; 0 = all.
    subsample: int = key(0, at_least(0))
    # A chain without an acceptance in so many visits is left out; 0 = never.
    max_age: int = key(0, at_least(0))
    # Rounds between measurements of the gradient's variance, from which "history" learns; 0 =
    # never.
    measure_every: int = key(10, at_least(0))


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    check_untruncated(cfg.sampling, "TRICE's proposals are the model's own distribution")
    if a.control_variate != "none" and not cfg.rounds.online:
        raise UserError(
            f"config.algorithm.control_variate: {a.control_variate!r} needs rounds.online=True; "
            "with many updates a round the proposals are soon not the model's own: set 'none'."
        )
    schedule = cfg.rounds.updates, cfg.rounds.growth, cfg.rounds.increment
    if cfg.rounds.online and schedule != (1, 1.0, 0):
        raise UserError(
            "config.rounds.updates, growth, increment: with rounds.online they must be 1, 1.0 and "
            "0; a second update would find proposals of an older model."
        )
    if cfg.rounds.online and cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: with rounds.online an update must start from the model that "
            "drew the proposals: False."
        )
    if a.control_variate == "history" and not a.measure_every:
        raise UserError(
            "config.algorithm.measure_every: control_variate='history' learns from measurements: "
            "above 0."
        )
    if a.refresh and not cfg.rounds.examples:
        raise UserError(
            "config.algorithm.refresh: it needs config.rounds.examples, or the same chains would "
            "get every round's proposals."
        )
    if a.stochastic and a.subsample:
        raise UserError("config.algorithm.subsample: it needs config.algorithm.stochastic=False.")


# ---- the E-step --------------------------------------------------------------------------------


def init_memory(cfg: ConfigDict, num_examples: int) -> Chains:
    return mcmc.empty(num_examples, cfg.sampling.max_new_tokens)


def begin(
    rollout: Rollout, examples: Sequence[Example], chains: Chains, cfg: ConfigDict
) -> Collected:
    """The first states: one sample of the hinted guide q(z | x, y) for every example."""
    guide = rollout(examples, hint=True)
    states = guide
    if cfg.algorithm.stochastic:
        states = [stochastic.with_right_answer(rollout, s) for s in guide]
    correct = sum(s.correct for s in guide) / len(guide)
    return Collected(
        rows=[],
        memory=mcmc.start(chains, examples, states),
        stats={"first_states_correct": correct},
        samples=guide,
    )


def collect(
    rollout: Rollout, examples: Sequence[Example], chains: Chains, round: int, cfg: ConfigDict
) -> Collected:
    """One step of the chains of these examples, and the terms of the gradient."""
    a = cfg.algorithm
    rng = np.random.default_rng([cfg.seed, round])
    examples, indices = mcmc.in_order_of_need(chains, examples, a.refresh, a.max_age)
    memory_correct = mcmc.valid(chains, a.max_age)[indices]  # c(z), and not expired

    # Propose z~ for all chains, or for the first of them, and accept or reject. ``drawn`` is z~ as
    # the model wrote it, for the control variate; ``proposals`` is what may become the state, with
    # stochastic answers z~ with the right answer in the place of its own.
    proposed = slice(a.refresh or len(indices))
    drawn = rollout(examples[proposed])
    if a.stochastic:
        states = [chains.state(n) for n in indices[proposed]]
        u = rng.random(len(drawn))
        exists = memory_correct[proposed]
        proposals, accepted = stochastic.propose(rollout, drawn, states, exists, u)
    else:
        proposals = drawn
        accepted = np.array([s.correct for s in drawn])  # c(z~)

    # All three control variates: one is used, and compared with the others when variance is
    # measured.
    rates = cv.acceptance_rates(chains, indices[proposed])
    betas = {
        "none": 0.0 * rates,
        "batch": coefficients(accepted, memory_correct[proposed]).beta,
        "history": cv.rho(chains) * rates,
    }
    proposal_correct = np.zeros(len(indices), bool)
    proposal_correct[proposed] = accepted
    beta = np.zeros(len(indices))
    beta[proposed] = betas[a.control_variate]
    terms = gradient.terms(a.stochastic, proposal_correct, memory_correct, beta)

    chains = mcmc.step(chains, indices[proposed], proposals, accepted)
    chains = cv.count_acceptances(chains, accepted)
    states = [chains.state(n) for n in indices]  # z'
    rows = gradient.rows(rollout, examples, states, drawn, terms, a.subsample, rng)

    valid = terms.valid[proposed]
    stats = {
        "valid": float(terms.valid.mean()),
        "accepted": float(accepted.mean()),
        "beta": float(terms.beta[proposed].sum() / max(valid.sum(), 1)),
        "kept_rows": len(rows),
    }
    is_measured = a.measure_every and round % a.measure_every == 0
    if is_measured and valid.sum() > 1:  # a variance needs two terms
        vectors = _score_vectors(rollout, states[proposed], drawn)
        memory_vectors, proposal_vectors = vectors[:, valid]
        for name, b in zip(("basic", "paper", "ours"), betas.values(), strict=True):
            measured = gradient.terms(a.stochastic, accepted, memory_correct[proposed], b)
            stats[f"variance_{name}"] = cv.variance(
                measured.memory[valid], measured.proposal[valid], memory_vectors, proposal_vectors
            )
        chains = cv.fit(chains, rates[valid], memory_vectors, proposal_vectors)
    figures, warnings = mcmc.summary(chains, a.max_age)
    return Collected(
        rows=rows,
        memory=chains,
        stats=stats | figures,
        samples=drawn,
        kept={s.key for s, taken in zip(drawn, accepted, strict=True) if taken},
        warnings=warnings,
    )


def _score_vectors(
    rollout: Rollout, states: Sequence[np.ndarray], drawn: Sequence[Sample]
) -> np.ndarray:
    """[2, R, D]: the score vectors of the states z' and of the proposals z~."""
    rows = [completion_row(s.prompt_ids, z) for s, z in zip(drawn, states, strict=True)]
    rows += [completion_row(s.prompt_ids, s.tokens) for s in drawn]
    return rollout.policy.score_vectors(rows).reshape(2, len(drawn), -1)


def show(
    chains: Chains, examples: Sequence[Example], task: Task, tokenizer: Tokenizer
) -> dict[str, list[Record]]:
    """Some chains as they are now, for the report."""
    return {"chains": mcmc.records(chains, examples, task, tokenizer)}


# ---- the M-step --------------------------------------------------------------------------------


def programs(cfg: ConfigDict) -> Programs:
    return Programs(updates={"": BATCH}, logprobs=cfg.algorithm.stochastic)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of whole rationales with signed weights.

    Divided by sum c' where rounds.online, else by what the batch's rows carry of it.
    """
    return sequence_nll(logprobs, batch)
