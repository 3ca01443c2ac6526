"""A pass in several calls, each seeing the past before it: equal to one pass of all tokens."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params
from test_families import FAMILIES
from test_model import ragged, some_sequences

from reasoning_jax.model import decoder, sharding
from reasoning_jax.model.attention import ColumnMask, DenseMask
from reasoning_jax.model.past import no_past

S = 12
MODELS = {name: FAMILIES[name] for name in ("gemma-2", "gpt-2")}
MODELS["window"] = dataclasses.replace(FAMILIES["qwen-2"], window=3)


def causal(segments, start, count):
    """What tokens start ... start + count - 1 see of those before their end: [B, count, end]."""
    end = start + count
    before = jnp.arange(end)[None] <= jnp.arange(start, end)[:, None]
    return DenseMask(before[None] & (segments[:, None, :end] > 0))


def in_calls(params, tokens, positions, segments, cfg, sizes):
    """The hidden states of all tokens, by one call of ``apply_after`` for each of the sizes."""
    inputs = decoder.embed(params, tokens, cfg)
    past = no_past(cfg, len(tokens))
    out, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        mask = causal(segments, start, size)
        hidden, past = decoder.apply_after(
            params, inputs[:, part], positions[:, part], mask, past, cfg=cfg
        )
        out.append(hidden)
        start += size
    assert past.keys.shape[2] == start and past.positions.shape[1] == start
    return jnp.concatenate(out, axis=1)


def sum_of(function, params, batch, cfg):
    """A number that depends on the hidden states of all tokens but padding."""
    hidden = function(params, *batch, cfg)
    weights = jnp.sin(jnp.arange(hidden.size).reshape(hidden.shape)) * (batch[2] > 0)[..., None]
    return jnp.sum(hidden.astype(jnp.float32) * weights)


@pytest.mark.parametrize("family", MODELS)
def test_calls_equal_one_pass(family):
    cfg = MODELS[family]
    params = random_params(cfg, seed=3)
    batch = [jnp.asarray(x) for x in ragged(some_sequences((S, 7, 2), cfg.vocab_size), S)]
    calls = partial(in_calls, sizes=(5, 1, 6))
    results = []
    for function in (calls, hidden_states):
        total = jax.value_and_grad(partial(sum_of, function, batch=batch, cfg=cfg))
        results.append(jax.jit(total)(params))
    (value, grads), (wanted, wanted_grads) = results
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_grads))

    def compare(path, leaf, wanted_leaf):
        np.testing.assert_allclose(
            leaf / largest, wanted_leaf / largest, atol=2e-6, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(compare, grads, wanted_grads)


@pytest.mark.parametrize("family", MODELS)
def test_columns_equal_a_matrix(family):
    """Two blocks of columns after a text and one block before, with gradients."""
    cfg = MODELS[family]
    params = random_params(cfg, seed=3)
    rng = np.random.default_rng(0)
    B, T, Q, C, N = 2, 5, 3, 2, 3
    text = jnp.asarray(rng.random((B, C * Q, T)) < 0.7)
    own = jnp.asarray(rng.random((B, C * Q, N)) < 0.7).at[:, :, 0].set(True)
    is_own = jnp.tile(jnp.eye(Q, dtype=bool), (C, 1))  # [C Q, Q]
    matrix = (own[..., None] & is_own[None, :, None]).reshape(B, C * Q, N * Q)
    matrix = jnp.concatenate([text, matrix], axis=2)
    positions = jnp.asarray(rng.integers(0, 9, (B, T + N * Q)))
    tokens = jnp.asarray(rng.integers(0, cfg.vocab_size, positions.shape))
    before = T + Q

    def total(params, mask):
        inputs = decoder.embed(params, tokens, cfg)
        first = DenseMask(jnp.ones((B, before, before), bool))
        _, past = decoder.apply_after(
            params,
            inputs[:, :before],
            positions[:, :before],
            first,
            no_past(cfg, B),
            cfg=cfg,
        )
        hidden, past = decoder.apply_after(
            params, inputs[:, before:], positions[:, before:], mask, past, cfg=cfg
        )
        assert past.keys.shape[2] == T + N * Q
        weights = jnp.sin(jnp.arange(hidden.size).reshape(hidden.shape))
        return jnp.sum(hidden.astype(jnp.float32) * weights)

    gradient = jax.jit(jax.value_and_grad(total))
    value, grads = gradient(params, ColumnMask(text, own))
    wanted, wanted_grads = gradient(params, DenseMask(matrix))
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a / largest, b / largest, atol=2e-6),
        grads,
        wanted_grads,
    )


def test_remat(tiny):
    cfg = dataclasses.replace(tiny[0], remat="full")
    batch = [jnp.asarray(x) for x in ragged(some_sequences((S, S), cfg.vocab_size), S)]
    calls = jax.jit(partial(in_calls, sizes=(4, 1, 7)), static_argnames="cfg")
    wanted = hidden_states(tiny[1], *batch, tiny[0])
    np.testing.assert_allclose(calls(tiny[1], *batch, cfg=cfg), wanted, atol=1e-5)


def test_on_a_mesh(tiny):
    cfg, params = tiny
    batch = ragged(some_sequences((S,) * 8, cfg.vocab_size), S)
    calls = partial(in_calls, sizes=(5, 1, 6))
    wanted = sum_of(calls, params, [jnp.asarray(x) for x in batch], cfg)
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, sharding.parameter_specs(params, mesh))
        on_mesh = sharding.put(list(batch), mesh, "batch", None)
        function = jax.jit(jax.value_and_grad(partial(sum_of, calls, cfg=cfg)))
        value, _ = function(split, batch=on_mesh)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


def test_vectors_after_the_vocabulary(tiny):
    """Their ids come in the order of AFTER_VOCABULARY, whichever tables there are."""
    cfg, params = tiny
    rng = np.random.default_rng(0)
    lengths = {"soft_prompt": 3, "pause": 4, "thought_markers": 2}
    tables = {}
    for name, length in lengths.items():
        tables[name] = jnp.asarray(rng.normal(size=(length, cfg.width)), jnp.float32)
    for left_out in ((), ("soft_prompt",), ("pause",), ("soft_prompt", "pause")):
        there = {name: table for name, table in tables.items() if name not in left_out}
        for name, table in there.items():
            first = decoder.first_id(params | there, name, cfg)
            ids = jnp.arange(first, first + len(table))[None]
            np.testing.assert_array_equal(decoder.embed(params | there, ids, cfg)[0], table)
        words = jnp.arange(cfg.vocab_size)[None]
        np.testing.assert_array_equal(
            decoder.embed(params | there, words, cfg), decoder.embed(params, words, cfg)
        )
