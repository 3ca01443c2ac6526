"""Preference losses: by hand, against float64 and finite differences, against TRL, and packed as well as one pair a row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted import config

from reasoning_jax.training import losses, packing, preferences
from reasoning_jax.training.rows import mark, pair
from reasoning_jax.model import logprobs, sharding

pytestmark = pytest.mark.usefixtures("quick_compile")
SHAPES = [
    (3, 2, 5),
    (1, 4, 1),
    (2, 1, 1),
    (4, 6, 3),
    (1, 2, 2),
    (2, 7, 4),
    (5, 3, 2),
]  # prompt, chosen and rejected


def record(shape, seed=0):
    """A pair of random tokens, with log-probs "lp" of all its tokens, and a reference near to them."""
    rng = np.random.default_rng([seed, *shape])
    prompt, *sides = (rng.integers(3, 20, n).tolist() for n in shape)
    row = pair(prompt, sides)
    lp = -rng.uniform(0.1, 3.0, len(row["tokens"])).astype(np.float32)
    row["lp"] = np.where(
        row["weights"] > 0, lp, np.nan
    )  # what a prompt's token has must not matter
    return mark(row, "ref", [of(row, i).sum() + rng.normal() for i in (0, 1)])


def of(row, side, key="lp"):
    """The values of a side's completion, in float64."""
    return row[key][(row["part"] == side) & (row["weights"] > 0)].astype(np.float64)


def packed(rows, length=31):
    """(log-probs, batch) of these pairs, several a sequence, and padding whose log-probs are no numbers."""
    batch = packing.pack(rows, multiple=2, length=length)
    lp = batch.pop("lp")
    return jnp.where(batch["segment_ids"] > 0, lp, jnp.nan), batch


def settings(**changes):
    return config(name="dpo", **changes)


def expected(rows, cfg):
    """The sum of the pairs' losses in float64, pair by pair."""
    a, total = cfg.algorithm, 0.0
    for row in rows:
        sides, refs = [of(row, 0), of(row, 1)], row["ref"][row["ref"] != 0].astype(np.float64)
        ratios = [
            (x.sum() - r) / (len(x) if a.preference == "ipo_mean" else 1)
            for x, r in zip(sides, refs, strict=True)
        ]
        h = ratios[0] - ratios[1]
        if a.preference == "dpo":
            e = a.label_smoothing
            preference = (1 - e) * math.log1p(math.exp(-a.beta * h)) + e * math.log1p(
                math.exp(a.beta * h)
            )
        else:
            preference = (h - 0.5 / a.beta) ** 2
        total += a.dpo_weight * preference - a.alpha * sides[0].mean()
    return total


# ---- the vectors of the notes --------------------------------------------------------------------------------------------


def one_pair(policy, reference, lengths=(1, 1)):
    """(log-probs, batch) of a pair whose sides have these log-likelihoods, spread evenly over their tokens."""
    row = pair([1], [[5] * n for n in lengths])
    spread = np.zeros(len(row["tokens"]), np.float32)
    for i, n in enumerate(lengths):
        spread[(row["part"] == i) & (row["weights"] > 0)] = policy[i] / n
    batch = packing.fill([[mark(row, "ref", reference) | {"lp": spread}]], 1, 40)
    return batch.pop("lp"), batch


@pytest.mark.parametrize(
    "kind, lengths, loss",
    [("dpo", (3, 9), 0.598139), ("ipo", (3, 9), 9.0), ("ipo_mean", (1, 1), 9.0)],
)
def test_the_vector_of_the_notes(kind, lengths, loss):
    """beta 0.1, log-probs -10 and -12, both references -11: h = 2."""
    value, metrics = losses.pair_loss(
        *one_pair((-10, -12), (-11, -11), lengths), settings(preference=kind)
    )
    assert float(value) == pytest.approx(loss, abs=1e-5) and float(metrics["weight"]) == 1
    found = {
        k: float(metrics[k]) for k in ("chosen_reward", "rejected_reward", "margin", "accuracy")
    }
    assert found == pytest.approx(
        {"chosen_reward": 0.1, "rejected_reward": -0.1, "margin": 0.2, "accuracy": 1.0}, abs=1e-6
    )
    figures = {
        "chosen_logprob": -10,
        "rejected_logprob": -12,
        "chosen_length": lengths[0],
        "rejected_length": lengths[1],
    }
    assert {k: float(metrics[k]) for k in figures} == pytest.approx(figures, rel=1e-6)


