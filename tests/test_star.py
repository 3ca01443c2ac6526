"""STaR: what it keeps, what it never keeps, its schedule, and the gradient behind its filter."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax import algorithms
from reasoning_jax.algorithms import star
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG

STAR = algorithms.get("star")
VERDICTS = (CORRECT, WRONG, UNPARSED, TRUNCATED)
LUCKY = "correct by luck"
# Every pair of verdicts of the plain and the hinted attempt, and lucky ones.
PAIRS = [*itertools.product(VERDICTS, VERDICTS), (WRONG, LUCKY), (LUCKY, WRONG)]
SCRIPT = dict(enumerate(PAIRS))
EXAMPLES = [example(i, 10 + i, 40 + 3 * i) for i in SCRIPT]
PLAIN = {i for i, (plain, _) in SCRIPT.items() if plain in (CORRECT, LUCKY)}
HINTED = {i for i, (_, hinted) in SCRIPT.items() if hinted in (CORRECT, LUCKY)} - PLAIN


def collect(script, **changes):
    """The rollout, and what a round of these examples collects."""
    roll = scripted.rollout(script)
    return roll, star.collect(roll, EXAMPLES, (), 1, config("star", **changes))


@pytest.fixture
def collected():
    return collect(SCRIPT)


def test_only_failures_are_rationalized(collected):
    roll, result = collected
    failed = [i for i in SCRIPT if i not in PLAIN]
    assert roll.calls == [(False, list(SCRIPT), 1), (True, failed, 1)]
    kept = {hinted: {i for i, _, h in result.kept if h == hinted} for hinted in (False, True)}
    assert kept[False] == PLAIN and kept[True] == HINTED
    assert not PLAIN & HINTED and set(failed) >= HINTED
    assert len(result.rows) == len(result.kept) == len(PLAIN) + len(HINTED) <= len(EXAMPLES)
    assert result.memory == () and STAR.init_memory(config("star"), 5) == ()


def test_rows_are_the_correct_samples_without_a_hint(collected):
    """Truncated, unparsed and wrong samples are in no row, whatever they say; nor is the hint."""
    roll, result = collected
    texts = [TOK.decode(row["tokens"]) for row in result.rows]
    right = [e for e in EXAMPLES if e.id in PLAIN] + [e for e in EXAMPLES if e.id in HINTED]
    for e, text, row in zip(right, texts, result.rows, strict=True):
        sample = next(s for s in result.samples if s.example is e and s.correct)
        assert text == f"{e.question}\n{sample.text}"
        assert scripted.prompt(e, hint=e.answer) not in text
        assert row["tokens"][0] == TOK.bos_id and row["tokens"][-1] == TOK.eos_id
        assert row["weights"][-1] == 1
        prompt = len(roll.prompt_ids(e))
        assert not row["weights"][:prompt].any() and row["weights"][prompt:].all()


def test_the_stats_by_hand(collected):
    _, result = collected
    n, failed = len(SCRIPT), len(SCRIPT) - len(PLAIN)
    assert result.stats == {
        "kept": (len(PLAIN) + len(HINTED)) / n,
        "kept_rows": len(PLAIN) + len(HINTED),
        "rationalized": len(HINTED) / n,
        "hinted_accuracy": len(HINTED) / failed,
        "hinted_true_lines": (len(HINTED) - 1) / len(HINTED),
    }
    assert (len(PLAIN), len(HINTED), n) == (5, 4, 18)
    assert len(result.samples) == n + failed
    assert [s.hinted for s in result.samples] == [False] * n + [True] * failed


def test_without_rationalization_nothing_is_hinted():
    roll, result = collect(SCRIPT, rationalize=False)
    assert [hint for hint, *_ in roll.calls] == [False] and len(result.rows) == len(PLAIN)
    for name in ("rationalized", "hinted_accuracy", "hinted_true_lines"):
        assert result.stats[name] == 0
    assert not any(hinted for *_, hinted in result.kept)


def test_nothing_failed_and_nothing_succeeded():
    roll, result = collect(dict.fromkeys(SCRIPT, (CORRECT, WRONG)))
    assert len(roll.calls) == 1
    assert len(result.rows) == len(EXAMPLES) and result.stats["kept"] == 1
    _, result = collect(dict.fromkeys(SCRIPT, (WRONG, TRUNCATED)))
    assert result.rows == [] and result.kept == set()
    assert result.stats["kept"] == result.stats["hinted_accuracy"] == 0


# ---- the schedule --------------------------------------------------------------------------------


def test_twenty_percent_more_updates_each_round():
    """The released code's 40, 48, 57 ...; the 30th round of the paper's GSM8K run has 7,912."""
    cfg = config("star", rounds={"updates": 40, "growth": 1.2, "increment": 0})
    updates = [STAR.num_updates(n, 1000, cfg) for n in range(1, 31)]
    assert updates[:12] == [40, 48, 57, 69, 82, 99, 119, 143, 171, 206, 247, 297]
    assert updates[29] == 7912


def test_linear_schedule_of_arithmetic():
    cfg = config("star", rounds={"updates": 300, "growth": 1.0, "increment": 20})
    assert [STAR.num_updates(n, 1000, cfg) for n in (1, 2, 3, 16)] == [300, 320, 340, 600]


# ---- the estimator -------------------------------------------------------------------------------


def test_the_filtered_gradient_is_pi_grad_log_pi():
    """E[1(y = y*) grad log p(z, y)] = grad pi = pi grad log pi.

    By listing all six completions of a toy softmax: three rationales, two answers, the second of
    which is right.
    """
    rng = np.random.default_rng(0)
    theta = {
        "rationale": jnp.asarray(rng.normal(size=3)),
        "answer": jnp.asarray(rng.normal(size=(3, 2))),
    }
    e = example(0, 1, 1)
    cfg = config("star", rationalize=False)

    def logps(theta, z, y):  # of the two tokens of a completion
        of_rationale = jax.nn.log_softmax(theta["rationale"])[z]
        return jnp.stack([of_rationale, jax.nn.log_softmax(theta["answer"][z])[y]])

    def pi(theta):
        return sum(jnp.exp(logps(theta, z, 1).sum()) for z in range(3))

    expected = jax.tree.map(jnp.zeros_like, theta)
    for z, y in itertools.product(range(3), range(2)):
        roll = scripted.rollout({0: (CORRECT if y == 1 else WRONG, WRONG)})
        rows = star.collect(roll, [e], (), 1, cfg).rows
        if rows:  # the row's weights on the two tokens of the toy completion
            weights = rows[0]["weights"][-2:]

            def loss(theta, z=z, y=y, weights=weights):
                batch = {"weights": jnp.asarray(weights)[None]}
                return star.loss(logps(theta, z, y)[None], batch, cfg).total

            p = jnp.exp(logps(theta, z, y).sum())
            gradient = jax.grad(loss)(theta)
            expected = jax.tree.map(lambda total, g, p=p: total - p * g, expected, gradient)
    value, gradient = jax.value_and_grad(lambda t: jnp.log(pi(t)))(theta)
    for name in theta:
        np.testing.assert_allclose(expected[name], jnp.exp(value) * gradient[name], atol=1e-6)
        assert np.abs(expected[name]).max() > 0.01
    assert 0.1 < float(jnp.exp(value)) < 0.9
