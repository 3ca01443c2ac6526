"""The transformer: causal, the same packed, padded, rematerialised and cached, and equal to a reference and a real model."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from reasoning_jax import model, sampling

pytestmark = pytest.mark.usefixtures("quick_compile")
S = 12
forward = jax.jit(lambda params, tokens, positions, segments, cfg: model.apply(params, tokens, positions, segments, cfg=cfg)[0],
                  static_argnames="cfg")  # fmt: skip


def ragged(rows, width):
    """Rows of tokens, padded on the right: tokens, positions, segment ids [B, width]."""
    tokens, positions, segments = (np.zeros((len(rows), width), np.int32) for _ in range(3))
    for i, row in enumerate(rows):
        tokens[i, : len(row)], positions[i, : len(row)], segments[i, : len(row)] = row, np.arange(len(row)), 1
    return tokens, positions, segments


def some_rows(lengths, vocab, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n) for n in lengths]


def reference(params, rows, cfg):
    """The hidden states of each row by itself: numpy, float64, one head and one position at a time."""
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
    for row in rows:
        x = p["embedding"][row]
        for layer in range(cfg.num_layers):
            w = {k: v[layer] for k, v in p["layers"].items()}
            h = norm(x, w["attention_norm"])
            mixed = np.zeros_like(x)
            for head in range(cfg.num_heads):
                kv, g = divmod(head, group)
                q = np.stack([rotary(v, t) for t, v in enumerate(h @ w["query"][:, kv, g])])
                k = np.stack([rotary(v, t) for t, v in enumerate(h @ w["key"][:, kv])])
                v = h @ w["value"][:, kv]
                for t in range(len(row)):
                    seen = slice(max(0, t + 1 - cfg.window) if cfg.window else 0, t + 1)
                    e = np.exp(k[seen] @ q[t] / np.sqrt(cfg.head_dim))
                    mixed[t] += (e / e.sum()) @ v[seen] @ w["attention_out"][kv, g]
            x = x + mixed
            h = norm(x, w["mlp_norm"])
            gate = h @ w["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
        out.append(norm(x, p["final_norm"]))
    return out


@pytest.fixture(scope="module")
def rows(tiny):
    return some_rows((S, 5, 1, 8), tiny[0].vocab_size)


@pytest.fixture(scope="module")
def plain(tiny, rows):
    """Hidden states of the four ragged rows in one padded call."""
    cfg, params = tiny
    return np.asarray(forward(params, *ragged(rows, S), cfg=cfg))


def test_equals_a_float64_reference(tiny, rows, plain):
    cfg, params = tiny
    for i, expected in enumerate(reference(params, rows, cfg)):
        np.testing.assert_allclose(plain[i, : len(rows[i])], expected, rtol=1e-5, atol=1e-5)


def test_a_window_equals_a_float64_reference(tiny, rows, plain):
    cfg, params = tiny
    near = dataclasses.replace(cfg, window=3)
    found = np.asarray(forward(params, *ragged(rows, S), cfg=near))
    for i, expected in enumerate(reference(params, rows, near)):
        np.testing.assert_allclose(found[i, : len(rows[i])], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0, :3], plain[0, :3], atol=1e-6)
    assert np.abs(found[0, 3:] - plain[0, 3:]).max() > 1e-2


def test_padding_and_what_it_holds_do_not_matter(tiny, rows, plain):
    cfg, params = tiny
    tokens, positions, segments = ragged(rows, S + 4)
    tokens[segments == 0] = 7  # masks come from lengths, not from a pad id
    wider = np.asarray(forward(params, tokens, positions, segments, cfg=cfg))
    assert np.isfinite(wider).all()
    for i, row in enumerate(rows):
        np.testing.assert_allclose(wider[i, : len(row)], plain[i, : len(row)], atol=1e-5)


def test_packed_equals_unpacked(tiny, rows, plain):
    """Three rows in one, in the shape of ``plain``'s call; the padding of the end is a segment of its own, 0."""
    cfg, params = tiny
    packed = [np.zeros((4, S), np.int32) for _ in range(3)]
    at = 0
    for number, i in enumerate((1, 2, 1), start=1):
        part = slice(at, at + len(rows[i]))
        packed[0][0, part], packed[1][0, part], packed[2][0, part] = rows[i], np.arange(len(rows[i])), number
        at = part.stop
    out = np.asarray(forward(params, *packed, cfg=cfg))
    expected = np.concatenate([plain[i, : len(rows[i])] for i in (1, 2, 1)])
    np.testing.assert_allclose(out[0, :at], expected, atol=1e-5)


