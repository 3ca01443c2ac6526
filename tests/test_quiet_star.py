"""Quiet-STaR: thoughts in parallel are those by hand; its gradient is that of all thoughts."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import partial
from types import SimpleNamespace

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_pause
from conftest import random_params
from test_model import ragged
from test_train_step import CFG, Stepper, first_part, make_batch

from reasoning_jax import (
    api,
    config_checks,
    default,
    experiment,
    forwards,
    loop,
    m_step,
    named_model,
)
from reasoning_jax.errors import UserError
from reasoning_jax.forwards import quiet_star
from reasoning_jax.forwards.quiet_star import columns, mixing, scores
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.policy import Policy
from reasoning_jax.sampling import methods
from reasoning_jax.tpu import programs
from reasoning_jax.training import checkpoint, packing
from reasoning_jax.training.rows import completion_row

QUIET = forwards.get("quiet_star")
SHORT = QUIET.Config(thought_length=3, num_thoughts=2, num_ahead=2)


def with_head(params, cfg, seed=5):
    """The parameters and the forward's own; the head's last layer, 0 at first, is drawn too."""
    own = QUIET.init(jax.random.key(seed), cfg, SHORT)
    own["mixing_last"] = jax.random.normal(jax.random.key(seed + 1), own["mixing_last"].shape)
    return params | own


def batch_of(rows, width, weights=None):
    tokens, positions, segments = (jnp.asarray(x) for x in ragged(rows, width))
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    return batch | {"weights": (segments > 0) * 1.0 if weights is None else jnp.asarray(weights)}


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@partial(jax.jit, static_argnames=("model_cfg", "cfg"))
def run(params, batch, keys, model_cfg, cfg):
    return QUIET.logprobs(params, batch, keys, model_cfg, cfg)


@partial(jax.jit, static_argnames=("model_cfg", "cfg"))
def run_scores(params, batch, keys, model_cfg, cfg):
    hidden, text, visible = scores.read_text(params, batch, model_cfg)
    at = scores.positions_of(batch, hidden, visible, cfg.num_ahead)
    return scores.score(
        params,
        text,
        at,
        keys,
        length=cfg.thought_length,
        num_thoughts=cfg.num_thoughts,
        together=cfg.positions_at_once,
        model_cfg=model_cfg,
    )


# ---- by hand: one position at a time -------------------------------------------------------------


@partial(jax.jit, static_argnames="cfg")
def all_states(params, ids, length, cfg):
    """Hidden states and log-probabilities [N, ...] of a padded sequence of ids [N]."""
    slots = jnp.arange(len(ids))
    mask = CausalMask((slots < length)[None].astype(jnp.int32))
    inputs = decoder.embed(params, ids[None], cfg)
    hidden = decoder.apply(params, inputs, slots[None], mask, cfg=cfg)
    return hidden[0], jax.nn.log_softmax(decoder.logits(params, hidden, cfg)[0])


@partial(jax.jit, static_argnames="cfg")
def mixed_logprobs(params, before, after, cfg):
    hidden, weight = mixing.mix(params, before[None, None], after[None, None])
    return jax.nn.log_softmax(decoder.logits(params, hidden, cfg)[0, 0]), weight[0, 0]


def by_hand(params, row, position, key, model_cfg, cfg):
    """A thought after row[: position + 1], and what comes of it: token by token."""
    room = 12  # one shape for all of them
    start, end = columns.markers(params, model_cfg)

    def states(ids):
        padded = np.zeros(room, np.int32)
        padded[: len(ids)] = ids
        return all_states(params, jnp.asarray(padded), len(ids), model_cfg)

    ids = [*row[: position + 1], start]
    thought, total = [], 0.0
    for number in range(cfg.thought_length):
        _, logp = states(ids)
        noise = jax.random.gumbel(jax.random.fold_in(key, number), logp.shape[1:])
        token = int(jnp.argmax(logp[len(ids) - 1] + noise))
        total += float(logp[len(ids) - 1, token])
        thought.append(token)
        ids.append(token)
    before, _ = states(row)
    ids.append(end)
    logprobs, weights = [], []
    for number in range(1, cfg.num_ahead + 1):
        if position + number >= len(row):
            logprobs.append(0.0)
            weights.append(0.0)
            continue
        after, _ = states(ids)
        following = row[position + number]
        out, weight = mixed_logprobs(
            params, before[position + number - 1], after[len(ids) - 1], model_cfg
        )
        logprobs.append(float(out[following]))
        weights.append(float(weight))
        ids.append(following)
    return thought, total if logprobs[0] else 0.0, logprobs, weights[0]


@pytest.mark.parametrize("window", [0, 3])
def test_parallel_thoughts_are_those_of_one_position_at_a_time(tiny, window):
    model_cfg = dataclasses.replace(tiny[0], window=window)
    params = with_head(tiny[1], model_cfg)
    rows = [[4, 5, 6, 7, 8], [9, 3, 10]]
    batch, keys = batch_of(rows, 6), keys_of(2)
    found = run_scores(params, batch, keys, model_cfg, SHORT)
    seen = set()
    for b, row in enumerate(rows):
        for position, number in itertools.product(range(len(row)), range(2)):
            key = jax.random.fold_in(jax.random.fold_in(keys[b], position), number)
            thought, total, wanted, weight = by_hand(params, row, position, key, model_cfg, SHORT)
            at = b, position, number
            assert found.thoughts[at].tolist() == thought
            np.testing.assert_allclose(found.logprobs[at], wanted, atol=2e-5)
            np.testing.assert_allclose(found.thought_logprobs[at], total, atol=2e-5)
            np.testing.assert_allclose(found.mixing_weights[at], weight, atol=2e-5)
            seen.add(tuple(thought))
    assert len(seen) > 8
    out, aux = run(params, batch, keys, model_cfg, SHORT)
    of_next = np.asarray(found.logprobs)[..., 0].mean(2)
    np.testing.assert_allclose(out[:, 1:], of_next[:, :-1], atol=1e-6)
    assert (np.asarray(out)[:, 0] == 0).all()
    without = logprobs.token_logprobs(params, batch, model_cfg)
    np.testing.assert_allclose(aux["gain"], jnp.sum(out - without), rtol=1e-3, atol=1e-4)


# ---- all thoughts --------------------------------------------------------------------------------

TOY = decoder.ModelConfig(
    vocab_size=4, width=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=8
)
ROW = [2, 0, 3, 1]
THOUGHTS = list(itertools.product(range(4), repeat=2))
AHEAD = 2


def exact_objective(params, position):
    """sum over T of p(T) times what T's mixed log-probabilities of the next tokens sum to."""
    start, end = columns.markers(params, TOY)
    ahead = ROW[position + 1 : position + 1 + AHEAD]
    rows = [[*ROW[: position + 1], start, *thought, end, *ahead] for thought in THOUGHTS]

    def states(rows):
        batch = batch_of(rows, len(rows[0]))
        inputs = decoder.embed(params, batch["tokens"], TOY)
        mask = CausalMask(batch["segment_ids"])
        return decoder.apply(params, inputs, batch["positions"], mask, cfg=TOY)

    hidden, before = states(rows), states([ROW])
    log_p = jax.nn.log_softmax(decoder.logits(params, hidden, TOY))
    log_probability, value = 0.0, 0.0
    many = np.arange(len(rows))
    for number in range(2):
        tokens = np.array(THOUGHTS)[:, number]
        log_probability += log_p[many, position + 1 + number, tokens]
    for number, token in enumerate(ahead):
        after = hidden[:, position + 4 + number][:, None]
        same = jnp.broadcast_to(before[:, position + number][:, None], after.shape)
        mixed, _ = mixing.mix(params, same, after)
        value += jax.nn.log_softmax(decoder.logits(params, mixed, TOY))[:, 0, token]
    return jnp.sum(jnp.exp(log_probability) * value), jnp.exp(log_probability)


