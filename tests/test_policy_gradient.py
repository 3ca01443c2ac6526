"""Policy gradients: advantages and token weights as in the papers' formulas, what an update sees, and expected gradients."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from types import SimpleNamespace

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from configs import grpo_addition
from reasoning_jax import loop, metrics
from reasoning_jax.graders import rewards
from reasoning_jax.training import train_step
from reasoning_jax.algorithms import policy_gradient as pg
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition

FOUR = np.array([[1.0, 0, 0, 0]])
LENGTHS = np.array([[2, 4, 4, 10]])


# ---- advantages and weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, gain, weight",
    [
        ("grpo", [1.7321, -0.5774, -0.5774, -0.5774], [0.125, 0.0625, 0.0625, 0.025]),
        ("dapo", [1.7321, -0.5774, -0.5774, -0.5774], [0.05] * 4),
        ("dr_grpo", [0.75, -0.25, -0.25, -0.25], [0.025] * 4),
        ("rloo", [1, -1 / 3, -1 / 3, -1 / 3], [0.25] * 4),
    ],
)
def test_four_samples_by_hand(kind, gain, weight):
    np.testing.assert_allclose(pg.advantages(FOUR, kind), [gain], atol=5e-5)
    np.testing.assert_allclose(pg.token_weights(LENGTHS, kind, 10), [weight])


def test_the_two_standard_deviations():
    """Of 8 samples 5 right: the population's, which is ours, and the sample's of other implementations, smaller by a factor."""
    found = np.unique(pg.advantages(np.array([[1.0] * 5 + [0.0] * 3]), "grpo").round(4))
    assert found.tolist() == [-1.291, 0.7746]
    assert np.round(found * math.sqrt(7 / 8), 4).tolist() == [-1.2076, 0.7246]
    for G, k in itertools.product((2, 3, 8), range(1, 8)):
        if k < G:
            p, gain = k / G, pg.advantages((np.arange(G) < k)[None] * 1.0, "grpo")[0]
            np.testing.assert_allclose(
                [gain[0], gain[-1]], [math.sqrt((1 - p) / p), -math.sqrt(p / (1 - p))]
            )


def test_each_sample_is_compared_with_the_others_of_its_own_group():
    some = np.random.default_rng(0).normal(size=(5, 6))
    others = (some.sum(1, keepdims=True) - some) / 5
    np.testing.assert_allclose(pg.advantages(some, "rloo"), some - others)
    np.testing.assert_allclose(pg.advantages(some, "rloo"), pg.advantages(some, "dr_grpo") * 6 / 5)
    np.testing.assert_allclose(
        pg.advantages(some, "dapo"), pg.advantages(3 * some + 7, "grpo")
    )  # rewards of +-1 are as 0, 1
    for kind in pg.KINDS:
        whole = pg.advantages(some, kind)
        np.testing.assert_allclose(
            whole, np.concatenate([pg.advantages(row[None], kind) for row in some])
        )
        np.testing.assert_allclose(whole.sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("kind", pg.KINDS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_group_that_is_all_alike_has_no_advantage(kind, reward):
    np.testing.assert_allclose(pg.advantages(np.full((2, 7), reward), kind), 0, atol=1e-15)


# ---- expected gradients --------------------------------------------------------------------------------------------------


TABLE = {
    0.02: (0.0345, 0.0515, 0.0721, 0.1173),
    0.10: (0.1690, 0.2328, 0.2848, 0.3255),
    0.50: (0.8080, 0.9278, 0.9671, 0.9921),
    0.90: (1.521, 2.095, 2.563, 2.929),
    0.98: (1.689, 2.522, 3.531, 5.747),
}


def coefficient(q, G, kind):
    """What the mean gradient is of grad log p(y | x), in the direction of which it must lie."""
    mean = exact.of_group(q, G, lambda correct: pg.advantages(correct[None] * 1.0, kind)[0] / G)
    truth = exact.gradient(q)
    c = mean @ truth / (truth @ truth)
    np.testing.assert_allclose(mean, c * truth, atol=1e-6)
    return c


@pytest.mark.parametrize("p", TABLE)
def test_the_expected_coefficients(p):
    """RLOO's is p(correct): the gradient of p(y | x) itself. GRPO's tends to sqrt(p / (1 - p)), far from it. TRICE's is 1."""
    q = exact.Question(
        np.array([p / 3, 2 * p / 3, 1 - p]), np.zeros((3, 3)), np.array([True, True, False])
    )
    q = q._replace(score=np.eye(3) - q.p)
    for G, c in zip((4, 8, 16, 64), TABLE[p], strict=True):
        assert (
            coefficient(q, G, "grpo")
            == coefficient(q, G, "dapo")
            == pytest.approx(c, rel=4e-4, abs=6e-5)
        )
        assert coefficient(q, G, "rloo") == pytest.approx(p, rel=1e-9)
        assert coefficient(q, G, "dr_grpo") == pytest.approx(p * (G - 1) / G, rel=1e-9)
    assert abs(coefficient(q, 800, "grpo") / math.sqrt(p / (1 - p)) - 1) < 0.05


