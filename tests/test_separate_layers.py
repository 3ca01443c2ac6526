"""Parameters with a list of layers, as GPUs sample with, compute what stacked ones do."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from drawing import cached_states

from reasoning_jax.model import decoder
from reasoning_jax.model.parameters import BLOCK_MATRICES, num_inputs

RANK = 2


def with_lora(params, rng):
    """Random factors of all matrices."""
    factors = {}
    for name in BLOCK_MATRICES & params["layers"].keys():
        shape = params["layers"][name].shape
        split = 1 + num_inputs(name)
        a, b = (*shape[:split], RANK), (shape[0], RANK, *shape[split:])
        factors[f"{name}_a"] = jnp.float32(rng.normal(size=a) / 4)
        factors[f"{name}_b"] = jnp.float32(rng.normal(size=b) / 4)
    return params | {"lora": factors}


@pytest.mark.parametrize("in_int8", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local_layers": (True, False), "window": 5, "post_norms": True},
        {"norm": "layer", "tied": False, "lora_scale": 0.5},
    ],
)
def test_a_list_of_layers_is_the_model(tiny, monkeypatch, changes, in_int8):
    cfg = dataclasses.replace(tiny[0], **changes)
    rng = np.random.default_rng(0)
    params = random_params(cfg)
    if "lora_scale" in changes:
        params = with_lora(params, rng)
    sequences = [rng.integers(1, cfg.vocab_size, n) for n in (3, 20)]
    stacked = decoder.for_decoding(params, cfg, in_int8)
    monkeypatch.setattr(decoder, "platform", lambda: "gpu")
    listed = decoder.for_decoding(params, cfg, in_int8)
    assert isinstance(listed["layers"], list) and not isinstance(stacked["layers"], list)
    expected, states = [cached_states(p, sequences, [12, 8], cfg) for p in (stacked, listed)]
    for a, b in zip(expected, states, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
