"""Per-token log-probabilities: the naive ones, in float32, and never a whole batch of logits."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params

from reasoning_jax import algorithms, default
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.pages import Places
from reasoning_jax.sampling import engine, methods
from reasoning_jax.training import optim, state, train_step


def config(vocab, width, **other):
    """A model of which only the output matrix matters."""
    sizes = {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 2, "mlp_dim": 1}
    return decoder.ModelConfig(vocab_size=vocab, width=width, **(sizes | other))


CFG = config(20, 16, tied=False)


def of_targets(hidden, matrix, targets, chunk, cfg=CFG):
    hidden, matrix, targets = (jnp.asarray(x) for x in (hidden, matrix, targets))
    everywhere = jnp.ones(targets.shape, bool)
    return logprobs.of_targets({"unembedding": matrix}, hidden, targets, everywhere, cfg, chunk)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 11, 16)).astype(np.float32)
    matrix = rng.normal(size=(16, 20)).astype(np.float32)
    targets = rng.integers(0, 20, (3, 11)).astype(np.int32)
    targets[0, :2] = 0, 19  # the edges of the vocabulary
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

    def total(hidden, matrix):
        return jnp.sum(weights * of_targets(hidden, matrix, targets, 4))

    d_hidden, d_matrix = jax.jit(jax.grad(total, (0, 1)))(hidden, matrix)
    error = weights[..., None] * (np.eye(20)[targets] - np.exp(log_softmax(hidden @ matrix)))
    np.testing.assert_allclose(d_hidden, error @ matrix.T, atol=1e-4)
    np.testing.assert_allclose(d_matrix, np.einsum("bsd,bsv->dv", hidden, error), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_only_what_is_asked_for_is_computed_and_has_a_gradient(arrays, share):
    hidden, matrix, targets = arrays
    asked = np.random.default_rng(4).random(targets.shape) < share
    is_asked = jnp.asarray(asked)
    spoilt = np.where(asked[..., None], hidden, np.nan)  # which must not spread

    def total(hidden, matrix):
        params = {"unembedding": matrix}
        out = logprobs.of_targets(params, hidden, jnp.asarray(targets), is_asked, CFG, 2)
        return jnp.sum(jnp.where(asked, out, 0.0)), out

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, out), (d_hidden, d_matrix) = run(spoilt, matrix)
    naive = np.take_along_axis(log_softmax(hidden @ matrix), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.asarray(out)[asked], naive[asked], atol=1e-5)
    num_left_out = np.sum(np.asarray(out)[~asked] == 0)
    assert num_left_out >= np.sum(~asked) - 5  # chunks of 6 tokens
    error = asked[..., None] * (np.eye(20)[targets] - np.exp(log_softmax(hidden @ matrix)))
    np.testing.assert_allclose(d_hidden, error @ matrix.T, atol=1e-4)
    np.testing.assert_allclose(d_matrix, np.einsum("bsd,bsv->dv", hidden, error), atol=1e-4)


def test_bfloat16_hidden_states_are_summed_and_normalised_in_float32(arrays):
    hidden, matrix, targets = (jnp.asarray(a) for a in arrays)
    hidden = 4 * hidden.astype(jnp.bfloat16)
    # Products of the rounded matrix with hidden states are exact in float64.
    rounded = np.asarray(matrix.astype(jnp.bfloat16), np.float64)
    logits = np.asarray(hidden, np.float64) @ rounded
    out = of_targets(hidden, matrix, targets, 4)
    assert out.dtype == jnp.float32
    expected = np.take_along_axis(log_softmax(logits), arrays[2][..., None], -1)[..., 0]
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("tied", "vocab", "dims"),
    [(True, 600, (2, 2, 2)), (False, 601, (1, 4, 1)), (False, 20, (1, 1, 2))],
)
def test_tiles_of_the_vocabulary_over_several_devices_are_the_chunks_of_one(tied, vocab, dims):
    """Log-probabilities and gradients.

    3 tiles of 128 or 256, which divide neither 300 nor 601 entries, and one of 10.
    """
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(4, 11, 16)).astype(np.float32)
    matrix = rng.normal(size=(16, vocab)).astype(np.float32)
    targets = rng.integers(0, vocab, (4, 11)).astype(np.int32)
    targets[0, :2] = 0, vocab - 1
    weights = rng.normal(size=(4, 11)).astype(np.float32)
    cfg = config(vocab, 16, tied=tied)
    params = {"embedding": np.ascontiguousarray(matrix.T)} if tied else {"unembedding": matrix}

    def total(params, hidden, targets, weights):
        everywhere = jnp.ones(targets.shape, bool)
        out = logprobs.of_targets(params, hidden, targets, everywhere, cfg, 4)
        return jnp.sum(out * weights), out

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, expected), grads = run(params, hidden, targets, weights)
    naive = np.take_along_axis(log_softmax(hidden @ matrix), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(expected, naive, atol=1e-5)
    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, sharding.parameter_specs(params, mesh))
        arrays = sharding.put((hidden, targets, weights), mesh, "batch", None, None)
        (_, out), others = run(sharded, *arrays)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    shardings = jax.tree.map(lambda x: x.sharding, sharded)
    assert jax.tree.map(lambda x: x.sharding, others[0]) == shardings


def test_tiles_in_bfloat16_have_gradients_summed_in_float32():
    """Hidden states of 4096 tokens, alike.

    Each adds the same to the gradient, whose sum bfloat16 could not hold.
    """
    mesh = sharding.make_mesh(2, 1, 1, devices=jax.devices()[:2])
    cfg = config(4, 2)
    with jax.set_mesh(mesh):
        arrays = np.ones((2, 2048, 2), np.float32), np.zeros((2, 2048), np.int32)
        hidden, targets = sharding.put(arrays, mesh, "batch", None, None)
        table = sharding.put(np.zeros((4, 2), np.float32), mesh)

        def total(table):
            half = hidden.astype(jnp.bfloat16)
            everywhere = jnp.ones(targets.shape, bool)
            params = {"embedding": table}
            out = logprobs.of_targets(params, half, targets, everywhere, cfg, 1024)
            return jnp.sum(out)

        gradient = jax.jit(jax.grad(total))(table)
    assert gradient.dtype == jnp.float32
    assert (gradient[0] == 3072).all()
    assert (gradient[1:] == -1024).all()


@pytest.fixture(scope="module")
def packed():
    """Two packed rows of 12: segments of 5, 4 and 3 of padding; and of 1, 11."""
    tokens = np.random.default_rng(2).integers(0, 20, (2, 12)).astype(np.int32)
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] + [2] * 11], np.int32)
    positions = np.array([[*range(5), *range(4), 0, 0, 0], [0, *range(11)]], np.int32)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


def test_first_tokens_and_padding_get_zero_and_the_rest_the_model(tiny, packed):
    cfg, params = tiny
    out = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, packed, cfg))
    hidden = jax.jit(hidden_states, static_argnames="cfg")(params, *packed.values(), cfg=cfg)
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
    positions = np.tile(np.arange(3, dtype=np.int32), (20, 1))
    batch = {"tokens": tokens, "positions": positions, "segment_ids": 1 + 0 * tokens}
    out = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, batch, cfg))
    assert np.exp(out[:, 2]).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(out[:, 1]) < 1e-6
    assert np.exp(out[:, 2]).max() < 0.99  # and not by one token alone


# The compiled update


def logit_arrays(program: str, tokens: int, vocab: int) -> set[str]:
    """The float arrays of a compiled program that are as large as the logits of so many tokens.

    One dimension is of the vocabulary: a prime one also shows in a dimension that it was flattened
    into, and in any permutation.
    """
    large = set()
    for dtype, dims in re.findall(r"\b(f32|f16|bf16|f64)\[([\d,]+)\]", program):
        sizes = [int(n) for n in dims.split(",")]
        if np.prod(sizes) >= tokens * vocab and any(n % vocab == 0 for n in sizes):
            large.add(f"{dtype}[{dims}]")
    return large


def test_a_compiled_update_holds_no_logits_of_the_whole_batch(monkeypatch):
    B, S, V = 3, 160, 97
    cfg = default.get_config()
    model_cfg = config(V, 8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16)
    optimizer = optim.make(cfg.optim)
    train_state = jax.eval_shape(lambda: state.fresh(random_params(model_cfg), optimizer))
    ints = jax.ShapeDtypeStruct((1, B, S), jnp.int32)
    batch = dict.fromkeys(("tokens", "positions", "segment_ids"), ints)
    batch["weights"] = jax.ShapeDtypeStruct((1, B, S), jnp.float32)
    rate = jax.ShapeDtypeStruct((), jnp.float32)

    def program():
        sft = algorithms.get("sft")
        step = train_step.make_train_step(sft, model_cfg, optimizer, cfg)
        return step.lower(train_state, batch, rate).compile().as_text()

    def naive(params, batch, cfg):
        tokens = batch["tokens"]
        hidden = hidden_states(params, tokens, batch["positions"], batch["segment_ids"], cfg)
        out = jax.nn.log_softmax(decoder.logits(params, hidden, cfg)[:, :-1])
        out = jnp.take_along_axis(out, tokens[:, 1:, None], -1)[..., 0]
        return jnp.pad(out, ((0, 0), (1, 0)))

    tokens = B * (S - 1)
    ours = program()
    assert logit_arrays(ours, tokens, V) == set()
    assert f"f32[{B * logprobs.CHUNK},{V}]" in ours  # what there is instead
    monkeypatch.setattr(logprobs, "token_logprobs", naive)
    assert logit_arrays(program(), tokens, V)  # it would be seen


# Programs of several devices


def moved(program: str, least: int) -> list[str]:
    """The collectives of a compiled program that make an array of at least so many numbers."""
    large = []
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for shape, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        for dims in re.findall(r"\[([\d,]+)\]", shape):
            if np.prod([int(n) for n in dims.split(",")]) >= least:
                large.append(f"{kind} [{dims}]")
    return large


def test_no_program_of_several_devices_gathers_the_vocabulary_or_reduces_its_gradient_whole():
    """The gradient and a sampler of a model that is nearly all vocabulary, over four devices."""
    B, S, V, D = 4, 4 * logprobs.CHUNK, 1024, 16
    cfg = config(V, D, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16)
    mesh = sharding.make_mesh(1, 4, 1, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda: decoder.init(key, cfg))
        params = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            sharding.parameter_specs(shapes, mesh),
        )
        batch = dict.fromkeys(("tokens", "positions", "segment_ids"), np.ones((B, S), np.int32))
        batch = sharding.put(batch, mesh, "batch", None)

        def total(params):
            return jnp.sum(logprobs.token_logprobs(params, batch, cfg))

        gradient = jax.jit(jax.grad(total)).lower(params).compile().as_text()
        tokens, ids = batch["tokens"][:, :16], batch["tokens"][:, 0]
        stop = sharding.put(np.zeros((1,), np.int32), mesh)
        prepared = engine.prepare.lower(params, cfg).compile()
        params = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            prepared.out_info,
            prepared.output_shardings,
        )
        draw = engine.Draw(key=key, ids=ids, indices=ids, method=methods.Greedy(), stop_ids=stop)
        cache = engine.new_cache(cfg, 2 * B)
        places = Places(tables=tokens[:, :2], starts=ids, counts=ids)
        lowered = engine.prefill.lower(params, cache, tokens, places, draw, cfg=cfg)
        prefill = lowered.compile().as_text()
        progress = engine.Progress(last=ids, starts=ids, steps=ids, live=ids > 0)
        numbers = sharding.put((np.int32(1),) * 3, mesh)
        arrays = params, cache, progress, tokens[:, :2], draw, *numbers
        decode = engine.decode.lower(*arrays, cfg=cfg).compile().as_text()
    tile = V * D // 4  # four tiles
    per_device = V * D // 4  # four devices
    assert any("all-gather" in move for move in moved(gradient, tile))
    assert not moved(gradient, tile + 1)
    for program in (prefill, decode):
        assert moved(program, 1)
        assert not moved(program, per_device + 1)
