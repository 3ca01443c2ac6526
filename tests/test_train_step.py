"""One update: the same on any mesh, in any number of parts, and safe from what is not finite."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from reasoning_jax import algorithms, default
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.training import losses, optim, state
from reasoning_jax.training.losses import Loss, masked_sum
from reasoning_jax.training.train_step import make_train_step

B, S = 8, 16
RATE = np.float32(0.01)
SFT = algorithms.get("sft")


def config(**changes):
    cfg = default.get_config()
    with cfg.unlocked():
        cfg.optim.update(changes)
    return cfg


CFG = config(weight_decay=0.1, clip_norm=0.5)


def with_loss(loss):
    """A made-up method with this loss."""
    return dataclasses.replace(SFT, loss=loss)


def make_batch(seed=0, parts=1):
    """Eight packed sequences of ragged length and weight.

    A row is a prompt of weight 0, then a completion; after the rows there is padding.
    """
    rng = np.random.default_rng(seed)
    tokens, positions, segments, weights = (np.zeros((B, S), np.float32) for _ in range(4))
    for b in range(B):
        start = 0
        for number, n in enumerate(rng.integers(4, 9 if b else 5, 2 if b % 3 else 1), start=1):
            prompt = int(rng.integers(1, n - 1))
            end = start + n
            tokens[b, start:end] = rng.integers(0, 20, n)
            positions[b, start:end] = np.arange(n)
            segments[b, start:end] = number
            weights[b, start + prompt : end] = 1
            start = end
    batch = {
        "tokens": tokens.astype(np.int32),
        "positions": positions.astype(np.int32),
        "segment_ids": segments.astype(np.int32),
        "weights": weights,
    }
    return {k: v.reshape(parts, B // parts, S) for k, v in batch.items()}


def first_part(batch):
    """The first micro-batch [B, S] of a batch [M, B, S]."""
    return {k: jnp.asarray(v[0]) for k, v in batch.items()}


class Stepper:
    """A train step of the tiny model, on a mesh or none, from the same parameters each time."""

    def __init__(self, tiny, dims=None, cfg=CFG, algorithm=SFT):
        self.model_cfg, self.params = tiny
        self.mesh = None
        if dims:
            self.mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
        self.optimizer = optim.make(cfg.optim)
        self.step = make_train_step(algorithm, self.model_cfg, self.optimizer, cfg)

    def fresh(self):
        params = jax.tree.map(jnp.copy, self.params)  # an update consumes them

        def make(params):
            return state.fresh(params, self.optimizer)

        shardings = None
        if self.mesh:
            shardings = sharding.parameter_specs(jax.eval_shape(make, params), self.mesh)
        return jax.jit(make, out_shardings=shardings)(params)

    def __call__(self, train_state, batch):
        if self.mesh is None:
            return self.step(train_state, batch, RATE)
        with jax.set_mesh(self.mesh):
            on_device = sharding.put(batch, self.mesh, None, "batch", None)
            return self.step(train_state, on_device, sharding.put(RATE, self.mesh))

    def twice(self, parts=1):
        """State and metrics of two updates, on the host."""
        train_state, first = self(self.fresh(), make_batch(0, parts))
        train_state, second = self(train_state, make_batch(1, parts))
        return jax.device_get((train_state, first, second))


@pytest.fixture(scope="module")
def plain(tiny):
    return Stepper(tiny)


@pytest.fixture(scope="module")
def expected(plain):
    return plain.twice()


@pytest.fixture(scope="module")
def cube(tiny):
    return Stepper(tiny, (2, 2, 2))


def assert_all_close(actual, expected, **tolerance):
    """Of every array of two trees."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def assert_close(actual, expected, rtol):
    """Losses, gradient norms and parameters of two updates."""
    for a, b in zip(actual[1:], expected[1:], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=rtol)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=rtol)
        assert a["weight"] == b["weight"]
    # Adam divides by the root of the second moment: where a gradient is nearly 0 its rounding is
    # magnified.
    assert_all_close(actual[0].params, expected[0].params, atol=RATE * 1e-2)
    assert_all_close(actual[0].opt_state, expected[0].opt_state, atol=1e-6)
    assert int(actual[0].step) == 2


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


# ---- the same everywhere -------------------------------------------------------------------------


