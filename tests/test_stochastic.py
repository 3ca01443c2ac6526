"""Stochastic answers: the right answer after each rationale, and the Metropolis-Hastings step."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.algorithms import trice
from reasoning_jax.algorithms.trice import stochastic
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG

EXAMPLES = [example(i, 10 + i, 40 + i) for i in range(4)]
VERDICTS = [(CORRECT, CORRECT), (WRONG, WRONG), (TRUNCATED, CORRECT), (UNPARSED, UNPARSED)]
SCRIPT = dict(enumerate(VERDICTS))


def test_the_right_answer_takes_the_place_of_the_sampled_one():
    roll = scripted.rollout(SCRIPT)
    drawn = roll(EXAMPLES)
    right, wrong, cut, unparsed = (stochastic.with_right_answer(roll, s) for s in drawn)
    assert right.correct and right.tokens.tolist() == drawn[0].tokens.tolist()
    assert wrong.correct and TOK.decode(wrong.tokens).endswith("</scratch>\n52")
    assert wrong.tokens[-1] == TOK.eos_id
    assert not cut.correct and not unparsed.correct
    answer = stochastic.answer_tokens(roll, EXAMPLES[1], "52")
    assert answer == [*TOK.encode("52"), TOK.eos_id]
    # Another end token than the one that is trained on.
    other = dataclasses.replace(drawn[1], tokens=np.append(drawn[1].tokens[:-1], 999))
    assert stochastic.with_right_answer(roll, other).tokens.tolist() == wrong.tokens.tolist()
    short = dataclasses.replace(roll, max_new_tokens=len(right.tokens) - 1)
    assert not stochastic.with_right_answer(short, roll([EXAMPLES[0]])[0]).correct


def test_acceptance_is_metropolis_hastings():
    new, old = np.log([0.2, 0.2, 0.4, 0.1]), np.log([0.4, 0.4, 0.2, 0.1])
    accepted = stochastic.accepts(new, old, np.array([0.49, 0.51, 0.99, 0.99]))
    assert accepted.tolist() == [True, False, True, True]
    impossible = np.full(4, -np.inf)
    # A state that cannot be gives way.
    assert stochastic.accepts(new, impossible, np.full(4, 0.99)).all()
    assert not stochastic.accepts(impossible, old, np.full(4, 0.01)).any()
    assert not stochastic.accepts(impossible, impossible, np.full(4, 0.01)).any()


def test_with_likelihoods_of_0_and_1_it_is_the_deterministic_step():
    for new, old, u in itertools.product((0.0, -np.inf), (0.0, -np.inf), (0.01, 0.99)):
        accepted = stochastic.accepts(np.array([new]), np.array([old]), np.array([u]))
        assert accepted[0] == (new == 0.0)


def test_the_posterior_is_invariant():
    """p(z | x, y) is proportional to p(z) p(y | z), whatever the likelihoods, one of them 0."""
    rng = np.random.default_rng(0)
    prior, likelihood = rng.dirichlet(np.ones(5)), np.array([0.9, 0.4, 0.01, 0.0, 0.6])
    posterior = prior * likelihood / (prior @ likelihood)
    uniforms = (np.arange(20000) + 0.5) / 20000
    with np.errstate(divide="ignore"):
        log_l = np.log(likelihood)
    move = np.zeros((5, 5))
    for i, j in itertools.product(range(5), range(5)):
        new, old = np.full(20000, log_l[j]), np.full(20000, log_l[i])
        rate = stochastic.accepts(new, old, uniforms).mean()
        move[i, j] += prior[j] * rate
        move[i, i] += prior[j] * (1 - rate)
    np.testing.assert_allclose(posterior @ move, posterior, atol=1e-4)


def answer_logprobs(row):
    """Log-probabilities whose sum over the answer and the end token is -0.1."""
    return np.append(np.zeros(len(row["tokens"]) - 1), -0.1)


def test_rows_of_a_round():
    """A state weighs 1, its right answer included; the sample as drawn weighs minus beta.

    Whether it was accepted or not.
    """
    cfg = config(
        "trice",
        rounds={"online": True},
        control_variate="batch",
        stochastic=True,
        measure_every=0,
    )
    cfg.sampling.temperature, cfg.sampling.max_new_tokens = 1.0, 96
    roll = scripted.rollout(
        SCRIPT, max_length=128, max_new_tokens=96, token_logprobs=answer_logprobs
    )
    chains = trice.begin(roll, EXAMPLES, trice.init_memory(cfg, 4), cfg).memory
    assert chains.correct.tolist() == [True, True, True, False]
    # The proposals of examples 0 and 1 have rationales, and as likely answers as the states: they
    # are accepted.
    result = trice.collect(roll, EXAMPLES, chains, 1, cfg)
    rows = result.rows
    assert result.memory.accepted.tolist() == [1, 1, 0, 0] and result.stats["valid"] == 0.75
    weights = [sorted(set(row["weights"].tolist()) - {0.0}) for row in rows]
    # beta: of the other two valid chains
    assert weights == [[1.0], [1.0], [1.0], [-0.5], [-0.5], [-1.0]]
    texts = [TOK.decode(row["tokens"]) for row in rows]
    # Example 1: what is right, what was sampled.
    assert texts[1].endswith("\n52") and texts[4].endswith("\n521")
    assert sum(row["normaliser"].sum() for row in rows) == pytest.approx(3)
    hinted = scripted.prompt(EXAMPLES[0], EXAMPLES[0].answer)
    assert not any(hinted in text for text in texts)


def vector(row):
    """A made-up score vector of a completion."""
    completion = row["tokens"][row["weights"] > 0]
    return [np.cos(completion.sum()), len(completion) / 10]


def test_a_measurement():
    """The variance is that of the terms of a round: two of each valid chain, accepted or not."""
    rounds = {"online": True}
    cfg = config("trice", rounds=rounds, control_variate="none", stochastic=True, measure_every=1)
    cfg.sampling.temperature, cfg.sampling.max_new_tokens = 1.0, 96
    roll = scripted.rollout(
        SCRIPT,
        max_length=128,
        max_new_tokens=96,
        token_logprobs=answer_logprobs,
        vector=vector,
    )
    chains = trice.begin(roll, EXAMPLES, trice.init_memory(cfg, 4), cfg).memory
    stats = trice.collect(roll, EXAMPLES, chains, 1, cfg).stats
    method, asked = roll.policy.calls[-1]
    assert method == "score_vectors" and len(asked) == 8
    states = np.array([vector(row) for row in asked[:3]])
    proposals = np.array([vector(row) for row in asked[4:7]])
    for name, beta in (("basic", [0, 0, 0]), ("paper", [0.5, 0.5, 1.0])):
        g = states - np.array(beta)[:, None] * proposals
        variance = ((g - g.mean(0)) ** 2).sum() / 2 / 3
        assert stats[f"variance_{name}"] == pytest.approx(variance)


def test_what_cannot_go_together():
    rounds = {"online": True, "restart": False, "updates": 1, "growth": 1.0}
    cfg = config("trice", rounds=rounds, stochastic=True, subsample=3)
    cfg.sampling.temperature = 1.0
    with pytest.raises(ValueError, match=r"config\.algorithm\.subsample"):
        trice.check(cfg)