@pytest.mark.usefixtures("quick_compile")
def test_the_expected_coefficients_of_a_transformer():
    for q in exact.of_model(exact.params(0)):
        assert coefficient(q, 4, "rloo") == pytest.approx(exact.pi(q), rel=1e-4)
        assert not math.isclose(coefficient(q, 4, "grpo"), exact.pi(q), rel_tol=0.1)


def test_the_gradients_of_the_kl_terms():
    """Over all rationales: k1 and k3 have the mean KL(p || ref); the gradient of k1 has mean 0, that of k2 is the KL's, that of
    k3 is the one of KL(ref || p). In RLOO's reward, k1 has the gradient of the KL."""
    rng = np.random.default_rng(0)
    logits, ref = jnp.array(rng.normal(size=5)), jax.nn.log_softmax(jnp.array(rng.normal(size=5)))
    p = np.asarray(jax.nn.softmax(logits))

    def forward(x):
        return (jax.nn.softmax(x) * (jax.nn.log_softmax(x) - ref)).sum()

    def backward(x):
        return (jnp.exp(ref) * (ref - jax.nn.log_softmax(x))).sum()

    def term(x, kind):
        """The mean over samples of p, whose law is not differentiated: what a loss sees."""
        batch = {
            "weights": p[None],
            "share": p[None],
            "advantage": np.zeros((1, 5)),
            "old": jnp.log(p)[None],
            "ref": ref[None],
        }
        total, metrics = pg.loss(jax.nn.log_softmax(x)[None], batch, config(kl=1.0, kl_kind=kind))
        return total, metrics["kl"]

    grads = {kind: jax.grad(term, has_aux=True)(logits, kind) for kind in ("k2", "k3")}
    np.testing.assert_allclose(grads["k2"][0], jax.grad(forward)(logits), atol=1e-6)
    np.testing.assert_allclose(grads["k3"][0], jax.grad(backward)(logits), atol=1e-6)
    assert np.abs(jax.grad(backward)(logits) - jax.grad(forward)(logits)).max() > 0.05
    assert (
        float(grads["k3"][1]) == pytest.approx(float(forward(logits)), rel=1e-5)
        and float(grads["k2"][1]) > 0
    )
    d = np.asarray(jax.nn.log_softmax(logits) - ref)
    np.testing.assert_allclose(-(p * d) @ (np.eye(5) - p), -jax.grad(forward)(logits), atol=1e-6)
    mean = 0.0  # RLOO of two samples, exactly
    for pair in itertools.product(range(5), repeat=2):
        mean += (
            p[[*pair]].prod()
            * pg.advantages(-d[None, pair], "rloo")[0]
            @ (np.eye(5) - p)[[*pair]]
            / 2
        )
    np.testing.assert_allclose(mean, -jax.grad(forward)(logits), atol=1e-6)


# ---- the loss ------------------------------------------------------------------------------------------------------------


