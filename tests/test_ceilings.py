"""Names of slices, and formulas against numbers that were computed by hand or published."""

from __future__ import annotations

import dataclasses

import pytest
from ml_collections import ConfigDict

from reasoning_jax.model import paged_attention, paged_kernel, presets
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.tpu import ceilings, chips, collectives

# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, slice, num_chips",
    [
        ("v5e-64", "v5e:8x8", 64),
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5p-128", "v5p:4x4x4", 64),
        ("v5p-32", "v5p:2x2x4", 16),
        ("v6e-256", "v6e:16x16", 256),
        ("v4-8", "v4:2x2x1", 4),
        ("v5e:2x4", "v5e:2x4", 8),
        ("v5:2x2x1", "v5p:2x2x1", 4),
        ("v5e-1", "v5e:1x1", 1),
    ],
)
def test_a_name_is_a_slice(name, slice, num_chips):
    topology = chips.topology(name)
    assert (str(topology), topology.chips) == (slice, num_chips)


@pytest.mark.parametrize(
    "name",
    ["v5e-24", "v5p-5", "v5p-2", "v9-8", "v5e", "8x8", "", "v5e:2x2x2", "v5p:2x2", "v5e:0x4"],
)
def test_a_wrong_name_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match=r"there is no such slice; the names are .*v5[ep]-16 \("):
        chips.topology(name)


# ---- parameters, bytes and FLOPs -----------------------------------------------------------------


def published(name: str):
    """The ModelConfig of a published model."""
    section = ConfigDict({"preset": name, "dtype": "bfloat16"})
    return presets.model_config(section, vocab_size=259)


# Qwen2.5-0.5B: 24 layers, 14 heads and 2 key-value heads of 64, tied.
QWEN = ModelConfig(
    num_layers=24,
    width=896,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=4864,
    vocab_size=151_936,
    dtype="bfloat16",
)
WIDTH_OF_HEADS = 24 * 14 * 64  # layers x heads x head size


def test_parameters_and_cache_bytes():
    llama = published("llama-3.1-8b")
    qwen = published("qwen3-8b")
    assert ceilings.num_params(llama) == pytest.approx(8.03e9, rel=1e-3)
    assert ceilings.num_params(published("llama-3.2-1b")) == pytest.approx(1.236e9, rel=1e-3)
    assert ceilings.num_params(qwen) == pytest.approx(8.19e9, rel=1e-3)
    assert ceilings.multiplied_params(llama) == ceilings.num_params(llama) - 128_256 * 4096
    assert ceilings.multiplied_params(QWEN) == ceilings.num_params(QWEN)
    assert ceilings.num_params(QWEN) == pytest.approx(0.494e9, rel=1e-3)
    assert paged_attention.token_bytes(dataclasses.replace(qwen, dtype="bfloat16")) == 147_456


@pytest.mark.parametrize(
    "kind, batch, tokens_per_second",
    [
        ("v5e", 1, 821),
        ("v5e", 32, 20.3e3),
        ("v5e", 128, 47.7e3),
        ("v5e", 512, 72.1e3),
        ("v6e", 1, 1642),
        ("v5p", 512, 243e3),
    ],
)
def test_decode_ceilings_of_a_chip(kind, batch, tokens_per_second):
    """At a mean context of 768."""
    seconds = ceilings.decode_bytes(QWEN, batch, 768, 12_288) / chips.CHIPS[kind].bandwidth
    assert batch / seconds == pytest.approx(tokens_per_second, rel=5e-3)


def test_train_flops():
    per_token = ceilings.train_flops(QWEN, 1, 0)  # 6 N only
    tokens_per_second = chips.CHIPS["v5e"].flops / per_token
    assert tokens_per_second == pytest.approx(66e3, rel=0.01)
    with_attention = per_token + 6 * WIDTH_OF_HEADS * 2048
    assert ceilings.train_flops(QWEN, 10, 2048) == 10 * with_attention


def test_an_adapter_spares_the_gradients_of_the_model():
    full = dataclasses.replace(QWEN, remat="full")
    params = ceilings.num_params(QWEN)
    attention = 6 * WIDTH_OF_HEADS * 2048
    assert ceilings.train_flops(QWEN, 10, 2048, frozen=True) == 10 * (4 * params + attention)
    again = 2 * params + attention / 3
    executed = ceilings.executed_flops(full, 10, 2048, frozen=True)
    assert executed == 10 * (4 * params + attention + again)
    mesh = {"data": 2, "fsdp": 4, "tensor": 1}
    assert ceilings.state_bytes(QWEN, mesh, frozen=True) == 2 * params / 4
    saved = ceilings.train_bytes(QWEN, mesh, 1) - ceilings.train_bytes(QWEN, mesh, 1, frozen=True)
    assert saved == 28 * params / 4
    slice = chips.topology("v5e-8")
    sizes = {"slices": 1, "micro_batches": 1, "tokens": 2048}
    network = ceilings.predicted_network(full, slice, mesh, **sizes, frozen=True)
    gathered = 3 * 2 * params * (3 / 4) / slice.ici(4)  # bfloat16, in three passes
    assert network == pytest.approx(gathered)