def test_micro_batches_are_one_batch(tiny, plain, expected):
    """Four parts with different numbers of tokens: one division by the weight of all."""
    batch = make_batch(0, 4)
    assert len(set(batch["weights"].sum((1, 2)))) == 4
    assert_close(plain.twice(parts=4), expected, 1e-6)


@pytest.mark.parametrize("dims", [(2, 1, 1), (8, 1, 1), (2, 4, 1)])
def test_every_mesh_gives_the_same_update(tiny, expected, dims):
    assert_close(Stepper(tiny, dims).twice(), expected, 2e-6)


def test_a_tensor_mesh_gives_the_same_update(cube, expected):
    assert_close(cube.twice(), expected, 2e-6)


def test_a_state_is_sharded_from_birth_and_the_same_on_every_mesh(tiny):
    """Parameters and moments are split over fsdp and tensor; the numbers are one device's."""
    cfg, params = tiny
    optimizer = optim.make(CFG.optim)
    made = {}
    for dims in ((1, 1, 1), (2, 2, 2)):
        mesh = sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))])
        with jax.set_mesh(mesh):
            made[dims] = state.init(3, cfg, optimizer, mesh)
    cube = made[2, 2, 2]
    for tree in (cube.params, cube.opt_state[1].mu, cube.opt_state[1].nu):
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, params)
        assert tree["embedding"].sharding.spec == P("tensor", "fsdp")
        assert tree["layers"]["query"].sharding.spec == P(None, "fsdp", "tensor", None, None)
        assert tree["layers"]["down"].sharding.spec == P(None, "tensor", "fsdp")
        gate = tree["layers"]["gate"].addressable_shards[0].data
        assert gate.shape == (2, cfg.width // 2, cfg.mlp_dim // 2)
    # The same numbers, whatever the mesh, and of the right size: each matrix multiplies to about 1.
    assert_all_close(*map(jax.device_get, made.values()), rtol=1e-6)
    query_scale = cfg.width**-0.5
    down_scale = (cfg.mlp_dim * 2 * cfg.num_layers) ** -0.5
    assert np.std(cube.params["layers"]["query"]) == pytest.approx(query_scale, rel=0.1)
    assert np.std(cube.params["layers"]["down"]) == pytest.approx(down_scale, rel=0.1)
    with jax.set_mesh(mesh):
        other = state.init(4, cfg, optimizer, mesh)
    embeddings = [np.asarray(x.params["embedding"]) for x in (other, cube)]
    assert not np.allclose(*embeddings)


def test_an_update_keeps_the_shardings_and_consumes_the_state(cube):
    before = cube.fresh()
    shardings = jax.tree.map(lambda x: x.sharding, before.params)
    after, _ = cube(before, make_batch())
    assert jax.tree.map(lambda x: x.sharding, after.params) == shardings
    assert jax.tree.map(lambda x: x.sharding, after.opt_state[1].mu) == shardings
    assert all(x.is_deleted() for x in jax.tree.leaves((before.params, before.opt_state)))


# ---- what trains ---------------------------------------------------------------------------------


def test_two_hand_computed_adamw_steps_and_optax(tiny, plain):
    """From gradients of the mean loss.

    Clipped, moments with bias correction, decay on matrices and not on norms.
    """
    cfg, params = tiny
    o = CFG.optim

    @jax.jit
    def gradient(params, batch):
        def mean_loss(params):
            log_p = logprobs.token_logprobs(params, batch, cfg)
            return SFT.loss(log_p, batch, CFG).total / batch["weights"].sum()

        return jax.grad(mean_loss)(params)

    def decays(path, _=None):
        return not path[-1].key.endswith("norm")

    def by_hand(path, p, m, v, t):
        direction = m / (1 - o.b1**t) / (np.sqrt(v / (1 - o.b2**t)) + o.eps)
        return p - RATE * (direction + o.weight_decay * decays(path) * p)

    whole = optax.chain(
        optax.clip_by_global_norm(o.clip_norm),
        optax.adamw(
            float(RATE),
            o.b1,
            o.b2,
            o.eps,
            weight_decay=o.weight_decay,
            mask=jax.tree_util.tree_map_with_path(decays, params),
        ),
    )
    by_optax, moments = params, whole.init(params)
    hand = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    m = v = jax.tree.map(np.zeros_like, hand)
    train_state = plain.fresh()
    for t in (1, 2):
        before = jax.device_get(train_state.params)
        batch = make_batch(t)
        grads = jax.device_get(gradient(before, first_part(batch)))
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in jax.tree.leaves(grads)))
        assert norm > o.clip_norm  # so that clipping is seen
        train_state, metrics = plain(train_state, batch)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
        clipped = jax.tree.map(lambda g, norm=norm: g * (o.clip_norm / norm), grads)
        m = jax.tree.map(lambda m, g: o.b1 * m + (1 - o.b1) * g, m, clipped)
        v = jax.tree.map(lambda v, g: o.b2 * v + (1 - o.b2) * g**2, v, clipped)
        for moment, by_adam in ((m, train_state.opt_state[1].mu), (v, train_state.opt_state[1].nu)):
            assert_all_close(jax.device_get(by_adam), moment, rtol=1e-3, atol=1e-8)
        hand = jax.tree_util.tree_map_with_path(lambda *a, t=t: by_hand(*a, t), hand, m, v)
        changes, moments = whole.update(grads, moments, by_optax)
        by_optax = optax.apply_updates(by_optax, changes)
        after = jax.device_get(train_state.params)
        for other in (hand, by_optax):
            assert_all_close(after, other, atol=RATE * 2e-2)
        moved = np.abs(after["layers"]["query"] - before["layers"]["query"])
        assert np.median(moved) > RATE / 3  # far above that tolerance


