"""Continuous thoughts: equal to the same passes by hand and without a cache; gradients; meshes."""

from __future__ import annotations

import dataclasses
from functools import partial

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from test_families import FAMILIES
from test_model import ragged

from reasoning_jax import forwards
from reasoning_jax.forwards import coconut
from reasoning_jax.forwards.coconut import passes
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.sampling import methods

S = 14
COCONUT = forwards.get("coconut")
THREE = COCONUT.Config(thoughts_per_step=1, stages=3)
compiled = jax.jit(COCONUT.logprobs, static_argnums=(3, 4))
with_thoughts = jax.jit(passes.with_thoughts, static_argnums=(2, 3))


def with_markers(tiny, seed=1):
    cfg, params = tiny
    return cfg, params | COCONUT.init(jax.random.key(seed), cfg, THREE)


def row(cfg, question, count, rest):
    """A row of ids: the question, the markers around so many thoughts, and the rest."""
    begin, end, thought = (cfg.vocab_size + i for i in range(3))
    return [*question, begin, *[thought] * count, end, *rest]


def batch_of(rows, width=S):
    tokens, positions, segments = (jnp.asarray(x) for x in ragged(rows, width))
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


ROWS = (([4, 5, 6], 3, [7, 8, 9]), ([10], 2, [11]), ([3, 4, 5, 6, 7], 0, [12, 13]), ([9], 3, []))


@pytest.fixture(scope="module", params=["tiny", "gemma-2", "gpt-2"])
def thinking(request, tiny):
    """A model with markers, and a batch of rows with 3, 2, 0 and 3 thoughts."""
    model = tiny
    if request.param != "tiny":
        cfg = FAMILIES[request.param]
        model = cfg, random_params(cfg, seed=2)
    cfg, params = with_markers(model)
    return cfg, params, batch_of([row(cfg, *parts) for parts in ROWS])


@partial(jax.jit, static_argnames="cfg")
def hidden_of(params, inputs, cfg):
    """[1, S, D]; padding on the right, which nothing before it sees."""
    mask = CausalMask(jnp.ones((1, S), jnp.int32))
    return decoder.apply(params, inputs, jnp.arange(S)[None], mask, cfg=cfg)


def recomputed(params, ids, cfg, given=None):
    """[1, S, D]: hidden states of one row, every thought by a pass over all that is before it.

    given: the vector of every thought in its place.
    """
    padded = [*ids, *[0] * (S - len(ids))]
    inputs = decoder.embed(params, jnp.asarray([padded]), cfg)
    for place, id in enumerate(ids):
        if id == cfg.vocab_size + coconut.THOUGHT:
            before = hidden_of(params, inputs, cfg)[:, place - 1] if given is None else given
            inputs = inputs.at[:, place].set(before)
    return hidden_of(params, inputs, cfg)


def test_thoughts_are_the_passes_by_hand(thinking):
    cfg, params, batch = thinking
    hidden, fed = with_thoughts(params, batch, cfg, passes.Room(S, 3, S))
    for number, parts in enumerate(ROWS):
        ids = row(cfg, *parts)
        wanted = recomputed(params, ids, cfg)[0, : len(ids)]
        np.testing.assert_allclose(hidden[number, : len(ids)], wanted, atol=2e-5)
        first = len(parts[0])  # the begin marker's place
        for i in range(parts[1]):  # what is fed is the hidden state before it
            np.testing.assert_allclose(fed[number, i], hidden[number, first + i], atol=1e-6)


def test_thoughts_after_the_question_itself(tiny):
    """The first is the state of the question's last token."""
    cfg, params = with_markers(tiny)
    thought = cfg.vocab_size + coconut.THOUGHT
    rows = [[4, 5, 6, thought, thought, 7, 8], [9, thought, 10], [11, 12]]
    hidden, fed = with_thoughts(params, batch_of(rows), cfg, passes.Room(S, 2, S))
    for number, ids in enumerate(rows):
        wanted = recomputed(params, ids, cfg)[0, : len(ids)]
        np.testing.assert_allclose(hidden[number, : len(ids)], wanted, atol=2e-5)
    np.testing.assert_allclose(fed[0, 0], hidden[0, 2], atol=1e-6)


def test_other_vectors_in_the_place_of_thoughts(thinking):
    cfg, params, batch = thinking
    given = jax.random.normal(jax.random.key(5), (cfg.width,))
    vectors = jnp.broadcast_to(given, (len(ROWS), 3, cfg.width))
    room = passes.Room(S, 3, S)
    hidden, fed = with_thoughts(params, batch, cfg, room, vectors)
    np.testing.assert_array_equal(fed, vectors)
    for number, parts in enumerate(ROWS):
        ids = row(cfg, *parts)
        wanted = recomputed(params, ids, cfg, given)[0, : len(ids)]
        np.testing.assert_allclose(hidden[number, : len(ids)], wanted, atol=2e-5)