@pytest.mark.parametrize("position", [0, 1])
def test_the_estimator_is_the_gradient_over_all_thoughts(monkeypatch, position):
    """Every pair of thoughts is a sequence, whose weights are the probability of the pair."""
    params = with_head(random_params(TOY), TOY)
    exact = jax.jit(jax.value_and_grad(partial(exact_objective, position=position), has_aux=True))
    (value, probabilities), wanted = exact(params)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    pairs = list(itertools.product(range(len(THOUGHTS)), repeat=2))
    chosen = np.array(THOUGHTS)[np.array(pairs)]  # [pairs, N, t]
    chance = probabilities[np.array(pairs)].prod(1)
    batch = batch_of([ROW] * len(pairs), 4, chance[:, None] * np.ones((1, 4), np.float32))

    def all_pairs(params, past, beside, length, cfg):
        return jnp.tile(jnp.moveaxis(jnp.asarray(chosen), 1, 2), (1, 1, len(ROW)))

    original = scores.positions_of

    def one_position(*args):
        at = original(*args)
        return at.replace(weights=jnp.where(at.slots[..., None] == position, at.weights, 0.0))

    monkeypatch.setattr(columns, "draw", all_pairs)
    monkeypatch.setattr(scores, "positions_of", one_position)
    cfg = QUIET.Config(thought_length=2, num_thoughts=2, num_ahead=AHEAD)

    def total(params):
        out, aux = QUIET.logprobs(params, batch, keys_of(len(pairs)), TOY, cfg)
        of_next = jnp.sum(out * batch["weights"])
        return aux["loss"] - of_next, aux["reward"]

    gradient = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, reward), grads = gradient(params)
    np.testing.assert_allclose(reward, value, rtol=1e-4)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(-a / largest, b / largest, atol=1e-5),
        grads,
        wanted,
    )
    assert float(jnp.abs(wanted["thought_markers"]).max()) > 1e-3 * largest


