"""The queue: slots that are filled again, pages that run out, prompts that begin alike.

Whatever the scheduler does, a request's completion is the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from drawing import sample

from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, paged_attention
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import PAGE, Places
from reasoning_jax.policy import Policy
from reasoning_jax.sampling import engine
from reasoning_jax.sampling.methods import Greedy, Temperature
from reasoning_jax.sampling.page_pool import PagePool
from reasoning_jax.sampling.scheduler import Scheduler
from reasoning_jax.sampling.sequences import Request

N = 40  # new tokens: more than a page
COUNT = 24


@pytest.fixture(scope="module")
def requests():
    """Prompts of 1 to 70 tokens; of every four, three begin with the same 40."""
    rng = np.random.default_rng(0)
    prefix = rng.integers(3, 20, 40)
    out = []
    for i in range(COUNT):
        own = rng.integers(3, 20, rng.integers(1, 31))
        prompt = own if i % 4 == 3 else np.concatenate([prefix, own])
        out.append(Request(i // 2, i % 2, prompt.astype(np.int32)))
    out[1] = Request(0, 1, out[0].prompt_ids)  # two samples of one prompt
    return out


def scheduler(model, **fields):
    cfg, params = model
    sizes = {"num_slots": 4, "max_length": 70 + N} | fields
    return Scheduler(
        params=engine.prepare(params, cfg),
        model_cfg=cfg,
        mesh=None,
        key=jax.random.key(0),
        method=sizes.pop("method", Temperature(0.8)),
        stop_ids=sizes.pop("stop_ids", [2, 11]),
        max_new_tokens=sizes.pop("max_new_tokens", N),
        **sizes,
    )


def run(queue, requests):
    """{(example id, sample index): (tokens, log-probabilities, finished)}"""
    done = {}
    for changed in queue.run(requests):
        for one in changed:
            if queue.is_done(one):
                name = one.request.example_id, one.request.sample_index
                assert name not in done
                done[name] = one.tokens, one.logprobs, one.finished
    for pool in queue.pools:
        assert pool.num_free == queue.sizes.pages
    return done


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, (tokens, logprobs, finished) in a.items():
        assert (tokens, finished) == (b[name][0], b[name][2]), name
        np.testing.assert_allclose(logprobs, b[name][1], atol=1e-5)


@pytest.fixture(scope="module")
def alone(tiny, requests):
    """Each request's completion, drawn with nothing beside it."""
    done = {}
    for request in requests:
        done |= run(scheduler(tiny), [request])
    assert len({len(tokens) for tokens, _, _ in done.values()}) > 8
    assert 0 < sum(finished for _, _, finished in done.values()) < COUNT
    return done


@pytest.fixture
def prefilled(monkeypatch):
    """How many tokens of prompts each call computes."""
    counts = []
    original = engine.prefill

    def prefill(params, cache, tokens, places, *rest, **fields):
        counts.append(int(np.asarray(places.counts).sum()))
        return original(params, cache, tokens, places, *rest, **fields)

    prefill._cache_size = original._cache_size
    monkeypatch.setattr(engine, "prefill", prefill)
    return counts


@pytest.mark.parametrize("num_slots", [1, 4, 8, 32])
def test_the_queue_does_not_matter(tiny, requests, alone, num_slots):
    assert_same(run(scheduler(tiny, num_slots=num_slots), requests), alone)
    assert_same(run(scheduler(tiny, num_slots=num_slots), requests[::-1]), alone)


def test_a_longer_cache_does_not_matter(tiny, requests, alone):
    assert_same(run(scheduler(tiny, max_length=4 * (70 + N)), requests), alone)


@pytest.mark.parametrize("tokens", [4 * PAGE, 7 * PAGE])
def test_where_pages_run_out_a_sequence_is_drawn_again(tiny, requests, alone, prefilled, tokens):
    assert_same(run(scheduler(tiny, cache_tokens=tokens), requests), alone)
    assert sum(prefilled) > 0


def test_what_prompts_begin_with_is_computed_once(tiny, requests, alone, prefilled):
    """The first 32 tokens of eighteen prompts are those of one page."""
    assert_same(run(scheduler(tiny), requests), alone)
    shared = sum(len(r.prompt_ids) > PAGE for r in requests)
    total = sum(len(r.prompt_ids) for r in requests)
    assert shared >= 18
    assert sum(prefilled) <= total - (shared - 1) * PAGE


