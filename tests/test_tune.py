"""LoRA and soft prompts: exact against merged weights and fed vectors; the frozen model stays."""

from __future__ import annotations

import dataclasses

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params
from test_families import FAMILIES
from test_model import ragged, some_sequences

from reasoning_jax import algorithms, default, tune
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.pretrained import peft
from reasoning_jax.sampling import methods
from reasoning_jax.training import optim, packing, state
from reasoning_jax.training.train_step import make_train_step

S = 12
LORA = tune.get("lora")
PROMPT = tune.get("prompt")


def config(name, **changes):
    cfg = default.get_config(tuned=name)
    cfg.tune.update(changes)
    return cfg


def random_lora(cfg, model_cfg, seed=0):
    """A LoRA whose B is not 0, so that it changes something."""
    factors = LORA.init(jax.random.key(seed), {}, None, cfg=cfg.tune, model_cfg=model_cfg)["lora"]
    rng = np.random.default_rng(seed)
    return {
        "lora": {
            name: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32)
            for name, x in factors.items()
        }
    }


@pytest.mark.parametrize("family", ["llama-3", "gpt-j", "gpt-2"])
@pytest.mark.parametrize("matrices", ["all", "query,down", "attention_out"])
def test_applied_equals_merged(family, matrices):
    model_cfg = FAMILIES[family]
    cfg = config("lora", rank=3, alpha=6.0, matrices=matrices)
    model_cfg = LORA.model_config(cfg.tune, model_cfg)
    assert model_cfg.lora_scale == 2.0
    base = random_params(model_cfg, seed=1)
    adapter = random_lora(cfg, model_cfg)
    batch = ragged(some_sequences((S, 5), model_cfg.vocab_size), S)
    applied = hidden_states(base | adapter, *batch, model_cfg)
    merged = peft.merge(base, adapter["lora"], model_cfg.lora_scale)
    assert set(merged) == set(base)
    np.testing.assert_allclose(applied, hidden_states(merged, *batch, model_cfg), atol=2e-5)
    assert np.abs(applied - hidden_states(base, *batch, model_cfg)).max() > 1e-2
    if matrices == "query,down":
        assert set(adapter["lora"]) == {"query_a", "query_b", "down_a", "down_b"}
        unchanged = {"key", "value", "attention_out", "up"}
        assert all(np.array_equal(merged["layers"][n], base["layers"][n]) for n in unchanged)


def test_a_new_lora_changes_nothing_and_has_the_size_that_it_should(tiny):
    model_cfg, base = tiny
    cfg = config("lora", rank=4)
    adapter = LORA.init(jax.random.key(0), {}, None, cfg=cfg.tune, model_cfg=model_cfg)
    batch = ragged(some_sequences((S,), model_cfg.vocab_size), S)
    with_it = hidden_states(base | adapter, *batch, model_cfg)
    assert np.array_equal(with_it, hidden_states(base, *batch, model_cfg))
    # By hand: L r (inputs + outputs) of q, k, v, out, gate, up, down.
    D, Q, KV, M = 16, 32, 16, 32
    each = (D + Q) + 2 * (D + KV) + (Q + D) + 2 * (D + M) + (M + D)
    assert decoder.num_params(adapter) == 2 * 4 * each
    shapes = tune.abstract_trained(LORA, cfg.tune, model_cfg)
    assert jax.tree.map(lambda x: x.shape, adapter) == jax.tree.map(lambda x: x.shape, shapes)
    bound = np.abs(adapter["lora"]["attention_out_a"]).max()
    assert 0.9 * 32**-0.5 < bound <= 32**-0.5


def test_a_soft_prompt_of_words_is_those_words(tiny):
    """Vectors in place of the first tokens: the same hidden states, log-probs and samples."""
    model_cfg, base = tiny
    words = jnp.asarray([3, 7, 5])
    cfg = config("prompt", length=3)
    trained = PROMPT.init(jax.random.key(0), base, words, cfg=cfg.tune, model_cfg=model_cfg)
    params = base | trained
    sequences = some_sequences((9, 4), model_cfg.vocab_size, seed=2)
    virtual = model_cfg.vocab_size + np.arange(3)
    soft = ragged([[*virtual, *sequence] for sequence in sequences], S)
    hard = ragged([[*words.tolist(), *sequence] for sequence in sequences], S)
    expected = hidden_states(base, *hard, model_cfg)
    np.testing.assert_allclose(hidden_states(params, *soft, model_cfg), expected, atol=1e-6)

    names = ("tokens", "positions", "segment_ids")
    scored = [
        logprobs.token_logprobs(p, dict(zip(names, map(jnp.asarray, b), strict=True)), model_cfg)
        for p, b in ((params, soft), (base, hard))
    ]
    np.testing.assert_allclose(scored[0][:, 3:], scored[1][:, 3:], atol=1e-6)
    draws = []
    for p, (tokens, _, segments) in ((params, soft), (base, hard)):
        ids = np.arange(2)
        arrays = tokens, segments.sum(1), ids, ids, jax.random.key(0), methods.Greedy(), [2]
        draws.append(drawing.sample(p, *arrays, cfg=model_cfg, max_new_tokens=5))
    assert np.array_equal(draws[0].tokens, draws[1].tokens)