def test_no_gradient_flows_from_later_tokens_or_other_segments(tiny):
    """d hidden[t] / d embedding of token s, for tokens that are all different: 0 exactly where t may not see s."""
    cfg, params = tiny
    tokens = np.arange(S)[None]
    segments = np.array([[1] * 5 + [2] * 5 + [0] * 2])
    positions = np.array([[*range(5), *range(5), 0, 0]])
    direction = np.random.default_rng(1).normal(size=cfg.width)

    @jax.jit
    def jacobian(table):
        return jax.jacrev(lambda e: model.apply(params | {"embedding": e}, tokens, positions, segments, cfg=cfg)[0][0]
                          @ direction)(table)  # fmt: skip

    seen = np.abs(jacobian(params["embedding"])).max(-1)[:, :S]  # [t, s]
    allowed = np.tril(segments[0][:, None] == segments[0])
    assert (seen[:10][~allowed[:10]] == 0).all()
    assert (seen[:10][allowed[:10]] > 1e-4).all()


def test_remat_changes_neither_value_nor_gradient(tiny, rows):
    cfg, params = tiny
    batch = ragged(rows, S)
    weights = np.random.default_rng(2).normal(size=(4, S, cfg.width)).astype(np.float32)

    @partial(jax.jit, static_argnames="cfg")
    def value_and_grad(params, cfg):
        return jax.value_and_grad(lambda p: jnp.sum(weights * model.apply(p, *batch, cfg=cfg)[0]))(params)

    value, grad = value_and_grad(params, cfg)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grad))
    for remat in ("full", "dots"):
        other, other_grad = value_and_grad(params, dataclasses.replace(cfg, remat=remat))
        np.testing.assert_allclose(other, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), other_grad, grad)


def test_untied_output_and_bfloat16(tiny, rows, plain):
    cfg, params = tiny
    hidden = jnp.asarray(plain)
    tied = model.logits(params, hidden, cfg)
    np.testing.assert_allclose(tied, plain @ np.asarray(params["embedding"]).T, atol=1e-5)

    other_cfg = dataclasses.replace(cfg, tied=False)
    other = random_params(other_cfg)
    assert set(other) == set(params) | {"unembedding"} and other["unembedding"].shape == (cfg.width, cfg.vocab_size)
    np.testing.assert_allclose(model.logits(other, hidden, other_cfg), plain @ np.asarray(other["unembedding"]), atol=1e-5)

    half_cfg = dataclasses.replace(cfg, dtype="bfloat16")
    half = forward(params, *ragged(rows, S), cfg=half_cfg)
    assert half.dtype == jnp.bfloat16 and model.logits(params, half, half_cfg).dtype == jnp.float32
    used = ragged(rows, S)[2] > 0
    error = np.abs(np.asarray(half, np.float32) - plain)[used]
    assert 0 < error.max() < 0.25 and error.mean() < 0.02  # 8 bits of mantissa on numbers of about 1


