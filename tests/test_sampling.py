"""The sampler: each sample is a function of parameters, prompt, id and index alone, and follows the law it reports."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.sampling import engine, methods
from reasoning_jax.sampling.methods import Greedy, Temperature, TopK, TopP

pytestmark = pytest.mark.usefixtures("quick_compile")
P, N = 16, 8
LENGTHS = np.array([2, 9, 4, 1, 12, 7, 3, 16], np.int32)
IDS = np.array([3, 0, 10_000_000, 5, 5, 8, 1, 2], np.int32)
INDICES = np.array([0, 0, 0, 0, 1, 0, 2, 0], np.int32)
NO_STOP = (-1, -1)


@pytest.fixture(scope="module")
def prompts():
    return np.where(np.arange(P) < LENGTHS[:, None], np.random.default_rng(0).integers(3, 20, (8, P)), 0).astype(np.int32)


@pytest.fixture(scope="module")
def draw(tiny, prompts):
    """sample() of the eight prompts (or of other arrays), its result on the host."""
    cfg, params = tiny

    def draw(
        rule=None, stop=(2, 11), prompts=prompts, lengths=LENGTHS, ids=IDS, indices=INDICES, key=0, mesh=None, params=params
    ):  # fmt: skip
        rule = jax.tree.map(np.float32, Temperature(0.7) if rule is None else rule)
        arrays = sharding.put((prompts, lengths, ids, indices), mesh, "batch", None)
        rest = sharding.put((rule, np.array(stop, np.int32)), mesh)
        key = jax.random.key(key)
        return jax.device_get(engine.sample(params, *arrays, key, *rest, cfg=cfg, max_new_tokens=N))

    return draw


@pytest.fixture(scope="module")
def endless(draw):
    """Temperature 0.7 without a stop token."""
    return draw(stop=NO_STOP)


@pytest.fixture(scope="module")
def base(draw):
    """Temperature 0.7; 2 and 11 stop."""
    return draw()


def completed(prompts, samples):
    """Prompt and completion in one row: tokens, positions, segment ids [B, P + N], and where the completion is."""
    tokens = np.zeros((len(prompts), P + N), np.int32)
    inside = np.zeros(tokens.shape, bool)
    for i, (n, m) in enumerate(zip(LENGTHS, samples.lengths, strict=True)):
        tokens[i, :n], tokens[i, n : n + m], inside[i, n : n + m] = prompts[i, :n], samples.tokens[i, :m], True
    used = np.arange(P + N) < (LENGTHS + samples.lengths)[:, None]
    return tokens, np.where(used, np.arange(P + N), 0), used.astype(np.int32), inside


@jax.jit
def rescore(params, tokens, positions, segments, temperature):
    """Log-probabilities of every token but the first, at a temperature."""
    cfg = decoder.ModelConfig(vocab_size=20, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32)
    hidden, _ = decoder.apply(params, tokens, positions, segments, cfg=cfg)
    out = logprobs.of_targets(params, hidden[:, :-1] / temperature, tokens[:, 1:], cfg)
    return jnp.pad(out, ((0, 0), (1, 0)))


def assert_same(a, b, rows=slice(None)):
    for name in ("tokens", "lengths", "finished"):
        assert np.array_equal(getattr(a, name)[rows], getattr(b, name)), name
    np.testing.assert_allclose(a.logprobs[rows], b.logprobs, atol=1e-5)


# What a sample depends on


def test_greedy_is_the_naive_argmax_loop(tiny, draw, prompts):
    cfg, params = tiny
    found = draw(Greedy(), NO_STOP)
    tokens, segments = np.zeros((8, P + N), np.int32), np.ones((8, P + N), np.int32)
    tokens[:, :P] = prompts
    positions = np.broadcast_to(np.arange(P + N, dtype=np.int32), tokens.shape)
    step = jax.jit(lambda t: decoder.logits(params, decoder.apply(params, t, positions, segments, cfg=cfg)[0], cfg))
    for i in range(N):  # later positions may hold anything: the model is causal
        logits = np.asarray(step(tokens))
        at = np.arange(8), LENGTHS + i
        tokens[at] = logits[np.arange(8), LENGTHS + i - 1].argmax(-1)
        assert np.array_equal(found.tokens[:, i], tokens[at])
    assert (found.lengths == N).all() and not found.finished.any()


def test_the_place_in_the_batch_does_not_matter(draw, base, prompts):
    order = np.random.default_rng(1).permutation(8)
    assert_same(base, draw(prompts=prompts[order], lengths=LENGTHS[order], ids=IDS[order], indices=INDICES[order]), order)


def test_batch_size_and_prompt_width_do_not_matter(draw, base, prompts):
    """Twelve rows of width 32: the eight, spread, among empty ones."""
    rows = np.array([0, 2, 3, 5, 6, 8, 9, 11])
    wide, small = np.zeros((12, 32), np.int32), np.zeros((3, 12), np.int32)
    wide[rows, :P] = prompts
    small[:, rows] = LENGTHS, IDS, INDICES
    found = draw(prompts=wide, lengths=small[0], ids=small[1], indices=small[2])
    assert_same(base, jax.tree.map(lambda x: x[rows], found))
    empty = jax.tree.map(lambda x: x[[1, 4, 7, 10]], found)  # and they stay empty
    assert not empty.tokens.any() and not empty.lengths.any() and not empty.finished.any() and not empty.logprobs.any()


@pytest.mark.parametrize("dims", [(1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_the_mesh_does_not_matter(tiny, draw, base, dims):
    """The same tokens on data and fsdp meshes; a tensor mesh reorders sums: log-probabilities agree to 1e-5."""
    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        params = jax.device_put(tiny[1], sharding.parameter_specs(tiny[1], mesh))
        assert_same(base, draw(mesh=mesh, params=params))


def test_id_index_and_key_name_the_draw(draw, endless, prompts):
    same = {"prompts": np.repeat(prompts[:1], 8, 0), "lengths": np.repeat(LENGTHS[:1], 8), "stop": NO_STOP}
    zero = 0 * IDS
    found = draw(**same, ids=np.array([3, 3, 4, 4, 0, 1, 3, 3], np.int32), indices=np.array([0, 1, 0, 1, 3, 3, 0, 1], np.int32))
    rows = [tuple(r) for r in found.tokens]
    assert len(set(rows[:6])) == 6 and rows[6:] == rows[:2] and rows[0] == tuple(endless.tokens[0])
    assert len({tuple(r) for r in draw(**same, ids=zero, indices=zero).tokens}) == 1
    assert not np.array_equal(draw(stop=NO_STOP, key=1).tokens, endless.tokens)


def test_positions_draw_afresh(tiny, draw, prompts):
    """A model that gives every token the same logits at every position: the draws of one row still differ."""
    cfg, params = tiny
    flat = params | {"final_norm": jnp.zeros_like(params["final_norm"])}
    found = draw(Temperature(1.0), NO_STOP, params=flat)
    assert all(len(set(row)) > 2 for row in found.tokens)
    np.testing.assert_allclose(found.logprobs, -np.log(20), rtol=1e-5)


# Ends


def test_stop_tokens_end_rows_and_change_nothing_before(endless, base):
    for i in range(8):
        hits = np.flatnonzero(np.isin(endless.tokens[i], (2, 11)))
        n = hits[0] + 1 if len(hits) else N
        assert base.lengths[i] == n and base.finished[i] == bool(len(hits))
        assert np.array_equal(base.tokens[i, :n], endless.tokens[i, :n]) and not base.tokens[i, n:].any()
        np.testing.assert_allclose(base.logprobs[i, :n], endless.logprobs[i, :n], atol=1e-6)
        assert not base.logprobs[i, n:].any()
    assert 0 < base.finished.sum() < 8  # both kinds are here


def test_cut_off_rows_are_unfinished_and_get_no_end_token(endless, base):
    assert (endless.lengths == N).all() and not endless.finished.any()
    cut = ~base.finished
    assert (base.lengths[cut] == N).all() and not np.isin(base.tokens[cut], (2, 11)).any()


def test_an_end_token_in_the_last_place_finishes_the_row(draw, endless):
    row = next(i for i in range(8) if endless.tokens[i, -1] not in endless.tokens[i, :-1])
    last = int(endless.tokens[row, -1])
    found = draw(stop=(last, last))
    assert found.finished[row] and found.lengths[row] == N and found.tokens[row, -1] == last


def test_other_temperatures_and_stop_tokens_are_no_new_program(draw, base):
    before = engine.compilations()
    assert before > 0
    other = draw(Temperature(0.2), stop=(5, 9), key=3)
    assert engine.compilations() == before and not np.array_equal(other.tokens, base.tokens)


# Laws


@pytest.mark.parametrize("rule", [Temperature(0.7), TopP(0.6, 1.3), TopK(3, 1.3), Greedy()], ids=lambda r: type(r).__name__)
def test_logprobs_are_of_the_untruncated_law(tiny, draw, prompts, rule):
    """Re-scored at the sampling temperature the ratio is 1, whatever the truncation."""
    cfg, params = tiny
    samples = draw(rule, stop=(2, 11))
    *batch, inside = completed(prompts, samples)
    found = np.asarray(rescore(params, *batch, getattr(rule, "temperature", 1.0)))[inside]
    told = np.concatenate([samples.logprobs[i, :n] for i, n in enumerate(samples.lengths)])
    np.testing.assert_allclose(np.exp(found - told), 1, atol=1e-3)
    np.testing.assert_allclose(found, told, atol=1e-4)
    assert told.min() < -0.05


def test_at_temperature_one_logprobs_are_those_of_training(tiny, draw, prompts):
    cfg, params = tiny
    samples = draw(Temperature(1.0), stop=(2, 11))
    tokens, positions, segments, inside = completed(prompts, samples)
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    found = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, batch, cfg))[inside]
    told = np.concatenate([samples.logprobs[i, :n] for i, n in enumerate(samples.lengths)])
    np.testing.assert_allclose(np.exp(found - told), 1, atol=1e-3)


def truncated(logits, rule):
    """The exact law of a rule, by sorting one list of Python floats."""
    p = np.exp(np.asarray(logits, np.float64) / rule.temperature)
    p /= p.sum()
    order, kept = sorted(range(len(p)), key=lambda i: -p[i]), []
    for i in order:
        if isinstance(rule, TopK) and len(kept) == rule.k or isinstance(rule, TopP) and sum(p[j] for j in kept) >= rule.p:
            break
        kept.append(i)
    q = np.zeros_like(p)
    q[kept] = p[kept]
    return q / q.sum()


@pytest.mark.parametrize("rule", [Temperature(1.2), TopK(3, 1.5), TopP(0.75, 1.5)], ids=lambda r: type(r).__name__)
def test_samples_follow_the_exact_law(rule):
    """Two tokens of a vocabulary of five: chi-square of the 25 pairs, whose probabilities are known exactly."""
    V, count = 5, 4096
    cfg = decoder.ModelConfig(vocab_size=V, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16)
    params = random_params(cfg, seed=5)
    zeros = np.zeros((count,), np.int32)
    found = engine.sample(params, np.full((count, 4), 3, np.int32), zeros + 2, zeros, np.arange(count, dtype=np.int32),
                            jax.random.key(0), jax.tree.map(np.float32, rule), np.array([-1], np.int32), cfg=cfg,
                            max_new_tokens=2)  # fmt: skip
    tokens = np.stack([[3, 3, first] for first in range(V)]).astype(np.int32)
    positions = np.broadcast_to(np.arange(3, dtype=np.int32), (V, 3))
    hidden, _ = decoder.apply(params, tokens, positions, np.ones((V, 3), np.int32), cfg=cfg)
    logits = np.asarray(decoder.logits(params, hidden, cfg))
    law = truncated(logits[0, 1], rule)[:, None] * [truncated(logits[first, 2], rule) for first in range(V)]

    counts = np.zeros((V, V))
    np.add.at(counts, tuple(np.asarray(found.tokens).T), 1)
    possible = law > 0
    assert counts[~possible].sum() == 0
    assert possible.all() if isinstance(rule, Temperature) else 4 < possible.sum() < 25
    expected, freedom = count * law[possible], possible.sum() - 1
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    assert expected.min() > 5 and chi_square < freedom + 4 * np.sqrt(2 * freedom)  # mean and 4 standard deviations


def test_truncation_by_hand():
    keys = jax.random.split(jax.random.key(0), 200)
    p = np.array([0.05, 0.4, 0.3, 0.25], np.float32)
    logits = np.broadcast_to(np.log(p), (200, 4))

    def drawn(rule):
        tokens, told = rule.choose(keys, logits)
        np.testing.assert_allclose(told, logits, atol=1e-5)
        return set(np.asarray(tokens).tolist())

    assert drawn(TopP(0.39)) == {1} and drawn(TopP(0.41)) == {1, 2} and drawn(TopP(0.71)) == {1, 2, 3}
    assert drawn(TopP(1e-9)) == {1} and drawn(TopP(0.99)) == {0, 1, 2, 3}
    assert drawn(TopK(1)) == {1} and drawn(TopK(2)) == {1, 2} and drawn(TopK(9)) == {0, 1, 2, 3}


def test_rules_of_a_config():
    assert methods.make_rule(0.0) == Greedy() and methods.make_rule(0.5) == Temperature(0.5)
    assert methods.make_rule(0.5, top_k=7) == TopK(7, 0.5) and methods.make_rule(0.5, top_p=0.9) == TopP(0.9, 0.5)
    for bad in [(-1.0,), (1.0, -1), (1.0, 0, 0.0), (1.0, 0, 1.1), (1.0, 5, 0.5)]:
        with pytest.raises(ValueError, match=r"^config\.sampling: [^\n]*\.$"):
            methods.make_rule(*bad)


def test_buckets_are_few_and_large_enough():
    assert [engine.bucket(n) for n in (1, 16, 17, 32, 33)] == [16, 16, 32, 32, 64]
    assert all(n <= engine.bucket(n) < max(2 * n, 17) for n in range(1, 300))


def test_samples_is_a_pytree_of_four_arrays(base):
    assert [f.name for f in dataclasses.fields(base)] == ["tokens", "logprobs", "lengths", "finished"]
    assert base.tokens.dtype == base.lengths.dtype == np.int32 and base.logprobs.dtype == np.float32
