"""Policy gradients: the papers' formulas, what an update sees, and expected gradients."""

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
from scripted import TASK, TOK, config, example

from configs import grpo_addition
from reasoning_jax import algorithms, default, graders, loop, metrics
from reasoning_jax.algorithms import policy_gradient as pg
from reasoning_jax.graders import rewards
from reasoning_jax.model import logprobs as model_logprobs
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG
from reasoning_jax.training import train_step
from reasoning_jax.training.state import TrainState

PG = algorithms.get("policy_gradient")
FOUR = np.array([[1.0, 0, 0, 0]])
LENGTHS = np.array([[2, 4, 4, 10]])


def settings(**changes):
    return config("policy_gradient", **changes)


# ---- advantages and weights ----------------------------------------------------------------------


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
    """Of 8 samples 5 right: the population's, which is ours, and the sample's.

    The latter, of other implementations, makes advantages smaller by a factor.
    """
    values = np.unique(pg.advantages(np.array([[1.0] * 5 + [0.0] * 3]), "grpo").round(4))
    assert values.tolist() == [-1.291, 0.7746]
    assert np.round(values * math.sqrt(7 / 8), 4).tolist() == [-1.2076, 0.7246]
    for G, k in itertools.product((2, 3, 8), range(1, 8)):
        if k < G:
            p = k / G
            gain = pg.advantages((np.arange(G) < k)[None] * 1.0, "grpo")[0]
            expected = [math.sqrt((1 - p) / p), -math.sqrt(p / (1 - p))]
            np.testing.assert_allclose([gain[0], gain[-1]], expected)