def moved(tree, direction, step):
    return jax.tree.map(lambda x, d: x + step * d, tree, direction)


def test_gradients_are_those_of_finite_differences(tiny, monkeypatch):
    """Of fixed thoughts and fixed rewards, along a direction of each kind of parameter."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    batch, keys = batch_of([[4, 5, 6, 7, 8], [9, 3, 10]], 6), keys_of(2)
    thoughts = run_scores(params, batch, keys, cfg, SHORT).thoughts
    fixed = jnp.moveaxis(thoughts.reshape(2, -1, 3), 1, 2)
    rewards = jax.random.normal(jax.random.key(4), (2, 6, 2))
    monkeypatch.setattr(columns, "draw", lambda *args: fixed)
    monkeypatch.setattr(quiet_star, "_rewards", lambda at, found: rewards)

    @jax.jit
    def total(params):
        out, aux = QUIET.logprobs(params, batch, keys, cfg, SHORT)
        return aux["loss"] - jnp.sum(out * batch["weights"])

    grads = jax.grad(total)(params)
    for name in ("thought_markers", "mixing_first", "mixing_last", "embedding", "layers"):
        tree = {name: params[name]}
        leaves, treedef = jax.tree.flatten(tree)
        drawn = [jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
        norm = float(jnp.sqrt(sum(jnp.sum(d * d) for d in drawn)))
        direction = jax.tree.unflatten(treedef, [d / norm for d in drawn])
        step = 1e-3
        ahead, behind = (total(params | moved(tree, direction, s)) for s in (step, -step))
        difference = (ahead - behind) / (2 * step)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), {name: grads[name]}, direction)
        wanted = sum(jax.tree.leaves(products))
        np.testing.assert_allclose(difference, wanted, rtol=1e-2, atol=2e-2, err_msg=name)


def test_the_loss_of_scores():
    """Each advantage is over the mean of the others; weights weigh rewards and likelihood."""
    rng = np.random.default_rng(0)
    logp, chosen = rng.normal(size=(1, 2, 3, 2)), rng.normal(size=(1, 2, 3))
    weights = np.array([[[1.0, 0.5], [2.0, 0.0]]])
    found = SimpleNamespace(logprobs=jnp.asarray(logp), thought_logprobs=jnp.asarray(chosen))
    at = SimpleNamespace(weights=jnp.asarray(weights))
    for positive_only in (False, True):
        cfg = QUIET.Config(num_thoughts=3, policy_weight=0.7, positive_only=positive_only)
        wanted = 0.0
        for i, n in itertools.product(range(2), range(3)):
            rewards = [float(weights[0, i] @ logp[0, i, m]) for m in range(3)]
            own = rewards.pop(n)
            advantage = own - np.mean(rewards)
            if positive_only:
                advantage = max(advantage, 0)
            later = weights[0, i, 1] * logp[0, i, n, 1]
            wanted -= (later + 0.7 * advantage * chosen[0, i, n]) / 3
        np.testing.assert_allclose(quiet_star._loss(at, found, cfg), wanted, rtol=1e-5)


# ---- what must not matter ------------------------------------------------------------------------


def test_a_new_head_leaves_the_model_as_it_is(tiny):
    cfg = tiny[0]
    params = tiny[1] | QUIET.init(jax.random.key(0), cfg, SHORT)
    batch = first_part(make_batch())
    out, aux = run(params, batch, keys_of(8), cfg, SHORT)
    wanted = logprobs.compiled_token_logprobs(tiny[1], batch, cfg)
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    assert aux["mixing_weight"] == 0 and abs(float(aux["gain"])) < 1e-3
    assert float(aux["reward_std"]) < 1e-3
    # Outside updates, without thoughts.
    silent = dataclasses.replace(SHORT, thinks=False)
    np.testing.assert_array_equal(run(params, batch, None, cfg, silent)[0], wanted)


def test_packed_rows_do_not_see_each_other(tiny):
    """Nor do weights of 0 count, nor does padding."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    rows = [[4, 5, 6, 7], [9, 3, 10]]
    apart = batch_of(rows, 8)
    packed = {
        "tokens": jnp.asarray([[4, 5, 6, 7, 9, 3, 10, 0]]),
        "positions": jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 0]]),
        "segment_ids": jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0]]),
        "weights": jnp.ones((1, 8)),
    }
    alone, _ = run(params, apart, None, cfg, SHORT)
    together, _ = run(params, packed, None, cfg, SHORT)
    np.testing.assert_allclose(together[0, :4], alone[0, :4], atol=1e-5)
    np.testing.assert_allclose(together[0, 4:7], alone[1, :3], atol=1e-5)
    assert (np.asarray(together)[0, [0, 4, 7]] == 0).all()
    # Drawn thoughts: another neighbour, other weights and other padding.
    key = keys_of(1)
    first = run_scores(params, packed, key, cfg, SHORT)
    weights = packed["weights"].at[0, 4:].set(0)
    changed = packed | {"tokens": packed["tokens"].at[0, 4:].add(1), "weights": weights}
    other = run_scores(params, changed, key, cfg, SHORT)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0, :4], b[0, :4], atol=1e-5)
    assert (np.asarray(other.logprobs)[0, 4:] == 0).all()
    assert (np.asarray(other.thought_logprobs)[0, 4:] == 0).all()
    before = packed | {"tokens": packed["tokens"].at[0, :4].add(1)}
    other = run_scores(params, before, key, cfg, SHORT)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0, 4:7], b[0, 4:7], atol=1e-5)