def one(log_p, old=-1.0, gain=1.0, weight=1.0, share=1.0):
    """A batch of one token (NaN elsewhere, where nothing counts), and its log-probability."""
    batch = {
        "weights": [[0, weight]],
        "share": [[0, share]],
        "advantage": [[0, gain]],
        "old": [[np.nan, old]],
    }
    return jnp.array([[np.nan, log_p]]), {k: jnp.array(v, jnp.float32) for k, v in batch.items()}


@pytest.mark.parametrize(
    "ratio, gain, value, slope, clipped",
    [
        (1.0, 2.0, 2.0, 2.0, 0),
        (1.27, 2.0, 2.54, 2.54, 0),
        (1.3, 2.0, 2.56, 0.0, 1),  # above 1 + clip_high: no gain from more
        (0.5, 2.0, 1.0, 1.0, 0),
        (0.81, -2.0, -1.62, -1.62, 0),
        (0.5, -2.0, -1.6, 0.0, 1),  # below 1 - clip_low
        (3.0, -2.0, -6.0, -6.0, 0),  # a bad sample that became more likely is never clipped
    ],
)
def test_clipping_by_hand(ratio, gain, value, slope, clipped):
    cfg = config(clip_low=0.2, clip_high=0.28)
    log_p, batch = one(-1.0 + math.log(ratio), gain=gain)
    (total, metrics), grad = jax.value_and_grad(lambda x: pg.loss(x, batch, cfg), has_aux=True)(
        log_p
    )
    assert float(total) == pytest.approx(-value, rel=1e-5) and metrics["loss"] == total
    assert grad[0].tolist() == [0.0, pytest.approx(-slope, rel=1e-5)]
    assert (
        float(metrics["ratio_max"]) == pytest.approx(ratio, rel=1e-5)
        and float(metrics["clip_fraction"]) == clipped
    )
    assert float(metrics["kl_old"]) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_a_large_number_clips_nothing():
    log_p, batch = one(3.0, gain=1.0)
    total, metrics = pg.loss(log_p, batch, config(clip_low=1e9, clip_high=1e9))
    assert float(total) == pytest.approx(-math.exp(4.0), rel=1e-5) and metrics["clip_fraction"] == 0


def test_the_kl_from_the_base_model_by_hand():
    for kind, kl, slope in (
        ("k3", math.exp(0.5) - 0.5 - 1, 1 - math.exp(0.5)),
        ("k2", 0.125, -0.5),
    ):
        log_p, batch = one(-1.0, gain=0.0, weight=2.0)
        batch["ref"] = jnp.array([[np.nan, -0.5]])
        cfg = config(kl=0.1, kl_kind=kind)
        (total, metrics), grad = jax.value_and_grad(lambda x: pg.loss(x, batch, cfg), has_aux=True)(
            log_p
        )  # noqa: B023
        assert float(total) == pytest.approx(0.2 * kl, rel=1e-5) and float(
            metrics["kl"]
        ) == pytest.approx(kl, rel=1e-5)
        assert grad[0].tolist() == [0.0, pytest.approx(0.2 * slope, rel=1e-5)]