def test_each_sample_is_compared_with_the_others_of_its_own_group():
    some = np.random.default_rng(0).normal(size=(5, 6))
    others = (some.sum(1, keepdims=True) - some) / 5
    by_rloo = pg.advantages(some, "rloo")
    np.testing.assert_allclose(by_rloo, some - others)
    np.testing.assert_allclose(by_rloo, pg.advantages(some, "dr_grpo") * 6 / 5)
    # Rewards of +-1 are as 0, 1.
    by_dapo = pg.advantages(some, "dapo")
    np.testing.assert_allclose(by_dapo, pg.advantages(3 * some + 7, "grpo"))
    for kind in pg.KINDS:
        whole = pg.advantages(some, kind)
        by_group = [pg.advantages(row[None], kind) for row in some]
        np.testing.assert_allclose(whole, np.concatenate(by_group))
        np.testing.assert_allclose(whole.sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("kind", pg.KINDS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_group_that_is_all_alike_has_no_advantage(kind, reward):
    gain = pg.advantages(np.full((2, 7), reward), kind)
    np.testing.assert_allclose(gain, 0, atol=1e-15)


# ---- expected gradients --------------------------------------------------------------------------


TABLE = {
    0.02: (0.0345, 0.0515, 0.0721, 0.1173),
    0.10: (0.1690, 0.2328, 0.2848, 0.3255),
    0.50: (0.8080, 0.9278, 0.9671, 0.9921),
    0.90: (1.521, 2.095, 2.563, 2.929),
    0.98: (1.689, 2.522, 3.531, 5.747),
}


def coefficient(q, G, kind):
    """What the mean gradient is of grad log p(y | x), in the direction of which it must lie."""

    def weigh(correct):
        return pg.advantages(correct[None] * 1.0, kind)[0] / G

    mean = exact.of_group(q, G, weigh)
    truth = exact.gradient(q)
    c = mean @ truth / (truth @ truth)
    np.testing.assert_allclose(mean, c * truth, atol=1e-6)
    return c


@pytest.mark.parametrize("p", TABLE)
def test_the_expected_coefficients(p):
    """RLOO's is p(correct): the gradient of p(y | x) itself.

    GRPO's tends to sqrt(p / (1 - p)), far from it. TRICE's is 1.
    """
    distribution = np.array([p / 3, 2 * p / 3, 1 - p])
    correct = np.array([True, True, False])
    q = exact.Question(p=distribution, score=np.eye(3) - distribution, correct=correct)
    for G, c in zip((4, 8, 16, 64), TABLE[p], strict=True):
        of_grpo = coefficient(q, G, "grpo")
        assert of_grpo == coefficient(q, G, "dapo") == pytest.approx(c, rel=4e-4, abs=6e-5)
        assert coefficient(q, G, "rloo") == pytest.approx(p, rel=1e-9)
        assert coefficient(q, G, "dr_grpo") == pytest.approx(p * (G - 1) / G, rel=1e-9)
    assert abs(coefficient(q, 800, "grpo") / math.sqrt(p / (1 - p)) - 1) < 0.05


def test_the_expected_coefficients_of_a_transformer():
    for q in exact.of_model(exact.params(0)):
        assert coefficient(q, 4, "rloo") == pytest.approx(exact.pi(q), rel=1e-4)
        assert not math.isclose(coefficient(q, 4, "grpo"), exact.pi(q), rel_tol=0.1)


def test_the_gradients_of_the_kl_terms():
    """Over all rationales: k1 and k3 have the mean KL(p || ref).

    The gradient of k1 has mean 0, that of k2 is the KL's, that of k3 is the one of KL(ref || p). In
    RLOO's reward, k1 has the gradient of the KL.
    """
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(size=5))
    ref = jax.nn.log_softmax(jnp.array(rng.normal(size=5)))
    p = np.asarray(jax.nn.softmax(logits))

    def forward(x):
        return (jax.nn.softmax(x) * (jax.nn.log_softmax(x) - ref)).sum()

    def backward(x):
        return (jnp.exp(ref) * (ref - jax.nn.log_softmax(x))).sum()

    def term(x, kind):
        """The mean over samples of p, whose distribution is not differentiated: a loss's view."""
        batch = {
            "weights": p[None],
            "normaliser": p[None],
            "advantage": np.zeros((1, 5)),
            "old": jnp.log(p)[None],
            "ref": ref[None],
        }
        batch = {key: jnp.asarray(value) for key, value in batch.items()}
        loss = pg.loss(jax.nn.log_softmax(x)[None], batch, settings(kl=1.0, kl_kind=kind))
        return loss.total, loss.means["kl"]

    grads = {kind: jax.grad(term, has_aux=True)(logits, kind) for kind in ("k2", "k3")}
    of_forward, of_backward = jax.grad(forward)(logits), jax.grad(backward)(logits)
    np.testing.assert_allclose(grads["k2"][0], of_forward, atol=1e-6)
    np.testing.assert_allclose(grads["k3"][0], of_backward, atol=1e-6)
    assert np.abs(of_backward - of_forward).max() > 0.05
    assert float(grads["k3"][1]) == pytest.approx(float(forward(logits)), rel=1e-5)
    assert float(grads["k2"][1]) > 0
    d = np.asarray(jax.nn.log_softmax(logits) - ref)
    np.testing.assert_allclose(-(p * d) @ (np.eye(5) - p), -of_forward, atol=1e-6)
    mean = 0.0  # RLOO of two samples, exactly
    for first, second in itertools.product(range(5), repeat=2):
        pair = [first, second]
        gain = pg.advantages(-d[None, pair], "rloo")[0]
        mean += p[pair].prod() * gain @ (np.eye(5) - p)[pair] / 2
    np.testing.assert_allclose(mean, -of_forward, atol=1e-6)


# ---- the loss ------------------------------------------------------------------------------------


def one(log_p, old=-1.0, gain=1.0, weight=1.0, normaliser=1.0):
    """A batch of one token (NaN elsewhere, where nothing counts), and its log-probability."""
    batch = {
        "weights": [[0, weight]],
        "normaliser": [[0, normaliser]],
        "advantage": [[0, gain]],
        "old": [[np.nan, old]],
    }
    batch = {key: jnp.array(value, jnp.float32) for key, value in batch.items()}
    return jnp.array([[np.nan, log_p]]), batch


def value_and_grad(log_p, batch, cfg):
    """The loss of these log-probs, and the gradient of its total."""

    def total(x):
        loss = pg.loss(x, batch, cfg)
        return loss.total, loss

    (_, loss), grad = jax.value_and_grad(total, has_aux=True)(log_p)
    return loss, grad


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
    cfg = settings(clip_low=0.2, clip_high=0.28)
    log_p, batch = one(-1.0 + math.log(ratio), gain=gain)
    loss, grad = value_and_grad(log_p, batch, cfg)
    assert float(loss.total) == pytest.approx(-value, rel=1e-5)
    assert grad[0].tolist() == [0.0, pytest.approx(-slope, rel=1e-5)]
    assert float(loss.maxima["ratio_max"]) == pytest.approx(ratio, rel=1e-5)
    assert float(loss.means["clip_fraction"]) == clipped
    kl_old = ratio - 1 - math.log(ratio)
    assert float(loss.means["kl_old"]) == pytest.approx(kl_old, abs=1e-6)


def test_a_large_number_clips_nothing():
    log_p, batch = one(3.0, gain=1.0)
    loss = pg.loss(log_p, batch, settings(clip_low=1e9, clip_high=1e9))
    assert float(loss.total) == pytest.approx(-math.exp(4.0), rel=1e-5)
    assert loss.means["clip_fraction"] == 0


@pytest.mark.parametrize(
    "kind, kl, slope",
    [("k3", math.exp(0.5) - 0.5 - 1, 1 - math.exp(0.5)), ("k2", 0.125, -0.5)],
)
def test_the_kl_from_the_base_model_by_hand(kind, kl, slope):
    log_p, batch = one(-1.0, gain=0.0, weight=2.0)
    batch["ref"] = jnp.array([[np.nan, -0.5]])
    loss, grad = value_and_grad(log_p, batch, settings(kl=0.1, kl_kind=kind))
    assert float(loss.total) == pytest.approx(0.2 * kl, rel=1e-5)
    assert float(loss.means["kl"]) == pytest.approx(kl, rel=1e-5)
    assert grad[0].tolist() == [0.0, pytest.approx(0.2 * slope, rel=1e-5)]


PEERS = [("grpo", "grpo"), ("dr_grpo", "dr_grpo"), ("dapo", "bnpo")]


@pytest.mark.parametrize("kind, theirs", PEERS)
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_loss_against_trl(kind, theirs, kl):
    """Value, gradient at every log-prob, KL, on random log-probs of one group.

    TRL's bnpo is dapo's mean over all tokens.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed: no comparison with TRL")
    trl = pytest.importorskip("trl", reason="trl is not installed: no comparison with TRL")
    if not hasattr(trl.GRPOTrainer, "_compute_loss"):
        pytest.skip(f"trl {trl.__version__} has no GRPOTrainer._compute_loss (0.19.1 has)")
    rng, (G, T) = np.random.default_rng(0), (6, 9)
    lengths = rng.integers(1, T + 1, (1, G))
    mask = np.arange(T) < lengths[0][:, None]
    old = -rng.uniform(0.1, 3.0, (G, T))
    log_p = old + rng.normal(scale=0.3, size=(G, T))
    ref = old + rng.normal(scale=0.3, size=(G, T))
    gain = pg.advantages(rng.normal(size=(1, G)), kind)

    x = torch.tensor(log_p, requires_grad=True)
    model = SimpleNamespace(training=True)
    trainer = SimpleNamespace(
        _get_per_token_logps=lambda *_: x,
        beta=kl,
        epsilon_low=0.2,
        epsilon_high=0.28,
        args=SimpleNamespace(delta=None),
        loss_type=theirs,
        max_completion_length=12,
        model=model,
        _metrics={"train": collections.defaultdict(list)},
        accelerator=SimpleNamespace(gather=lambda value: value),
    )
    tokens, torch_mask = torch.zeros(G, T, dtype=torch.long), torch.tensor(mask)
    inputs = {
        "prompt_ids": tokens,
        "prompt_mask": torch_mask,
        "completion_ids": tokens,
        "completion_mask": torch_mask.long(),
        "ref_per_token_logps": torch.tensor(ref),
        "old_per_token_logps": torch.tensor(old),
        "advantages": torch.tensor(gain[0]),
    }
    peer = trl.GRPOTrainer._compute_loss(trainer, model, inputs)
    peer.backward()

    batch = {
        "weights": mask * pg.token_weights(lengths, kind, 12)[0][:, None] * G,
        "normaliser": mask / lengths[0][:, None],
        "advantage": mask * gain[0][:, None],
        "old": old,
    }
    if kl:
        batch["ref"] = ref
    batch = {key: jnp.asarray(value, jnp.float32) for key, value in batch.items()}
    cfg = settings(clip_low=0.2, clip_high=0.28, kl=kl)
    loss, grad = value_and_grad(jnp.asarray(log_p, jnp.float32), batch, cfg)
    assert loss.weight == pytest.approx(G) and 0 < loss.means["clip_fraction"] < 1
    assert float(loss.total) / G == pytest.approx(peer.item(), rel=1e-4, abs=1e-7)
    np.testing.assert_allclose(np.asarray(grad) / G, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_a_maximum_is_not_summed_over_micro_batches(monkeypatch):
    """Two parts of one batch: ratio_max is the larger one.

    All else is divided by the weight of both.
    """

    def given_logprobs(params, batch, model_cfg):
        return batch["log_p"] + params * 0

    monkeypatch.setattr(model_logprobs, "token_logprobs", given_logprobs)
    parts = []
    for ratio in (1.2, 1.1):
        log_p, part = one(-1.0 + math.log(ratio))
        parts.append(part | {"log_p": log_p, "tokens": jnp.zeros((1, 2), jnp.int32)})
    batch = {key: jnp.stack([part[key] for part in parts]) for key in parts[0]}
    optimizer = SimpleNamespace(update=lambda grads, *_: (grads, ()))
    state = TrainState(
        step=jnp.zeros(()),
        params=jnp.zeros(()),
        opt_state=(),
        skipped=jnp.zeros((), int),
        skipped_in_a_row=jnp.zeros((), int),
    )
    for order in ([0, 1], [1, 0]):
        fresh = jax.tree.map(jnp.copy, state)
        ordered = {key: value[jnp.array(order)] for key, value in batch.items()}
        step = train_step.make_train_step(PG, None, optimizer, settings())
        _, metrics = step(fresh, ordered, 0.0)
        assert float(metrics["ratio_max"]) == pytest.approx(1.2, rel=1e-5)
        assert metrics["weight"] == 2
        assert float(metrics["loss"]) == pytest.approx(-(1.2 + 1.1) / 2, rel=1e-5)


# ---- collection ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasePolicy(scripted.ScriptedPolicy):
    """A policy that is asked for log-probabilities only as the base model."""

    def logprobs(self, rows):
        assert self.params == "base"
        return super().logprobs(rows)


def collect(script, **changes):
    """What a round collects, and the rollout.

    Log-probabilities are -1, the base model's -1.5.
    """
    policy = BasePolicy(
        params="new",
        model_cfg=None,
        mesh=None,
        batch_size=8,
        max_length=256,
        token_logprobs=lambda row: np.full(len(row["tokens"]), -1.5, np.float32),
    )
    roll = scripted.rollout(script, kind=scripted.Groups, policy=policy, base_params=lambda: "base")
    rounds = {"online": True, "restart": False}
    cfg = settings(rounds=rounds, **{"num_samples": len(script[0]), **changes})
    result = pg.collect(roll, [example(i, 10 + i, 40) for i in script], (), 1, cfg)
    assert result.memory == ()
    return result, roll


def total_gradient(rows, cfg):
    """What an update takes as the weight of each token's grad log p, ratios 1, by row.

    Divided as train_step.py divides.
    """
    grads, weight = [], 0.0
    for row in rows:
        batch = {key: jnp.asarray(value)[None] for key, value in row.items()}
        loss, grad = value_and_grad(batch["old"], batch, cfg)
        weight += float(loss.weight)
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
    """1 / Q * w * A for every token of every sample.

    Whether those without advantage are left out or not (kl > 0).
    """
    result, _ = collect(SCRIPT, kind=kind, kl=kl)
    cfg = settings(kind=kind, kl=kl)
    grads, weight = total_gradient(result.rows, cfg)
    assert weight == pytest.approx(12)
    assert len(result.rows) == (12 if kl else 8) == result.stats["kept_rows"]
    samples = [s for s in result.samples if s.key in result.kept]
    earned = np.array([[v == CORRECT for v in SCRIPT[i]] for i in range(3)], float)
    lengths = np.array([len(s.tokens) for s in result.samples]).reshape(3, 4)
    weights = pg.token_weights(lengths, kind, cfg.sampling.max_new_tokens)
    expected = pg.advantages(earned, kind) * weights / 3
    for s, row, grad in zip(samples, result.rows, grads, strict=True):
        prompt = len(row["tokens"]) - len(s.tokens)
        assert TOK.decode(row["tokens"][:prompt]) == f"{s.example.question}\n"
        assert not grad[:prompt].any()
        for key in ("weights", "advantage", "old", "normaliser"):
            assert not row[key][:prompt].any()
        of_sample = expected[s.example.id, s.index]
        np.testing.assert_allclose(grad[prompt:], of_sample, rtol=1e-5, atol=1e-8)
        assert (row["old"][prompt:] == s.logprobs).all()
        dtypes = {value.dtype for key, value in row.items() if key != "tokens"}
        assert dtypes == {np.dtype(np.float32)}


def test_the_stats_of_a_round():
    result, roll = collect(SCRIPT, kind="rloo")
    assert roll.calls == [(False, [0, 1, 2], 4)] and len(result.samples) == 12
    assert result.kept == {(i, j, False) for i in (0, 2) for j in range(4)}
    stats = {"reward": 4 / 12, "zero_spread": 1 / 3, "groups": 3, "kept_rows": 8}
    assert result.stats == pytest.approx(stats)
    result, _ = collect({0: [WRONG] * 4, 1: [CORRECT] * 4})
    assert result.rows == [] and result.kept == set() and result.stats["zero_spread"] == 1.0


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
    result, roll = collect(script, groups=2)
    assert roll.calls == [(False, [0, 1], 2), (False, [2, 3], 2)]  # and no more than needed
    assert {i for i, _, _ in result.kept} == {1, 3}
    assert len(result.rows) == 4 and len(result.samples) == 8
    assert result.stats["groups"] == 2 and result.stats["zero_spread"] == 0.5
    assert total_gradient(result.rows, settings())[1] == pytest.approx(4)
    result, roll = collect(script, groups=5)  # there are only three
    assert [ids for _, ids, _ in roll.calls] == [[0, 1, 2, 3, 4], [5]]
    assert result.stats["groups"] == 3 and len(result.rows) == 6
    result, _ = collect({0: [WRONG] * 2, 1: [CORRECT] * 2}, groups=1)
    assert result.rows == [] and result.stats["groups"] == 0


def test_the_base_model_is_asked_only_where_it_matters():
    result, roll = collect(SCRIPT)
    assert "ref" not in result.rows[0] and "kl" not in result.stats and roll.policy.calls == []
    result, _ = collect(SCRIPT, kl=0.1)
    mean = np.mean([len(s.tokens) for s in result.samples])
    assert len(result.rows) == 12
    assert result.stats["kl"] == pytest.approx(0.5 * mean)  # of -1 and -1.5 a token
    for row in result.rows:
        assert (row["ref"][row["weights"] > 0] == -1.5).all()
        assert not row["ref"][row["weights"] == 0].any()
    result, _ = collect(SCRIPT, kl=0.1, kl_kind="k1", kind="rloo")
    assert "ref" not in result.rows[0]
    assert len(result.rows) == 8  # those of question 1 are all wrong, and all of one length
    earned = [s.correct - 0.1 * 0.5 * len(s.tokens) for s in result.samples]
    expected = pg.advantages(np.array(earned).reshape(3, 4), "rloo")[[0, 2]].ravel()
    gain = np.array([row["advantage"][-1] for row in result.rows])
    np.testing.assert_allclose(gain, expected, rtol=1e-4)


def test_a_reward_is_the_graders_score(monkeypatch):
    """Whatever the verdict says."""
    scores = {CORRECT: 0.25, WRONG: -0.5}
    plain = scripted.sample

    def scored(e, outcome, **fields):
        return dataclasses.replace(plain(e, outcome, **fields), score=scores[outcome])

    monkeypatch.setattr(scripted, "sample", scored)
    result, _ = collect({0: [CORRECT, WRONG, WRONG]}, kind="dr_grpo")
    assert result.stats["reward"] == pytest.approx(-0.25)
    gain = [row["advantage"][-1] for row in result.rows]
    assert gain == pytest.approx([0.5, -0.25, -0.25])


# ---- rewards -------------------------------------------------------------------------------------


def test_the_soft_penalty_by_hand():
    values = {1: 0.0, 60: 0.0, 80: 0.0, 85: -0.25, 90: -0.5, 95: -0.75, 100: -1.0, 120: -1.0}
    assert {n: rewards.overlong(n, limit=100, cache=20) for n in values} == values
    assert [rewards.overlong(n, limit=100, cache=0) for n in (99, 100, 101)] == [0, 0, -1]


@pytest.mark.parametrize(
    "text, well_formed",
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
def test_the_format(text, well_formed):
    assert rewards.well_formed(text) == well_formed


def reward_config(**changes):
    cfg = default.get_config(algorithm="policy_gradient", task="addition", grader="rewards")
    cfg.grader.update(changes)
    return cfg


def score(sample, cfg):
    """What a sample earns, by the grader of the config; its verdict must be the sample's."""
    task = TASK
    if sample.verdict == CORRECT:
        task = dataclasses.replace(TASK, extract=lambda text: "1", reading=lambda *_: "1")
    (grade,) = graders.make(cfg, task)([sample], None)
    assert grade.verdict == sample.verdict
    return grade.score


def test_a_reward_is_a_sum_and_only_a_whole_right_answer_earns_one():
    right = scripted.sample(example(0), CORRECT)
    cfg = reward_config(format=0.5, overlong=0.25, overlong_tokens=10)
    cfg.sampling.max_new_tokens = len(right.tokens) + 5
    assert score(right, cfg) == pytest.approx(1 - 0.25 * 0.5)
    text = "<think>a</think><answer>b</answer>"
    tagged = dataclasses.replace(right, text=text, tokens=right.tokens[:3])
    assert score(tagged, cfg) == 1.5
    for verdict in (WRONG, UNPARSED, TRUNCATED):
        plain = scripted.sample(example(0), verdict)
        assert score(plain, reward_config()) == 0.0
    unparsed = dataclasses.replace(tagged, verdict=UNPARSED)
    truncated = dataclasses.replace(tagged, verdict=TRUNCATED, finished=False)
    assert score(unparsed, cfg) == score(truncated, cfg) == 0.5
    (wrong,) = graders.make(cfg, dataclasses.replace(TASK, extract=lambda text: "b"))(
        [tagged], None
    )
    assert wrong.verdict == WRONG and wrong.score == 0.5
    seventh = dataclasses.replace(right, example=example(7), index=2)
    sentence = r"^Example 7, sample 2: its reward nan is not a number\.$"
    with pytest.raises(ValueError, match=sentence):
        graders.make(reward_config(overlong=math.nan), TASK)([seventh], None)


# ---- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section, key, value, says",
    [
        ("algorithm", "num_samples", 7, "7 does not divide sampling.batch_size 256"),
        ("rounds", "restart", True, "updates go on from the model"),
        ("algorithm", "kl_kind", "k1", "'k1' is not one of k2, k3, for grpo"),
    ],
)
def test_a_config_that_cannot_be_is_refused(section, key, value, says):
    cfg = grpo_addition.get_config()
    PG.check(cfg)
    assert PG.init_memory(cfg, 5) == ()
    cfg[section][key] = value
    sentence = rf"^config\.{section}\.[^\n]*{key}[^\n]*: [^\n]*{says}[^\n]*\.$"
    with pytest.raises(ValueError, match=sentence):
        PG.check(cfg)