@pytest.mark.parametrize("name", ["quiet_star", "plain"])
def test_an_update_packs_each_completion_with_its_own_prompt(tiny, name):
    """A thought in a prompt looks ahead into its completion; others share the prompt."""
    rows = [completion_row([4, 5, 6], completion) for completion in ([7, 8], [9, 10, 11], [12])]
    cfg = default.get_config(algorithm="rejection", task="addition")
    cfg.rounds.online = True
    cfg.update(batch_size=1, sequence_length=32)
    model = SimpleNamespace(
        model_cfg=tiny[0],
        forward=forwards.get(name),
        forward_cfg=SHORT,
        prompts=SimpleNamespace(first_id=tiny[0].vocab_size),
    )
    where = SimpleNamespace(round=1, iterator=None)
    run = SimpleNamespace(cfg=cfg, exp=model, position=where, dir="runs/a")
    batch = m_step._batches(run, SimpleNamespace(cfg=cfg), rows).next()
    copies = int(np.sum(batch["tokens"] == 4))
    assert copies == {"quiet_star": 3, "plain": 1}[name]


def test_completions_that_share_a_prompt(tiny):
    """As a policy packs them: each thinks as it would alone."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    prompt, completions = [4, 5, 6], ([7, 8], [9, 10, 11], [12])
    rows = [completion_row(prompt, completion) for completion in completions]
    assert packing.grouped(rows, 32, True)[1]
    policy = Policy(
        params=params,
        model_cfg=cfg,
        mesh=None,
        batch_size=4,
        max_length=32,
        forward=QUIET,
        forward_cfg=SHORT,
    )
    alone = batch_of([row["tokens"].tolist() for row in rows], 16)
    wanted, _ = run(params, alone, None, cfg, SHORT)
    for number, found in enumerate(policy.logprobs(rows)):
        is_asked = rows[number]["weights"] != 0
        own = np.asarray(wanted)[number, : len(found)]
        np.testing.assert_allclose(found, np.where(is_asked, own, 0), atol=1e-5)


def test_order_and_parts_do_not_matter(tiny):
    """A shuffled batch gives the same; so do positions in several parts, with gradients."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    batch, keys = first_part(make_batch()), keys_of(8)
    out, aux = run(params, batch, keys, cfg, SHORT)
    order = np.random.default_rng(0).permutation(8)
    shuffled = {name: x[order] for name, x in batch.items()}
    mixed, mixed_aux = run(params, shuffled, keys[order], cfg, SHORT)
    np.testing.assert_allclose(mixed, out[order], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), mixed_aux, aux)
    results = []
    for together in (0, 5):
        parts = dataclasses.replace(SHORT, positions_at_once=together)

        def total(params, parts=parts):
            out, aux = QUIET.logprobs(params, batch, keys, cfg, parts)
            return aux["loss"] - jnp.sum(out * batch["weights"])

        results.append(jax.jit(jax.value_and_grad(total))(params))
    (value, grads), (wanted, wanted_grads) = results
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a / largest, b / largest, atol=1e-5),
        grads,
        wanted_grads,
    )