def test_a_slot_is_filled_again_while_others_go_on(tiny, requests, monkeypatch):
    """While requests wait, every step computes as many sequences as there are slots."""
    queue = scheduler(tiny, num_slots=4)
    live = []
    original = engine.decode

    def decode(params, cache, progress, *rest, **fields):
        if queue.waiting:
            live.append(int(np.asarray(progress.live).sum()))
        return original(params, cache, progress, *rest, **fields)

    monkeypatch.setattr(engine, "decode", decode)
    ends = []
    for changed in queue.run(requests):
        ends += [one.number for one in changed if queue.is_done(one)]
    assert set(live) == {4}
    assert ends != sorted(ends)  # the long do not hold up the short


def test_the_next_call_is_under_way_while_the_caller_has_completions(tiny, requests, monkeypatch):
    started = []
    for name in ("prefill", "decode"):
        original = getattr(engine, name)

        def call(*arguments, original=original, **fields):
            started.append(original)
            return original(*arguments, **fields)

        monkeypatch.setattr(engine, name, call)
    seen = [len(started) for _ in scheduler(tiny).run(requests)]
    # The first call computes prompts that may all go on, so it may have nothing to show.
    assert seen[0] >= 2
    assert all(after > before for before, after in zip(seen, seen[1:-1], strict=False))
    assert seen[-1] == len(started)


def test_no_requests_are_no_completions(tiny):
    assert list(scheduler(tiny).run([])) == []


def test_a_prompt_longer_than_the_cache_is_refused_before_anything_compiles(tiny):
    before = engine.compilations()
    long = Request(7, 0, np.ones(71, np.int32))
    for queue, request, sentence in [
        (scheduler(tiny, max_length=110), long, "example 7: the prompt of 71 tokens and 40 new"),
        (scheduler(tiny, cache_tokens=64), long._replace(prompt_ids=long.prompt_ids[:70]), "128"),
        (scheduler(tiny), long._replace(prompt_ids=long.prompt_ids[:0]), "7: the prompt is empty"),
    ]:
        with pytest.raises(UserError, match=sentence):
            next(queue.run([request]))
    assert engine.compilations() == before


def test_a_cache_of_less_than_a_page_is_too_small(tiny, requests):
    with pytest.raises(UserError, match="config.sampling.cache_tokens is 31"):
        next(scheduler(tiny, cache_tokens=31).run(requests[:1]))


def test_a_queue_can_run_again(tiny, requests, alone):
    """What an earlier run, also one that was left, put into its cache is not in the next one's."""
    queue = scheduler(tiny)
    next(queue.run(requests))
    assert_same(run(queue, requests), alone)
    assert_same(run(queue, requests), alone)


def test_no_tokens_cannot_be_drawn(tiny, requests):
    with pytest.raises(ValueError, match="0 of a completion"):
        next(scheduler(tiny, max_new_tokens=0).run(requests))


def test_a_model_that_never_ends_is_cut_off(tiny, requests):
    done = run(scheduler(tiny, stop_ids=[-1]), requests[:3])
    assert all(len(tokens) == N and not finished for tokens, _, finished in done.values())


def test_other_lengths_and_counts_compile_nothing_new(tiny, requests):
    run(scheduler(tiny, num_slots=8), requests)
    run(scheduler(tiny, num_slots=8), requests[:1])
    before = engine.compilations()
    run(scheduler(tiny, num_slots=8, max_new_tokens=3), requests[4:9])
    run(scheduler(tiny, num_slots=8, stop_ids=[4, 5]), requests[:17])
    assert engine.compilations() == before


# ---- attention to pages --------------------------------------------------------------------------


