"""Attention to pages by the kernel for TPUs.

Pallas cannot interpret it (it reshapes a reference), so off the TPU the function stands in that
its authors compare it with; and it is compiled for slices.
"""

from __future__ import annotations

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax.model import decoder, paged_attention, paged_kernel, pages, sharding
from reasoning_jax.model.paged_kernel import KernelCache
from reasoning_jax.model.paged_products import ProductCache
from reasoning_jax.model.pages import PAGE, Places

CFG = decoder.ModelConfig(
    vocab_size=8192,
    width=256,
    num_layers=3,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=512,
    dtype="bfloat16",
)


@pytest.fixture
def reference(monkeypatch):
    """The kernel is its authors' reference."""
    from jax.experimental.pallas.ops.tpu import ragged_paged_attention as package
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel

    def by_reference(*arrays, num_kv_pages_per_block, num_queries_per_block, **options):
        return kernel.ref_ragged_paged_attention(*arrays, **options)

    monkeypatch.setattr(package, "ragged_paged_attention", by_reference)


@pytest.mark.parametrize("num_tokens", [1, 16])
@pytest.mark.parametrize(
    ("window", "is_local", "softcap", "head_dim"),
    [(0, None, 0.0, 128), (20, None, 0.0, 64), (20, False, 5.0, 128), (20, True, 0.0, 64)],
)
def test_it_is_attention_by_products(reference, num_tokens, window, is_local, softcap, head_dim):
    rng = np.random.default_rng(0)
    L, N, K, G, H, B = 2, 12, 2, 2, head_dim, 3

    def random(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    by_products = ProductCache(keys=random(L, N, K, H, PAGE), values=random(L, N, K, PAGE, H))
    keys = jnp.einsum("lnkht->lntkh", by_products.keys)
    values = jnp.einsum("lnkth->lntkh", by_products.values)
    both = jnp.stack([keys, values], axis=4).reshape(L, N, PAGE, 2 * K, H)
    both = jnp.pad(both, [(0, 0)] * 4 + [(0, 128 - H)])
    places = Places(
        tables=jnp.asarray(rng.permutation(N)[:9].reshape(B, 3), jnp.int32),
        starts=jnp.array([0, 31, 48], jnp.int32),
        counts=jnp.full(B, num_tokens, jnp.int32),
    )
    mask = pages.mask(places, num_tokens)
    q = random(B, num_tokens, K, G, H) * H**-0.5
    k, v = random(B, num_tokens, K, H), random(B, num_tokens, K, H)
    local = None if is_local is None else jnp.array(is_local)
    rest = jnp.int32(1), mask, window, local, softcap
    expected, cache = paged_attention.write_and_attend(q, k, v, by_products, *rest)
    with jax.disable_jit():  # the reference reads its tables while it is traced
        out, other = paged_attention.write_and_attend(q, k, v, KernelCache(pages=both), *rest)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for entry, dims, array in ((0, "lnkht->lntkh", cache.keys), (1, "lnkth->lntkh", cache.values)):
        written = np.asarray(other.pages[:, :, :, entry::2])
        assert np.array_equal(written[..., :H], jnp.einsum(dims, array))
        assert not written[..., H:].any()


def test_it_takes_what_it_can_tile(monkeypatch):
    assert not paged_kernel.fits(CFG)  # here is no TPU
    monkeypatch.setattr(paged_kernel, "platform", lambda: "tpu")
    assert paged_kernel.fits(CFG)
    for changes in (
        {"attention": "flash"},
        {"num_kv_heads": 3, "num_heads": 6},
        {"num_kv_heads": 3, "num_heads": 6, "dtype": "float32"},
    ):
        assert not paged_kernel.fits(dataclasses.replace(CFG, **changes)), changes
    with jax.set_mesh(sharding.make_mesh(1, 1, 8)):
        assert paged_kernel.fits(CFG)  # one head a device


@pytest.mark.parametrize(
    ("topology", "dims", "head_dim"),
    [
        ("v5e:2x4", (2, 4, 1), 64),
        ("v6e:2x4", (2, 2, 2), 128),
        ("v5p:2x2x1", (1, 1, 4), 128),
    ],
)
def test_the_sampler_compiles_with_it(tpu_compiler, topology, dims, head_dim):
    """And no collective is as large as a layer's weights, which fsdp gathers."""
    from reasoning_jax import experiment
    from reasoning_jax.tpu import chips, compiler, programs

    cfg = importlib.import_module("configs.star_addition").get_config("smoke")
    cfg.sequence_length = 512
    cfg.sampling.batch_size = 16
    cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = dims
    slice = chips.topology(topology)
    exp = experiment.make(cfg, compiler.devices(slice))
    exp = dataclasses.replace(exp, model_cfg=dataclasses.replace(CFG, head_dim=head_dim))
    steps = [step for step in programs.steps(cfg, exp) if step.kind in ("prefill", "decode")]
    assert len(steps) == 2
    for step in steps:
        assert "tpu_custom_call" in step.lower().as_text()
        compiled = compiler.compile_step(step, slice.chip)
        assert compiled.fits
        assert max(c.bytes for c in compiled.collectives) <= 2 * CFG.width * 16 * 128
