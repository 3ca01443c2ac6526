"""Preference losses: by hand, against float64, finite differences and TRL, and packed or not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted import config

from reasoning_jax.model import logprobs, sharding
from reasoning_jax.training import losses, packing, preferences
from reasoning_jax.training.rows import attach, pair_row

# Tokens of prompt, chosen and rejected.
SHAPES = [(3, 2, 5), (1, 4, 1), (2, 1, 1), (4, 6, 3), (1, 2, 2), (2, 7, 4), (5, 3, 2)]


def record(shape, seed=0):
    """A pair of random tokens, log-probs "lp" of all its tokens, and a reference near to them."""
    rng = np.random.default_rng([seed, *shape])
    prompt, *sides = (rng.integers(3, 20, n).tolist() for n in shape)
    row = pair_row(prompt, sides)
    lp = -rng.uniform(0.1, 3.0, len(row["tokens"])).astype(np.float32)
    row["lp"] = np.where(
        row["weights"] > 0, lp, np.nan
    )  # what a prompt's token has does not matter
    return attach(row, "ref", [of(row, i).sum() + rng.normal() for i in (0, 1)])


def of(row, side, key="lp"):
    """The values of a side's completion, in float64."""
    return row[key][(row["side"] == side) & (row["weights"] > 0)].astype(np.float64)


def references(row):
    """The two numbers of "ref"."""
    return row["ref"][row["ref"] != 0]


def split(batch):
    """(log-probs, batch) of a packed batch with the key "lp", on the device."""
    arrays = {key: jnp.asarray(value) for key, value in batch.items()}
    return arrays.pop("lp"), arrays


def packed(rows, length=31):
    """(log-probs, batch) of these pairs, several a sequence.

    And padding whose log-probs are no numbers.
    """
    lp, batch = split(packing.pack(rows, multiple=2, length=length))
    return jnp.where(batch["segment_ids"] > 0, lp, jnp.nan), batch


def settings(**changes):
    """The section of a method with these keys."""
    return config("dpo", **changes).algorithm


def expected(rows, a):
    """The sum of the pairs' losses in float64, pair by pair."""
    total = 0.0
    for row in rows:
        sides, refs = [of(row, 0), of(row, 1)], references(row).astype(np.float64)
        ratios = []
        for x, ref in zip(sides, refs, strict=True):
            ratios.append((x.sum() - ref) / (len(x) if a.preference == "ipo_mean" else 1))
        h = ratios[0] - ratios[1]
        if a.preference == "dpo":
            e = a.label_smoothing
            preferred = math.log1p(math.exp(-a.beta * h))
            preference = (1 - e) * preferred + e * math.log1p(math.exp(a.beta * h))
        else:
            preference = (h - 0.5 / a.beta) ** 2
        total += a.dpo_weight * preference - a.alpha * sides[0].mean()
    return total


# ---- a pair by hand ------------------------------------------------------------------------------


def one_pair(policy, reference, lengths=(1, 1)):
    """(log-probs, batch) of a pair whose sides have these log-likelihoods.

    They are spread evenly over the tokens.
    """
    row = pair_row([1], [[5] * n for n in lengths])
    spread = np.zeros(len(row["tokens"]), np.float32)
    for i, n in enumerate(lengths):
        spread[(row["side"] == i) & (row["weights"] > 0)] = policy[i] / n
    row = attach(row, "ref", reference) | {"lp": spread}
    return split(packing.fill([[row]], 1, 40))


@pytest.mark.parametrize(
    "kind, lengths, value",
    [("dpo", (3, 9), 0.598139), ("ipo", (3, 9), 9.0), ("ipo_mean", (1, 1), 9.0)],
)
def test_a_pair_by_hand(kind, lengths, value):
    """beta 0.1, log-probs -10 and -12, both references -11: h = 2.

    arXiv 2305.18290, eq. 7, and arXiv 2310.12036, eq. 17.
    """
    pair = one_pair((-10, -12), (-11, -11), lengths)
    loss = losses.pair_loss(*pair, settings(preference=kind))
    assert float(loss.total) == pytest.approx(value, abs=1e-5) and float(loss.weight) == 1
    rewards = {"chosen_reward": 0.1, "rejected_reward": -0.1, "margin": 0.2, "accuracy": 1.0}
    assert {k: float(loss.means[k]) for k in rewards} == pytest.approx(rewards, abs=1e-6)
    figures = {
        "chosen_logprob": -10,
        "rejected_logprob": -12,
        "chosen_length": lengths[0],
        "rejected_length": lengths[1],
    }
    assert {k: float(loss.means[k]) for k in figures} == pytest.approx(figures, rel=1e-6)