def test_the_loss_is_divided_once_by_the_weight_of_the_whole_batch(plain, expected):
    """Against the log-probabilities: -sum / count, the end token (weight 1, the last) included."""
    batch = first_part(make_batch())
    log_p = jax.jit(logprobs.token_logprobs, static_argnums=2)(plain.params, batch, plain.model_cfg)
    log_p = np.asarray(log_p, np.float64)
    weights = np.asarray(batch["weights"])
    count = weights.sum()
    mean = -log_p[weights > 0].sum() / count
    assert float(expected[1]["weight"]) == count
    assert float(expected[1]["loss"]) == pytest.approx(mean, rel=1e-5)


def test_only_completions_train_and_the_end_token_does():
    """Gradients at the log-probabilities.

    0 at prompts and padding, the weight on completions to the last token.
    """
    batch = first_part(make_batch())
    log_p = jnp.full((B, S), -1.0).at[batch["weights"] == 0].set(jnp.nan)
    for loss in (losses.weighted_nll, lambda x, b: SFT.loss(x, b, CFG)):
        gradient = jax.grad(lambda x, loss=loss: loss(x, batch).total)(log_p)
        assert np.array_equal(gradient, -batch["weights"])
    segments = batch["segment_ids"]
    last = (segments > 0) & (segments != np.pad(segments[:, 1:], ((0, 0), (0, 1))))
    assert (np.asarray(gradient)[last] == -1).all()
    assert (gradient[batch["positions"] == 0] == 0).all()


def test_prompt_tokens_get_no_gradient_through_the_model(tiny):
    """d loss / d logits, in a model whose hidden states are perturbed.

    It is 0 at every position whose next token is prompt or padding, and not 0 where a completion's
    token follows, up to the one before the end token.
    """
    cfg, params = tiny
    batch = first_part(make_batch())
    inputs = decoder.embed(params, batch["tokens"], cfg)
    mask = CausalMask(batch["segment_ids"])
    hidden = decoder.apply(params, inputs, batch["positions"], mask, cfg=cfg)

    def loss(shift):
        targets = batch["tokens"][:, 1:]
        everywhere = jnp.ones(targets.shape, bool)
        log_p = logprobs.of_targets(params, (hidden + shift)[:, :-1], targets, everywhere, cfg)
        return SFT.loss(jnp.pad(log_p, ((0, 0), (1, 0))), batch, CFG).total

    size = np.abs(jax.jit(jax.grad(loss))(jnp.zeros_like(hidden))).max(-1)
    trained = np.pad(batch["weights"][:, 1:], ((0, 0), (0, 1))) > 0
    assert (size[~trained] == 0).all() and (size[trained] > 0).all()


