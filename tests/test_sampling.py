"""The sampler: a sample is a function of parameters, prompt, id and index alone.

It follows the distribution that it reports.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hidden_states, random_params

from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.policy import Policy, Request
from reasoning_jax.sampling import engine, methods
from reasoning_jax.sampling.methods import Greedy, Temperature, TopK, TopP

P, N = 16, 8
LENGTHS = np.array([2, 9, 4, 1, 12, 7, 3, 16], np.int32)
IDS = np.array([3, 0, 10_000_000, 5, 5, 8, 1, 2], np.int32)
INDICES = np.array([0, 0, 0, 0, 1, 0, 2, 0], np.int32)
NO_STOP = (-1, -1)


@pytest.fixture(scope="module")
def prompts():
    tokens = np.random.default_rng(0).integers(3, 20, (8, P))
    return np.where(np.arange(P) < LENGTHS[:, None], tokens, 0).astype(np.int32)


@pytest.fixture(scope="module")
def draw(tiny, prompts):
    """sample() of the eight prompts (or of other arrays), its result on the host."""
    cfg, tiny_params = tiny

    def draw(
        method=None,
        stop=(2, 11),
        prompts=prompts,
        lengths=LENGTHS,
        ids=IDS,
        indices=INDICES,
        key=0,
        mesh=None,
        params=tiny_params,
        **sizes,
    ):
        method = Temperature(0.7) if method is None else method
        arrays = prompts, lengths, ids, indices, jax.random.key(key), method, stop
        return drawing.sample(params, *arrays, cfg=cfg, max_new_tokens=N, mesh=mesh, **sizes)

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
    """Prompts and completions: tokens, positions, segment ids [B, P + N].

    And where the completions are, [B, P + N] bool.
    """
    tokens = np.zeros((len(prompts), P + N), np.int32)
    inside = np.zeros(tokens.shape, bool)
    for i, (n, m) in enumerate(zip(LENGTHS, samples.lengths, strict=True)):
        tokens[i, :n] = prompts[i, :n]
        tokens[i, n : n + m] = samples.tokens[i, :m]
        inside[i, n : n + m] = True
    used = np.arange(P + N) < (LENGTHS + samples.lengths)[:, None]
    return tokens, np.where(used, np.arange(P + N), 0), used.astype(np.int32), inside


def reported(samples):
    """The log-probabilities of all completions' tokens, one after another."""
    pairs = zip(samples.logprobs, samples.lengths, strict=True)
    return np.concatenate([logprobs[:length] for logprobs, length in pairs])


@functools.partial(jax.jit, static_argnames="cfg")
def logprobs_at_temperature(params, tokens, positions, segments, temperature, cfg):
    """Log-probabilities of every token but the first, at a temperature."""
    hidden = hidden_states(params, tokens, positions, segments, cfg)
    everywhere = jnp.ones(tokens[:, 1:].shape, bool)
    out = logprobs.of_targets(params, hidden[:, :-1] / temperature, tokens[:, 1:], everywhere, cfg)
    return jnp.pad(out, ((0, 0), (1, 0)))


def assert_same(a, b, sequences=slice(None)):
    for name in ("tokens", "lengths", "finished"):
        assert np.array_equal(getattr(a, name)[sequences], getattr(b, name)), name
    np.testing.assert_allclose(a.logprobs[sequences], b.logprobs, atol=1e-5)


# What a sample depends on


def test_greedy_is_the_naive_argmax_loop(tiny, draw, prompts):
    cfg, params = tiny
    samples = draw(Greedy(), NO_STOP)
    tokens, segments = np.zeros((8, P + N), np.int32), np.ones((8, P + N), np.int32)
    tokens[:, :P] = prompts
    positions = np.broadcast_to(np.arange(P + N, dtype=np.int32), tokens.shape)

    @jax.jit
    def logits_of(tokens):
        hidden = hidden_states(params, tokens, positions, segments, cfg)
        return decoder.logits(params, hidden, cfg)

    for i in range(N):  # later positions may hold anything: the model is causal
        logits = np.asarray(logits_of(tokens))
        at = np.arange(8), LENGTHS + i
        tokens[at] = logits[np.arange(8), LENGTHS + i - 1].argmax(-1)
        assert np.array_equal(samples.tokens[:, i], tokens[at])
    assert (samples.lengths == N).all()
    assert not samples.finished.any()


