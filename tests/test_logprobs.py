"""Per-token log-probabilities: equal to the naive ones, float32, and never a whole batch of logits."""

from __future__ import annotations

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from configs import default
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.training import optim, state, train_step
from reasoning_jax.sampling import engine, methods
from reasoning_jax.algorithms import sft

pytestmark = pytest.mark.usefixtures("quick_compile")


CFG = decoder.ModelConfig(20, 16, 1, 1, 1, 2, 1, tied=False)


def of_targets(hidden, matrix, targets, chunk, cfg=CFG):
    return logprobs.of_targets({"unembedding": matrix}, hidden, targets, cfg, chunk)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    hidden, matrix = rng.normal(size=(3, 11, 16)).astype(np.float32), rng.normal(size=(16, 20)).astype(np.float32)
    targets = rng.integers(0, 20, (3, 11)).astype(np.int32)
    targets[0, 0], targets[0, 1] = 0, 19  # the edges of the vocabulary
    return hidden, matrix, targets


def test_chunks_of_any_size_equal_log_softmax(arrays):
    hidden, matrix, targets = arrays
    expected = np.take_along_axis(log_softmax(hidden @ matrix), targets[..., None], -1)[..., 0]
    for chunk in (1, 4, 11, 64):
        out = of_targets(*arrays, chunk)
        assert out.shape == (3, 11) and out.dtype == jnp.float32
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_chunks_have_the_gradient_of_log_softmax(arrays):
    hidden, matrix, targets = arrays
    weights = np.random.default_rng(1).normal(size=(3, 11)).astype(np.float32)
    found = jax.jit(jax.grad(lambda h, m: jnp.sum(weights * of_targets(h, m, targets, 4)), (0, 1)))(hidden, matrix)
    error = weights[..., None] * (np.eye(20)[targets] - np.exp(log_softmax(hidden @ matrix)))
    np.testing.assert_allclose(found[0], error @ matrix.T, atol=1e-4)
    np.testing.assert_allclose(found[1], np.einsum("bsd,bsv->dv", hidden, error), atol=1e-4)


def test_bfloat16_hidden_states_are_summed_and_normalised_in_float32(arrays):
    hidden, matrix, targets = (jnp.asarray(a) for a in arrays)
    hidden = 4 * hidden.astype(jnp.bfloat16)
    rounded = np.asarray(matrix.astype(jnp.bfloat16), np.float64)  # its products with hidden are exact in float64
    logits = np.asarray(hidden, np.float64) @ rounded
    out = of_targets(hidden, matrix, targets, 4)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.take_along_axis(log_softmax(logits), arrays[2][..., None], -1)[..., 0], atol=1e-4)


@pytest.mark.parametrize(("tied", "vocab", "dims"), [(True, 600, (2, 2, 2)), (False, 601, (1, 4, 1)), (False, 20, (1, 1, 2))])
def test_tiles_of_the_vocabulary_over_several_devices_are_the_chunks_of_one(tied, vocab, dims):
    """Log-probabilities and gradients; 3 tiles of 128 or 256, which divide neither 300 nor 601 entries, and one of 10."""
    rng = np.random.default_rng(3)
    hidden, matrix = rng.normal(size=(4, 11, 16)).astype(np.float32), rng.normal(size=(16, vocab)).astype(np.float32)
    targets = rng.integers(0, vocab, (4, 11)).astype(np.int32)
    targets[0, :2], weights = (0, vocab - 1), rng.normal(size=(4, 11)).astype(np.float32)
    cfg = decoder.ModelConfig(vocab, 16, 1, 1, 1, 2, 1, tied=tied)
    params = {"embedding": np.ascontiguousarray(matrix.T)} if tied else {"unembedding": matrix}

    def total(params, hidden, targets, weights):
        out = logprobs.of_targets(params, hidden, targets, cfg, 4)
        return jnp.sum(out * weights), out

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, expected), grads = run(params, hidden, targets, weights)
    naive = np.take_along_axis(log_softmax(hidden @ matrix), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(expected, naive, atol=1e-5)
    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.parameter_specs(params, mesh))
        arrays = sharding.put((hidden, targets, weights), mesh, "batch", None, None)
        (_, found), others = run(placed, *arrays)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.device_get(others), jax.device_get(grads))
    assert jax.tree.map(lambda x: x.sharding, others[0]) == jax.tree.map(lambda x: x.sharding, placed)


def test_tiles_in_bfloat16_have_gradients_summed_in_float32():
    """Hidden states of 4096 tokens, alike: each adds the same to the gradient, whose sum bfloat16 could not hold."""
    mesh = sharding.make_mesh(2, 1, 1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        arrays = np.ones((2, 2048, 2), np.float32), np.zeros((2, 2048), np.int32)
        hidden, targets = sharding.put(arrays, mesh, "batch", None, None)
        table = sharding.put(np.zeros((4, 2), np.float32), mesh)
        cfg = decoder.ModelConfig(4, 2, 1, 1, 1, 2, 1)
        found = jax.jit(jax.grad(lambda t: jnp.sum(
            logprobs.of_targets({"embedding": t}, hidden.astype(jnp.bfloat16), targets, cfg, 1024))))(table)  # fmt: skip
    assert found.dtype == jnp.float32 and (found[0] == 3072).all() and (found[1:] == -1024).all()


@pytest.fixture(scope="module")
def packed():
    """Two rows of 12: segments of 5, 4 and 3 of padding; and of 1, 11."""
    tokens = np.random.default_rng(2).integers(0, 20, (2, 12)).astype(np.int32)
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] + [2] * 11], np.int32)
    positions = np.array([[*range(5), *range(4), 0, 0, 0], [0, *range(11)]], np.int32)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