@pytest.mark.parametrize("key, value", [("temperature", 0.7), ("top_k", 5), ("top_p", 0.9)])
def test_samples_must_be_of_the_policys_own_distribution(key, value):
    cfg = grpo_addition.get_config()
    cfg.sampling[key] = value
    with pytest.raises(ValueError, match=r"^config\.sampling: [^\n]*\.$"):
        PG.check(cfg)


def test_updates():
    online = settings(rounds={"online": True, "updates": 4, "growth": 1.0, "increment": 0})
    assert PG.num_updates(3, 100, online) == 4
    linear = settings(rounds={"online": False, "updates": 70, "growth": 1.0, "increment": 20})
    assert PG.num_updates(3, 100, linear) == 110
    dapo = grpo_addition.get_config("dapo")
    PG.check(dapo)
    assert PG.init_memory(dapo, 5) == ()
    assert dapo.algorithm.groups * dapo.algorithm.num_samples == 64


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_is_on_policy_at_its_first_update_only(tmp_path):
    """Two updates a round: ratios are 1 at the first, KL from the base model is 0 in round 1.

    And not later.
    """
    cfg = grpo_addition.get_config("smoke")
    cfg.task.num_eval = 8
    cfg.seed = 1  # of both rounds some groups have right and wrong answers
    cfg.base.num_updates = 80
    cfg.algorithm.kl = 0.1
    cfg.rounds.update({"count": 2, "updates": 2, "examples": 4})
    cfg.sampling.max_new_tokens = 40
    cfg.sampling.batch_size = 32
    cfg.optim.warmup = 1
    cfg.eval.every = 1
    loop.train(cfg, tmp_path / "run")
    written = [m for m in metrics.read(tmp_path / "run") if m["round"]]
    lines = [m for m in written if m["phase"] == "update"]
    assert [m["round"] for m in lines] == [1, 1, 2, 2]
    first, second = lines[0::2], lines[1::2]
    for m in first:
        assert m["update/ratio_max"] == pytest.approx(1, abs=1e-4)
        assert m["update/clip_fraction"] == 0
        assert abs(m["update/kl_old"]) < 1e-6 and m["update/weight"] == pytest.approx(32)
    for m in second:
        assert m["update/ratio_max"] > 1.001 and m["update/kl_old"] > 1e-7
    assert abs(first[0]["update/kl"]) < 1e-6 < second[0]["update/kl"]
    assert first[1]["update/kl"] > 1e-6
    collected = [m for m in written if m["phase"] == "collect"]
    assert abs(collected[0]["collect/kl"]) < 1e-3 and collected[1]["collect/kl"] != 0
    names = {"collect/zero_spread", "collect/truncated", "collect/unparsed", "collect/reward"}
    assert names <= set(collected[0])
