"""Stochastic answers: the right answer after each rationale, and the Metropolis-Hastings step over its likelihoods."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.algorithms.trice import stochastic
from reasoning_jax.algorithms import trice
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG

EXAMPLES = [example(i, 10 + i, 40 + i) for i in range(4)]
SCRIPT = dict(
    enumerate([(CORRECT, CORRECT), (WRONG, WRONG), (TRUNCATED, CORRECT), (UNPARSED, UNPARSED)])
)


def likely(roll, log_p):
    """The rollout with log-likelihoods that a table says: those of the tokens' last part, the answer and the end token."""

    def logprobs(examples, tokens):
        return [
            np.append(np.zeros(len(t) - 1), log_p(e, t))
            for e, t in zip(examples, tokens, strict=True)
        ]

    object.__setattr__(roll, "logprobs", logprobs)
    return roll


def test_the_right_answer_takes_the_place_of_the_sampled_one():
    roll = scripted.rollout(SCRIPT)
    right, wrong, cut, unparsed = (stochastic.complete(roll, s) for s in roll(EXAMPLES))
    assert right.correct and right.tokens.tolist() == roll([EXAMPLES[0]])[0].tokens.tolist()
    assert (
        wrong.correct
        and TOK.decode(wrong.tokens).endswith("</scratch>\n52")
        and wrong.tokens[-1] == TOK.eos_id
    )
    assert not cut.correct and not unparsed.correct
    assert stochastic.ending(roll, EXAMPLES[1], "52") == [*TOK.encode("52"), TOK.eos_id]
    short = dataclasses.replace(roll, max_new_tokens=len(right.tokens) - 1)
    assert not stochastic.complete(short, roll([EXAMPLES[0]])[0]).correct


def test_acceptance_is_metropolis_hastings():
    new, old = np.log([0.2, 0.2, 0.4, 0.1]), np.log([0.4, 0.4, 0.2, 0.1])
    assert stochastic.accepts(new, old, np.array([0.49, 0.51, 0.99, 0.99])).tolist() == [
        True,
        False,
        True,
        True,
    ]
    none = np.full(4, -np.inf)
    assert stochastic.accepts(new, none, np.full(4, 0.99)).all()  # a state that cannot be gives way
    assert (
        not stochastic.accepts(none, old, np.full(4, 0.01)).any()
        and not stochastic.accepts(none, none, np.full(4, 0.01)).any()
    )


def test_with_likelihoods_of_0_and_1_it_is_the_deterministic_rule():
    for new, old, u in itertools.product((0.0, -np.inf), (0.0, -np.inf), (0.01, 0.99)):
        assert stochastic.accepts(np.array([new]), np.array([old]), np.array([u]))[0] == (
            new == 0.0
        )


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
        rate = stochastic.accepts(
            np.full(20000, log_l[j]), np.full(20000, log_l[i]), uniforms
        ).mean()
        move[i, j] += prior[j] * rate
        move[i, i] += prior[j] * (1 - rate)
    np.testing.assert_allclose(posterior @ move, posterior, atol=1e-4)


def test_rows_of_a_round():
    """A state weighs 1, its right answer included; the sample as it was drawn weighs minus beta, accepted or not."""
    cfg = config(
        name="trice", online=True, control_variate="batch", stochastic=True, measure_every=0
    )
    cfg.sampling.temperature, cfg.sampling.max_new_tokens = 1.0, 96
    roll = scripted.rollout(SCRIPT, max_length=128)
    roll = likely(dataclasses.replace(roll, max_new_tokens=96), lambda e, t: -0.1)
    chains, _ = trice.begin(roll, EXAMPLES, trice.init_memory(cfg, 4), cfg)
    assert chains.correct.tolist() == [True, True, True, False]
    # The proposals of examples 0 and 1 have rationales, and as likely answers as the states: they are accepted.
    rows, after, report = trice.collect(roll, EXAMPLES, chains, 1, cfg)
    assert after.accepted.tolist() == [1, 1, 0, 0] and report.values["valid"] == 0.75
    weights = [sorted(set(row["weights"].tolist()) - {0.0}) for row in rows]
    assert weights == [
        [1.0],
        [1.0],
        [1.0],
        [-0.5],
        [-0.5],
        [-1.0],
    ]  # beta: of the other two valid chains
    texts = [TOK.decode(row["tokens"]) for row in rows]
    assert texts[1].endswith("\n52") and texts[4].endswith(
        "\n521"
    )  # example 1: what is right, what was sampled
    assert sum(row["share"].sum() for row in rows) == pytest.approx(3)
    assert not any(roll.task.prompt(EXAMPLES[0], EXAMPLES[0].answer) in text for text in texts)


def test_what_cannot_go_together():
    cfg = config(name="trice", online=True, stochastic=True, subsample=3)
    cfg.sampling.temperature = 1.0
    with pytest.raises(ValueError, match=r"config\.algorithm\.subsample"):
        trice.init_memory(cfg, 4)
