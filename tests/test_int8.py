"""Matrices in 8 bits: rounded to their outputs' scales, and sampled with as what they stand for."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from reasoning_jax.model import decoder, int8, sharding
from reasoning_jax.model.parameters import BLOCK_MATRICES, num_inputs
from reasoning_jax.policy import Policy
from reasoning_jax.sampling.methods import Temperature
from reasoning_jax.sampling.sequences import Request


def test_every_output_has_its_own_scale():
    w = jnp.array([[1.0, 100.0, 0.0], [-0.5, -127.0, 0.0]])
    rounded, scales = int8.quantize(w, (0,))
    assert rounded.dtype == jnp.int8
    np.testing.assert_array_equal(rounded, [[127, 100, 0], [-64, -127, 0]])
    np.testing.assert_allclose(scales, [1 / 127, 1.0, 1.0], rtol=1e-6)


def test_the_nearest_step_is_at_most_half_a_scale_away():
    w = np.random.default_rng(0).normal(size=(3, 16, 2, 5)).astype(np.float32)
    rounded, scales = int8.quantize(jnp.asarray(w), (1,))
    assert scales.shape == (3, 2, 5)
    error = np.abs(np.asarray(rounded) * np.asarray(scales)[:, None] - w)
    assert (error <= np.asarray(scales)[:, None] / 2 + 1e-7).all()
    assert error.max() > np.asarray(scales).min() / 4


def dequantized(params, cfg):
    """The float parameters that 8-bit ones stand for; only ``output`` of the tables."""
    layers = dict(params["layers"])
    for name in BLOCK_MATRICES.keys() & layers.keys():
        inputs = tuple(range(1, 1 + num_inputs(name)))
        rounded, scales = int8.quantize(layers[name], inputs)
        layers[name] = rounded * jnp.expand_dims(scales, inputs)
    prepared = decoder.for_decoding(params | {"layers": layers}, cfg)
    inputs = (1,) if cfg.tied else (0,)
    rounded, scales = int8.quantize(prepared["output"], inputs)
    return prepared | {"output": rounded * jnp.expand_dims(scales, inputs)}


def test_a_cache_in_8_bits_is_nearly_the_model(tiny):
    """Its samples are the same on any mesh, and their log-probabilities near the exact ones."""
    cfg, params = tiny
    rng = np.random.default_rng(0)
    requests = [Request(i, 0, rng.integers(3, 20, 9 + i).astype(np.int32)) for i in range(4)]

    def drawn(mesh, **changes):
        policy = Policy(
            params=params, model_cfg=cfg, mesh=mesh, batch_size=4, max_length=64, **changes
        )
        options = dict(method=Temperature(1.0), stop_ids=[-1], max_new_tokens=30)
        parts = list(policy.generate(requests, key=jax.random.key(0), **options))
        order = np.argsort(np.concatenate([part.requests for part in parts]))
        return [
            np.concatenate([getattr(p, x) for p in parts])[order] for x in ("tokens", "logprobs")
        ]

    _, exact = drawn(None)
    tokens, logprobs = drawn(None, int8_cache=True)
    error = np.abs(logprobs - exact)[:, :5]  # later tokens may be others
    assert 0 < error.max() < 0.02
    mesh = sharding.make_mesh(2, 1, 2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, sharding.parameter_specs(params, mesh))
        others, _ = drawn(mesh, int8_cache=True)
    np.testing.assert_array_equal(others, tokens)


@pytest.mark.parametrize("changes", [{}, {"tied": False, "mlp_bias": True, "qkv_bias": True}])
@pytest.mark.parametrize("dims", [None, (1, 1, 2), (1, 2, 1), (2, 1, 1)])
def test_samples_are_those_of_the_rounded_model(tiny, monkeypatch, changes, dims):
    cfg = dataclasses.replace(tiny[0], **changes)
    params = random_params(cfg) if changes else tiny[1]
    rng = np.random.default_rng(0)
    requests = [Request(i, 0, rng.integers(3, 20, 9 + i).astype(np.int32)) for i in range(4)]

    def drawn(params, mesh, in_int8):
        policy = Policy(
            params=params,
            model_cfg=cfg,
            mesh=mesh,
            batch_size=4,
            max_length=32,
            in_int8=in_int8,
        )
        options = dict(method=Temperature(1.0), stop_ids=[-1], max_new_tokens=12)
        parts = list(policy.generate(requests, key=jax.random.key(0), **options))
        order = np.argsort(np.concatenate([part.requests for part in parts]))
        tokens = np.concatenate([part.tokens for part in parts])[order]
        return tokens, np.concatenate([part.logprobs for part in parts])[order]

    exact = drawn(params, None, False)
    monkeypatch.setattr(Policy, "_params_to_decode", dequantized(params, cfg))
    expected = drawn(params, None, False)
    monkeypatch.undo()
    mesh = None
    if dims:
        mesh = sharding.make_mesh(*dims, devices=jax.devices()[:2])
        params = jax.device_put(params, sharding.parameter_specs(params, mesh))
    if mesh is None:
        tokens, logprobs = drawn(params, None, True)
    else:
        with jax.set_mesh(mesh):
            tokens, logprobs = drawn(params, mesh, True)
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_allclose(logprobs, expected[1], atol=1e-4)
    assert np.abs(logprobs - exact[1]).max() > 1e-3  # it is another model