def test_the_gradient_of_the_vector_with_and_without_nll():
    """-beta sigma(-beta h) at each token of the chosen, and -alpha / |w| beside it; + for the rejected."""
    for alpha in (0.0, 0.5):
        lp, batch = one_pair((-10, -12), (-11, -11), (4, 2))
        gradient = jax.grad(
            lambda x, b=batch, a=alpha: losses.pair_loss(x, b, settings(alpha=a))[0]
        )(lp)
        used, side = batch["weights"] > 0, batch["segment_ids"]
        np.testing.assert_allclose(gradient[used & (side == 1)], -0.0450166 - alpha / 4, atol=1e-6)
        np.testing.assert_allclose(gradient[used & (side == 2)], 0.0450166, atol=1e-6)
        assert not gradient[~used].any()


@pytest.mark.parametrize(
    "changes, loss",
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
def test_where_policy_and_reference_are_one(changes, loss):
    value, metrics = losses.pair_loss(
        *one_pair((-10, -12), (-10, -12), (4, 2)), settings(**changes)
    )
    assert float(value) == pytest.approx(loss, rel=1e-6)
    assert (
        float(metrics["margin"]) == float(metrics["accuracy"]) == 0
    )  # accuracy counts margins above 0


def test_ipo_ends_where_the_paper_says():
    """Two actions, a uniform reference, tau 1: the optimum is sigma(1 / (2 tau)) = 0.622, while DPO has none."""
    p = 1 / (1 + math.exp(-0.5))
    assert p == pytest.approx(0.622, abs=5e-4)
    slope = jax.grad(lambda h: losses.ipo(h, 1.0))
    assert float(slope(math.log(p / (1 - p)))) == pytest.approx(0, abs=1e-6) and float(
        slope(0.4)
    ) < 0 < float(slope(0.6))
    assert all(float(jax.grad(lambda h: losses.dpo(h, 1.0))(h)) < 0 for h in (0.5, 5.0, 15.0))


def test_twice_the_length_at_the_same_mean():
    """The nll term does not change; the margin of sums doubles, that of means does not."""
    short, long = one_pair((-6, -9), (-7, -8), (2, 3)), one_pair((-12, -18), (-14, -16), (4, 6))
    for kind, factor in (("dpo", 2), ("ipo", 2), ("ipo_mean", 1)):
        first, second = (
            losses.pair_loss(*pair, settings(preference=kind))[1] for pair in (short, long)
        )
        assert float(second["margin"]) == pytest.approx(factor * float(first["margin"]), rel=1e-5)
        assert float(second["nll"]) == pytest.approx(float(first["nll"]), rel=1e-6)


# ---- many pairs ----------------------------------------------------------------------------------------------------------

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
    value, metrics = losses.pair_loss(lp, batch, cfg)
    assert float(value) == pytest.approx(expected(rows, cfg), rel=1e-5) and float(
        metrics["weight"]
    ) == len(rows)
    gradient = np.asarray(jax.grad(lambda x: losses.pair_loss(x, batch, cfg)[0])(lp))
    assert np.isfinite(gradient).all() and not gradient[batch["weights"] == 0].any()
    for row in rows:
        near = [r for r in rows if r is not row]
        at = np.argwhere((batch["tokens"] == row["tokens"][-1]) & (batch["ref"] == row["ref"][-1]))[
            0
        ]  # its last token
        ends = []
        for step in (1e-4, -1e-4):
            moved = row | {"lp": row["lp"].astype(np.float64)}
            moved["lp"][-1] += step
            ends.append(expected([*near, moved], cfg))
        assert gradient[tuple(at)] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-6)


def test_parts_of_a_batch_add_up():
    """So that micro-batches and devices change nothing."""
    lp, batch = packed([record(shape) for shape in SHAPES])
    _, whole = losses.pair_loss(lp, batch, settings(alpha=1.0))
    halves = [
        losses.pair_loss(lp[i::2], {k: v[i::2] for k, v in batch.items()}, settings(alpha=1.0))[1]
        for i in (0, 1)
    ]
    assert all(float(half["weight"]) for half in halves)
    assert {k: float(halves[0][k] + halves[1][k]) for k in whole} == pytest.approx(
        {k: float(v) for k, v in whole.items()}
    )