@pytest.mark.parametrize(
    "kind, theirs", [("grpo", "grpo"), ("dr_grpo", "dr_grpo"), ("dapo", "bnpo")]
)
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_loss_against_trl(kind, theirs, kl):
    """Value, gradient at every log-prob, KL, on random log-probs of one group; TRL's bnpo is dapo's mean over all tokens."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no comparison with TRL")
    trl = pytest.importorskip("trl", reason="trl is not installed: no comparison with TRL")
    if not hasattr(trl.GRPOTrainer, "_compute_loss"):
        pytest.skip(f"trl {trl.__version__} has no GRPOTrainer._compute_loss (0.19.1 has)")
    rng, (G, T) = np.random.default_rng(0), (6, 9)
    lengths = rng.integers(1, T + 1, (1, G))
    mask = np.arange(T) < lengths[0][:, None]
    old = -rng.uniform(0.1, 3.0, (G, T))
    log_p, ref = old + rng.normal(scale=0.3, size=(G, T)), old + rng.normal(scale=0.3, size=(G, T))
    gain = pg.advantages(rng.normal(size=(1, G)), kind)

    x = torch.tensor(log_p, requires_grad=True)
    model = SimpleNamespace(training=True)
    trainer = SimpleNamespace(
        _get_per_token_logps=lambda *_: x, beta=kl, epsilon_low=0.2, epsilon_high=0.28, args=SimpleNamespace(delta=None),
        loss_type=theirs, max_completion_length=12, model=model, _metrics={"train": collections.defaultdict(list)},
        accelerator=SimpleNamespace(gather=lambda value: value),
    )  # fmt: skip
    tokens, there = torch.zeros(G, T, dtype=torch.long), torch.tensor(mask)
    inputs = {"prompt_ids": tokens, "prompt_mask": there, "completion_ids": tokens, "completion_mask": there.long(),
              "ref_per_token_logps": torch.tensor(ref), "old_per_token_logps": torch.tensor(old),
              "advantages": torch.tensor(gain[0])}  # fmt: skip
    peer = trl.GRPOTrainer._compute_loss(trainer, model, inputs)
    peer.backward()

    weights = mask * pg.token_weights(lengths, kind, 12)[0][:, None] * G
    batch = {
        "weights": weights,
        "share": mask / lengths[0][:, None],
        "advantage": mask * gain[0][:, None],
        "old": old,
    }
    batch = {
        k: jnp.asarray(v, jnp.float32) for k, v in (batch | ({"ref": ref} if kl else {})).items()
    }
    cfg = config(clip_low=0.2, clip_high=0.28, kl=kl)
    (value, figures), grad = jax.value_and_grad(lambda x: pg.loss(x, batch, cfg), has_aux=True)(
        jnp.asarray(log_p, jnp.float32)
    )
    assert figures["weight"] == pytest.approx(G) and 0 < figures["clip_fraction"] < 1
    assert float(value) / G == pytest.approx(peer.item(), rel=1e-4, abs=1e-7)
    np.testing.assert_allclose(np.asarray(grad) / G, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_a_maximum_is_not_summed_over_micro_batches():
    """Two parts of one batch: ratio_max is the larger one, all else is divided by the weight of both."""
    parts = [one(-1.0 + math.log(r))[1] | {"log_p": one(-1.0 + math.log(r))[0]} for r in (1.2, 1.1)]
    batch = {k: jnp.stack([part[k] for part in parts]) for k in parts[0]}
    method = SimpleNamespace(
        forward=lambda params, batch, cfg: batch["log_p"] + params * 0, loss=pg.loss
    )
    optimizer = SimpleNamespace(update=lambda grads, *_: (grads, ()))
    state = train_step.TrainState(
        *(jnp.zeros(()) for _ in range(2)), (), jnp.zeros((), int), jnp.zeros((), int)
    )
    for order in ([0, 1], [1, 0]):
        fresh = jax.tree.map(jnp.copy, state)
        parts = {k: v[jnp.array(order)] for k, v in batch.items()}
        _, metrics = train_step.make_update(method, None, optimizer, config())(fresh, parts, 0.0)
        assert (
            float(metrics["ratio_max"]) == pytest.approx(1.2, rel=1e-5) and metrics["weight"] == 2
        )
        assert float(metrics["loss"]) == pytest.approx(-(1.2 + 1.1) / 2, rel=1e-5)


# ---- collection ----------------------------------------------------------------------------------------------------------


class Groups(scripted.Scripted):
    """``script[example id]`` lists the verdicts of an example's samples; log-probabilities are -1, the base model's -1.5."""

    def attempt(self, e, index, hint):
        verdict = self.script[e.id][index]
        return scripted.rollout({e.id: (verdict, verdict)}).attempt(e, index, hint)

    def logprobs(self, examples, tokens):
        assert self.params == "base"
        return [np.full(len(t), -1.5, np.float32) for t in tokens]


def collect(script, **changes):
    kind = type("Script", (Groups,), {"script": script, "calls": []})
    roll = kind(
        None, None, TOK, addition, (), None, 8, 64, 256, None, None, reference=lambda: "base"
    )
    cfg = config(**{"num_samples": len(script[0]), "online": True, "restart": False, **changes})
    rows, memory, report = pg.collect(roll, [example(i, 10 + i, 40) for i in script], (), 1, cfg)
    assert memory == ()
    return rows, report, roll


def total_gradient(rows, cfg):
    """What an update takes as the weight of each token's grad log p, ratios 1, by row; divided as train_step.py divides."""
    grads, weight = [], 0.0
    for row in rows:
        batch = {k: jnp.asarray(v)[None] for k, v in row.items()}
        grad, metrics = jax.grad(lambda x, batch=batch: pg.loss(x, batch, cfg), has_aux=True)(
            batch["old"]
        )
        weight += float(metrics["weight"])
        grads.append(-np.asarray(grad[0]))
    return [g / weight for g in grads], weight


