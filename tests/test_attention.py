"""Attention in blocks, and by the TPU's kernel interpreted on a CPU, is one product over all."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax.model import attention, block_pairs, decoder, logprobs, sharding
from reasoning_jax.training import packing
from reasoning_jax.training.rows import pair_row

S = 384  # three of the kernel's blocks


@pytest.fixture(scope="module")
def segments():
    """Packed rows of ragged segments.

    Segments over blocks' edges, of one token, filled to the end, and padding only.
    """
    out = np.zeros((4, S), np.int32)
    for packed_row, lengths in enumerate([(100, 130, 60), (1, 383), (128, 128, 128), ()]):
        out[packed_row, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return out


def value_and_gradients(attend, arrays, mask, weights):
    """sum(weights * attention) as an array, and the gradients by queries, keys and values."""

    def total(q, k, v):
        out = attend(q, k, v, mask)
        return jnp.sum(out * weights), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arrays)
    return jax.device_get((out, grads))


@pytest.mark.parametrize("choice", ["flash", "flash elsewhere", "splash"])
@pytest.mark.parametrize(
    ("heads", "dims", "window", "softcap"),
    [((2, 1), (2, 1, 2), 0, 0.0), ((1, 2), (1, 2, 2), 140, 0.0), ((2, 2), (1, 1, 1), 0, 0.5)],
)
def test_attention_in_blocks_is_one_product(
    segments, heads, dims, window, softcap, choice, monkeypatch
):
    """Values and gradients in float32.

    On meshes that split the key-value heads, and the query heads of one.
    """
    if choice == "flash elsewhere":  # than on a CPU: all sequences at once
        choice = "flash"
        for module in (attention, block_pairs):
            monkeypatch.setattr(module, "platform", lambda: "gpu")
    rng, (K, G), H = np.random.default_rng(0), heads, 8
    shapes = (4, S, K, G, H), (4, S, K, H), (4, S, K, H), (4, S, K, G, H)
    q, k, v, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    used = (segments > 0)[..., None, None, None]
    by_hand = segments[:, :, None] == segments[:, None]
    by_hand &= (segments[:, :, None] > 0) & np.tri(S, dtype=bool)
    if window:
        by_hand &= ~np.tri(S, k=-window, dtype=bool)
    dense = attention.DenseMask(jnp.asarray(by_hand))
    attend = functools.partial(attention.attend, softcap=softcap)
    expected, grads = value_and_gradients(attend, (q, k, v), dense, weights * used)
    assert np.abs(expected[1, 5]).max() > 0.1
    assert all(np.abs(g[:3]).max() > 0.1 for g in grads)

    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        queries, weights = sharding.put((q, weights * used), mesh, *attention.QUERIES)
        keys = sharding.put((k, v), mesh, *attention.KEYS)
        mask = attention.CausalMask(sharding.put(segments, mesh, "batch", None))
        in_blocks = functools.partial(attend, window=window, choice=choice)
        out, other = value_and_gradients(in_blocks, (queries, *keys), mask, weights)
    assert np.isfinite(out).all()  # padding too
    np.testing.assert_allclose(out * used, expected * used, atol=5e-6)
    for a, b in zip(other, grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_lengths_need_not_be_whole_blocks():
    rng = np.random.default_rng(2)
    q, weights = rng.normal(size=(2, 1, 100, 2, 1, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, 100, 2, 8)).astype(np.float32)
    segments = np.repeat([1, 2, 3], [50, 45, 5])[None].astype(np.int32)
    by_hand = (segments[:, :, None] == segments[:, None]) & np.tri(100, dtype=bool)
    dense = attention.DenseMask(jnp.asarray(by_hand))
    causal = attention.CausalMask(jnp.asarray(segments))
    results = [
        value_and_gradients(attention.attend, (q, k, v), m, weights) for m in (dense, causal)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), *results)


def test_pairs_of_blocks_that_no_query_sees_are_left_out():
    """Four blocks; the second and third segments begin in the middle of one.

    The third sees the first too, as its prompt.
    """
    segments = jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([64, 96, 90, 6]))[None]
    prefixes = jnp.where(segments == 3, 1, segments)
    pairs = block_pairs.make(segments, prefixes, window=0, size=64, keys_first=False)
    met = {(int(i), int(j)) for i, j in zip(pairs.queries, pairs.keys, strict=True)}
    assert met == {(i, j) for i in range(4) for j in range(i + 1)}
    computed = list(zip(pairs.queries.tolist(), pairs.keys.tolist(), strict=True))[: pairs.count]
    assert computed == [(0, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 2), (3, 3)]


def test_a_dense_mask_never_takes_the_kernel(tiny):
    """The kernel is chosen by the type of the mask: a matrix is taken by products, as it is."""
    cfg, params = tiny
    splash = dataclasses.replace(cfg, attention="splash")
    inputs, positions = jnp.ones((1, 128, cfg.width)), jnp.arange(128)[None]

    def traced(mask, cfg):
        apply = functools.partial(decoder.apply, cfg=cfg)
        return str(jax.make_jaxpr(apply)(params, inputs, positions, mask))

    causal = attention.CausalMask(jnp.ones((1, 128), jnp.int32))
    dense = attention.DenseMask(jnp.ones((1, 128, 128), bool))
    assert "pallas_call" in traced(causal, splash)
    assert "pallas_call" not in traced(causal, cfg)
    assert "pallas_call" not in traced(dense, splash)


def test_packed_rows_have_the_same_logprobs_by_the_kernel(tiny):
    """Visibility by slots equals visibility by positions, on sequences and pairs as packed."""
    cfg, params = tiny
    rng = np.random.default_rng(1)
    single = [{"tokens": rng.integers(0, 20, n).astype(np.int32)} for n in (70, 30, 28)]
    lengths = (9, 5, 40), (3, 20, 6)  # of a prompt and its two completions
    pairs = [
        pair_row(rng.integers(0, 20, prompt), [rng.integers(0, 20, n) for n in completions])
        for prompt, *completions in lengths
    ]
    for rows in (single, pairs):
        batch = {k: jnp.asarray(v) for k, v in packing.fill([rows, rows[:1]], 2, 128).items()}
        score = jax.jit(logprobs.token_logprobs, static_argnames="cfg")
        expected = np.asarray(score(params, batch, cfg=dataclasses.replace(cfg, attention="flash")))
        by_kernel = score(params, batch, cfg=dataclasses.replace(cfg, attention="splash"))
        assert np.count_nonzero(expected) > 100
        np.testing.assert_allclose(by_kernel, expected, atol=1e-5)


def test_the_kernel_is_taken_on_tpu_where_its_blocks_divide_the_length(monkeypatch):
    assert attention.platform() == "cpu"
    assert not attention.fits_splash("auto", 256)
    assert attention.fits_splash("splash", 256)
    assert not attention.fits_splash("flash", 256)
    with jax.set_mesh(sharding.make_mesh()):
        assert attention.platform() == "cpu"
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    assert attention.fits_splash("auto", 256)
    assert attention.fits_splash("auto", 384)
    assert not attention.fits_splash("auto", 200)
    assert not attention.fits_splash("flash", 256)