def test_less_room_is_the_same(thinking):
    cfg, params, batch = thinking
    tight = dataclasses.replace(THREE, question_length=8, answer_length=4)
    own, aux = compiled(params, batch, None, cfg, tight)
    wanted, _ = compiled(params, batch, None, cfg, THREE)
    np.testing.assert_allclose(own, wanted, atol=2e-5)
    assert aux == {}


def test_rows_do_not_see_each_other(thinking):
    cfg, params, batch = thinking
    together, _ = compiled(params, batch, None, cfg, THREE)
    for number in (1, 2):
        one = {name: x[number : number + 1] for name, x in batch.items()}
        alone, _ = compiled(params, one, None, cfg, THREE)
        np.testing.assert_allclose(alone[0], together[number], atol=2e-5)


def test_no_thoughts_are_plain(tiny):
    cfg, params = with_markers(tiny)
    batch = batch_of([row(cfg, question, 0, rest) for question, _, rest in ROWS])
    wanted = logprobs.compiled_token_logprobs(params, batch, cfg)
    for settings in (COCONUT.Config(thoughts_per_step=0), COCONUT.Config(stages=0)):
        own, _ = compiled(params, batch, None, cfg, settings)
        np.testing.assert_array_equal(own, wanted)
    own, _ = compiled(params, batch, None, cfg, THREE)
    np.testing.assert_allclose(own, wanted, atol=1e-5)


def test_one_learned_vector_as_thought_is_a_token(tiny):
    """Then a row is a plain one, with the vector of id THOUGHT where its thoughts are."""
    cfg, params = tiny
    learned = dataclasses.replace(THREE, fed="learned")
    own = COCONUT.init(jax.random.key(1), cfg, learned)
    assert own["pause"].shape == (3, cfg.width)
    params = params | own
    assert decoder.thought_id(params, cfg) is None  # the sampler has no thoughts to compute
    batch = batch_of([row(cfg, *parts) for parts in ROWS])
    out, _ = compiled(params, batch, None, cfg, learned)
    wanted = logprobs.compiled_token_logprobs(params, batch, cfg)
    np.testing.assert_array_equal(out, wanted)
    changed = params | {"pause": params["pause"].at[2].add(1.0)}
    other, _ = compiled(changed, batch, None, cfg, learned)
    first = len(ROWS[0][0]) + 1 + ROWS[0][1]  # of what follows the thoughts
    assert np.abs(other - out)[0, first : first + 3].max() > 1e-3


def total(params, batch, cfg, settings):
    weights = jnp.cos(jnp.arange(batch["tokens"].size)).reshape(batch["tokens"].shape)
    is_asked = batch["tokens"] < cfg.vocab_size
    batch = batch | {"weights": jnp.where(is_asked, weights, 0.0)}
    out, _ = COCONUT.logprobs(params, batch, None, cfg, settings)
    return jnp.sum(out * batch["weights"])


def test_gradients_are_those_of_finite_differences(tiny):
    cfg, params = with_markers(tiny)
    batch = batch_of([row(cfg, *parts) for parts in ROWS])
    function = jax.jit(partial(total, batch=batch, cfg=cfg, settings=THREE))
    gradient = jax.jit(jax.grad(function))(params)
    step = 1e-2
    for name in ("embedding", "thought_markers"):
        direction = jax.random.normal(jax.random.key(3), params[name].shape)
        direction = direction / jnp.linalg.norm(direction)
        ahead, behind = (
            function(params | {name: params[name] + s * direction}) for s in (step, -step)
        )
        wanted = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient[name] * direction), wanted, rtol=5e-3)


def test_the_gradient_goes_through_the_thoughts(tiny):
    """Through the cache as through recomputation; and into the question by way of them."""
    cfg, params = with_markers(tiny)
    ids = row(cfg, *ROWS[0])
    batch = batch_of([ids])
    asked = slice(len(ids) - 3, len(ids))

    def by_hand(params):
        hidden = recomputed(params, ids, cfg)
        out = logprobs.of_hidden(params, hidden, batch, cfg)
        return jnp.sum(out[0, asked])

    def own(params):
        out, _ = COCONUT.logprobs(params, batch, None, cfg, THREE)
        return jnp.sum(out[0, asked])

    grads, wanted = (jax.jit(jax.grad(f))(params) for f in (own, by_hand))
    jax.tree.map(partial(np.testing.assert_allclose, atol=5e-5, rtol=1e-3), grads, wanted)


