"""One update: the same on any mesh and in any number of parts, exact, and safe from numbers that are not finite."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from configs import default
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.training import losses, optim, state, train_step
from reasoning_jax.algorithms import sft

pytestmark = pytest.mark.usefixtures("quick_compile")
B, S = 8, 16
RATE = np.float32(0.01)


def config(**changes):
    cfg = default.get_config()
    with cfg.unlocked():
        cfg.optim.update(changes)
    return cfg


CFG = config(weight_decay=0.1, clip_norm=0.5)


def make_batch(seed=0, parts=1):
    """Eight packed rows of ragged length and ragged weight: a prompt of weight 0, then a completion, then padding."""
    rng = np.random.default_rng(seed)
    tokens, positions, segments, weights = (np.zeros((B, S), np.float32) for _ in range(4))
    for b in range(B):
        at = 0
        for number, n in enumerate(rng.integers(4, 9 if b else 5, 2 if b % 3 else 1), start=1):
            prompt = int(rng.integers(1, n - 1))
            tokens[b, at : at + n], positions[b, at : at + n] = rng.integers(0, 20, n), np.arange(n)
            segments[b, at : at + n], weights[b, at + prompt : at + n] = number, 1
            at += n
    batch = {
        k: v.astype(np.int32)
        for k, v in (("tokens", tokens), ("positions", positions), ("segment_ids", segments))
    }
    return {k: v.reshape(parts, B // parts, S) for k, v in (batch | {"weights": weights}).items()}


class Stepper:
    """An update function of the tiny model, on a mesh or none, that starts from the same parameters."""

    def __init__(self, tiny, dims=None, cfg=CFG, algorithm=sft):
        self.model_cfg, self.params = tiny
        self.mesh = (
            sharding.make_mesh(*dims, devices=jax.devices()[: int(np.prod(dims))]) if dims else None
        )
        self.optimizer = optim.make(cfg.optim)
        self.step = train_step.make_update(algorithm, self.model_cfg, self.optimizer, cfg)

    def fresh(self):
        params = jax.tree.map(jnp.copy, self.params)  # an update consumes them
        make = lambda p: state.fresh(p, self.optimizer)  # noqa: E731
        shardings = (
            sharding.parameter_specs(jax.eval_shape(make, params), self.mesh) if self.mesh else None
        )
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


def assert_close(found, expected, rtol):
    """Losses, gradient norms and parameters of two updates."""
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=rtol) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=rtol
        )
        assert a["weight"] == b["weight"]
    # Adam divides by the root of the second moment: where a gradient is nearly 0 its rounding is magnified.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=RATE * 1e-2),
        found[0].params,
        expected[0].params,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        found[0].opt_state,
        expected[0].opt_state,
    )
    assert int(found[0].step) == 2


def same_bits(a, b):
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in
               zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))  # fmt: skip


# The same everywhere


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
    """Parameters and moments are split over fsdp and tensor; the numbers are those of one device."""
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
        assert tree["layers"]["gate"].addressable_shards[0].data.shape == (
            2,
            cfg.width // 2,
            cfg.mlp_dim // 2,
        )
    # The same numbers, whatever the mesh, and of the right size: each matrix multiplies to about 1.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        *map(jax.device_get, made.values()),
    )
    assert np.std(cube.params["layers"]["query"]) == pytest.approx(cfg.width**-0.5, rel=0.1)
    assert np.std(cube.params["layers"]["down"]) == pytest.approx(
        (cfg.mlp_dim * 2 * cfg.num_layers) ** -0.5, rel=0.1
    )
    with jax.set_mesh(mesh):
        other = state.init(4, cfg, optimizer, mesh)
    assert not np.allclose(
        np.asarray(other.params["embedding"]), np.asarray(cube.params["embedding"])
    )


def test_an_update_keeps_the_shardings_and_consumes_the_state(cube):
    before = cube.fresh()
    shardings = jax.tree.map(lambda x: x.sharding, before.params)
    after, _ = cube(before, make_batch())
    assert jax.tree.map(lambda x: x.sharding, after.params) == shardings
    assert jax.tree.map(lambda x: x.sharding, after.opt_state[1].mu) == shardings
    assert all(x.is_deleted() for x in jax.tree.leaves((before.params, before.opt_state)))


# What trains


def test_two_hand_computed_adamw_steps_and_optax(tiny, plain):
    """From gradients of the mean loss: clipped, moments with bias correction, decay on matrices, not on norms."""
    cfg, params = tiny
    o = CFG.optim

    @jax.jit
    def gradient(params, batch):
        return jax.grad(
            lambda p: (
                sft.loss(logprobs.token_logprobs(p, batch, cfg), batch, CFG)[0]
                / batch["weights"].sum()
            )
        )(params)

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
        grads = jax.device_get(gradient(before, {k: x[0] for k, x in batch.items()}))
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in jax.tree.leaves(grads)))
        assert norm > o.clip_norm  # so that clipping is seen
        train_state, metrics = plain(train_state, batch)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
        clipped = jax.tree.map(lambda g, norm=norm: g * (o.clip_norm / norm), grads)
        m = jax.tree.map(lambda m, g: o.b1 * m + (1 - o.b1) * g, m, clipped)
        v = jax.tree.map(lambda v, g: o.b2 * v + (1 - o.b2) * g**2, v, clipped)
        for moment, by_adam in ((m, train_state.opt_state[1].mu), (v, train_state.opt_state[1].nu)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-8),
                jax.device_get(by_adam),
                moment,
            )
        hand = jax.tree_util.tree_map_with_path(lambda *a, t=t: by_hand(*a, t), hand, m, v)
        changes, moments = whole.update(grads, moments, by_optax)
        by_optax = optax.apply_updates(by_optax, changes)
        after = jax.device_get(train_state.params)
        for other in (hand, by_optax):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=RATE * 2e-2), after, other
            )
        assert (
            np.median(np.abs(after["layers"]["query"] - before["layers"]["query"])) > RATE / 3
        )  # far above that tolerance


def test_the_loss_is_divided_once_by_the_weight_of_the_whole_batch(plain, expected):
    """Against the log-probabilities themselves: -sum / count, the end token (weight 1, the last) included."""
    batch = {k: v[0] for k, v in make_batch().items()}
    log_p = jax.jit(logprobs.token_logprobs, static_argnums=2)(plain.params, batch, plain.model_cfg)
    log_p = np.asarray(log_p, np.float64)
    count = batch["weights"].sum()
    assert float(expected[1]["weight"]) == count
    assert float(expected[1]["loss"]) == pytest.approx(
        -log_p[batch["weights"] > 0].sum() / count, rel=1e-5
    )


def test_only_completions_train_and_the_end_token_does():
    """Gradients at the log-probabilities: 0 at prompts and padding, the weight on completions to the last token."""
    batch = {k: v[0] for k, v in make_batch().items()}
    log_p = jnp.full((B, S), -1.0).at[batch["weights"] == 0].set(jnp.nan)
    for loss in (losses.weighted_nll, lambda x, b: sft.loss(x, b, CFG)):
        gradient = jax.grad(lambda x, loss=loss: loss(x, batch)[0])(log_p)
        assert np.array_equal(gradient, -batch["weights"])
    segments = batch["segment_ids"]
    last = (segments > 0) & (segments != np.pad(segments[:, 1:], ((0, 0), (0, 1))))
    assert (np.asarray(gradient)[last] == -1).all() and (
        gradient[batch["positions"] == 0] == 0
    ).all()


def test_prompt_tokens_get_no_gradient_through_the_model(tiny):
    """d loss / d logits, in a model whose hidden states are perturbed: 0 at every position whose next token is prompt or
    padding, and not 0 where a completion's token follows, up to the one before the end token."""
    cfg, params = tiny
    batch = {k: v[0] for k, v in make_batch().items()}
    hidden, _ = decoder.apply(
        params, batch["tokens"], batch["positions"], batch["segment_ids"], cfg=cfg
    )

    def loss(shift):
        log_p = logprobs.of_targets(params, (hidden + shift)[:, :-1], batch["tokens"][:, 1:], cfg)
        return sft.loss(jnp.pad(log_p, ((0, 0), (1, 0))), batch, CFG)[0]

    size = np.abs(jax.jit(jax.grad(loss))(jnp.zeros_like(hidden))).max(-1)
    trained = np.pad(batch["weights"][:, 1:], ((0, 0), (0, 1))) > 0
    assert (size[~trained] == 0).all() and (size[trained] > 0).all()