def test_only_pages_in_use_are_read():
    """All others may hold NaN."""
    cfg = decoder.ModelConfig(
        vocab_size=8, width=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=16
    )
    params = random_params(cfg)
    lengths = np.array([1, PAGE - 1, PAGE, 2 * PAGE])
    tables = np.random.default_rng(0).permutation(16)[:12].reshape(4, 3)
    used = {int(tables[row, j]) for row, n in enumerate(lengths) for j in range(n // PAGE + 1)}
    unused = np.isin(np.arange(16), sorted(used), invert=True)[None, :, None, None, None]
    clean = paged_attention.init(cfg, 16)
    dirty = jax.tree.map(lambda x: jnp.where(unused, jnp.nan, x), clean)
    places = Places(
        tables=jnp.asarray(tables, jnp.int32),
        starts=jnp.asarray(lengths, jnp.int32),
        counts=jnp.ones(4, jnp.int32),
    )
    inputs = jax.random.normal(jax.random.key(0), (4, 1, cfg.width))
    apply = jax.jit(decoder.apply_cached, static_argnames="cfg")
    expected, _ = apply(params, inputs, places, clean, cfg=cfg)
    hidden, after = apply(params, inputs, places, dirty, cfg=cfg)
    assert np.array_equal(hidden, expected)
    for before, new in zip(jax.tree.leaves(dirty), jax.tree.leaves(after), strict=True):
        # One token of each sequence is written, in every layer.
        changed = np.isnan(before) != np.isnan(new)
        changed |= np.nan_to_num(before) != np.nan_to_num(new)
        assert changed.any((2, 3, 4)).sum() == 2 * 4
    assert isinstance(after, Cache)


# ---- the pool of pages ---------------------------------------------------------------------------


def test_pages_are_found_by_the_tokens_up_to_their_end():
    pool = PagePool(6)
    prompt = np.arange(3 * PAGE + 5)
    pages, missing = pool.find(prompt)
    assert (pages, missing) == ([], (0, prompt[:PAGE].astype(np.int32).tobytes()))
    own = pool.take(4)
    pool.remember(prompt, own)
    assert pool.find(prompt) == (own[:3], None)
    other = prompt.copy()
    other[PAGE] = 0
    assert pool.find(other)[0] == own[:1]
    # The same tokens after others are no beginning.
    assert pool.find(prompt[PAGE:])[0] == []
    # The last token is computed, so that there is something to go on from.
    assert pool.find(prompt[: 2 * PAGE])[0] == own[:1]
    assert pool.find(prompt[: 2 * PAGE + 1])[0] == own[:2]


def test_pages_are_known_until_they_are_taken():
    pool = PagePool(4)
    prompt = np.arange(2 * PAGE + 1)
    own = pool.take(3)
    pool.remember(prompt, own)
    pool.share(own[:2])
    pool.release(own)
    assert pool.num_free == 2  # the shared ones are in use
    pool.release(own[:2])
    assert pool.num_free == 4
    assert pool.find(prompt)[0] == own[:2]
    pool.share(own[:2])
    assert pool.num_free == 2
    assert not set(pool.take(2)) & set(own[:2])
    pool.release(own[:2])
    # A sequence's last pages are taken before its first.
    assert pool.take(1) == [own[1]]
    assert pool.find(prompt)[0] == own[:1]


def test_samples_of_one_prompt_share_its_pages(tiny):
    """Greedy samples of one prompt are alike, and take few pages."""
    cfg, params = tiny
    prompts = np.tile(np.random.default_rng(1).integers(3, 20, 2 * PAGE + 3), (6, 1))
    zeros = np.zeros(6, np.int32)
    arrays = prompts, zeros + prompts.shape[1], zeros, np.arange(6), jax.random.key(0), Greedy()
    samples = sample(params, *arrays, [-1], cfg=cfg, max_new_tokens=4, cache_tokens=8 * PAGE)
    assert len({tuple(tokens) for tokens in samples.tokens}) == 1


def test_a_policy_says_how_many_tokens_its_cache_has(tiny):
    cfg, params = tiny
    policy = Policy(
        params=params, model_cfg=cfg, mesh=None, batch_size=2, max_length=64, cache_tokens=32
    )
    options = {"method": Greedy(), "stop_ids": [2], "max_new_tokens": 40}
    with pytest.raises(UserError, match="config.sampling.cache_tokens is 32; .* needs 64"):
        next(policy.generate([Request(0, 0, np.ones(9, int))], key=jax.random.key(0), **options))


def test_a_stream_in_large_parts_is_the_same_completion(tiny, requests, alone):
    """More tokens at once than a call computes."""
    cfg, params = tiny
    policy = Policy(params=params, model_cfg=cfg, mesh=None, batch_size=4, max_length=70 + N)
    options = {"method": Temperature(0.8), "stop_ids": [2, 11], "max_new_tokens": N}
    for request in requests[:6]:
        *_, last = policy.stream(request, 1000, key=jax.random.key(0), **options)
        tokens, _, _ = alone[request.example_id, request.sample_index]
        assert last.tokens[0].tolist() == tokens