def test_the_position_in_the_batch_does_not_matter(draw, base, prompts):
    order = np.random.default_rng(1).permutation(8)
    shuffled = draw(
        prompts=prompts[order], lengths=LENGTHS[order], ids=IDS[order], indices=INDICES[order]
    )
    assert_same(base, shuffled, order)


def test_batch_size_and_prompt_width_do_not_matter(draw, base, prompts):
    """Twelve sequences of width 32: the eight, spread, among empty ones."""
    used = np.array([0, 2, 3, 5, 6, 8, 9, 11])
    wide, small = np.zeros((12, 32), np.int32), np.zeros((3, 12), np.int32)
    wide[used, :P] = prompts
    small[:, used] = LENGTHS, IDS, INDICES
    samples = draw(prompts=wide, lengths=small[0], ids=small[1], indices=small[2])
    assert_same(base, jax.tree.map(lambda x: x[used], samples))
    empty = jax.tree.map(lambda x: x[[1, 4, 7, 10]], samples)
    for array in jax.tree.leaves(empty):
        assert not array.any()


@pytest.mark.parametrize("dims", [(1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_the_mesh_does_not_matter(tiny, draw, base, dims):
    """The same tokens on data and fsdp meshes.

    A tensor mesh reorders sums: log-probabilities agree to 1e-5.
    """
    mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
    with jax.set_mesh(mesh):
        params = jax.device_put(tiny[1], sharding.parameter_specs(tiny[1], mesh))
        assert_same(base, draw(mesh=mesh, params=params))


def test_id_index_and_key_name_the_draw(draw, endless, prompts):
    same_prompt = functools.partial(
        draw,
        prompts=np.repeat(prompts[:1], 8, 0),
        lengths=np.repeat(LENGTHS[:1], 8),
        stop=NO_STOP,
    )
    ids = np.array([3, 3, 4, 4, 0, 1, 3, 3], np.int32)
    indices = np.array([0, 1, 0, 1, 3, 3, 0, 1], np.int32)
    samples = [tuple(tokens) for tokens in same_prompt(ids=ids, indices=indices).tokens]
    assert len(set(samples[:6])) == 6
    assert samples[6:] == samples[:2]
    assert samples[0] == tuple(endless.tokens[0])
    alike = same_prompt(ids=0 * IDS, indices=0 * IDS)
    assert len({tuple(tokens) for tokens in alike.tokens}) == 1
    assert not np.array_equal(draw(stop=NO_STOP, key=1).tokens, endless.tokens)


def test_positions_draw_afresh(tiny, draw, prompts):
    """The draws of one sequence differ where every token has the same logits at every position."""
    cfg, params = tiny
    flat = params | {"final_norm": jnp.zeros_like(params["final_norm"])}
    samples = draw(Temperature(1.0), NO_STOP, params=flat)
    assert all(len(set(tokens)) > 2 for tokens in samples.tokens)
    np.testing.assert_allclose(samples.logprobs, -np.log(20), rtol=1e-5)


# Ends


def test_stop_tokens_end_sequences_and_change_nothing_before(endless, base):
    for i in range(8):
        hits = np.flatnonzero(np.isin(endless.tokens[i], (2, 11)))
        n = hits[0] + 1 if len(hits) else N
        assert base.lengths[i] == n
        assert base.finished[i] == bool(len(hits))
        assert np.array_equal(base.tokens[i, :n], endless.tokens[i, :n])
        assert not base.tokens[i, n:].any()
        np.testing.assert_allclose(base.logprobs[i, :n], endless.logprobs[i, :n], atol=1e-6)
        assert not base.logprobs[i, n:].any()
    assert 0 < base.finished.sum() < 8  # some end with a stop token and some do not


def test_cut_off_sequences_are_unfinished_and_get_no_end_token(endless, base):
    assert (endless.lengths == N).all()
    assert not endless.finished.any()
    cut = ~base.finished
    assert (base.lengths[cut] == N).all()
    assert not np.isin(base.tokens[cut], (2, 11)).any()


def test_an_end_token_at_the_last_position_finishes_the_sequence(draw, endless):
    i = next(i for i in range(8) if endless.tokens[i, -1] not in endless.tokens[i, :-1])
    last = int(endless.tokens[i, -1])
    samples = draw(stop=(last, last))
    assert samples.finished[i]
    assert samples.lengths[i] == N
    assert samples.tokens[i, -1] == last


def test_other_temperatures_and_stop_tokens_are_no_new_program(draw, base):
    before = engine.compilations()
    assert before > 0
    other = draw(Temperature(0.2), stop=(5, 9), key=3)
    assert engine.compilations() == before
    assert not np.array_equal(other.tokens, base.tokens)


# Distributions


def kind(method):
    return type(method).__name__


@pytest.mark.parametrize(
    "method", [Temperature(0.7), TopP(0.6, 1.3), TopK(3, 1.3), Greedy()], ids=kind
)
def test_logprobs_are_of_the_untruncated_distribution(tiny, draw, prompts, method):
    """Computed again at the sampling temperature the ratio is 1, whatever the truncation."""
    cfg, params = tiny
    samples = draw(method, stop=(2, 11))
    *batch, inside = completed(prompts, samples)
    temperature = getattr(method, "temperature", 1.0)
    again = np.asarray(logprobs_at_temperature(params, *batch, temperature, cfg=cfg))[inside]
    sampled = reported(samples)
    np.testing.assert_allclose(np.exp(again - sampled), 1, atol=1e-3)
    np.testing.assert_allclose(again, sampled, atol=1e-4)
    assert sampled.min() < -0.05


def test_at_temperature_one_logprobs_are_those_of_training(tiny, draw, prompts):
    cfg, params = tiny
    samples = draw(Temperature(1.0), stop=(2, 11))
    tokens, positions, segments, inside = completed(prompts, samples)
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    trained = np.asarray(jax.jit(logprobs.token_logprobs, static_argnums=2)(params, batch, cfg))
    np.testing.assert_allclose(np.exp(trained[inside] - reported(samples)), 1, atol=1e-3)


def exact_distribution(logits, method):
    """The distribution of a method, by sorting one list of Python floats."""
    p = np.exp(np.asarray(logits, np.float64) / method.temperature)
    p /= p.sum()
    kept: list[int] = []
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        if isinstance(method, TopK) and len(kept) == method.k:
            break
        if isinstance(method, TopP) and sum(p[j] for j in kept) >= method.p:
            break
        kept.append(i)
    q = np.zeros_like(p)
    q[kept] = p[kept]
    return q / q.sum()


@pytest.mark.parametrize("method", [Temperature(1.2), TopK(3, 1.5), TopP(0.75, 1.5)], ids=kind)
def test_samples_follow_the_exact_distribution(method):
    """Two tokens of a vocabulary of five: chi-square of the 25 pairs of known probability."""
    V, count = 5, 4096
    cfg = decoder.ModelConfig(
        vocab_size=V,
        width=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        mlp_dim=16,
    )
    params = random_params(cfg, seed=5)
    zeros = np.zeros((count,), np.int32)
    samples = drawing.sample(
        params,
        np.full((count, 4), 3, np.int32),
        zeros + 2,
        zeros,
        np.arange(count, dtype=np.int32),
        jax.random.key(0),
        method,
        [-1],
        cfg=cfg,
        max_new_tokens=2,
        num_slots=256,
    )
    tokens = np.stack([[3, 3, first] for first in range(V)]).astype(np.int32)
    positions = np.broadcast_to(np.arange(3, dtype=np.int32), (V, 3))
    segments = np.ones((V, 3), np.int32)
    forward = jax.jit(hidden_states, static_argnames="cfg")
    hidden = forward(params, tokens, positions, segments, cfg=cfg)
    logits = np.asarray(decoder.logits(params, hidden, cfg))
    of_first = exact_distribution(logits[0, 1], method)
    of_second = [exact_distribution(logits[first, 2], method) for first in range(V)]
    of_pairs = of_first[:, None] * of_second

    counts = np.zeros((V, V))
    np.add.at(counts, tuple(np.asarray(samples.tokens).T), 1)
    possible = of_pairs > 0
    assert counts[~possible].sum() == 0
    if isinstance(method, Temperature):
        assert possible.all()
    else:
        assert 4 < possible.sum() < 25
    expected, freedom = count * of_pairs[possible], possible.sum() - 1
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    assert expected.min() > 5
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # mean and 4 standard deviations


def test_truncation_by_hand():
    keys = jax.random.split(jax.random.key(0), 200)
    p = np.array([0.05, 0.4, 0.3, 0.25], np.float32)
    logits = jnp.broadcast_to(np.log(p), (200, 4))

    def drawn(method):
        tokens, logprobs = method.choose(keys, logits)
        np.testing.assert_allclose(logprobs, logits, atol=1e-5)
        return set(np.asarray(tokens).tolist())

    assert drawn(TopP(0.39)) == {1}
    assert drawn(TopP(0.41)) == {1, 2}
    assert drawn(TopP(0.71)) == {1, 2, 3}
    assert drawn(TopP(1e-9)) == {1}
    assert drawn(TopP(0.99)) == {0, 1, 2, 3}
    assert drawn(TopK(1)) == {1}
    assert drawn(TopK(2)) == {1, 2}
    assert drawn(TopK(9)) == {0, 1, 2, 3}


def test_methods_of_a_config():
    assert methods.make_method(0.0) == Greedy()
    assert methods.make_method(0.5) == Temperature(0.5)
    assert methods.make_method(0.5, top_k=7) == TopK(7, 0.5)
    assert methods.make_method(0.5, top_p=0.9) == TopP(0.9, 0.5)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((-1.0,), "temperature: -1.0 is not a finite number of at least 0."),
        ((float("nan"),), "temperature: nan is not a finite number of at least 0."),
        ((1.0, 5, 0.5), "config.sampling: set top_k or top_p, not both."),
    ],
)
def test_bad_values_are_one_sentence_with_the_key(values, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        methods.make_method(*values)


def test_buckets_are_few_and_large_enough():
    assert [engine.bucket(n) for n in (1, 16, 17, 32, 33)] == [16, 16, 32, 32, 64]
    assert all(n <= engine.bucket(n) < max(2 * n, 17) for n in range(1, 300))


def test_samples_is_a_pytree_of_four_arrays(base):
    names = [field.name for field in dataclasses.fields(base)]
    assert names == ["tokens", "logprobs", "lengths", "finished"]
    assert base.tokens.dtype == base.lengths.dtype == np.int32
    assert base.logprobs.dtype == np.float32


# ---- as it grows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [(2, 11), NO_STOP])
def test_a_stream_is_the_completion_as_it_grows(tiny, prompts, draw, stop):
    cfg, params = tiny
    policy = Policy(params=params, model_cfg=cfg, mesh=None, batch_size=4, max_length=P + N)
    whole = draw(stop=stop)
    for row in (0, 4):
        prompt = prompts[row, : LENGTHS[row]]
        request = Request(int(IDS[row]), int(INDICES[row]), prompt)
        options = {
            "key": jax.random.key(0),
            "method": Temperature(0.7),
            "stop_ids": stop,
            "max_new_tokens": N,
        }
        lengths, last = [], None
        for part in policy.stream(request, 3, **options):
            lengths.append(int(part.lengths[0]))
            own = part.tokens[0, : lengths[-1]]
            assert last is None or np.array_equal(own[: len(last)], last)
            last = own
        assert np.array_equal(last, whole.tokens[row, : whole.lengths[row]])
        assert lengths == sorted({*range(1, lengths[-1], 3), lengths[-1]})
        assert bool(part.finished[0]) == bool(whole.finished[row])
