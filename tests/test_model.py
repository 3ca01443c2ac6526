"""The transformer: causal, the same packed, padded, rematerialised and cached, equal to others."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import partial

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params
from jaxtyping import TypeCheckError

from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder
from reasoning_jax.model.attention import CausalMask, DenseMask
from reasoning_jax.sampling import methods

S = 12
forward = jax.jit(hidden_states, static_argnames="cfg")


def ragged(sequences, width):
    """Sequences, padded on the right: tokens, positions, segment ids [B, width]."""
    tokens, positions, segments = (np.zeros((len(sequences), width), np.int32) for _ in range(3))
    for i, sequence in enumerate(sequences):
        length = len(sequence)
        tokens[i, :length] = sequence
        positions[i, :length] = np.arange(length)
        segments[i, :length] = 1
    return tokens, positions, segments


def some_sequences(lengths, vocab, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n) for n in lengths]


def reference(params, sequences, cfg):
    """The hidden states of each sequence by itself, by numpy in float64.

    One head and one position at a time.
    """
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    half = cfg.head_dim // 2
    group = cfg.num_heads // cfg.num_kv_heads

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def rotary(x, position):  # pairs (i, i + H/2)
        angle = position * cfg.rope_theta ** (-2 * np.arange(half) / cfg.head_dim)
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag])

    out = []
    for sequence in sequences:
        x = p["embedding"][sequence]
        for layer in range(cfg.num_layers):
            w = {k: v[layer] for k, v in p["layers"].items()}
            h = norm(x, w["attention_norm"])
            mixed = np.zeros_like(x)
            for head in range(cfg.num_heads):
                kv, g = divmod(head, group)
                q = np.stack([rotary(v, t) for t, v in enumerate(h @ w["query"][:, kv, g])])
                k = np.stack([rotary(v, t) for t, v in enumerate(h @ w["key"][:, kv])])
                v = h @ w["value"][:, kv]
                for t in range(len(sequence)):
                    first = max(0, t + 1 - cfg.window) if cfg.window else 0
                    seen = slice(first, t + 1)
                    e = np.exp(k[seen] @ q[t] / np.sqrt(cfg.head_dim))
                    mixed[t] += (e / e.sum()) @ v[seen] @ w["attention_out"][kv, g]
            x = x + mixed
            h = norm(x, w["mlp_norm"])
            gate = h @ w["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
        out.append(norm(x, p["final_norm"]))
    return out


@pytest.fixture(scope="module")
def sequences(tiny):
    return some_sequences((S, 5, 1, 8), tiny[0].vocab_size)


@pytest.fixture(scope="module")
def plain(tiny, sequences):
    """Hidden states of the four ragged sequences in one padded call."""
    cfg, params = tiny
    return np.asarray(forward(params, *ragged(sequences, S), cfg=cfg))


def test_equals_a_float64_reference(tiny, sequences, plain):
    cfg, params = tiny
    for i, expected in enumerate(reference(params, sequences, cfg)):
        np.testing.assert_allclose(plain[i, : len(sequences[i])], expected, rtol=1e-5, atol=1e-5)


def test_a_window_equals_a_float64_reference(tiny, sequences, plain):
    cfg, params = tiny
    near = dataclasses.replace(cfg, window=3)
    hidden = np.asarray(forward(params, *ragged(sequences, S), cfg=near))
    for i, expected in enumerate(reference(params, sequences, near)):
        np.testing.assert_allclose(hidden[i, : len(sequences[i])], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hidden[0, :3], plain[0, :3], atol=1e-6)
    assert np.abs(hidden[0, 3:] - plain[0, 3:]).max() > 1e-2


def test_padding_and_what_it_holds_do_not_matter(tiny, sequences, plain):
    cfg, params = tiny
    tokens, positions, segments = ragged(sequences, S + 4)
    tokens[segments == 0] = 7  # masks come from lengths, not from a pad id
    wider = np.asarray(forward(params, tokens, positions, segments, cfg=cfg))
    assert np.isfinite(wider).all()
    for i, sequence in enumerate(sequences):
        length = len(sequence)
        np.testing.assert_allclose(wider[i, :length], plain[i, :length], atol=1e-5)


def test_packed_equals_unpacked(tiny, sequences, plain):
    """Three sequences in one packed row, in the shape of ``plain``'s call.

    The padding of the end is a segment of its own, 0.
    """
    cfg, params = tiny
    tokens, positions, segments = (np.zeros((4, S), np.int32) for _ in range(3))
    end = 0
    for number, i in enumerate((1, 2, 1), start=1):
        length = len(sequences[i])
        slots = slice(end, end + length)
        tokens[0, slots] = sequences[i]
        positions[0, slots] = np.arange(length)
        segments[0, slots] = number
        end = slots.stop
    out = np.asarray(forward(params, tokens, positions, segments, cfg=cfg))
    expected = np.concatenate([plain[i, : len(sequences[i])] for i in (1, 2, 1)])
    np.testing.assert_allclose(out[0, :end], expected, atol=1e-5)


def test_no_gradient_flows_from_later_tokens_or_other_segments(tiny):
    """d hidden[t] / d embedding of token s is exactly 0 where t may not see s.

    All tokens are different.
    """
    cfg, params = tiny
    tokens = np.arange(S)[None]
    segments = np.array([[1] * 5 + [2] * 5 + [0] * 2])
    positions = np.array([[*range(5), *range(5), 0, 0]])
    direction = np.random.default_rng(1).normal(size=cfg.width)

    @jax.jit
    def jacobian(table):
        def project(embedding):
            changed = params | {"embedding": embedding}
            return hidden_states(changed, tokens, positions, segments, cfg)[0] @ direction

        return jax.jacrev(project)(table)

    seen = np.abs(jacobian(params["embedding"])).max(-1)[:, :S]  # [t, s]
    allowed = np.tril(segments[0][:, None] == segments[0])
    assert (seen[:10][~allowed[:10]] == 0).all()
    assert (seen[:10][allowed[:10]] > 1e-4).all()


def test_remat_changes_neither_value_nor_gradient(tiny, sequences):
    cfg, params = tiny
    batch = ragged(sequences, S)
    weights = np.random.default_rng(2).normal(size=(4, S, cfg.width)).astype(np.float32)

    @partial(jax.jit, static_argnames="cfg")
    def value_and_grad(params, cfg):
        def total(params):
            return jnp.sum(weights * hidden_states(params, *batch, cfg))

        return jax.value_and_grad(total)(params)

    value, grad = value_and_grad(params, cfg)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grad))
    for remat in ("full", "dots"):
        other, other_grad = value_and_grad(params, dataclasses.replace(cfg, remat=remat))
        np.testing.assert_allclose(other, value, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), other_grad, grad
        )


def test_untied_output_and_bfloat16(tiny, sequences, plain):
    cfg, params = tiny
    hidden = jnp.asarray(plain)
    tied = decoder.logits(params, hidden, cfg)
    np.testing.assert_allclose(tied, plain @ np.asarray(params["embedding"]).T, atol=1e-5)

    other_cfg = dataclasses.replace(cfg, tied=False)
    other = random_params(other_cfg)
    assert set(other) == set(params) | {"unembedding"}
    assert other["unembedding"].shape == (cfg.width, cfg.vocab_size)
    untied = decoder.logits(other, hidden, other_cfg)
    np.testing.assert_allclose(untied, plain @ np.asarray(other["unembedding"]), atol=1e-5)

    half_cfg = dataclasses.replace(cfg, dtype="bfloat16")
    half = forward(params, *ragged(sequences, S), cfg=half_cfg)
    assert half.dtype == jnp.bfloat16
    assert decoder.logits(params, half, half_cfg).dtype == jnp.float32
    used = ragged(sequences, S)[2] > 0
    error = np.abs(np.asarray(half, np.float32) - plain)[used]
    # 8 bits of mantissa on numbers of about 1.
    assert 0 < error.max() < 0.25
    assert error.mean() < 0.02


@pytest.mark.parametrize(("kv_heads", "window"), [(2, 0), (4, 0), (2, 3)])
def test_cached_decoding_equals_the_full_pass(tiny, kv_heads, window):
    """Prefill of ragged prompts, then a token at a time, each sequence at its own position."""
    cfg, _ = tiny
    cfg = dataclasses.replace(cfg, num_kv_heads=kv_heads, num_layers=2, window=window)
    params = random_params(cfg, seed=3)
    sequences = some_sequences((S, 9, 7), cfg.vocab_size, seed=3)
    full = np.asarray(forward(params, *ragged(sequences, S), cfg=cfg))
    states = drawing.cached_states(params, sequences, (5, 1, 1, 1, 3, 1), cfg)
    for i, sequence in enumerate(sequences):
        np.testing.assert_allclose(states[i], full[i, : len(sequence)], atol=1e-5)


apply = jax.jit(decoder.apply, static_argnames="cfg")


def test_any_vectors_can_be_inputs(tiny, sequences, plain):
    """Vectors of no token too; and causality holds for them."""
    cfg, params = tiny
    tokens, positions, segments = ragged(sequences, S)
    vectors = np.array(decoder.embed(params, jnp.asarray(tokens), cfg))
    np.testing.assert_array_equal(vectors, np.asarray(params["embedding"])[tokens])
    mask = CausalMask(segments)
    hidden = apply(params, vectors, positions, mask, cfg=cfg)
    np.testing.assert_allclose(hidden, plain, atol=1e-5)
    vectors[0, 6] += 1.0  # no token has this vector
    changed = apply(params, vectors, positions, mask, cfg=cfg)
    np.testing.assert_allclose(changed[0, :6], plain[0, :6], atol=1e-5)
    assert np.abs(changed[0, 6:] - plain[0, 6:]).max(-1).min() > 1e-3


def test_a_dense_mask_is_taken_as_given(tiny, sequences, plain):
    """The causal mask as a matrix is the causal mask; one that is all true sees later tokens."""
    cfg, params = tiny
    tokens, positions, segments = ragged(sequences, S)
    inputs = np.asarray(params["embedding"])[tokens]
    same_segment = segments[:, :, None] == segments[:, None]
    causal = same_segment & (segments[:, :, None] > 0) & np.tri(S, dtype=bool)
    hidden = apply(params, inputs, positions, DenseMask(causal), cfg=cfg)
    is_text = segments > 0
    np.testing.assert_allclose(hidden[is_text], plain[is_text], atol=1e-5)
    everything = DenseMask(np.ones_like(causal))
    hidden = apply(params, inputs, positions, everything, cfg=cfg)
    assert np.abs(hidden[0, 0] - plain[0, 0]).max() > 1e-2


def test_shapes_are_checked_while_the_tests_run(tiny):
    cfg, params = tiny
    inputs, positions = jnp.zeros((1, 2, cfg.width)), jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(TypeCheckError, match="positions"):
        decoder.apply(params, inputs, positions, CausalMask(positions), cfg=cfg)


def test_a_seed_gives_the_parameters_of_the_first_version(tiny):
    """The order in which parameters are declared is part of a seed. Two numbers of each kind."""
    cfg = dataclasses.replace(tiny[0], tied=False)
    params = jax.jit(decoder.init, static_argnames="cfg")(jax.random.key(0), cfg=cfg)
    layers = params["layers"]
    expected = [
        (params["embedding"], [0.019035624, -0.40393648]),
        (params["unembedding"], [0.15043893, 0.0638307]),
        (layers["query"], [-0.0655866, 0.12146834]),
        (layers["attention_out"], [-0.05913771, 0.13043864]),
        (layers["down"][1], [-0.16398717, 0.05672759]),
    ]
    for array, numbers in expected:
        np.testing.assert_allclose(array.ravel()[:2], numbers, rtol=1e-6)
    for scale in (params["final_norm"], layers["attention_norm"], layers["mlp_norm"]):
        assert (scale == 1).all()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num_kv_heads": 3}, "num_heads"),
        ({"head_dim": 5}, "head_dim"),
    ],
)
def test_config_errors_name_the_key(tiny, change, key):
    cfg, _ = tiny
    with pytest.raises(UserError, match=rf"^config\.model[^\n]*{key}[^\n]*\.$"):
        dataclasses.replace(cfg, **change)


# A model that somebody else trained and ran


@pytest.fixture(scope="module")
def stories(data_dir):
    """stories260K in our shapes, and the golden ids and logits of its SOURCE.md."""
    folder = data_dir / "stories260k"
    if not (folder / "stories260K.bin").is_file():
        pytest.skip(f"there is no stories260K.bin in {folder}")
    raw = (folder / "stories260K.bin").read_bytes()
    D, M, L, N, K, V, length = np.frombuffer(raw, "<i4", 7).tolist()
    floats = np.frombuffer(raw, "<f4", offset=28)
    H = D // N
    at = 0

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return floats[at - int(np.prod(shape)) : at].reshape(shape)

    def halves(w):  # interleaved rotary pairs (2i, 2i + 1) of axis -2 to halves (i, i + H/2)
        return np.concatenate([w[..., 0::2, :], w[..., 1::2, :]], axis=-2)

    embedding, attention_norm = take(V, D), take(L, D)
    query = halves(take(L, K, N // K, H, D)).transpose(0, 4, 1, 2, 3)
    key = halves(take(L, K, H, D)).transpose(0, 3, 1, 2)
    value = take(L, K, H, D).transpose(0, 3, 1, 2)
    attention_out = take(L, D, K, N // K, H).transpose(0, 2, 3, 4, 1)
    mlp_norm = take(L, D)
    gate = take(L, M, D).transpose(0, 2, 1)
    down = take(L, D, M).transpose(0, 2, 1)
    up = take(L, M, D).transpose(0, 2, 1)
    final_norm = take(D)
    take(length, H // 2), take(length, H // 2)  # tables of the rotary embedding
    assert at == floats.size
    cfg = decoder.ModelConfig(
        vocab_size=V,
        width=D,
        num_layers=L,
        num_heads=N,
        num_kv_heads=K,
        head_dim=H,
        mlp_dim=M,
    )
    layers = {
        "attention_norm": attention_norm,
        "query": query,
        "key": key,
        "value": value,
        "attention_out": attention_out,
        "mlp_norm": mlp_norm,
        "gate": gate,
        "up": up,
        "down": down,
    }
    params = {"embedding": embedding, "final_norm": final_norm, "layers": layers}
    source = (folder / "SOURCE.md").read_text()
    ids = ast.literal_eval(re.search(r"\[1, 403[\d, ]*\]", source)[0])
    logits = ast.literal_eval(re.search(r"first 8 (\[.*?\])", source)[1])
    return cfg, jax.tree.map(jnp.asarray, params), ids, logits


def test_a_trained_model_gives_its_golden_logits_and_text(stories):
    cfg, params, golden, logits = stories
    shapes = jax.eval_shape(lambda k: decoder.init(k, cfg), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, params)
    assert len(golden) == 201 and golden[0] == 1
    start = np.ones((1, 1), np.int32)
    hidden = hidden_states(params, start, 0 * start, start, cfg)
    np.testing.assert_allclose(decoder.logits(params, hidden, cfg)[0, 0, :8], logits, atol=1e-4)

    zero = np.zeros((1,), np.int32)
    samples = drawing.sample(
        params,
        np.array([[1] + 15 * [0]], np.int32),
        zero + 1,
        zero,
        zero,
        jax.random.key(0),
        methods.Greedy(),
        [2],
        cfg=cfg,
        max_new_tokens=200,
    )
    assert samples.tokens[0].tolist() == golden[1:]
    nll = -float(samples.logprobs[0].mean())
    assert nll == pytest.approx(0.47341766, abs=1e-4)
