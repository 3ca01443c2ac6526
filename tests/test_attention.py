"""Attention by the TPU's kernel, interpreted on a CPU, is attention by products; only the filled part of a cache is read."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax import attention, data, logprobs, preferences, sharding

pytestmark = pytest.mark.usefixtures("quick_compile")
S = 384  # three of the kernel's blocks


@pytest.fixture(scope="module")
def segments():
    """Rows of ragged segments: over blocks' edges, of one token, filled to the end, and of padding only."""
    out = np.zeros((4, S), np.int32)
    for row, lengths in enumerate([(100, 130, 60), (1, 383), (128, 128, 128), ()]):
        out[row, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return out


def value_and_gradients(attend, arrays, visible, weights):
    """sum(weights * attention) as an array, and the gradients by queries, keys and values."""

    def total(q, k, v):
        out = attend(q, k, v, visible)
        return jnp.sum(out * weights), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arrays)
    return jax.device_get((out, grads))


@pytest.mark.parametrize(("heads", "dims", "window"), [((2, 1), (2, 1, 2), 0), ((1, 2), (1, 2, 2), 140)])
def test_the_kernel_is_attention_by_products(segments, heads, dims, window):
    """Values and gradients in float32; on meshes that split the key-value heads and the query heads of one."""
    rng, (K, G), H = np.random.default_rng(0), heads, 8
    q, k, v, weights = (
        rng.normal(size=s).astype(np.float32) for s in ((4, S, K, G, H), (4, S, K, H), (4, S, K, H), (4, S, K, G, H))
    )
    used = (segments > 0)[..., None, None, None]
    mask = (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] > 0) & np.tri(S, dtype=bool)
    if window:
        mask &= ~np.tri(S, k=-window, dtype=bool)
    expected, grads = value_and_gradients(attention.plain, (q, k, v), mask, weights * used)
    assert np.abs(expected[1, 5]).max() > 0.1 and all(np.abs(g[:3]).max() > 0.1 for g in grads)

    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        queries, weights = sharding.put((q, weights * used), mesh, *attention.QUERIES)
        keys, rows = sharding.put((k, v), mesh, *attention.KEYS), sharding.put(segments, mesh, "batch", None)
        out, other = value_and_gradients(functools.partial(attention.splash, window=window), (queries, *keys), rows, weights)
    assert np.isfinite(out).all()  # padding too
    np.testing.assert_allclose(out * used, expected * used, atol=2e-6)
    for a, b in zip(other, grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_rows_that_are_packed_have_the_same_logprobs_by_the_kernel(tiny):
    """The rule of visibility by slots equals the one by positions: on records and pairs as data.py packs them."""
    cfg, params = tiny
    rng = np.random.default_rng(1)
    single = [{"tokens": rng.integers(0, 20, n).astype(np.int32)} for n in (70, 30, 28)]
    pairs = [preferences.pair(rng.integers(0, 20, p), [rng.integers(0, 20, n) for n in ns])
             for p, *ns in ((9, 5, 40), (3, 20, 6))]  # fmt: skip
    for rows in (single, pairs):
        batch = {k: jnp.asarray(v) for k, v in data.fill([rows, rows[:1]], 2, 128).items()}
        score = jax.jit(logprobs.token_logprobs, static_argnames="cfg")
        expected = np.asarray(score(params, batch, cfg=dataclasses.replace(cfg, attention="plain")))
        found = score(params, batch, cfg=dataclasses.replace(cfg, attention="splash"))
        assert np.count_nonzero(expected) > 100
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_kernel_is_taken_on_tpu_where_its_blocks_divide_the_rows(monkeypatch):
    assert attention.platform() == "cpu" and not attention.fits_splash("auto", 256)
    assert attention.fits_splash("splash", 256) and not attention.fits_splash("plain", 256)
    with jax.set_mesh(sharding.make_mesh()):
        assert attention.platform() == "cpu"
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    assert attention.fits_splash("auto", 256) and attention.fits_splash("auto", 384) and not attention.fits_splash("auto", 200)
    assert not attention.fits_splash("plain", 256)


@pytest.mark.parametrize("length", [5, 150, 700])
def test_only_the_parts_of_a_cache_that_are_filled_are_read(length):
    """Around each part's edge attention is to exactly the filled slots; in parts behind the last of these may be NaN."""
    rng, B, K, G, H = np.random.default_rng(2), 2, 1, 2, 4
    q = rng.normal(size=(B, 1, K, G, H)).astype(np.float32)
    keys, values = rng.normal(size=(2, 3, B, length, K, H)).astype(np.float32)
    cached, size = jax.jit(attention.cached), {5: 64, 150: 64, 700: 88}[length]
    for filled in [n for edge in range(0, length, size) for n in (edge, edge + 1) if n] + [length]:
        mask = np.broadcast_to(np.arange(length) < filled, (B, 1, length))
        read = -(-filled // size) * size
        dirty = [np.where(np.arange(length)[:, None, None] < read, a, np.nan) for a in (keys, values)]
        found = cached(q, *dirty, 1, filled, mask)
        np.testing.assert_allclose(found, attention.plain(q, keys[1], values[1], mask), atol=1e-6)