def test_a_made_up_loss_is_all_that_the_update_asks_of_a_method(tiny):
    """Its total and means are summed over the micro-batches and divided once by its weight.

    Of its maxima the largest of any micro-batch is logged.
    """

    def loss(log_p, batch, cfg):
        counted = batch["weights"]
        return Loss(
            total=2 * masked_sum(log_p, counted),
            weight=jnp.float32(10),
            means={"tokens": jnp.sum(counted)},
            maxima={"most": jnp.max(jnp.sum(counted, axis=1))},
        )

    stepper = Stepper(tiny, algorithm=with_loss(loss))
    batch = make_batch(parts=4)
    _, metrics = stepper(stepper.fresh(), batch)
    rows = {k: jnp.asarray(v.reshape(B, S)) for k, v in batch.items()}
    log_p = logprobs.compiled_token_logprobs(tiny[1], rows, tiny[0])
    total = 2 * float(masked_sum(log_p, rows["weights"]))
    assert float(metrics["weight"]) == 40
    assert float(metrics["loss"]) == pytest.approx(total / 40, rel=1e-5)
    assert float(metrics["tokens"]) == pytest.approx(batch["weights"].sum() / 40)
    assert float(metrics["most"]) == batch["weights"].sum(-1).max()


# ---- what is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.inf, np.nan, 3e38])
def test_a_batch_that_is_not_finite_is_skipped_and_counted_and_training_goes_on(
    plain, expected, bad
):
    """Parameters and moments stay as they were, bit for bit.

    The next updates are those of an unharmed run.
    """
    train_state, _ = plain(plain.fresh(), make_batch(0))
    kept = jax.device_get((train_state.params, train_state.opt_state))
    batch = make_batch(1)
    counted = batch["weights"] > 0
    batch["weights"][tuple(i[:40] for i in np.nonzero(counted))] = bad
    for count in (1, 2):
        train_state, metrics = plain(train_state, batch)
        assert same_bits((train_state.params, train_state.opt_state), kept)
        assert int(metrics["skipped"]) == count
        assert int(metrics["skipped_in_a_row"]) == count
        assert int(train_state.skipped) == count
        assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
    train_state, metrics = plain(train_state, make_batch(1))
    assert int(metrics["skipped"]) == 2
    assert int(metrics["skipped_in_a_row"]) == 0
    assert int(train_state.step) == 4
    unharmed = (expected[0].params, expected[0].opt_state)
    assert same_bits((train_state.params, train_state.opt_state), unharmed)


@pytest.mark.parametrize("case", ["loss", "gradient"])
def test_either_of_loss_and_gradient_suffices(tiny, case):
    """An infinite loss with a finite gradient, and a loss of 0 whose gradient is not finite."""

    def loss(log_p, batch, cfg):
        total = masked_sum(log_p, batch["weights"])
        if case == "loss":
            return Loss(total + jnp.inf, jnp.float32(1))
        return Loss(jnp.sqrt(total - jax.lax.stop_gradient(total)), jnp.float32(1))

    stepper = Stepper(tiny, algorithm=with_loss(loss))
    after, metrics = stepper(stepper.fresh(), make_batch())
    assert np.isfinite(metrics["loss"]) == (case == "gradient")
    assert np.isfinite(metrics["grad_norm"]) == (case == "loss")
    assert int(metrics["skipped"]) == 1 and same_bits(after.params, tiny[1])


def test_a_batch_in_which_nothing_counts_changes_nothing_but_the_moments(plain):
    """No tokens that count: loss 0 and no division by 0.

    With zero moments only the weight decay moves a parameter.
    """
    batch = make_batch()
    batch["weights"] *= 0
    after, metrics = plain(plain.fresh(), batch)
    for name in ("loss", "grad_norm", "weight", "skipped"):
        assert float(metrics[name]) == 0
    assert np.array_equal(after.params["final_norm"], plain.params["final_norm"])
    decayed = plain.params["embedding"] * (1 - RATE * 0.1)
    np.testing.assert_allclose(after.params["embedding"], decayed, rtol=1e-6)


# ---- the rate ------------------------------------------------------------------------------------


def test_learning_rate_by_hand():
    cfg = config(warmup=4, decay=0.5).optim
    rates = [optim.learning_rate(cfg, 8.0, u, 12) for u in range(12)]
    expected = [2, 4, 6, 8, 8, 8, 8, 8 * 5 / 6, 8 * 4 / 6, 4, 8 * 2 / 6, 8 / 6]
    np.testing.assert_allclose(rates, expected)
    cfg = config(warmup=0, decay=0.0).optim
    assert {optim.learning_rate(cfg, 8.0, u, 3) for u in range(3)} == {8.0}
