"""The published families that the one decoder is, by flags: what must hold of each of them."""

from __future__ import annotations

import dataclasses

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params
from test_model import forward, ragged, some_sequences

from reasoning_jax.errors import UserError
from reasoning_jax.model import attention, decoder, logprobs, rotary, sharding
from reasoning_jax.model.config import ModelConfig, RopeScaling

S = 12
TINY = dict(vocab_size=24, width=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8,
            mlp_dim=32)  # fmt: skip
LLAMA_3 = RopeScaling(kind="llama3", factor=8.0, original_length=8)
FAMILIES = {
    "llama-3": ModelConfig(**TINY, rope_scaling=LLAMA_3, rope_theta=100.0, tied=False),
    "qwen-2": ModelConfig(**TINY, qkv_bias=True, norm_eps=1e-6),
    "qwen-3": ModelConfig(**TINY, qk_norm=True),
    "gemma-2": ModelConfig(
        **TINY,
        window=3,
        local_layers=(True, False, True),
        norm_offset=True,
        post_norms=True,
        query_scale=5.0,
        attention_softcap=0.5,
        output_softcap=1.0,
        activation="gelu",
        embed_scale=True,
    ),
    "gemma-3": ModelConfig(
        **TINY,
        window=3,
        local_layers=(True, True, False),
        local_rope_theta=10.0,
        rope_theta=1e6,
        rope_scaling=RopeScaling(kind="linear", factor=8.0),
        norm_offset=True,
        post_norms=True,
        qk_norm=True,
        activation="gelu",
        embed_scale=True,
    ),
    "gpt-j": ModelConfig(
        **TINY | {"num_kv_heads": 4},
        norm="layer",
        rotary="interleaved",
        rotary_dim=4,
        parallel=True,
        mlp_bias=True,
        gated=False,
        activation="gelu",
        tied=False,
        output_bias=True,
    ),
    "gpt-2": ModelConfig(
        **TINY | {"num_kv_heads": 4},
        norm="layer",
        rotary="none",
        max_positions=S,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation="gelu",
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    cfg = FAMILIES[request.param]
    return cfg, random_params(cfg, seed=4)


def packed(sequences, numbers):
    """Some sequences in one row [1, S], as segments."""
    tokens, positions, segments = (np.zeros((1, S), np.int32) for _ in range(3))
    end = 0
    for segment, i in enumerate(numbers, start=1):
        slots = slice(end, end + len(sequences[i]))
        tokens[0, slots] = sequences[i]
        positions[0, slots] = np.arange(len(sequences[i]))
        segments[0, slots] = segment
        end = slots.stop
    return tokens, positions, segments


def test_packed_and_cached_equal_each_sequence_by_itself(family):
    cfg, params = family
    sequences = some_sequences((S, 5, 7), cfg.vocab_size, seed=5)
    full = np.asarray(forward(params, *ragged(sequences, S), cfg=cfg))
    together = np.asarray(forward(params, *packed(sequences, (1, 2)), cfg=cfg))
    np.testing.assert_allclose(together[0, :5], full[1, :5], atol=1e-5)
    np.testing.assert_allclose(together[0, 5:12], full[2, :7], atol=1e-5)

    states = drawing.cached_states(params, sequences, (6, 1, 2), cfg)
    for i, rows in enumerate(states):
        np.testing.assert_allclose(rows, full[i, : len(rows)], atol=1e-5)


def test_a_mesh_gives_the_same_logprobs_and_gradients(family):
    """Every parameter has a rule, and a gradient that is the same split in three ways."""
    cfg, params = family
    sequences = some_sequences((S, 5, 7, 9), cfg.vocab_size, seed=6)
    names = ("tokens", "positions", "segment_ids")
    batch = dict(zip(names, map(jnp.asarray, ragged(sequences, S)), strict=True))
    weights = np.random.default_rng(7).normal(size=(4, S)).astype(np.float32)

    def value_and_grad(params, batch, weights):
        def total(params):
            return jnp.sum(weights * logprobs.token_logprobs(params, batch, cfg))

        return jax.jit(jax.value_and_grad(total))(params)

    value, grads = value_and_grad(params, batch, weights)
    for name, grad in jax.tree_util.tree_leaves_with_path(grads):
        is_key_bias = name[-1].key == "key_bias"  # softmax does not see it
        assert np.abs(grad).max() > 1e-3 or is_key_bias and cfg.rotary == "none", name
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, sharding.parameter_specs(params, mesh))
        arrays = sharding.put((batch, weights), mesh, "batch", None)
        other, other_grads = value_and_grad(sharded, *arrays)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), other_grads, grads)