@pytest.mark.parametrize(("kv_heads", "window"), [(2, 0), (4, 0), (2, 3)])
def test_cached_decoding_equals_the_full_pass(tiny, kv_heads, window):
    """Prefill of ragged prompts, then a token at a time, each row at its own position."""
    cfg, _ = tiny
    cfg = dataclasses.replace(cfg, num_kv_heads=kv_heads, num_layers=2, window=window)
    params = random_params(cfg, seed=3)
    rows, prompts, steps = some_rows((S, 9, 7), cfg.vocab_size, seed=3), np.array([8, 5, 3]), 4
    full = np.asarray(forward(params, *ragged(rows, S), cfg=cfg))

    run = jax.jit(lambda *a: model.apply(*a, cfg=cfg))
    cache = model.init_cache(cfg, 3, 8 + steps)
    hidden, cache = run(params, *ragged([r[:n] for r, n in zip(rows, prompts, strict=True)], 8), cache)
    for i, n in enumerate(prompts):
        np.testing.assert_allclose(hidden[i, :n], full[i, :n], atol=1e-5)
    for step in range(steps):
        tokens = np.array([[r[n + step]] for r, n in zip(rows, prompts, strict=True)], np.int32)
        hidden, cache = run(params, tokens, prompts[:, None].astype(np.int32) + step, np.ones((3, 1), np.int32), cache)
        for i, n in enumerate(prompts):
            np.testing.assert_allclose(hidden[i, 0], full[i, n + step], atol=1e-5)
    assert int(cache.length) == 8 + steps


def test_config_errors_name_the_key(tiny):
    cfg, _ = tiny
    for change, key in [({"num_kv_heads": 3}, "num_heads"), ({"head_dim": 5}, "head_dim"), ({"remat": "some"}, "remat"),
                        ({"dtype": "float16"}, "dtype"), ({"window": -1}, "window")]:  # fmt: skip
        with pytest.raises(ValueError, match=key):
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
    H, at = D // N, 0

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return floats[at - int(np.prod(shape)) : at].reshape(shape)

    def halves(w):  # interleaved rotary pairs (2i, 2i + 1) of the last dimension but one to halves (i, i + H/2)
        return np.concatenate([w[..., 0::2, :], w[..., 1::2, :]], axis=-2)

    embedding, attention_norm = take(V, D), take(L, D)
    query = halves(take(L, K, N // K, H, D)).transpose(0, 4, 1, 2, 3)
    key = halves(take(L, K, H, D)).transpose(0, 3, 1, 2)
    value = take(L, K, H, D).transpose(0, 3, 1, 2)
    attention_out = take(L, D, K, N // K, H).transpose(0, 2, 3, 4, 1)
    mlp_norm = take(L, D)
    gate, down, up = (take(L, *shape).transpose(0, 2, 1) for shape in ((M, D), (D, M), (M, D)))
    final_norm = take(D)
    take(length, H // 2), take(length, H // 2)  # tables of the rotary embedding
    assert at == floats.size
    cfg = model.ModelConfig(vocab_size=V, width=D, num_layers=L, num_heads=N, num_kv_heads=K, head_dim=H, mlp_dim=M)
    params = {
        "embedding": embedding,
        "final_norm": final_norm,
        "layers": dict(attention_norm=attention_norm, query=query, key=key, value=value, attention_out=attention_out,
                       mlp_norm=mlp_norm, gate=gate, up=up, down=down),
    }  # fmt: skip
    source = (folder / "SOURCE.md").read_text()
    ids = ast.literal_eval(re.search(r"\[1, 403[\d, ]*\]", source)[0])
    logits = ast.literal_eval(re.search(r"first 8 (\[.*?\])", source)[1])
    return cfg, jax.tree.map(jnp.asarray, params), ids, logits


def test_a_trained_model_gives_its_golden_logits_and_text(stories):
    cfg, params, golden, logits = stories
    shapes = jax.eval_shape(lambda k: model.init(k, cfg), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, params)
    assert len(golden) == 201 and golden[0] == 1
    start = np.ones((1, 1), np.int32)
    hidden, _ = model.apply(params, start, 0 * start, start, cfg=cfg)
    np.testing.assert_allclose(model.logits(params, hidden, cfg)[0, 0, :8], logits, atol=1e-4)

    zero = np.zeros((1,), np.int32)
    samples = sampling.sample(params, np.array([[1] + 15 * [0]], np.int32), zero + 1, zero, zero, jax.random.key(0),
                              sampling.Greedy(), np.array([2], np.int32), cfg=cfg, max_new_tokens=200)  # fmt: skip
    assert samples.tokens[0].tolist() == golden[1:]
    nll = -float(samples.logprobs[0].mean())
    assert nll == pytest.approx(0.47341766, abs=1e-4)
