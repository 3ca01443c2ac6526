"""Masked sums: what does not count never enters, in value or in gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax.training.losses import masked_sum, weighted_nll

X = jnp.array([[1.0, np.nan, -2.0], [np.inf, 4.0, -np.inf]], jnp.float32)
W = jnp.array([[0.5, 0.0, -1.0], [0.0, 2.0, 0.0]], jnp.float32)


def test_a_sum_by_hand():
    assert float(masked_sum(X, W)) == 0.5 + 2.0 + 8.0


def test_gradients_are_the_weights():
    assert np.array_equal(jax.grad(masked_sum)(X, W), W)
    assert np.array_equal(jax.grad(masked_sum)(X, 0 * W), 0 * W)


def test_sums_in_float32():
    """bfloat16 has 8 bits: 1 + 1 + ... stops at 256."""
    ones = jnp.ones((3000,), jnp.bfloat16)
    out = masked_sum(ones, ones)
    assert out.dtype == jnp.float32 and float(out) == 3000


def test_weighted_nll_by_hand():
    """Two prompts of one token; completions of two and one; padding, whose value is never used."""
    logprobs = np.log(np.array([[0.9, 0.5, 0.25], [0.9, 0.1, 0.3]], np.float32))
    logprobs[1, 2] = np.nan
    batch = {"weights": jnp.array([[0, 1, 1], [0, -0.5, 0]], jnp.float32)}
    loss = weighted_nll(jnp.asarray(logprobs), batch)
    by_hand = -np.log(0.5) - np.log(0.25) + 0.5 * np.log(0.1)
    assert float(loss.total) == pytest.approx(by_hand, rel=1e-6)
    assert float(loss.weight) == 3.0  # tokens that count, whatever their sign
    assert loss.means == loss.maxima == {}
