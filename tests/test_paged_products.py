"""Attention to pages by products, beside attention computed token by token in numpy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax.model import int8, paged_products, pages
from reasoning_jax.model.paged_products import ProductCache
from reasoning_jax.model.pages import PAGE, Places

K, G, H, LAYER = 2, 2, 8, 1
EVERYTHING = 2**31 - 1


def random_cache(rng, num_pages):
    shape = (2, num_pages, K)
    keys, values = rng.normal(size=(*shape, H, PAGE)), rng.normal(size=(*shape, PAGE, H))
    return ProductCache(keys=jnp.float32(keys), values=jnp.float32(values))


def in_int8(cache):
    """The cache in 8 bits, and the one in floats that it stands for."""
    keys, key_scales = int8.quantize(cache.keys, (3,))
    values, value_scales = int8.quantize(cache.values, (4,))
    floats = ProductCache(
        keys=keys * key_scales[:, :, :, None], values=values * value_scales[..., None]
    )
    return ProductCache(
        keys=keys, values=values, key_scales=key_scales, value_scales=value_scales
    ), floats


def attend_to_tokens(q, cache, places, window, softcap):
    """The same in float64, a query at a time; zeros for padding."""
    keys, values = np.float64(cache.keys[LAYER]), np.float64(cache.values[LAYER])
    out = np.zeros(q.shape)
    for b, table in enumerate(np.asarray(places.tables)):
        k = np.concatenate([keys[page] for page in table], axis=-1)  # [K, H, tokens]
        v = np.concatenate([values[page] for page in table], axis=1)  # [K, tokens, H]
        for s in range(int(places.counts[b])):
            position = int(places.starts[b]) + s
            seen = slice(max(0, position - window + 1), position + 1)
            logits = np.einsum("kgh,kht->kgt", np.float64(q[b, s]), k[..., seen])
            if softcap:
                logits = softcap * np.tanh(logits / softcap)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[b, s] = np.einsum("kgt,kth->kgh", weights, v[:, seen])
    return out


def check(places, num_tokens, num_shared, window=EVERYTHING, softcap=0.0, is_int8=False):
    rng = np.random.default_rng(0)
    cache = floats = random_cache(rng, int(places.tables.max()) + 1)
    if is_int8:
        cache, floats = in_int8(cache)
    mask = pages.mask(places, num_tokens)
    assert mask.num_shared.tolist() == [num_shared]
    q = jnp.float32(rng.normal(size=(len(places.starts), num_tokens, K, G, H)))
    out = paged_products.attend(
        q, cache, jnp.int32(LAYER), mask, jnp.int32(window), softcap=softcap
    )
    expected = attend_to_tokens(q, floats, places, window, softcap)
    is_token = np.arange(num_tokens) < np.asarray(places.counts)[:, None]
    np.testing.assert_allclose(np.asarray(out)[is_token], expected[is_token], atol=2e-6)


def behind_a_prefix(num_pages, starts, counts, own=3):
    """Sequences whose first so many pages are the same ones."""
    B = len(starts)
    prefix = np.tile(np.arange(num_pages), (B, 1))
    rest = num_pages + np.arange(B * own).reshape(B, own)[:, ::-1]
    tables = np.concatenate([prefix, rest], axis=1)
    return Places(tables=jnp.int32(tables), starts=jnp.int32(starts), counts=jnp.int32(counts))


@pytest.mark.parametrize("num_tokens", [1, 16])
@pytest.mark.parametrize(
    ("window", "softcap"), [(EVERYTHING, 0.0), (EVERYTHING, 3.0), (70, 0.0), (20, 0.0)]
)
def test_a_shared_prefix(num_tokens, window, softcap):
    starts = 10 * PAGE + np.array([0, 5, PAGE, 2 * PAGE + 3])
    counts = np.minimum(num_tokens, [1, 16, 9, 16])
    check(behind_a_prefix(10, starts, counts), num_tokens, 10, window, softcap)


@pytest.mark.parametrize("num_tokens", [1, 16])
@pytest.mark.parametrize(("window", "softcap"), [(EVERYTHING, 3.0), (20, 0.0)])
def test_all_pages_at_once_on_a_gpu(monkeypatch, num_tokens, window, softcap):
    monkeypatch.setattr(paged_products, "platform", lambda: "gpu")
    monkeypatch.setattr(paged_products, "_own_pages", None)
    starts = 2 * PAGE + np.array([0, 5, PAGE, 2 * PAGE + 3])
    check(behind_a_prefix(2, starts, np.full(4, num_tokens)), num_tokens, 2, window, softcap)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_keys_and_values_in_8_bits(monkeypatch, platform):
    monkeypatch.setattr(paged_products, "platform", lambda: platform)
    starts = 2 * PAGE + np.array([0, 5, PAGE, 2 * PAGE + 3])
    check(behind_a_prefix(2, starts, np.full(4, 1)), 1, 2, is_int8=True)


def test_what_is_written_in_8_bits_is_read_to_half_a_scale():
    rng = np.random.default_rng(0)
    cache, _ = in_int8(random_cache(rng, 3))
    k, v = jnp.float32(rng.normal(size=(2, 2, 3, K, H)))[:, :, :2]
    where = jnp.array([[0, 2], [1, pages.NO_PAGE]]), jnp.array([[3, 4], [31, 5]])
    after = paged_products.write(cache, k, v, jnp.int32(LAYER), *where)
    keys = (after.keys * after.key_scales[..., None, :])[LAYER]
    values = (after.values * after.value_scales[..., None])[LAYER]
    for b, s, page, slot in ((0, 0, 0, 3), (0, 1, 2, 4), (1, 0, 1, 31)):
        half = np.abs(k[b, s]).max(-1, keepdims=True) / 127 / 2
        assert (np.abs(keys[page, :, :, slot] - k[b, s]) <= half + 1e-6).all()
        half = np.abs(v[b, s]).max(-1, keepdims=True) / 127 / 2
        assert (np.abs(values[page, :, slot] - v[b, s]) <= half + 1e-6).all()
    changed = np.any(np.asarray(after.keys != cache.keys), axis=(0, 2, 3))
    assert np.argwhere(changed).tolist() == [[0, 3], [1, 31], [2, 4]]


def test_many_sequences_of_their_own():
    """More pairs than a chunk has, of more sequences than a chunk's pairs are of."""
    rng = np.random.default_rng(1)
    starts = rng.integers(0, 4 * PAGE - 1, 50)
    counts = (rng.random(50) < 0.8).astype(int)
    check(behind_a_prefix(0, starts, counts, own=4), 1, 0)


def test_rows_that_are_not_in_use_do_not_matter():
    starts = 2 * PAGE + np.array([0, 7, 0, 3])
    places = behind_a_prefix(2, starts, [1, 1, 0, 1])
    tables = places.tables.at[2].set(0)
    check(places.replace(tables=tables, starts=places.starts.at[2].set(0)), 1, 2)


@pytest.mark.parametrize(
    ("starts", "counts", "num_shared"),
    [
        ([96, 96, 96, 96], [1, 1, 1, 1], 3),
        ([95, 96, 96, 96], [1, 1, 1, 1], 2),  # the third page is being written
        ([0, 96, 96, 96], [16, 1, 1, 1], 0),
        ([96, 96, 0, 0], [1, 1, 0, 0], 3),
        ([96, 0, 0, 0], [1, 0, 0, 0], 0),  # one sequence shares with none
        ([96, 96, 0, 0, 0], [1, 1, 0, 0, 0], 0),  # too few rows are in use
        ([0, 0, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_what_is_shared(starts, counts, num_shared):
    check(behind_a_prefix(3, starts, counts), max(1, *counts), num_shared)
