"""TRICE: its decisions, its minibatches by hand, and the whole way to an exact gradient.

The last part goes from proposals to the gradient of a real model.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict
from scripted import TOK, config, example, worked

from reasoning_jax import algorithms
from reasoning_jax.algorithms import trice
from reasoning_jax.algorithms.trice import chains as mcmc
from reasoning_jax.algorithms.trice import control_variate as cv
from reasoning_jax.algorithms.trice.gradient import coefficients, subsample
from reasoning_jax.model import logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition
from reasoning_jax.training import packing

TRICE = algorithms.get("trice")
VERDICTS = (CORRECT, WRONG, UNPARSED, TRUNCATED)


# ---- coefficients --------------------------------------------------------------------------------


def test_a_minibatch_by_hand():
    """Accepted on the others' half, kept by a right memory, neither, accepted.

    Algorithm 1 of arXiv 2312.02179.
    """
    terms = coefficients([1, 0, 0, 1], [1, 1, 0, 0])
    assert terms.valid.tolist() == [True, True, False, True] and terms.normaliser == 3
    assert terms.beta.tolist() == [0.5, 1.0, 0.0, 0.5]
    assert terms.memory.tolist() == [0.5, 1.0, 0.0, 0.5]
    assert terms.proposal.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_every_minibatch_of_four():
    """Leave-one-out rates among the valid.

    Weights are finite, never negative, and 0 where nothing is valid.
    """
    for flags in itertools.product((False, True), repeat=8):
        new, old = np.array(flags[:4]), np.array(flags[4:])
        valid, beta, memory, proposal, normaliser = coefficients(new, old)
        assert (valid == (new | old)).all() and normaliser == valid.sum()
        for m in range(4):
            others = [new[j] for j in range(4) if j != m and valid[j]]
            assert beta[m] == (np.mean(others) if others and valid[m] else 0)
        for given in (None, np.zeros(4), np.full(4, 0.3), np.ones(4)):
            valid, beta, memory, proposal, _ = coefficients(new, old, given)
            assert given is None or (beta[valid] == given[valid]).all()
            kept = valid & ~new
            assert (memory[new] == 1 - beta[new]).all() and (memory[kept] == 1).all()
            assert (proposal[kept] == beta[kept]).all() and not proposal[new].any()
            for x in (beta, memory, proposal):
                assert np.isfinite(x).all() and (x >= 0).all() and not x[~valid].any()


# ---- subsample -----------------------------------------------------------------------------------

WEIGHTS = np.array([0.0, 0.5, 1.0, 0.0, 0.25, 0.7, 0.0])
SIGNS = np.array([1, 1, -1, 1, 1, -1, -1])


def mean_of(count, weights=WEIGHTS):
    """Mean total weight of each term, over u.

    The exact integral, as draws change at finitely many places only.
    """
    outcomes = exact.resampled(weights * SIGNS, count)
    return sum(probability * drawn for probability, drawn in outcomes)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_systematic_resampling(count):
    np.testing.assert_allclose(mean_of(count), WEIGHTS * SIGNS, atol=1e-12)
    expected = count * WEIGHTS / WEIGHTS.sum()
    for u in (0.0, 0.123, 0.5, 0.987, np.nextafter(1, 0)):
        indices, weights = subsample(WEIGHTS, SIGNS, count, u)
        times = np.bincount(indices, minlength=7)
        assert len(indices) == len(weights) == count == times.sum()
        assert not times[WEIGHTS == 0].any()
        assert (times >= np.floor(expected - 1e-9)).all()
        assert (times <= np.ceil(expected + 1e-9)).all()
        np.testing.assert_allclose(weights, SIGNS[indices] * WEIGHTS.sum() / count)


def test_the_public_notebook_draws_with_other_probabilities():
    """It gives the weights to a softmax and is biased by that.

    (log_softmax as the resampler's log-probabilities.)
    """
    # Drawn so, and weighing W / L all the same.
    soft = np.exp(WEIGHTS) / np.exp(WEIGHTS).sum() * WEIGHTS.sum()
    assert np.abs(mean_of(5, soft) - WEIGHTS * SIGNS).max() > 0.1
    np.testing.assert_allclose(np.abs(mean_of(5, soft)), soft, atol=1e-12)


def test_nothing_to_draw_from():
    indices, weights = subsample(np.zeros(4), np.ones(4), 3, 0.5)
    assert len(indices) == len(weights) == 0
    assert np.bincount(indices, weights, minlength=4).tolist() == [0] * 4


# ---- a minibatch ---------------------------------------------------------------------------------


class Chained(scripted.Scripted):
    """A right guide is the bare answer, so that it can be told from a right proposal."""

    def attempt(self, e, index, hint):
        sample = super().attempt(e, index, hint)
        if not (hint and sample.correct):
            return sample
        tokens = np.asarray([*TOK.encode(e.answer), TOK.eos_id], np.int32)
        return dataclasses.replace(sample, tokens=tokens, text=e.answer)


def score(row):
    """A made-up score vector of a completion."""
    question = TOK.decode(row["tokens"]).partition("\n")[0]
    completion = row["tokens"][row["weights"] > 0]
    number = int(question.partition("+")[0]) - 10  # the example's id
    return [np.sin(number), np.cos(completion.sum()), len(completion) / 10]


def rollout(script):
    return scripted.rollout(script, kind=Chained, vector=score)


def settings(*, rounds=None, **changes):
    one_update = {"online": True, "restart": False, "updates": 1, "growth": 1.0, "increment": 0}
    rounds = one_update | (rounds or {})
    changes = {"control_variate": "batch", "measure_every": 0, **changes}
    cfg = config("trice", rounds=rounds, **changes)
    cfg.sampling.temperature = 1.0
    return cfg


def begin(script, cfg):
    """The rollout, its examples, and their chains after the hinted guides."""
    roll, examples = rollout(script), [example(i, 10 + i, 40 + 3 * i) for i in script]
    first = trice.begin(roll, examples, trice.init_memory(cfg, len(examples)), cfg)
    assert roll.calls == [(True, list(script), 1)]
    assert [s.hinted for s in first.samples] == [True] * len(examples)
    roll.calls.clear()
    return roll, examples, first.memory


def read(rows):
    """(question, completion, weight, normaliser) of each row."""
    contents = []
    for row in rows:
        question, _, completion = TOK.decode(row["tokens"]).partition("\n")
        prompt = 1 + len(question) + 1
        weights = set(row["weights"][prompt:].tolist())
        assert len(weights) == 1 and not row["weights"][:prompt].any()
        assert not row["normaliser"][:-1].any()
        assert row["tokens"][0] == TOK.bos_id
        assert row["weights"].dtype == row["normaliser"].dtype == np.float32
        contents.append((question, completion, weights.pop(), float(row["normaliser"][-1])))
    return contents


# Every verdict of a proposal, with a right and with a wrong guide.
SCRIPT = dict(enumerate(itertools.product(VERDICTS, (CORRECT, WRONG))))
GUIDE = np.array([guide == CORRECT for _, guide in SCRIPT.values()])
NEW = np.array([proposal == CORRECT for proposal, _ in SCRIPT.values()])


def test_the_first_states():
    _, examples, chains = begin(SCRIPT, settings())
    assert (chains.correct == GUIDE).all() and chains.ids.tolist() == list(SCRIPT)
    states = [TOK.decode(chains.state(n)) for n in range(8)]
    bare = [s == e.answer for s, e in zip(states, examples, strict=True)]
    assert bare == GUIDE.tolist() and all(states)
    truncated = begin({0: (WRONG, TRUNCATED)}, settings())[2]
    # It reads as if it were right.
    assert not truncated.correct[0] and truncated.lengths[0] > 0


def test_one_round():
    """Rows are the valid states and, below 0, the wrong proposals of valid chains.

    Right ones are states of the next round.
    """
    cfg = settings()
    roll, examples, chains = begin(SCRIPT, cfg)
    before = copy.deepcopy(chains)
    result = trice.collect(roll, examples, chains, 1, cfg)
    rows, after = result.rows, result.memory
    assert roll.calls == [(False, list(SCRIPT), 1)]  # one plain proposal each, no hint
    # valid: 0 and 1 by their proposals, 2, 4 and 6 by their guides; beta: 1 of 4 others for the
    # accepted, 2 of 4 for the rest.
    proposals = {s.example.id: s.text for s in result.samples}
    expected = [(0, proposals[0], 0.75), (1, proposals[1], 0.75)]
    expected += [(n, examples[n].answer, 1.0) for n in (2, 4, 6)]
    expected += [(n, proposals[n], -0.5) for n in (2, 4, 6)]
    expected = [(examples[n].question, text, weight) for n, text, weight in expected]
    assert [r[:3] for r in read(rows)] == expected
    assert sum(r[3] for r in read(rows)) == 5 and TRICE.num_updates(1, len(rows), cfg) == 1
    assert rows[0]["tokens"][-1] == TOK.eos_id
    assert rows[-1]["tokens"][-1] != TOK.eos_id  # the last one was cut off
    assert (after.correct == (GUIDE | NEW)).all()
    for n, e in enumerate(examples):
        kept = proposals[n] if NEW[n] else TOK.decode(chains.state(n))
        assert TOK.decode(after.state(n)) == kept
        assert not after.correct[n] or kept.endswith(e.answer)
    assert after.ages.tolist() == [0, 0] + [1] * 6 and after.visits.tolist() == [1] * 8
    assert after.accepted.tolist() == after.distinct.tolist() == [1, 1] + [0] * 6
    assert all((a == b).all() for a, b in zip(before, chains, strict=True))  # as it was given
    assert result.kept == {(0, 0, False), (1, 0, False)} and len(result.samples) == 8
    assert result.stats == pytest.approx(
        {
            "valid": 5 / 8,
            "accepted": 2 / 8,
            "beta": (2 * 0.25 + 3 * 0.5) / 5,
            "age_mean": 6 / 8,
            "age_max": 1,
            "distinct": 2,
            "unreached": 6 / 8,
            "expired": 0,
            "kept_rows": 8,
        }
    )


def test_no_row_shows_a_hint():
    cfg = settings()
    roll, examples, chains = begin(SCRIPT, cfg)
    for round in (1, 2):
        result = trice.collect(roll, examples, chains, round, cfg)
        chains = result.memory
        for row in result.rows:
            text = TOK.decode(row["tokens"])
            e = next(e for e in examples if text.startswith(f"{e.question}\n"))
            assert not text.startswith(scripted.prompt(e, hint=e.answer))
            prompt_ids = roll.prompt_ids(e).tolist()
            assert row["tokens"][: len(prompt_ids)].tolist() == prompt_ids


def test_an_accepted_proposal_is_the_state_of_the_next_round():
    """A minibatch of some of the examples, in another order; the other chains do not move."""
    cfg = settings(control_variate="none")
    roll, examples, chains = begin(SCRIPT, cfg)
    result = trice.collect(roll, [examples[n] for n in (5, 1, 2)], chains, 1, cfg)
    assert [r[0] for r in read(result.rows)] == [examples[n].question for n in (1, 2)]
    roll.script[1] = (WRONG, WRONG)
    result = trice.collect(roll, [examples[1]], result.memory, 2, cfg)
    question, completion, weight, normaliser = read(result.rows)[0]
    assert len(result.rows) == 1 and weight == normaliser == 1
    assert completion == addition.target(worked(examples[1]))
    chains = result.memory
    assert chains.ages.tolist() == [0, 1, 1, 0, 0, 1, 0, 0]
    assert chains.visits.tolist() == [0, 2, 1, 0, 0, 1, 0, 0]
    roll.script[1] = (CORRECT, WRONG)
    chains = trice.collect(roll, [examples[1]], chains, 3, cfg).memory
    # The same text again.
    assert (chains.accepted[1], chains.distinct[1], chains.ages[1]) == (2, 1, 0)


def test_nothing_valid_is_no_rows():
    for changes in ({}, {"subsample": 3}, {"control_variate": "history", "measure_every": 1}):
        cfg = settings(**changes)
        script = {0: (WRONG, WRONG), 1: (TRUNCATED, UNPARSED)}
        result = trice.collect(*begin(script, cfg), 1, cfg)
        assert result.rows == [] and result.stats["valid"] == result.stats["beta"] == 0
        assert result.stats["unreached"] == 1
        assert all(np.isfinite(v) for v in result.stats.values())
        assert result.memory.ages.tolist() == [1, 1]


def test_one_valid_chain_has_no_others_to_learn_from():
    cfg = settings()
    roll, examples, chains = begin({0: (WRONG, CORRECT), 1: (WRONG, WRONG)}, cfg)
    rows = trice.collect(roll, examples, chains, 1, cfg).rows
    assert [r[1:] for r in read(rows)] == [(examples[0].answer, 1.0, 1.0)]


def test_old_states_are_left_out():
    """After ``max_age`` visits without an acceptance a state counts as wrong.

    Until a proposal is accepted.
    """
    cfg = settings(max_age=2, control_variate="none")
    roll, examples, chains = begin({0: (WRONG, CORRECT), 1: (CORRECT, WRONG)}, cfg)
    questions, expired = [], []
    for round in range(1, 5):
        result = trice.collect(roll, examples, chains, round, cfg)
        chains = result.memory
        questions.append([r[0] for r in read(result.rows)])
        expired.append(result.stats["expired"])
    young, old = [e.question for e in examples], [examples[1].question]
    assert questions == [young, young, old, old] and expired == [0, 0.5, 0.5, 0.5]
    assert chains.ages.tolist() == [4, 0]
    assert chains.correct.all()  # the memory itself is as right as before
    roll.script[0] = (CORRECT, CORRECT)
    result = trice.collect(roll, examples, chains, 5, cfg)
    assert [r[0] for r in read(result.rows)] == young and result.memory.ages.tolist() == [0, 0]


def test_a_part_of_the_minibatch_gets_proposals():
    """The wrong chains first.

    The others train on the states that they have, without a control variate.
    """
    cfg = settings(refresh=6)
    roll, examples, chains = begin(SCRIPT, cfg)
    result = trice.collect(roll, examples, chains, 1, cfg)
    rows, after = result.rows, result.memory
    assert roll.calls == [(False, [1, 3, 5, 7, 0, 2], 1)]
    assert [s.example.id for s in result.samples] == [1, 3, 5, 7, 0, 2]
    assert after.visits.tolist() == [1, 1, 1, 1, 0, 1, 0, 1]
    assert after.ages.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]
    # Valid with a proposal: 0 and 1, which accept it, and 2; 4 and 6 are valid, and stay.
    weights = [(0, 0.5), (1, 0.5), (2, 1.0), (2, -1.0), (4, 1.0), (6, 1.0)]
    expected = {(examples[n].question, weight) for n, weight in weights}
    assert {(r[0], r[2]) for r in read(rows)} == expected and len(rows) == 6
    assert sum(r[3] for r in read(rows)) == pytest.approx(5)
    reordered, whole = (
        trice.collect(*begin(SCRIPT, cfg), 1, settings(refresh=n)).rows for n in (8, 0)
    )
    assert sorted(read(reordered)) == sorted(read(whole))


def test_subsampled_rows():
    """A row for each term that was drawn, of the weight of its draws.

    Another u in each round; on average the coefficients themselves.
    """
    full, mean = None, 0.0
    count, rounds = 3, 400
    for round in range(rounds + 1):
        cfg = settings(subsample=count if round else 0)
        result = trice.collect(*begin(SCRIPT, cfg), round, cfg)
        contents = read(result.rows)
        weights = {(question, completion): weight for question, completion, weight, _ in contents}
        assert len(weights) == len(result.rows) == result.stats["kept_rows"]
        assert sum(normaliser for *_, normaliser in contents) == pytest.approx(5)
        if not round:
            full = weights
            continue
        unit = sum(map(abs, full.values())) / count
        times = np.array([w / np.copysign(unit, full[key]) for key, w in weights.items()])
        np.testing.assert_allclose(times, np.rint(times), atol=1e-6)
        assert times.sum() == pytest.approx(count) and times.min() > 0.5
        mean = mean + np.array([weights.get(key, 0.0) for key in full]) / rounds
    np.testing.assert_allclose(mean, list(full.values()), atol=0.15)
    cfg = settings(subsample=count)
    again = [trice.collect(*begin(SCRIPT, cfg), 7, cfg).rows for _ in range(2)]
    assert str(again[0]) == str(again[1])  # a function of seed and round
    many = trice.collect(*begin(SCRIPT, cfg), 7, settings(subsample=50)).rows
    assert {r[:2] for r in read(many)} == set(full)
    assert sum(r[3] for r in read(many)) == pytest.approx(5)


# ---- ours: what the past tells -------------------------------------------------------------------


def test_rates_and_rho_of_the_past():
    recent = np.array([[0, 0], [3, 4], [0, 4]], np.float32)
    chains = mcmc.empty(3, 4)._replace(recent=recent, sums=np.array([20, 40, 6, 8.0]))
    assert cv.PRIOR_VISITS == 2 and cv.rho(chains) == 0.75
    rates = cv.acceptance_rates(chains, np.array([2, 0, 1]))
    np.testing.assert_allclose(rates, [1 / 6, 0.5, 4 / 6])  # 2 visits at the data's half
    for product, square, expected in ((9, 8, 1), (-1, 8, 0), (0, 0, 0)):
        assert cv.rho(chains._replace(sums=np.array([20, 40, product, square]))) == expected
    fresh = mcmc.empty(3, 4)
    assert cv.acceptance_rates(fresh, np.arange(3)).tolist() == [0, 0, 0] and cv.rho(fresh) == 0


def test_a_measurement():
    """Variances of the three estimators and the sums of the least squares, by hand.

    From the scores; beta is of the past.
    """
    cfg = settings(control_variate="history", measure_every=2)
    script = {
        0: (CORRECT, CORRECT),
        1: (WRONG, CORRECT),
        2: (WRONG, WRONG),
        3: (CORRECT, WRONG),
        4: (TRUNCATED, CORRECT),
    }
    roll, examples, chains = begin(script, cfg)
    recent = np.array([[1, 2]] * 5, np.float32) * [[0, 1]] + [[1.8, 0]]
    chains = chains._replace(recent=recent, sums=np.array([6.0, 10, 3, 4]))
    own, rho = np.full(5, (1.8 + 2 * 0.6) / 4), 0.75
    result = trice.collect(roll, examples, chains, 1, cfg)  # a round without a measurement
    assert roll.policy.calls == [] and "variance_ours" not in result.stats
    np.testing.assert_allclose(result.memory.sums, [0.9 * 6 + 2, 0.9 * 10 + 5, 3, 4])
    beta = rho * own[0]
    weights = [(0, 1 - beta), (1, 1), (3, 1 - beta), (4, 1), (1, -beta), (4, -beta)]
    expected = [(examples[n].question, pytest.approx(w)) for n, w in weights]
    assert [(r[0], r[2]) for r in read(result.rows)] == expected

    result = trice.collect(roll, examples, chains, 2, cfg)
    after = result.memory
    ((method, asked),) = roll.policy.calls
    questions = [TOK.decode(row["tokens"]).partition("\n")[0] for row in asked]
    assert method == "score_vectors" and questions == [e.question for e in examples] * 2
    completions = [after.state(n) for n in range(5)] + [s.tokens for s in result.samples]
    for row, tokens in zip(asked, completions, strict=True):
        assert np.array_equal(row["tokens"][row["weights"] > 0], tokens)
    valid, new = [0, 1, 3, 4], np.array([True, False, True, False])
    state = np.array([score(asked[n]) for n in valid])
    proposal = np.array([score(asked[5 + n]) for n in valid])
    loo = (2 - new) / 3
    for name, b in (("basic", np.zeros(4)), ("paper", loo), ("ours", np.full(4, beta))):
        g = state - b[:, None] * proposal
        variance = ((g - g.mean(0)) ** 2).sum() / 3 / 4
        assert result.stats[f"variance_{name}"] == pytest.approx(variance)
    product, square = 0.75 * (state * proposal).sum(), 0.75**2 * (proposal**2).sum()
    sums = [0.9 * 6 + 2, 0.9 * 10 + 5, 0.9 * 3 + product, 0.9 * 4 + square]
    np.testing.assert_allclose(after.sums, sums)


def test_beta_knows_nothing_of_this_rounds_proposals():
    cfg = settings(control_variate="history", measure_every=1)
    betas = set()
    for verdicts in itertools.product((CORRECT, WRONG), repeat=3):
        roll, examples, chains = begin({i: (v, CORRECT) for i, v in enumerate(verdicts)}, cfg)
        chains = chains._replace(sums=np.array([5.0, 10, 1, 2]))
        betas.add(trice.collect(roll, examples, chains, 1, cfg).stats["beta"])
    assert len(betas) == 1 and betas.pop() == pytest.approx(0.25)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value", [("temperature", 0.7), ("temperature", 0.0), ("top_k", 40), ("top_p", 0.9)]
)
def test_proposals_must_be_the_models_own_distribution(key, value):
    cfg = settings()
    cfg.sampling[key] = value
    sentence = r"^config\.sampling: .*temperature 1, top_k 0, top_p 1\.$"
    with pytest.raises(ValueError, match=sentence):
        trice.check(cfg)


def test_control_variates_by_name_and_when():
    trice.check(settings())
    key = r"^config\.algorithm\.control_variate: "
    offline = {"online": False, "updates": 7, "increment": 2}
    with pytest.raises(ValueError, match=rf"{key}'history' needs .*: set 'none'\.$"):
        trice.check(settings(control_variate="history", rounds=offline))
    cfg = settings(control_variate="none", rounds=offline)
    trice.check(cfg)
    assert len(trice.init_memory(cfg, 5).ids) == 5
    assert [TRICE.num_updates(3, 10, c) for c in (cfg, settings())] == [11, 1]


@pytest.mark.parametrize(
    "key, value", [("updates", 0), ("updates", 2), ("growth", 1.2), ("increment", 1)]
)
def test_every_online_round_has_one_update(key, value):
    sentence = rf"^config\.rounds\.[^\n]*{key}[^\n]*: with rounds\.online [^\n]*\.$"
    with pytest.raises(ValueError, match=sentence):
        trice.check(settings(rounds={key: value}))
    offline = {"online": False, key: value}
    trice.check(settings(rounds=offline, control_variate="none"))


def test_other_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"^config\.rounds\.restart: with rounds\.online"):
        trice.check(settings(rounds={"restart": True}))
    with pytest.raises(ValueError, match=r"^config\.algorithm\.measure_every: .*: above 0\.$"):
        trice.check(settings(control_variate="history", measure_every=0))
    trice.check(settings(control_variate="history", measure_every=1))
    with pytest.raises(
        ValueError, match=r"^config\.algorithm\.refresh: .*config\.rounds\.examples"
    ):
        trice.check(settings(refresh=3))
    trice.check(settings(rounds={"examples": 10}, refresh=3))


def test_a_minibatch_of_other_data_is_refused():
    cfg = settings()
    roll, examples, chains = begin(SCRIPT, cfg)
    with pytest.raises(ValueError, match="distinct examples"):
        trice.collect(roll, [examples[0]] * 2, chains, 1, cfg)
    with pytest.raises(ValueError, match="other data"):
        trice.collect(roll, [example(0, 99, 99)], chains, 1, cfg)
    assert not roll.calls  # said before anything is sampled


# ---- the whole way: proposals, chains, rows, loss, gradient --------------------------------------

LIMIT = 2
TWO = exact.EXAMPLES[:2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed(Rollout):
    """Proposals of the tiny model by number: ``draw[example id]`` of exact.completions."""

    draw: dict = dataclasses.field(default_factory=dict)

    def __call__(self, examples, *, hint=False, num_samples=1, temperature=None):
        return [self.sample(e, self.draw[e.id], hint) for e in examples]

    def sample(self, e, k, hint=False):
        tokens, right = exact.completions(LIMIT)[k], exact.verdicts(e, LIMIT)[k]
        return Sample(
            example=e,
            index=0,
            hinted=hint,
            prompt_ids=self.prompt_ids(e),
            tokens=tokens,
            logprobs=np.zeros(len(tokens)),
            finished=bool(tokens[-1] == exact.TOK.eos_id),
            text="",
            verdict=CORRECT if right else WRONG,
        )


@pytest.fixture(scope="module")
def tiny():
    """A rollout of the tiny model, its parameters, and two of its questions.

    With all completions of two tokens.
    """
    params = exact.params(0)
    roll = Listed(
        policy=Policy(params=params, model_cfg=exact.CFG, mesh=None, batch_size=8, max_length=8),
        tokenizer=exact.TOK,
        task=exact.TASK,
        task_cfg=ConfigDict(),
        grader=None,
        shots=(),
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LIMIT,
        key=None,
    )
    return roll, params, exact.of_model(params, LIMIT)[:2]


def chains_at(roll, cfg, states):
    """Chains in these states, with a past in which rho is 0.8 and the chains' own rates differ."""
    roll = dataclasses.replace(roll, draw=dict(enumerate(states)))
    chains = trice.begin(roll, TWO, trice.init_memory(cfg, 2), cfg).memory
    recent = np.array([[1, 2], [3, 4]], np.float32)
    return chains._replace(recent=recent, sums=np.array([5.0, 10, 0.8, 1]))


BETAS = {"none": np.zeros(2), "batch": None, "history": 0.8 * np.array([2 / 4, 4 / 6])}


@pytest.mark.parametrize("control_variate", BETAS)
def test_the_expected_rows_are_grad_log_p(tiny, control_variate):
    """The rows of ``collect``, over all proposals and all memories of the posterior.

    Times the exact scores, divided as the update does it, they have the mean grad log p(y | x);
    over one memory alone, the mean that exact.py finds for it.
    """
    roll, _, questions = tiny
    cfg = settings(control_variate=control_variate)
    cfg.sampling.max_new_tokens = LIMIT
    K = len(exact.completions(LIMIT))
    number = {
        (e.id, *map(int, z)): (e.id, k) for e in TWO for k, z in enumerate(exact.completions(LIMIT))
    }
    total = np.zeros((2, K))
    for states in itertools.product(*(np.flatnonzero(q.correct) for q in questions)):
        chains = chains_at(roll, cfg, states)
        expected_rows = np.zeros((2, K))
        for draws in itertools.product(range(K), repeat=2):
            drawing = dataclasses.replace(roll, draw=dict(enumerate(draws)))
            rows = trice.collect(drawing, TWO, chains, 1, cfg).rows
            chance = questions[0].p[draws[0]] * questions[1].p[draws[1]]
            divisor = sum(row["normaliser"].sum() for row in rows)
            for row in rows:
                prompt = int(np.argmax(row["weights"] != 0))
                id = int(prompt == len(roll.prompt_ids(TWO[1])))
                completion = number[(id, *row["tokens"][prompt:].tolist())]
                expected_rows[completion] += chance * row["weights"][-1] / divisor
        mean = expected_rows[0] @ questions[0].score + expected_rows[1] @ questions[1].score
        memory = [np.eye(K)[z] for z in states]
        by_sums = exact.of_trice(questions, BETAS[control_variate], memory)[0]
        np.testing.assert_allclose(mean, by_sums, atol=1e-5)
        posteriors = [exact.posterior(q)[z] for q, z in zip(questions, states, strict=True)]
        total += expected_rows * posteriors[0] * posteriors[1]
    mean = total[0] @ questions[0].score + total[1] @ questions[1].score
    truth = (exact.gradient(questions[0]) + exact.gradient(questions[1])) / 2
    np.testing.assert_allclose(mean, truth, atol=1e-5)
    assert np.abs(truth).max() > 0.1


def test_the_loss_of_a_packed_batch(tiny):
    """By hand from the list of log-likelihoods.

    And its gradient through the model, from the list of scores.
    """
    roll, params, questions = tiny
    cfg = settings(control_variate="batch")
    cfg.sampling.max_new_tokens = LIMIT
    wrong = np.flatnonzero(~questions[0].correct)[7]
    right = np.flatnonzero(questions[1].correct)[1]
    states = [np.flatnonzero(q.correct)[0] for q in questions]
    chains = chains_at(roll, cfg, states)
    drawing = dataclasses.replace(roll, draw={0: wrong, 1: right})
    rows = trice.collect(drawing, TWO, chains, 1, cfg).rows
    # Leave-one-out: the first's beta is 1, the other's accepted proposal; the second's is 0.
    assert [row["weights"][-1] for row in rows] == [1, 1, -1]
    batch = jax.tree.map(jnp.asarray, packing.pack(rows, multiple=1, length=8))
    assert batch["tokens"].shape[0] < len(rows)  # several rows in a sequence

    def mean_loss(params):
        loss = trice.loss(logprobs.token_logprobs(params, batch, exact.CFG), batch, cfg)
        return loss.total / loss.weight, loss

    (mean, loss), grad = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(params)
    first, second = questions
    by_hand = np.log(first.p[states[0]]) + np.log(second.p[right]) - np.log(first.p[wrong])
    assert loss.weight == 2 and float(mean) == pytest.approx(-by_hand / 2, abs=1e-5)
    score = first.score[states[0]] + second.score[right] - first.score[wrong]
    np.testing.assert_allclose(ravel_pytree(grad)[0], -score / 2, atol=2e-5)
    assert np.abs(score).max() > 0.1