def test_a_forward_of_the_method_replaces_the_models(tiny):
    """The contract for methods whose forward pass differs; here log-probabilities that ignore the model's."""

    def forward(params, batch, cfg):
        return params["final_norm"][0] * jnp.ones(batch["tokens"].shape)

    stepper = Stepper(tiny, algorithm=types.SimpleNamespace(forward=forward, loss=sft.loss))
    after, metrics = stepper(stepper.fresh(), make_batch())
    assert float(metrics["loss"]) == pytest.approx(-float(tiny[1]["final_norm"][0]), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(1.0, rel=1e-6)


# What is not finite


@pytest.mark.parametrize("bad", [np.inf, np.nan, 3e38])
def test_a_batch_that_is_not_finite_is_skipped_and_counted_and_training_goes_on(
    plain, expected, bad
):
    """Parameters and moments stay as they were, bit for bit, and the next updates are those of an unharmed run."""
    train_state, _ = plain(plain.fresh(), make_batch(0))
    kept = jax.device_get((train_state.params, train_state.opt_state))
    batch = make_batch(1)
    rows = batch["weights"] > 0
    batch["weights"][tuple(i[:40] for i in np.nonzero(rows))] = bad
    for count in (1, 2):
        train_state, metrics = plain(train_state, batch)
        assert same_bits((train_state.params, train_state.opt_state), kept)
        assert (
            int(metrics["skipped"])
            == int(metrics["skipped_in_a_row"])
            == int(train_state.skipped)
            == count
        )
        assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
    train_state, metrics = plain(train_state, make_batch(1))
    assert (
        int(metrics["skipped"]) == 2
        and int(metrics["skipped_in_a_row"]) == 0
        and int(train_state.step) == 4
    )
    assert same_bits(
        (train_state.params, train_state.opt_state), (expected[0].params, expected[0].opt_state)
    )


@pytest.mark.parametrize("case", ["loss", "gradient"])
def test_either_of_loss_and_gradient_suffices(tiny, case):
    """A loss that is not finite with a gradient of 1, and a loss of 0 whose gradient is not finite."""

    def forward(params, batch, cfg):
        x = params["final_norm"][0]
        return (
            x + jnp.inf if case == "loss" else jnp.sqrt(x - jax.lax.stop_gradient(x))
        ) * jnp.ones(batch["tokens"].shape)

    stepper = Stepper(tiny, algorithm=types.SimpleNamespace(forward=forward, loss=sft.loss))
    after, metrics = stepper(stepper.fresh(), make_batch())
    assert np.isfinite(metrics["loss"]) == (case == "gradient") and np.isfinite(
        metrics["grad_norm"]
    ) == (case == "loss")
    assert int(metrics["skipped"]) == 1 and same_bits(after.params, tiny[1])


def test_a_batch_in_which_nothing_counts_changes_nothing_but_the_moments(plain):
    """No tokens that count: loss 0, no division by 0, and with zero moments only the weight decay moves a parameter."""
    batch = make_batch()
    batch["weights"] *= 0
    after, metrics = plain(plain.fresh(), batch)
    assert (
        float(metrics["loss"])
        == float(metrics["grad_norm"])
        == float(metrics["weight"])
        == int(metrics["skipped"])
        == 0
    )
    assert np.array_equal(after.params["final_norm"], plain.params["final_norm"])
    np.testing.assert_allclose(
        after.params["embedding"], plain.params["embedding"] * (1 - RATE * 0.1), rtol=1e-6
    )


# The rate


def test_learning_rate_by_hand():
    cfg = config(warmup=4, decay=0.5).optim
    rates = [optim.learning_rate(cfg, 8.0, u, 12) for u in range(12)]
    np.testing.assert_allclose(
        rates, [2, 4, 6, 8, 8, 8, 8, 8 * 5 / 6, 8 * 4 / 6, 4, 8 * 2 / 6, 8 / 6]
    )
    cfg = config(warmup=0, decay=0.0).optim
    assert {optim.learning_rate(cfg, 8.0, u, 3) for u in range(3)} == {8.0}