def test_the_kernel_sees_what_products_see():
    """Of local and other layers, with capped logits, by the interpreted TPU kernel."""
    cfg = dataclasses.replace(
        FAMILIES["gemma-2"], window=40, num_layers=2, local_layers=(True, False)
    )
    params = random_params(cfg, seed=8)
    sequences = some_sequences((128, 70), cfg.vocab_size, seed=8)
    batch = ragged(sequences, 128)
    expected = np.asarray(forward(params, *batch, cfg=cfg))
    kernel = dataclasses.replace(cfg, attention="splash")
    out = np.asarray(forward(params, *batch, cfg=kernel))
    used = batch[2] > 0
    np.testing.assert_allclose(out[used], expected[used], atol=2e-5)
    every = dataclasses.replace(cfg, local_layers=())
    assert np.abs(np.asarray(forward(params, *batch, cfg=every)) - expected)[0, 60:].max() > 1e-3


def test_a_dense_mask_is_cut_to_the_window_of_local_layers():
    cfg = FAMILIES["gemma-3"]
    params = random_params(cfg, seed=9)
    tokens, positions, segments = ragged(some_sequences((S,), cfg.vocab_size), S)
    causal = hidden_states(params, tokens, positions, segments, cfg)
    matrix = attention.DenseMask(jnp.tri(S, dtype=bool)[None])
    inputs = decoder.embed(params, jnp.asarray(tokens), cfg)
    dense = decoder.apply(params, inputs, jnp.asarray(positions), matrix, cfg=cfg)
    np.testing.assert_allclose(dense, causal, atol=1e-5)


def test_scaled_rotary_frequencies_by_hand():
    """Wavelengths 2 pi theta^(i/R) beyond 8 / 1 are slowed by 8, those below 8 / 4 are not."""
    cfg = dataclasses.replace(FAMILIES["llama-3"], head_dim=8, rope_theta=16.0)
    cos, sin = rotary.angles(jnp.array([[1]]), cfg)
    slowed = np.arctan2(sin, cos)[0, 0]
    # Frequencies 1, 1/2, 1/4, 1/8; periods in the original 8 tokens: 1.27, .64, .32, .16.
    kept = (8 / (2 * np.pi) - 1) / 3
    np.testing.assert_allclose(slowed[0], (1 - kept) / 8 + kept, rtol=1e-5)
    np.testing.assert_allclose(slowed[1:], [1 / 16, 1 / 32, 1 / 64], rtol=1e-5)
    quick = dataclasses.replace(LLAMA_3, original_length=64)  # 10.2 periods: as it was
    cos, sin = rotary.angles(jnp.array([[1]]), dataclasses.replace(cfg, rope_scaling=quick))
    np.testing.assert_allclose(np.arctan2(sin, cos)[0, 0, 0], 1.0, rtol=1e-5)


def test_interleaved_pairs_turn_together_and_the_rest_of_a_head_stays():
    x = np.random.default_rng(0).normal(size=(1, 2, 1, 6)).astype(np.float32)
    cos, sin = (f(np.array([[[0.3, 0.5], [1.1, 0.7]]], np.float32)) for f in (np.cos, np.sin))
    out = np.asarray(rotary.rotate(jnp.asarray(x), cos, sin, "interleaved"))
    pairs = (x[..., :4:2] + 1j * x[..., 1:4:2]) * (cos + 1j * sin)[:, :, None]
    np.testing.assert_allclose(out[..., :4:2], pairs.real, rtol=1e-5)
    np.testing.assert_allclose(out[..., 1:4:2], pairs.imag, rtol=1e-5)
    assert np.array_equal(out[..., 4:], x[..., 4:])


def test_one_layer_is_compiled_whatever_the_pattern():
    """The program of a pattern has as many products as that of one kind of layer.

    But for attention's two, which stand there with a window and without.
    """

    def products(cfg):
        params = random_params(cfg)
        batch = ragged(some_sequences((S,), cfg.vocab_size), S)
        return str(jax.make_jaxpr(hidden_states, static_argnums=4)(params, *batch, cfg)).count(
            "dot_general"
        )

    pattern = FAMILIES["gemma-3"]
    one_kind = dataclasses.replace(pattern, local_layers=(), window=0)
    assert products(pattern) == products(one_kind) + 2


def test_a_pattern_that_does_not_fit_is_one_sentence():
    with pytest.raises(UserError, match="num_layers: 3, but 2 layers"):
        ModelConfig(**TINY, window=2, local_layers=(True, False))
    with pytest.raises(UserError, match="local layers need a window"):
        ModelConfig(**TINY, local_layers=(True, False, False))
    with pytest.raises(UserError, match="even size, got 3"):
        ModelConfig(**TINY, rotary_dim=3)