@pytest.mark.parametrize("dims", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("of_batch", [losses.pair_loss, losses.verdict_loss])
def test_any_mesh_gives_the_same_loss_and_gradient(of_batch, dims):
    rows = verdicts([1, 0, 1, 1, 0, 0, 1])
    batch = packing.fill([[row] for row in rows], 8, 24)
    arrays, cfg = (batch.pop("lp"), batch), settings(alpha=0.5)

    def loss(lp, batch):
        return jax.value_and_grad(lambda x: of_batch(x, batch, cfg), has_aux=True)(lp)

    expected = jax.jit(loss)(*arrays)
    mesh = sharding.make_mesh(*dims)
    with jax.set_mesh(mesh):
        placed = sharding.put(arrays, mesh, "batch", None)
        compiled = jax.jit(loss).lower(*placed).compile()
        assert "all-gather" not in compiled.as_text()  # only sums cross between devices
        found = compiled(*placed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        jax.device_get(found),
        jax.device_get(expected),
    )


def test_a_batch_without_pairs_is_0():
    lp, batch = packed([record(SHAPES[0])])
    empty = {k: np.zeros_like(v) for k, v in batch.items()}
    for of_batch in (losses.pair_loss, losses.verdict_loss):
        value, metrics = of_batch(lp, empty | {"desirable": empty["ref"]}, settings(alpha=1.0))
        assert float(value) == 0 and not any(float(v) for v in metrics.values())


@pytest.mark.parametrize("length", [4, 5])
def test_the_shortest_pairs_fill_a_sequence(length):
    """Sums have room for as many halves as a sequence has tokens."""
    rows = [pair([], [[5], [6]]) | {"lp": np.array([-1.0 - i, -3.0], np.float32)} for i in range(2)]
    batch = packing.fill([rows], 1, length)
    found = losses.sums(batch.pop("lp"), batch)
    assert (
        found.shape == (1, (length + 1) // 2, 2)
        and found[0, :2].tolist() == [[-1, -3], [-2, -3]]
        and not found[0, 2:].any()
    )


# ---- KTO -----------------------------------------------------------------------------------------------------------------


def verdicts(labels, seed=0):
    rows = [record(shape, seed) for shape in SHAPES[: len(labels)]]
    return [mark(row, "desirable", (label, 0)) for row, label in zip(rows, labels, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_kto_by_hand(seed):
    """z0 is never negative, and has no gradient: the mismatched completions are not trained."""
    labels = [1, 0, 1, 1, 0, 0, 1]
    rows, cfg = (
        verdicts(labels, seed),
        settings(preference="kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.7),
    )
    lp, batch = packed(rows)
    refs = [row["ref"][row["ref"] != 0] for row in rows]
    ratio, other = (
        np.array([of(row, i).sum() - ref[i] for row, ref in zip(rows, refs, strict=True)])
        for i in (0, 1)
    )
    z0 = max(0.0, other.mean())
    good = np.array(labels, bool)
    sigma = 1 / (1 + np.exp(-0.2 * np.where(good, ratio - z0, z0 - ratio)))
    weight = np.where(good, 1.5, 0.7)
    value, metrics = losses.verdict_loss(lp, batch, cfg)
    assert (
        float(value) == pytest.approx((weight * (1 - sigma)).sum(), rel=1e-5)
        and float(metrics["weight"]) == 7
    )
    assert (
        float(metrics["z0"]) == pytest.approx(7 * z0, rel=1e-4, abs=1e-6)
        and float(metrics["desirable"]) == 4
    )
    gradient = np.asarray(jax.grad(lambda x: losses.verdict_loss(x, batch, cfg)[0])(lp))
    own = (batch["weights"] > 0) & (batch["segment_ids"] % 2 == 1)
    assert not gradient[~own].any() and (gradient[own] != 0).all()
    sizes = np.unique(np.round(np.abs(gradient[own]), 5))
    np.testing.assert_allclose(
        sizes, np.unique(np.round(0.2 * weight * sigma * (1 - sigma), 5)), atol=2e-5
    )


def test_the_seeds_of_kto_have_both_signs_of_z0():
    means = []
    for seed in range(4):
        rows = verdicts([1] * 7, seed)
        means.append(np.mean([of(row, 1).sum() - row["ref"][-1] for row in rows]))
    assert min(means) < 0 < max(means)


def test_kto_starts_at_half_of_lambda():
    row = mark(pair([1], [[5, 6], [7]]), "ref", (-3, -2))
    for label, loss in ((1, 0.6), (0, 0.4)):
        marked = mark(row, "desirable", (label, 0)) | {
            "lp": np.array([0, -1, -2, 0, -2], np.float32)
        }
        batch = packing.fill([[marked]], 1, 8)
        lp = batch.pop("lp")
        cfg = settings(preference="kto", desirable_weight=1.2, undesirable_weight=0.8)
        assert float(losses.verdict_loss(lp, batch, cfg)[0]) == pytest.approx(loss)


# ---- through a model -----------------------------------------------------------------------------------------------------


def test_a_pair_is_worth_the_same_packed_alone_and_as_two_sequences(tiny):
    """Loss and gradient of the parameters of ragged pairs: packed beside others, and one a sequence; and a side's
    log-likelihood is that of the side alone."""
    cfg, params = tiny
    rows = [{k: v for k, v in record(shape).items() if k != "lp"} for shape in SHAPES]
    batches = [
        packing.pack(rows, multiple=4, length=24),
        packing.fill([[row] for row in rows], 8, 24),
    ]
    assert len(batches[0]["tokens"]) == 4

    def loss(params, batch):
        log_p = logprobs.token_logprobs(params, batch, cfg)
        return losses.pair_loss(log_p, batch, settings(alpha=0.5))[0], losses.sums(log_p, batch)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    ((a, _), dense), ((b, found), single) = (step(params, batch) for batch in batches)
    assert float(a) == pytest.approx(float(b), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), dense, single)
    alone = [
        [{k: v[row["part"] == i] for k, v in row.items() if k in ("tokens", "weights")}]
        for row in rows
        for i in (0, 1)
    ]
    batch = packing.fill(alone, 14, 24)
    each = (np.asarray(logprobs.score(params, batch, cfg)) * batch["weights"]).sum(1)
    np.testing.assert_allclose(found[:7, 0], each.reshape(7, 2), rtol=1e-5)


# ---- records and settings ------------------------------------------------------------------------------------------------


def test_the_record_of_a_pair():
    row = mark(pair([1, 7], [[8, 2], [9, 9, 2]]), "ref", (-3.5, -4.5))
    assert row["tokens"].tolist() == [1, 7, 8, 2, 1, 7, 9, 9, 2] and row["weights"].tolist() == [
        0,
        0,
        1,
        1,
        0,
        0,
        1,
        1,
        1,
    ]
    assert row["part"].tolist() == [0] * 4 + [1] * 5 and row["place"].tolist() == [
        0,
        1,
        2,
        3,
        0,
        1,
        2,
        3,
        4,
    ]
    assert row["ref"].tolist() == [0, 0, 0, -3.5, 0, 0, 0, 0, -4.5]
    for sides in ([[], [5]], [[5], []]):
        with pytest.raises(ValueError, match="at least one token"):
            pair([1], sides)


def test_the_reference_is_summed_over_completions():
    rows = [pair([1, 7], [[8, 2], [9, 9, 2]]), pair([1], [[4], [5, 2]])]
    rollout = SimpleNamespace(
        row_logprobs=lambda rows: [-np.arange(len(r["tokens"]), dtype=np.float32) for r in rows]
    )
    assert preferences.reference(rollout, rows).tolist() == [[-5, -21], [-1, -7]]
    assert preferences.reference(SimpleNamespace(row_logprobs=lambda rows: []), []).shape == (0, 2)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"preference": "ppo"},
            r"config\.algorithm\.preference: 'ppo' is not one of dpo, ipo, ipo_mean, kto\.$",
        ),
        ({"beta": 0.0}, r"config\.algorithm\.beta: 0\.0"),
        ({"label_smoothing": 0.5}, r"config\.algorithm\.label_smoothing: 0\.5"),
        (
            {"preference": "ipo", "label_smoothing": 0.1},
            r"config\.algorithm\.label_smoothing: ipo has none",
        ),
        ({"alpha": -1.0}, r"config\.algorithm\.dpo_weight, alpha: they must not be negative"),
        ({"dpo_weight": 0.0}, r"config\.algorithm\.dpo_weight, alpha: both are 0"),
        ({"preference": "kto", "alpha": 1.0}, r"config\.algorithm\.dpo_weight, alpha: kto"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    preferences.check(settings())
    with pytest.raises(ValueError, match=message):
        preferences.check(settings(**changes))


# ---- TRL -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    """(torch, TRL's DPOTrainer.dpo_loss, KTOTrainer.kto_loss)."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no comparison with TRL")
    trl = pytest.importorskip("trl", reason="trl is not installed: no comparison with TRL")
    if not (hasattr(trl.DPOTrainer, "dpo_loss") and hasattr(trl.KTOTrainer, "kto_loss")):
        pytest.skip(f"trl {trl.__version__} has no dpo_loss and kto_loss (0.19.1 has)")
    return torch, trl.DPOTrainer.dpo_loss, trl.KTOTrainer.kto_loss


def same_as_peer(torch, loss_of_sums, rows, ours):
    """Loss and gradient at each log-prob: ours of the packed batch, the peer's of each side's sum (and length)."""
    lp, batch = packed(rows)
    value, gradient = jax.value_and_grad(lambda x: ours(x, batch)[0])(lp)
    sides = [[torch.tensor(of(row, i), requires_grad=True) for row in rows] for i in (0, 1)]
    sums = [torch.stack([x.sum() for x in side]) for side in sides]
    refs = torch.tensor(np.array([row["ref"][row["ref"] != 0] for row in rows], np.float64))
    theirs = loss_of_sums(
        *sums, refs[:, 0], refs[:, 1], [torch.tensor([len(x) for x in side]) for side in sides]
    ).sum()
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    for i, row in enumerate(rows):
        for side in (0, 1):
            ends = np.argwhere(batch["ref"] == row["ref"][row["ref"] != 0][side])[0]
            wanted = sides[side][i].grad
            wanted = np.zeros(len(sides[side][i])) if wanted is None else wanted.numpy()
            found = np.asarray(gradient)[ends[0], ends[1] - len(wanted) + 1 : ends[1] + 1]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind, theirs", [("dpo", "sigmoid"), ("ipo", "ipo"), ("ipo_mean", "ipo")])
def test_pairs_against_trl(peers, kind, theirs):
    torch, dpo_loss, _ = peers
    smoothing = 0.1 if kind == "dpo" else 0.0
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"), reference_free=False, f_divergence_type="reverse_kl",
        f_divergence_params=None, loss_type=theirs, beta=0.3, label_smoothing=smoothing,
    )  # fmt: skip

    def of_sums(*sums_and_lengths):
        *found, lengths = sums_and_lengths
        if kind == "ipo_mean":  # as its trainer does before it calls the loss
            found = [x / n for x, n in zip(found, [*lengths, *lengths], strict=True)]
        return dpo_loss(trainer, *found)[0]

    cfg = settings(preference=kind, beta=0.3, label_smoothing=smoothing)
    rows = [record(shape) for shape in SHAPES]
    same_as_peer(torch, of_sums, rows, lambda x, batch: losses.pair_loss(x, batch, cfg))


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_against_trl(peers, seed):
    torch, _, kto_loss = peers
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x), calculate_KL=True, loss_type="kto",
        beta=0.2, desirable_weight=1.3, undesirable_weight=0.6,
    )  # fmt: skip
    good = torch.tensor([True, False, True, True, False, False, True])

    def of_sums(own, other, ref_own, ref_other, lengths):
        return kto_loss(
            trainer, own[good], own[~good], other, ref_own[good], ref_own[~good], ref_other
        )[0]

    cfg = settings(preference="kto", beta=0.2, desirable_weight=1.3, undesirable_weight=0.6)
    same_as_peer(
        torch,
        of_sums,
        verdicts(good.tolist(), seed),
        lambda x, batch: losses.verdict_loss(x, batch, cfg),
    )