def test_flops_with_a_window():
    banded = dataclasses.replace(QWEN, window=512)
    seen = (512 * 256 + 1536 * 512) / 2048  # the first 512 tokens see 256 on average, others 512
    per_token = ceilings.train_flops(QWEN, 1, 0) + 12 * WIDTH_OF_HEADS * seen
    assert ceilings.train_flops(banded, 4, 2048) == 4 * per_token
    assert ceilings.decode_flops(banded, 4, 768) == ceilings.decode_flops(QWEN, 4, 512)


def test_forward_flops():
    forward = ceilings.forward_flops(QWEN, 10, 2048)
    assert forward == ceilings.train_flops(QWEN, 10, 2048) / 3
    head = 2 * 896 * 151_936
    one_head = ceilings.forward_flops(QWEN, 10, 2048, with_logits=1)
    assert one_head == pytest.approx(forward - 9 * head)


def test_decoding():
    params = ceilings.multiplied_params(QWEN)
    assert ceilings.decode_flops(QWEN, 4, 768) == 4 * (2 * params + 4 * WIDTH_OF_HEADS * 768)
    read = ceilings.decode_bytes(QWEN, 4, 768, 12_288, replicas=2)
    assert read == 4 * params + 4 * 768 * 12_288
    read = ceilings.decode_bytes(QWEN, 4, 768, 12_288, replicas=2, in_int8=True)
    assert read == 2 * params + 4 * 768 * 12_288


def test_a_cached_token(monkeypatch):
    cfg = dataclasses.replace(QWEN, dtype="bfloat16")
    assert cfg.head_dim == 64
    heads = 2 * cfg.num_layers * cfg.num_kv_heads  # of a token's keys and values
    assert paged_attention.token_bytes(cfg) == heads * 64 * 2 == 12_288
    assert paged_attention.token_bytes(cfg, in_int8=True) == heads * (64 + 4)
    monkeypatch.setattr(paged_kernel, "platform", lambda: "tpu")
    assert paged_attention.token_bytes(cfg) == heads * 128 * 2  # the kernel's heads are padded


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slice, collective, seconds",
    [
        ("v5e:4x8", ("all-gather", 9 * 10**9, 2, 8, 1), 2 * 7 / 8 * 9e9 / 9e10),  # one axis
        ("v5e:4x8", ("all-gather", 9 * 10**9, 2, 32, 1), 2 * 31 / 32 * 9e9 / 18e10),  # both
        ("v5e:4x8", ("all-reduce", 9 * 10**9, 1, 4, 1), 2 * 3 / 4 * 9e9 / 9e10),
        ("v5p:2x2x4", ("reduce-scatter", 10**9, 1, 16, 1), 15 / 16 * 1e9 / 5.4e11),  # all three
        ("v5e:4x8", ("collective-permute", 10**9, 1, 2, 1), 1e9 / 9e10),
        ("v5e:2x2", ("all-reduce between slices", 10**9, 1, 2, 2), 2 * 0.5 * 1e9 / 6.25e9),
    ],
)
def test_seconds_on_the_network(slice, collective, seconds):
    kind, size, count, group, slices = collective
    sent = collectives.Collective(
        kind=kind,
        bytes=size,
        count=count,
        group=group,
        slices=slices,
        repeated=False,
        loop="",
    )
    found = ceilings.network_seconds(chips.topology(slice), [sent])
    assert found == pytest.approx(seconds)


@pytest.mark.parametrize("sequences, better", [(16, "tensor"), (512, "fsdp")])
def test_the_network_of_a_mesh(sequences, better):
    """Few tokens: less is sent where activations move and weights stay; many: the other way."""
    llama = published("llama-3.1-8b")
    slice = chips.topology("v5e:8x8")
    meshes = {
        "fsdp": {"data": 1, "fsdp": 64, "tensor": 1},
        "tensor": {"data": 1, "fsdp": 8, "tensor": 8},
    }
    seconds = {}
    for name, mesh in meshes.items():
        seconds[name] = ceilings.predicted_network(
            llama, slice, mesh, slices=1, micro_batches=1, tokens=sequences * 2048
        )
    assert min(seconds, key=seconds.get) == better
    bytes_a_param = 2 * 2 + 4  # bfloat16 twice, float32 gradients once
    gathered = ceilings.num_params(llama) * bytes_a_param * 63 / 64
    assert seconds["fsdp"] == pytest.approx(gathered / (2 * 9e10))