def one_update(model_cfg, frozen, trained, dims=None, name="sft"):
    """The state and metrics after two updates on packed rows."""
    cfg = default.get_config(algorithm=name)
    optimizer = optim.make(cfg.optim)
    step = make_train_step(algorithms.get(name), model_cfg, optimizer, cfg)
    rng = np.random.default_rng(5)
    soft = len(trained["soft_prompt"]) if "soft_prompt" in trained else 0
    virtual = model_cfg.vocab_size + np.arange(soft, dtype=np.int32)
    rows = []
    for n in (5, 8, 4, 7):
        tokens = np.concatenate([virtual, rng.integers(0, model_cfg.vocab_size, n)])
        weights = np.concatenate([np.zeros(soft + 2), np.ones(n - 2)])
        rows.append({"tokens": tokens.astype(np.int32), "weights": weights.astype(np.float32)})
    batch = packing.fill([[rows[0], rows[2]], [rows[1]], [rows[3]], []], 4, 24)
    batch = {name: x[None] for name, x in batch.items()}
    trained = jax.tree.map(jnp.copy, trained)
    if dims is None:
        current = state.fresh(trained, optimizer)
        for _ in range(2):
            current, metrics = step(current, batch, np.float32(0.01), frozen)
        return jax.device_get((current, metrics))
    mesh = sharding.make_mesh(*dims)
    with jax.set_mesh(mesh):
        frozen = jax.device_put(frozen, sharding.parameter_specs(frozen, mesh))
        trained = jax.device_put(trained, sharding.parameter_specs(trained, mesh))
        current = state.around(trained, optimizer)
        on_device = sharding.put(batch, mesh, None, "batch", None)
        for _ in range(2):
            rate = sharding.put(np.float32(0.01), mesh)
            current, metrics = step(current, on_device, rate, frozen)
        return jax.device_get((current, metrics))


@pytest.mark.parametrize("name", ["lora", "prompt"])
def test_an_update_changes_the_adapter_alone_and_equally_on_every_mesh(tiny, name):
    model_cfg, base = tiny
    before = jax.device_get(base)
    if name == "lora":
        cfg = config("lora", rank=4)
        model_cfg = LORA.model_config(cfg.tune, model_cfg)
        trained = random_lora(cfg, model_cfg)
    else:
        trained = {"soft_prompt": jnp.asarray(before["embedding"][4:7])}
    first = jax.device_get(trained)
    after, metrics = one_update(model_cfg, base, trained)
    assert jax.tree.structure(after.params) == jax.tree.structure(trained)
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(trained))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), jax.device_get(base), before)
    for new, old in zip(jax.tree.leaves(after.params), jax.tree.leaves(first), strict=True):
        assert np.abs(new - old).max() > 1e-3
    other, other_metrics = one_update(model_cfg, base, trained, dims=(2, 2, 2))
    assert other_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), other.params, after.params
    )


def test_no_gradient_of_a_frozen_matrix_is_computed(tiny):
    """The products of an update: forward and back through each matrix, none into its weight."""
    model_cfg, base = tiny
    flat = dataclasses.replace(model_cfg, num_layers=1)
    base = random_params(flat)

    def flops(tuned):
        cfg = default.get_config(tuned=tuned)
        if tuned == "lora":
            cfg.tune.update(rank=1, matrices="query")
        tuning = tune.get(tuned)
        trained = tuning.init(jax.random.key(0), {}, None, cfg=cfg.tune, model_cfg=flat)
        frozen = base if tuned == "lora" else {}
        optimizer = optim.make(cfg.optim)
        step = make_train_step(algorithms.get("sft"), flat, optimizer, cfg)
        names = ("tokens", "positions", "segment_ids")
        batch = {name: jnp.ones((1, 4, 64), jnp.int32) for name in names}
        batch["weights"] = jnp.ones((1, 4, 64))
        current = state.fresh(trained, optimizer)
        compiled = step.lower(current, batch, jnp.float32(0.1), frozen).compile()
        return compiled.cost_analysis()["flops"]

    assert flops("lora") < 0.8 * flops("full")


def test_an_adapter_in_bfloat16_trains_in_float32(tiny):
    model_cfg, base = tiny
    half = dataclasses.replace(model_cfg, dtype="bfloat16")
    frozen = sharding.cast_matrices(base, "bfloat16")
    cfg = config("lora", rank=2)
    after, metrics = one_update(half, frozen, random_lora(cfg, half))
    assert {x.dtype for x in jax.tree.leaves(after.params)} == {np.dtype(np.float32)}
    full, expected = one_update(model_cfg, base, random_lora(cfg, model_cfg))
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=0.02)
    shapes = tune.abstract_frozen(LORA, half)
    assert shapes["layers"]["query"].dtype == jnp.bfloat16
    assert shapes["layers"]["mlp_norm"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("matrices", "model"), [("query,queries", "llama-3"), ("gate", "gpt-2"), ("up,up", "qwen-2")]
)
def test_matrices_that_the_model_has_not_are_one_sentence(matrices, model):
    cfg = config("lora", matrices=matrices)
    with pytest.raises(
        UserError, match=r"^config\.tune\.matrices: .* is not all, or some of query"
    ):
        LORA.model_config(cfg.tune, FAMILIES[model])


def test_the_mask_knows_virtual_tokens_as_tokens(tiny):
    """A soft prompt's vectors are seen by what follows, and see nothing that does."""
    model_cfg, base = tiny
    prompt = jnp.asarray(np.random.default_rng(0).normal(size=(2, model_cfg.width)), jnp.float32)
    tokens = jnp.asarray([[model_cfg.vocab_size, model_cfg.vocab_size + 1, 4, 5]])

    def last(prompt):
        params = base | {"soft_prompt": prompt}
        inputs = decoder.embed(params, tokens, model_cfg)
        mask = CausalMask(jnp.ones((1, 4), jnp.int32))
        return decoder.apply(params, inputs, jnp.arange(4)[None], mask, cfg=model_cfg)[0]

    seen = np.abs(jax.jacrev(lambda p: last(p).sum(-1))(prompt)).max(-1)  # [token, vector]
    assert seen[0, 1] == 0 and (seen[[0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 0, 1, 0, 1]] > 1e-4).all()