def test_the_gradient_of_a_pair_with_and_without_nll():
    """-beta sigma(-beta h) at each token of the chosen, and -alpha / |w| beside it.

    + for the rejected.
    """
    for alpha in (0.0, 0.5):
        lp, batch = one_pair((-10, -12), (-11, -11), (4, 2))
        cfg = settings(alpha=alpha)
        gradient = jax.grad(lambda x, b=batch, c=cfg: losses.pair_loss(x, b, c).total)(lp)
        used, side = batch["weights"] > 0, batch["segment_ids"]
        np.testing.assert_allclose(gradient[used & (side == 1)], -0.0450166 - alpha / 4, atol=1e-6)
        np.testing.assert_allclose(gradient[used & (side == 2)], 0.0450166, atol=1e-6)
        assert not gradient[~used].any()


@pytest.mark.parametrize(
    "changes, value",
    [
        ({}, math.log(2)),
        ({"label_smoothing": 0.2}, math.log(2)),
        ({"preference": "ipo"}, 25.0),
        ({"preference": "ipo_mean"}, 25.0),
        ({"preference": "ipo", "beta": 0.5}, 1.0),
        ({"alpha": 0.5}, math.log(2) + 0.5 * 10 / 4),
        ({"alpha": 1.0, "dpo_weight": 0.0}, 10 / 4),
    ],
)
def test_where_policy_and_reference_are_one(changes, value):
    loss = losses.pair_loss(*one_pair((-10, -12), (-10, -12), (4, 2)), settings(**changes))
    assert float(loss.total) == pytest.approx(value, rel=1e-6)
    # accuracy counts margins above 0
    assert float(loss.means["margin"]) == float(loss.means["accuracy"]) == 0


def test_ipo_ends_where_the_paper_says():
    """Two actions, a uniform reference, tau 1: the optimum is sigma(1 / (2 tau)) = 0.622.

    DPO has none.
    """
    p = 1 / (1 + math.exp(-0.5))
    assert p == pytest.approx(0.622, abs=5e-4)
    slope = jax.grad(lambda h: losses.ipo(h, 1.0))
    assert float(slope(math.log(p / (1 - p)))) == pytest.approx(0, abs=1e-6)
    assert float(slope(0.4)) < 0 < float(slope(0.6))
    assert all(float(jax.grad(lambda h: losses.dpo(h, 1.0))(h)) < 0 for h in (0.5, 5.0, 15.0))


def test_twice_the_length_at_the_same_mean():
    """The nll term does not change; the margin of sums doubles, that of means does not."""
    short = one_pair((-6, -9), (-7, -8), (2, 3))
    long = one_pair((-12, -18), (-14, -16), (4, 6))
    for kind, factor in (("dpo", 2), ("ipo", 2), ("ipo_mean", 1)):
        cfg = settings(preference=kind)
        first, second = (losses.pair_loss(*pair, cfg).means for pair in (short, long))
        margin = factor * float(first["margin"])
        assert float(second["margin"]) == pytest.approx(margin, rel=1e-5)
        assert float(second["nll"]) == pytest.approx(float(first["nll"]), rel=1e-6)


# ---- many pairs ----------------------------------------------------------------------------------

CASES = [
    {},
    {"beta": 0.5, "label_smoothing": 0.3},
    {"preference": "ipo", "beta": 0.3},
    {"preference": "ipo_mean", "beta": 0.3},
    {"alpha": 0.7, "dpo_weight": 2.0},
    {"alpha": 1.0, "dpo_weight": 0.0},
]


@pytest.mark.parametrize("changes", CASES)
def test_packed_pairs_are_the_sum_of_single_ones_and_finite_differences(changes):
    rows, cfg = [record(shape) for shape in SHAPES], settings(**changes)
    lp, batch = packed(rows)
    assert batch["segment_ids"].max() >= 6 and len(lp) % 2 == 0  # several pairs a sequence
    loss = losses.pair_loss(lp, batch, cfg)
    assert float(loss.total) == pytest.approx(expected(rows, cfg), rel=1e-5)
    assert float(loss.weight) == len(rows)
    gradient = np.asarray(jax.grad(lambda x: losses.pair_loss(x, batch, cfg).total)(lp))
    assert np.isfinite(gradient).all() and not gradient[batch["weights"] == 0].any()
    for row in rows:
        others = [r for r in rows if r is not row]
        is_last = (batch["tokens"] == row["tokens"][-1]) & (batch["ref"] == row["ref"][-1])
        last = np.argwhere(is_last)[0]
        ends = []
        for step in (1e-4, -1e-4):
            moved = row | {"lp": row["lp"].astype(np.float64)}
            moved["lp"][-1] += step
            ends.append(expected([*others, moved], cfg))
        difference = (ends[0] - ends[1]) / 2e-4
        assert gradient[tuple(last)] == pytest.approx(difference, rel=1e-3, abs=1e-6)


