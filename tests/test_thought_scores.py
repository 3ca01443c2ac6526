"""What the studies of Quiet-STaR print of rows: the policy's log-probabilities, by their place."""

from pathlib import Path

import jax
import numpy as np
import pytest
from test_pause import tiny_config

from reasoning_jax import experiment
from reasoning_jax.training.rows import completion_row

ROWS = [([1, 5, 9], [7, 8, 3]), ([1, 4], [6, 7, 8, 9, 10, 3]), ([1, 4, 5, 6, 7], [3])]


@pytest.fixture
def thought_scores(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import thought_scores

    monkeypatch.setattr(thought_scores, "BATCH", 2)  # so that there are two batches
    return thought_scores


def make(**forward):
    cfg = tiny_config("quiet_star")
    cfg.forward.update({"thought_length": 2, "num_ahead": 1} | forward)
    exp = experiment.make(cfg, jax.devices()[:1])
    rng = np.random.default_rng(0)

    def draw(x):
        return jax.numpy.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

    return exp, jax.tree.map(draw, exp.abstract_state().params)


def test_scores_are_the_log_probabilities_of_the_policy(thought_scores):
    rows = [completion_row(*row) for row in ROWS]
    exp, params = make()
    scored = thought_scores.with_thoughts(exp, params, rows)
    without = thought_scores.without_thoughts(exp, params, rows)
    plain, _ = make(thinks=False)
    wanted = exp.policy(params).completion_logprobs(rows)
    wanted_without = plain.policy(params).completion_logprobs(rows)
    assert scored.logprobs.shape == (3, 8) and scored.thoughts.shape == (3, 8, 2)
    for i, (prompt, completion) in enumerate(ROWS):
        own = slice(len(prompt), len(prompt) + len(completion))
        np.testing.assert_allclose(scored.logprobs[i, own], wanted[i], atol=1e-4)
        np.testing.assert_allclose(without[i, own], wanted_without[i], atol=1e-4)
        assert not without[i, : len(prompt)].any() and not without[i, own.stop :].any()
    assert np.abs(scored.logprobs - without).max() > 1e-3  # thoughts do something here


def test_thoughts_of_another_row(thought_scores):
    """Of two equal rows nothing changes; of two different ones, what follows each thought."""
    exp, params = make()
    same = [completion_row(*ROWS[0])] * 2
    own = thought_scores.with_thoughts(exp, params, same)
    other = thought_scores.with_thoughts(exp, params, same, others=True)
    np.testing.assert_allclose(own.logprobs, other.logprobs, atol=1e-5)
    rows = [completion_row(*row) for row in ROWS[:2]]
    own = thought_scores.with_thoughts(exp, params, rows)
    other = thought_scores.with_thoughts(exp, params, rows, others=True)
    assert np.abs(own.logprobs - other.logprobs).max() > 1e-3
    np.testing.assert_array_equal(other.thoughts, own.thoughts[::-1])