def test_thought_distributions(tiny):
    cfg, params = with_markers(tiny)
    batch = batch_of([row(cfg, *parts) for parts in ROWS])
    _, fed = with_thoughts(params, batch, cfg, passes.Room(S, 3, S))
    out = coconut.thought_distributions(params, batch, cfg, THREE)
    assert out.shape == (len(ROWS), 3, cfg.vocab_size)
    np.testing.assert_allclose(out.sum(-1), 1, atol=1e-5)
    logits = np.asarray(fed[0, 1]) @ np.asarray(params["embedding"]).T
    np.testing.assert_allclose(out[0, 1], jax.nn.softmax(logits), atol=1e-5)


def test_on_a_mesh(tiny):
    cfg, params = with_markers(tiny)
    batch = batch_of([row(cfg, *parts) for parts in ROWS])
    function = jax.jit(jax.value_and_grad(partial(total, cfg=cfg, settings=THREE)))
    wanted, wanted_grads = function(params, batch)
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, sharding.parameter_specs(params, mesh))
        on_mesh = sharding.put({k: np.asarray(v) for k, v in batch.items()}, mesh, "batch", None)
        value, grads = function(split, on_mesh)
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3),
        jax.device_get(grads),
        jax.device_get(wanted_grads),
    )


# ---- sampling ------------------------------------------------------------------------------------


def drawn(model, prompts, slots, mesh=None, ids=None, cache_tokens=0, stop_ids=(3,)):
    """Samples of prompts at temperature 1, of at most 3 tokens."""
    cfg, params = model
    width = max(len(prompt) for prompt in prompts)
    padded = np.zeros((len(prompts), width), np.int32)
    for number, prompt in enumerate(prompts):
        padded[number, : len(prompt)] = prompt
    return drawing.sample(
        params,
        padded,
        [len(prompt) for prompt in prompts],
        range(len(prompts)) if ids is None else ids,
        [0] * len(prompts),
        jax.random.key(0),
        methods.make_method(1.0),
        stop_ids,
        cfg=cfg,
        max_new_tokens=3,
        num_slots=slots,
        mesh=mesh,
        cache_tokens=cache_tokens,
    )


@pytest.fixture(scope="module")
def prompts(tiny):
    """Of several lengths, with 3 to 0 thoughts; the last four end with one.

    Two begin alike for two pages; two have the same question, which with its marker fills a page.
    """
    long = np.random.default_rng(0).integers(4, 20, 70).tolist()
    questions = [[4, 5, 6], [7], long, [*long[:64], 9], [8, 8], long[:31], long[:31], [6]]
    counts = [3, 2, 3, 1, 0, 3, 2, 3]
    rows = [row(tiny[0], q, n, []) for q, n in zip(questions, counts, strict=True)]
    return [*rows, *(one[:-1] for one in rows[:4])]


@pytest.fixture(scope="module")
def samples(tiny, prompts):
    return drawn(with_markers(tiny), prompts, slots=8)


def test_samples_think(tiny, prompts, samples):
    """Their log-probabilities are those that an update computes of the same rows."""
    cfg, params = with_markers(tiny)
    rows = []
    for number, prompt in enumerate(prompts):
        rows.append([*prompt, *samples.tokens[number, : samples.lengths[number]].tolist()])
    out, _ = compiled(params, batch_of(rows, 96), None, cfg, THREE)
    for number, prompt in enumerate(prompts):
        own = samples.logprobs[number, : samples.lengths[number]]
        wanted = out[number, len(prompt) : len(rows[number])]
        np.testing.assert_allclose(own, wanted, atol=2e-5)


def test_a_completion_may_end_right_after_the_thoughts(tiny, prompts, samples):
    """Its first token, drawn from the last thought, may be the one that ends it."""
    first = int(samples.tokens[8, 0])
    out = drawn(with_markers(tiny), prompts[8:9], slots=1, ids=[8], stop_ids=(first,))
    assert out.lengths.tolist() == [1] and out.tokens[0, 0] == first


@pytest.mark.parametrize("slots", [1, 3])
def test_the_queue_changes_no_sample(tiny, prompts, samples, slots):
    order = [5, 2, 9, 7, 0, 11, 3, 1, 8, 6, 10, 4]
    again = drawn(with_markers(tiny), [prompts[i] for i in order], slots, ids=order)
    np.testing.assert_array_equal(again.tokens, samples.tokens[order])


def test_devices_change_no_sample(tiny, prompts, samples):
    cfg, params = with_markers(tiny)
    mesh = sharding.make_mesh(4, 2, 1)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, sharding.parameter_specs(params, mesh))
        out = drawn((cfg, split), prompts, slots=8, mesh=mesh)
    np.testing.assert_array_equal(out.tokens, samples.tokens)
