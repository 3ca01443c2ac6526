"""Reweighted wake-sleep: its importance weights, and the rows that they make."""

from __future__ import annotations

import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.algorithms import wake_sleep
from reasoning_jax.algorithms.wake_sleep import importance_weights
from reasoning_jax.tasks import CORRECT, WRONG

EXAMPLES = [example(i, 10 + i, 40 + i) for i in range(3)]


def test_weights_by_hand():
    log_p = np.log([[0.2, 0.1, 0.3], [0.5, 0.5, 0.5]])
    log_q = np.log([[0.1, 0.1, 0.1], [0.1, 0.2, 0.3]])
    correct = np.array([[True, True, False], [False, False, False]])
    weights = importance_weights(log_p, log_q, correct)
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3, 0], [0, 0, 0]])
    # Whole sequences are this unlikely.
    unlikely = importance_weights(log_p - [[900.0], [0]], log_q, correct)
    np.testing.assert_allclose(unlikely[0], [2 / 3, 1 / 3, 0])


def test_a_guide_that_is_the_model_makes_it_rejection_sampling():
    log_p = np.random.default_rng(0).normal(size=(4, 5))
    correct = log_p > 0
    expected = correct / np.maximum(correct.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(importance_weights(log_p, log_p, correct), expected)


def test_many_particles_give_the_posterior():
    """Weighted samples of any guide have the distribution p(z | x, y) in the limit."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    right = np.array([1, 0, 1, 1, 0, 0], bool)
    z = rng.choice(6, 200_000, p=q)
    weights = importance_weights(np.log(p[z])[None], np.log(q[z])[None], right[z][None])[0]
    np.testing.assert_allclose(np.bincount(z, weights, 6), p * right / (p @ right), atol=0.01)


def test_rows_are_the_correct_hinted_samples_without_their_hint():
    cfg = config("wake_sleep", num_samples=2)
    cfg.sampling.temperature = 1.0
    wake_sleep.check(cfg)
    script = {0: (WRONG, CORRECT), 1: (CORRECT, WRONG), 2: (WRONG, CORRECT)}
    roll = scripted.rollout(script, token_logprobs=lambda row: -2.0 * np.ones(len(row["tokens"])))
    result = wake_sleep.collect(roll, EXAMPLES, (), 1, cfg)
    assert roll.calls == [(True, [0, 1, 2], 2)] and result.memory == ()
    assert len(result.rows) == 4 and result.stats["effective"] == 2.0
    assert result.stats["reached"] == pytest.approx(2 / 3)
    for row, e in zip(result.rows, [EXAMPLES[0]] * 2 + [EXAMPLES[2]] * 2, strict=True):
        text = TOK.decode(row["tokens"])
        assert text.startswith(f"{e.question}\n<scratch>")
        assert scripted.prompt(e, e.answer) not in text
        assert set(row["weights"].tolist()) == {0.0, 0.5} and row["normaliser"].sum() == 0.5


def test_importance_weights_need_the_whole_distribution():
    with pytest.raises(ValueError, match=r"^config\.sampling: importance weights [^\n]*\.$"):
        wake_sleep.check(config("wake_sleep"))