def test_first_tokens_and_padding_get_zero_and_the_rest_the_model(tiny, packed):
    cfg, params = tiny
    out = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, packed, cfg))
    hidden, _ = decoder.apply(params, *packed.values(), cfg=cfg)
    naive = log_softmax(np.asarray(hidden) @ np.asarray(params["embedding"]).T)
    assert out.dtype == np.float32 and out.shape == (2, 12)
    for b, s in np.ndindex(out.shape):
        segment = packed["segment_ids"][b, s]
        if segment == 0 or s == 0 or packed["segment_ids"][b, s - 1] != segment:
            assert out[b, s] == 0
        else:
            assert out[b, s] == pytest.approx(naive[b, s - 1, packed["tokens"][b, s]], abs=1e-5)
    assert np.count_nonzero(out) == 4 + 3 + 0 + 10


def test_one_token_continuations_sum_to_one(tiny):
    cfg, params = tiny
    tokens = np.stack([np.full(20, 1), np.full(20, 7), np.arange(20)], 1).astype(np.int32)
    batch = {"tokens": tokens, "positions": np.tile(np.arange(3, dtype=np.int32), (20, 1)), "segment_ids": 1 + 0 * tokens}
    out = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, batch, cfg))
    assert np.exp(out[:, 2]).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(out[:, 1]) < 1e-6 and np.exp(out[:, 2]).max() < 0.99  # and not by one token alone


# The compiled update


def logit_arrays(program: str, rows: int, vocab: int) -> set[str]:
    """The float arrays of a compiled program as large as the logits of ``rows`` tokens, with a vocabulary in a dimension.

    A prime vocabulary also shows in a dimension that it was flattened into, and in any permutation.
    """
    found = set()
    for dtype, dims in re.findall(r"\b(f32|f16|bf16|f64)\[([\d,]+)\]", program):
        sizes = [int(n) for n in dims.split(",")]
        if np.prod(sizes) >= rows * vocab and any(n % vocab == 0 for n in sizes):
            found.add(f"{dtype}[{dims}]")
    return found


def test_a_compiled_update_holds_no_logits_of_the_whole_batch():
    B, S, V = 3, 160, 97
    cfg = default.get_config()
    model_cfg = decoder.ModelConfig(vocab_size=V, width=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16)
    optimizer = optim.make(cfg.optim)
    train_state = jax.eval_shape(lambda: state.fresh(random_params(model_cfg), optimizer))
    ints = jax.ShapeDtypeStruct((1, B, S), jnp.int32)
    batch = dict.fromkeys(("tokens", "positions", "segment_ids"), ints) | {
        "weights": jax.ShapeDtypeStruct((1, B, S), jnp.float32)
    }

    def program(algorithm):
        step = train_step.make_update(algorithm, model_cfg, optimizer, cfg)
        return step.lower(train_state, batch, jax.ShapeDtypeStruct((), jnp.float32)).compile().as_text()

    def naive(params, batch, cfg):
        hidden, _ = decoder.apply(params, batch["tokens"], batch["positions"], batch["segment_ids"], cfg=model_cfg)
        out = jax.nn.log_softmax(decoder.logits(params, hidden, model_cfg)[:, :-1])
        return jnp.pad(jnp.take_along_axis(out, batch["tokens"][:, 1:, None], -1)[..., 0], ((0, 0), (1, 0)))

    rows = B * (S - 1)
    ours = program(sft)
    assert logit_arrays(ours, rows, V) == set()
    assert logit_arrays(program(types.SimpleNamespace(forward=naive, loss=sft.loss)), rows, V)  # it would be seen
    assert f"f32[{B},{logprobs.CHUNK},{V}]" in ours  # what there is instead


# Programs of several devices


def moved(program: str, least: int) -> list[str]:
    """The collectives of a compiled program that make an array of at least so many numbers."""
    found = []
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for shape, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        for dims in re.findall(r"\[([\d,]+)\]", shape):
            if np.prod([int(n) for n in dims.split(",")]) >= least:
                found.append(f"{kind} [{dims}]")
    return found


def test_no_program_of_several_devices_gathers_the_vocabulary_or_reduces_its_gradient_whole():
    """The gradient and a sampler of a model that is nearly all vocabulary, its parameters split over four devices."""
    B, S, V, D = 4, 4 * logprobs.CHUNK, 1024, 16
    cfg = decoder.ModelConfig(vocab_size=V, width=D, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16)
    mesh = sharding.make_mesh(1, 4, 1, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda: decoder.init(key, cfg))
        params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes,
                              sharding.parameter_specs(shapes, mesh))  # fmt: skip
        batch = dict.fromkeys(("tokens", "positions", "segment_ids"), np.ones((B, S), np.int32))
        batch = sharding.put(batch, mesh, "batch", None)
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(logprobs.token_logprobs(p, batch, cfg)))).lower(params)
        prompts, ids, stop = batch["tokens"][:, :16], batch["tokens"][:, 0], sharding.put(np.zeros((1,), np.int32), mesh)
        sampler = engine.sample.lower(params, prompts, ids, ids, ids, key, methods.Greedy(), stop, cfg=cfg, max_new_tokens=4)
        tile, part = V * D // 4, V * D // 4  # four tiles, and four devices
        programs = gradient.compile().as_text(), sampler.compile().as_text()
    assert any("all-gather" in move for move in moved(programs[0], tile)) and not moved(programs[0], tile + 1)
    assert moved(programs[1], 1) and not moved(programs[1], part + 1)