def test_parts_of_a_batch_add_up():
    """So that micro-batches and devices change nothing."""

    def numbers(lp, batch):
        loss = losses.pair_loss(lp, batch, settings(alpha=1.0))
        named = {"total": loss.total, "weight": loss.weight, **loss.means}
        return {name: float(value) for name, value in named.items()}

    lp, batch = packed([record(shape) for shape in SHAPES])
    whole = numbers(lp, batch)
    halves = [numbers(lp[i::2], {k: v[i::2] for k, v in batch.items()}) for i in (0, 1)]
    assert all(half["weight"] for half in halves)
    assert {k: halves[0][k] + halves[1][k] for k in whole} == pytest.approx(whole)


@pytest.mark.parametrize("dims", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("of_batch", [losses.pair_loss, losses.verdict_loss])
def test_any_mesh_gives_the_same_loss_and_gradient(of_batch, dims):
    rows = verdicts([1, 0, 1, 1, 0, 0, 1])
    batch = packing.fill([[row] for row in rows], 8, 24)
    arrays, cfg = (batch.pop("lp"), batch), settings(alpha=0.5)

    def loss_and_gradient(lp, batch):
        def total(lp):
            loss = of_batch(lp, batch, cfg)
            return loss.total, loss

        return jax.value_and_grad(total, has_aux=True)(lp)

    alone = jax.jit(loss_and_gradient)(*arrays)
    mesh = sharding.make_mesh(*dims)
    with jax.set_mesh(mesh):
        placed = sharding.put(arrays, mesh, "batch", None)
        compiled = jax.jit(loss_and_gradient).lower(*placed).compile()
        assert "all-gather" not in compiled.as_text()  # only sums cross between devices
        on_mesh = compiled(*placed)
    on_mesh, alone = jax.device_get((on_mesh, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), on_mesh, alone)


def test_a_batch_without_pairs_is_0():
    lp, batch = packed([record(SHAPES[0])])
    empty = {k: jnp.zeros_like(v) for k, v in batch.items()}
    for of_batch in (losses.pair_loss, losses.verdict_loss):
        loss = of_batch(lp, empty | {"desirable": empty["ref"]}, settings(alpha=1.0))
        assert float(loss.total) == float(loss.weight) == 0
        assert not any(float(v) for v in loss.means.values())


@pytest.mark.parametrize("length", [4, 5])
def test_the_shortest_pairs_fill_a_sequence(length):
    """Sums have room for as many sides as a sequence has tokens."""
    rows = []
    for i in range(2):
        lp = np.array([-1.0 - i, -3.0], np.float32)
        rows.append(pair_row([], [[5], [6]]) | {"lp": lp})
    sums = losses.side_sums(*split(packing.fill([rows], 1, length)))
    assert sums.shape == (1, (length + 1) // 2, 2) and not sums[0, 2:].any()
    assert sums[0, :2].tolist() == [[-1, -3], [-2, -3]]


# ---- KTO -----------------------------------------------------------------------------------------


def verdicts(labels, seed=0):
    rows = [record(shape, seed) for shape in SHAPES[: len(labels)]]
    return [attach(row, "desirable", (label, 0)) for row, label in zip(rows, labels, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_kto_by_hand(seed):
    """z0 is never negative, and has no gradient: the mismatched completions are not trained."""
    labels = [1, 0, 1, 1, 0, 0, 1]
    rows = verdicts(labels, seed)
    cfg = settings(preference="kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)
    lp, batch = packed(rows)
    ratio, other = (
        np.array([of(row, i).sum() - references(row)[i] for row in rows]) for i in (0, 1)
    )
    z0 = max(0.0, other.mean())
    good = np.array(labels, bool)
    sigma = 1 / (1 + np.exp(-0.2 * np.where(good, ratio - z0, z0 - ratio)))
    weight = np.where(good, 1.5, 0.7)
    loss = losses.verdict_loss(lp, batch, cfg)
    assert float(loss.total) == pytest.approx((weight * (1 - sigma)).sum(), rel=1e-5)
    assert float(loss.weight) == 7 and float(loss.means["desirable"]) == 4
    assert float(loss.means["z0"]) == pytest.approx(7 * z0, rel=1e-4, abs=1e-6)
    gradient = np.asarray(jax.grad(lambda x: losses.verdict_loss(x, batch, cfg).total)(lp))
    own = np.asarray((batch["weights"] > 0) & (batch["segment_ids"] % 2 == 1))
    assert not gradient[~own].any() and (gradient[own] != 0).all()
    sizes = np.unique(np.round(np.abs(gradient[own]), 5))
    by_hand = np.unique(np.round(0.2 * weight * sigma * (1 - sigma), 5))
    np.testing.assert_allclose(sizes, by_hand, atol=2e-5)


def test_the_seeds_of_kto_have_both_signs_of_z0():
    means = []
    for seed in range(4):
        rows = verdicts([1] * 7, seed)
        means.append(np.mean([of(row, 1).sum() - row["ref"][-1] for row in rows]))
    assert min(means) < 0 < max(means)


def test_kto_starts_at_half_of_lambda():
    row = attach(pair_row([1], [[5, 6], [7]]), "ref", (-3, -2))
    row["lp"] = np.array([0, -1, -2, 0, -2], np.float32)
    cfg = settings(preference="kto", desirable_weight=1.2, undesirable_weight=0.8)
    for label, value in ((1, 0.6), (0, 0.4)):
        labelled = attach(row, "desirable", (label, 0))
        lp, batch = split(packing.fill([[labelled]], 1, 8))
        assert float(losses.verdict_loss(lp, batch, cfg).total) == pytest.approx(value)


# ---- through a model -----------------------------------------------------------------------------


def test_a_pair_is_worth_the_same_packed_alone_and_as_two_sequences(tiny):
    """Loss and gradient of the parameters of ragged pairs: packed together, and one a sequence.

    And a side's log-likelihood is that of the side alone.
    """
    cfg, params = tiny
    rows = [{k: v for k, v in record(shape).items() if k != "lp"} for shape in SHAPES]
    dense_batch = packing.pack(rows, multiple=4, length=24)
    single_batch = packing.fill([[row] for row in rows], 8, 24)
    assert len(dense_batch["tokens"]) == 4

    def total(params, batch):
        log_p = logprobs.token_logprobs(params, batch, cfg)
        loss = losses.pair_loss(log_p, batch, settings(alpha=0.5))
        return loss.total, losses.side_sums(log_p, batch)

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (a, _), dense = step(params, dense_batch)
    (b, sums), single = step(params, single_batch)
    assert float(a) == pytest.approx(float(b), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), dense, single)
    alone = []
    for row in rows:
        for i in (0, 1):
            side = row["side"] == i
            alone.append([{key: row[key][side] for key in ("tokens", "weights")}])
    batch = packing.fill(alone, 14, 24)
    each = (
        np.asarray(logprobs.compiled_token_logprobs(params, batch, cfg)) * batch["weights"]
    ).sum(1)
    np.testing.assert_allclose(sums[:7, 0], each.reshape(7, 2), rtol=1e-5)


# ---- rows and settings ---------------------------------------------------------------------------


def test_the_row_of_a_pair():
    row = attach(pair_row([1, 7], [[8, 2], [9, 9, 2]]), "ref", (-3.5, -4.5))
    assert row["tokens"].tolist() == [1, 7, 8, 2, 1, 7, 9, 9, 2]
    assert row["weights"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 1]
    assert row["side"].tolist() == [0] * 4 + [1] * 5
    assert row["position"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert row["ref"].tolist() == [0, 0, 0, -3.5, 0, 0, 0, 0, -4.5]
    for sides in ([[], [5]], [[5], []]):
        with pytest.raises(ValueError, match="at least one token"):
            pair_row([1], sides)


def test_the_reference_is_summed_over_completions():
    rows = [pair_row([1, 7], [[8, 2], [9, 9, 2]]), pair_row([1], [[4], [5, 2]])]
    token_logprobs = [-np.arange(len(r["tokens"]), dtype=np.float32) for r in rows]
    sums = preferences.side_log_likelihoods(rows, token_logprobs)
    assert sums.tolist() == [[-5, -21], [-1, -7]]
    assert preferences.side_log_likelihoods([], []).shape == (0, 2)
    attached = preferences.attach_reference(rows, token_logprobs)
    assert [references(row).tolist() for row in attached] == sums.tolist()


NO_LOSS = r"config\.algorithm\.dpo_weight, alpha: "


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"preference": "ipo", "label_smoothing": 0.1},
            r"config\.algorithm\.label_smoothing: ipo has none",
        ),
        ({"dpo_weight": 0.0}, NO_LOSS + "both are 0"),
        (
            {"dpo_weight": 0.0, "alpha": 1.0, "label_smoothing": 0.1},
            r"config\.algorithm\.preference, label_smoothing: .*with dpo_weight=0",
        ),
        ({"preference": "kto", "alpha": 1.0}, NO_LOSS + "kto"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    preferences.check(settings())
    with pytest.raises(ValueError, match=message):
        preferences.check(settings(**changes))


# ---- TRL -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    """(torch, TRL's DPOTrainer.dpo_loss, KTOTrainer.kto_loss)."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no comparison with TRL")
    trl = pytest.importorskip("trl", reason="trl is not installed: no comparison with TRL")
    if not (hasattr(trl.DPOTrainer, "dpo_loss") and hasattr(trl.KTOTrainer, "kto_loss")):
        pytest.skip(f"trl {trl.__version__} has no dpo_loss and kto_loss (0.19.1 has)")
    return torch, trl.DPOTrainer.dpo_loss, trl.KTOTrainer.kto_loss


def assert_same_as_peer(torch, loss_of_sums, rows, ours):
    """Loss and gradient at each log-prob.

    Ours of the packed batch, the peer's of each side's sum (and length).
    """
    lp, batch = packed(rows)
    value, gradient = jax.value_and_grad(lambda x: ours(x, batch).total)(lp)
    sides = [[torch.tensor(of(row, i), requires_grad=True) for row in rows] for i in (0, 1)]
    sums = [torch.stack([x.sum() for x in side]) for side in sides]
    lengths = [torch.tensor([len(x) for x in side]) for side in sides]
    refs = torch.tensor(np.array([references(row) for row in rows], np.float64))
    theirs = loss_of_sums(*sums, refs[:, 0], refs[:, 1], lengths).sum()
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    for i, row in enumerate(rows):
        for side in (0, 1):
            b, last = np.argwhere(batch["ref"] == references(row)[side])[0]
            wanted = sides[side][i].grad
            wanted = np.zeros(len(sides[side][i])) if wanted is None else wanted.numpy()
            own = np.asarray(gradient)[b, last - len(wanted) + 1 : last + 1]
            np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind, theirs", [("dpo", "sigmoid"), ("ipo", "ipo"), ("ipo_mean", "ipo")])
def test_pairs_against_trl(peers, kind, theirs):
    torch, dpo_loss, _ = peers
    smoothing = 0.1 if kind == "dpo" else 0.0
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        reference_free=False,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        loss_type=theirs,
        beta=0.3,
        label_smoothing=smoothing,
    )

    def of_sums(*sums_and_lengths):
        *sums, lengths = sums_and_lengths
        if kind == "ipo_mean":  # as its trainer does before it calls the loss
            sums = [x / n for x, n in zip(sums, [*lengths, *lengths], strict=True)]
        return dpo_loss(trainer, *sums)[0]

    cfg = settings(preference=kind, beta=0.3, label_smoothing=smoothing)
    rows = [record(shape) for shape in SHAPES]
    assert_same_as_peer(torch, of_sums, rows, lambda x, batch: losses.pair_loss(x, batch, cfg))


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_against_trl(peers, seed):
    torch, _, kto_loss = peers
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x),
        calculate_KL=True,
        loss_type="kto",
        beta=0.2,
        desirable_weight=1.3,
        undesirable_weight=0.6,
    )
    good = torch.tensor([True, False, True, True, False, False, True])

    def of_sums(own, other, ref_own, ref_other, lengths):
        sums = (own[good], own[~good], other, ref_own[good], ref_own[~good], ref_other)
        return kto_loss(trainer, *sums)[0]

    cfg = settings(preference="kto", beta=0.2, desirable_weight=1.3, undesirable_weight=0.6)
    rows = verdicts(good.tolist(), seed)
    assert_same_as_peer(torch, of_sums, rows, lambda x, batch: losses.verdict_loss(x, batch, cfg))