def test_updates_on_a_mesh(tiny):
    """In one part or two, on one device or eight: the same losses and figures."""
    cfg = CFG.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.forward = default.get_config(forward="quiet_star").forward
        cfg.forward.update(thought_length=3, num_ahead=2)
    model = tiny[0], with_head(tiny[1], tiny[0])
    _, *wanted = Stepper(model, cfg=cfg).twice()
    assert wanted[0]["mixing_weight"] != 0 and wanted[0]["reward_std"] > 0
    for other in (Stepper(model, (2, 2, 2), cfg=cfg).twice(parts=2),):
        for mine, theirs in zip(other[1:], wanted, strict=True):
            for name in ("loss", "gain", "mixing_weight", "thought_entropy", "reward_std"):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, err_msg=name)


# ---- samples -------------------------------------------------------------------------------------


def samples(params, prompts, cfg, forward_cfg, **changes):
    lengths = [len(prompt) for prompt in prompts]
    padded = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return drawing.sample(
        params,
        padded,
        lengths,
        np.arange(len(prompts)),
        np.zeros(len(prompts), int),
        jax.random.key(0),
        methods.make_method(1.0),
        (3,),
        cfg=cfg,
        max_new_tokens=5,
        forward=QUIET,
        forward_cfg=forward_cfg,
        **changes,
    )


# One of the prompts ends with a page of the cache, one is of several blocks, two begin alike; of
# one only thoughts need a second page.
PROMPTS = [
    [int(x) for x in np.random.default_rng(0).integers(4, 20, 32)],
    [int(x) for x in np.random.default_rng(0).integers(4, 20, 40)],
    [9],
    [4, 5, 6, 7, 8, 9],
    list(range(4, 17)) * 2,
    [4, 5, 6],
]