SCRIPT = {
    0: [CORRECT, WRONG, UNPARSED, TRUNCATED],
    1: [WRONG] * 4,
    2: [CORRECT, CORRECT, WRONG, CORRECT],
}


@pytest.mark.parametrize("kind", pg.KINDS)
@pytest.mark.parametrize("kl", [0.0, 1e-9])
def test_the_gradient_of_a_round_is_the_formulas(kind, kl):
    """1 / Q * w * A for every token of every sample, whether those without advantage are left out or not (kl > 0)."""
    rows, report, _ = collect(SCRIPT, kind=kind, kl=kl)
    cfg = config(kind=kind, kl=kl)
    grads, weight = total_gradient(rows, cfg)
    assert (
        weight == pytest.approx(12) and len(rows) == (12 if kl else 8) == report.values["kept_rows"]
    )
    samples = [s for s in report.samples if (s.example.id, s.index, False) in report.kept]
    earned = np.array([[v == CORRECT for v in SCRIPT[i]] for i in range(3)], float)
    lengths = np.array([len(s.tokens) for s in report.samples]).reshape(3, 4)
    expected = (
        pg.advantages(earned, kind)
        * pg.token_weights(lengths, kind, cfg.sampling.max_new_tokens)
        / 3
    )
    for s, row, grad in zip(samples, rows, grads, strict=True):
        prompt = len(row["tokens"]) - len(s.tokens)
        assert TOK.decode(row["tokens"][:prompt]) == f"{s.example.question}\n"
        assert (
            not any(row[k][:prompt].any() for k in ("weights", "advantage", "old", "share"))
            and not grad[:prompt].any()
        )
        np.testing.assert_allclose(
            grad[prompt:], expected[s.example.id, s.index], rtol=1e-5, atol=1e-8
        )
        assert (row["old"][prompt:] == s.logprobs).all()
        assert {v.dtype for k, v in row.items() if k != "tokens"} == {np.dtype(np.float32)}


def test_what_is_told_of_a_round():
    rows, report, roll = collect(SCRIPT, kind="rloo")
    assert roll.calls == [(False, [0, 1, 2], 4)] and len(report.samples) == 12
    assert report.kept == {(i, j, False) for i in (0, 2) for j in range(4)}
    expected = {"reward": 4 / 12, "zero_spread": 1 / 3, "groups": 3, "kept_rows": 8}
    assert report.values == pytest.approx(expected)
    rows, report, _ = collect({0: [WRONG] * 4, 1: [CORRECT] * 4})
    assert rows == [] and report.kept == set() and report.values["zero_spread"] == 1.0


def test_new_questions_where_groups_are_all_right_or_all_wrong():
    mixed = [CORRECT, WRONG]
    script = {
        0: [WRONG] * 2,
        1: mixed,
        2: [CORRECT] * 2,
        3: mixed,
        4: mixed,
        5: [UNPARSED, TRUNCATED],
    }
    rows, report, roll = collect(script, groups=2)
    assert roll.calls == [(False, [0, 1], 2), (False, [2, 3], 2)]  # and no more than needed
    assert {i for i, _, _ in report.kept} == {1, 3} and len(rows) == 4 and len(report.samples) == 8
    assert report.values["groups"] == 2 and report.values["zero_spread"] == 0.5
    assert total_gradient(rows, config())[1] == pytest.approx(4)
    rows, report, roll = collect(script, groups=5)  # there are only three
    assert (
        [ids for _, ids, _ in roll.calls] == [[0, 1, 2, 3, 4], [5]]
        and report.values["groups"] == 3
        and len(rows) == 6
    )
    rows, report, _ = collect({0: [WRONG] * 2, 1: [CORRECT] * 2}, groups=1)
    assert rows == [] and report.values["groups"] == 0


def test_the_base_model_is_asked_only_where_it_matters():
    rows, report, _ = collect(SCRIPT)
    assert "ref" not in rows[0] and "kl" not in report.values
    rows, report, _ = collect(SCRIPT, kl=0.1)
    mean = np.mean([len(s.tokens) for s in report.samples])
    assert len(rows) == 12 and report.values["kl"] == pytest.approx(
        0.5 * mean
    )  # of -1 and -1.5 a token
    assert all(
        (row["ref"][row["weights"] > 0] == -1.5).all() and not row["ref"][row["weights"] == 0].any()
        for row in rows
    )
    rows, report, _ = collect(SCRIPT, kl=0.1, kl_kind="k1", kind="rloo")
    assert (
        "ref" not in rows[0] and len(rows) == 8
    )  # those of question 1 are all wrong, and all of one length
    earned = np.array([s.correct - 0.1 * 0.5 * len(s.tokens) for s in report.samples]).reshape(3, 4)
    found = np.array([row["advantage"][-1] for row in rows])
    np.testing.assert_allclose(found, pg.advantages(earned, "rloo")[[0, 2]].ravel(), rtol=1e-4)


# ---- rewards -------------------------------------------------------------------------------------------------------------


def test_the_soft_penalty_by_hand():
    values = {1: 0.0, 60: 0.0, 80: 0.0, 85: -0.25, 90: -0.5, 95: -0.75, 100: -1.0, 120: -1.0}
    assert {n: rewards.overlong(n, limit=100, cache=20) for n in values} == values
    assert [rewards.overlong(n, limit=100, cache=0) for n in (99, 100, 101)] == [0, 0, -1]


@pytest.mark.parametrize(
    "text, fine",
    [
        ("<think>2+3</think><answer>5</answer>", True),
        (" <think>\n2+3\n</think>\n<answer> 5 </answer>\n", True),
        ("<think>2+3</think> so <answer>5</answer>", False),
        ("well <think>2+3</think><answer>5</answer>", False),
        ("<think>2+3</think><answer>5</answer>.", False),
        ("<think></think><answer>5</answer>", False),
        ("<think>2+3</think><answer> </answer>", False),
        ("<think>2</think><think>3</think><answer>5</answer>", False),
        ("<think>2<answer>4</answer></think><answer>5</answer>", False),
        ("<answer>5</answer><think>2+3</think>", False),
        ("<think>2+3<answer>5</answer>", False),
        ("5", False),
    ],
)
def test_the_format(text, fine):
    assert rewards.well_formed(text) == fine


def test_a_reward_is_a_sum_and_only_a_whole_right_answer_earns_one():
    of = scripted.rollout({0: (CORRECT, CORRECT)}).attempt(example(0), 0, False)
    cfg = config(format_reward=0.5, overlong=0.25, overlong_tokens=10)
    cfg.sampling.max_new_tokens = len(of.tokens) + 5
    assert rewards.of_sample(of, cfg) == pytest.approx(1 - 0.25 * 0.5)
    tagged = dataclasses.replace(
        of, text="<think>a</think><answer>b</answer>", tokens=of.tokens[:3]
    )
    assert rewards.of_sample(tagged, cfg) == 1.5
    for verdict in (WRONG, UNPARSED, TRUNCATED):
        assert rewards.of_sample(dataclasses.replace(tagged, verdict=verdict), cfg) == 0.5
        assert rewards.of_sample(dataclasses.replace(of, verdict=verdict), config()) == 0.0
    with pytest.raises(
        ValueError, match=r"^Example 7, sample 2: its reward nan is not a number\.$"
    ):
        rewards.of_sample(
            dataclasses.replace(of, example=example(7), index=2), config(overlong=math.nan)
        )