def test_samples_after_thoughts(tiny):
    """Their log-probabilities are those of a pass over the whole text, thoughts in parallel."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    out = samples(params, PROMPTS, cfg, SHORT)
    silent = samples(params, PROMPTS, cfg, dataclasses.replace(SHORT, thinks=False))
    assert (out.tokens != silent.tokens).any()
    for settings, drawn in ((SHORT, out), (dataclasses.replace(SHORT, thinks=False), silent)):
        rows = []
        for row, prompt in enumerate(PROMPTS):
            rows.append([*prompt, *drawn.tokens[row, : drawn.lengths[row]]])
        wanted, _ = run(params, batch_of(rows, 48), None, cfg, settings)
        for row, prompt in enumerate(PROMPTS):
            own = drawn.logprobs[row, : drawn.lengths[row]]
            np.testing.assert_allclose(own, wanted[row, len(prompt) : len(rows[row])], atol=1e-4)


def test_samples_depend_on_their_prompts_alone(tiny):
    """Not on the slots, the pages or the devices."""
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    wanted = samples(params, PROMPTS, cfg, SHORT)
    mesh = sharding.make_mesh(2, 1, 1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        split = jax.device_put(params, sharding.parameter_specs(params, mesh))
    for other in (
        samples(params, PROMPTS, cfg, SHORT, num_slots=2, cache_tokens=96),
        samples(split, PROMPTS, cfg, SHORT, mesh=mesh, num_slots=4),
    ):
        np.testing.assert_array_equal(other.tokens, wanted.tokens)
        np.testing.assert_allclose(other.logprobs, wanted.logprobs, atol=1e-5)


def test_a_sequence_needs_pages_for_its_thoughts(tiny):
    cfg, params = tiny[0], with_head(tiny[1], tiny[0])
    with pytest.raises(UserError, match="cache_tokens is 64; a sequence of 69 tokens needs 96"):
        samples(params, PROMPTS, cfg, QUIET.Config(thought_length=30), cache_tokens=64)


# ---- a run ---------------------------------------------------------------------------------------


def tiny_run():
    cfg = test_pause.tiny_config("quiet_star")
    cfg.forward.update(thought_length=2, num_ahead=2, start_like="+", marker_scale=4.0)
    return cfg


def test_a_run(tmp_path, one_device):
    """Round 0 trains no thoughts; the rounds do; evaluation and samples think."""
    cfg = tiny_run()
    loop.train(cfg, tmp_path)
    exp = experiment.make(cfg)
    shapes = exp.abstract_state().params
    base, _ = checkpoint.load_params(tmp_path / "base", shapes)
    new = exp.forward_params()
    for name in new:
        np.testing.assert_array_equal(base[name], new[name])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    markers = jax.device_get(m_step.with_beginning(exp, base)["thought_markers"])
    plus = base["embedding"][exp.tokenizer.encode("+")[0]]
    np.testing.assert_allclose(markers[0] * 4.0, plus, rtol=1e-6)
    np.testing.assert_array_equal(markers[1], base["thought_markers"][1])
    [figures] = [x for x in lines if x["round"] == 1 and x["phase"] == "update"]
    assert figures["update/mixing_weight"] != 0 and figures["update/thought_entropy"] > 0
    assert figures["update/reward"] < figures["update/gain"]
    model = api.open(tmp_path)
    assert 0 <= model.evaluate("validation")["eval/accuracy"] <= 1
    [answer] = model.sample(["1+2"])
    assert answer["question"] == "1+2"
    cfg.forward.thinks = False
    assert 0 <= api.SavedRun(tmp_path, cfg).evaluate("validation")["eval/accuracy"] <= 1


def test_the_planner_lowers_its_programs(one_device):
    cfg = tiny_run()
    steps = programs.steps(cfg, experiment.make(cfg))
    assert [step.kind for step in steps] == ["update", "prefill", "decode"]
    for step in steps:
        step.lower()


def test_what_is_refused(one_device, tmp_path):
    """Pairs, policy gradients, and more positions than a model has learned."""
    for method in ("dpo", "trice", "policy_gradient"):
        cfg = default.get_config(algorithm=method, forward="quiet_star")
        with pytest.raises(UserError, match=f"quiet_star does not go with algorithm {method}"):
            config_checks.check(cfg)
    cfg = tiny_run()
    cfg.forward.num_thoughts = 1
    with pytest.raises(UserError, match="config.forward.num_thoughts: 1 is not a whole number"):
        config_checks.check(cfg)
    cfg = tiny_run()
    cfg.forward.start_like = "12"
    with pytest.raises(UserError, match="config.forward.start_like: '12' is 2 tokens, not one"):
        loop.train(cfg, tmp_path)
    cfg = tiny_run()
    cfg.forward.end_like = "é"
    with pytest.raises(UserError, match="config.forward.end_like: The character 'é' is not in"):
        loop.train(cfg, tmp_path)
    cfg = tiny_run()
    learned = dataclasses.replace(experiment.make(cfg).model_cfg, max_positions=66)
    with pytest.raises(UserError, match="64 and 5 of config.forward.name quiet_star, .* 66 places"):
        named_model._check(cfg, learned.vocab_size, learned)