# ---- the config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("kind", "ppo", "'ppo' is not one of rloo, grpo, dr_grpo, dapo"),
        ("num_samples", 1, "1 is below 2"),
        ("num_samples", 0, "0 is below 2"),
        ("num_samples", 7, "7 is below 2 or does not divide sampling.batch_size 256"),
        ("restart", True, "updates go on from the model"),
        ("clip_low", 0.0, "must be above 0"),
        ("clip_high", -1.0, "must be above 0"),
        ("kl_kind", "k4", "'k4' is not one of k2, k3, for grpo"),
        ("kl_kind", "k1", "'k1' is not one of k2, k3, for grpo"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_compiled(key, value, says):
    cfg = grpo_addition.get_config()
    assert pg.init_memory(cfg, 5) == ()
    cfg.algorithm[key] = value
    with pytest.raises(
        ValueError, match=rf"^config\.algorithm\.[^\n]*{key}[^\n]*: [^\n]*{says}[^\n]*\.$"
    ):
        pg.init_memory(cfg, 5)


def test_samples_must_be_of_the_policys_own_law():
    for key, value in (("temperature", 0.7), ("top_k", 5), ("top_p", 0.9)):
        cfg = grpo_addition.get_config()
        cfg.sampling[key] = value
        with pytest.raises(ValueError, match=r"^config\.sampling: [^\n]*\.$"):
            pg.init_memory(cfg, 5)


def test_updates():
    assert pg.num_updates(3, 100, config(online=True, epochs=4)) == 4
    assert (
        pg.num_updates(
            3, 100, config(online=False, schedule="linear", start_updates=70, increment=20)
        )
        == 110
    )
    dapo = grpo_addition.get_config("dapo")
    assert (
        pg.init_memory(dapo, 5) == () and dapo.algorithm.groups * dapo.algorithm.num_samples == 64
    )


# ---- a run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_compile")
def test_a_run_is_on_policy_at_its_first_update_only(tmp_path):
    """Two updates a round: ratios are 1 at the first, KL from the base model is 0 in round 1, and not later."""
    cfg = grpo_addition.get_config("smoke")
    cfg.task.num_eval = 8
    cfg.base.num_updates = 80
    cfg.algorithm.update({"num_rounds": 2, "epochs": 2, "kl": 0.1, "examples_per_round": 4})
    cfg.sampling.max_new_tokens = 40
    cfg.sampling.batch_size = 32
    cfg.optim.warmup = 1
    cfg.eval.every = 1
    loop.train(cfg, tmp_path / "run")
    lines = [m for m in metrics.read(tmp_path / "run") if m["phase"] == "update" and m["round"]]
    assert [m["round"] for m in lines] == [1, 1, 2, 2]
    first, second = lines[0::2], lines[1::2]
    for m in first:
        assert (
            m["update/ratio_max"] == pytest.approx(1, abs=1e-4) and m["update/clip_fraction"] == 0
        )
        assert abs(m["update/kl_old"]) < 1e-6 and m["update/weight"] == pytest.approx(32)
    assert all(m["update/ratio_max"] > 1.001 and m["update/kl_old"] > 1e-7 for m in second)
    assert (
        abs(first[0]["update/kl"]) < 1e-6 < second[0]["update/kl"] and first[1]["update/kl"] > 1e-6
    )
    collected = [
        m for m in metrics.read(tmp_path / "run") if m["phase"] == "collect" and m["round"]
    ]
    assert abs(collected[0]["collect/kl"]) < 1e-3 and collected[1]["collect/kl"] != 0
    assert {
        "collect/zero_spread",
        "collect/truncated",
        "collect/unparsed",
        "collect/reward",
    } <= set(collected[0])
