"""IRPO: which pairs a round makes, what they are compared to, and why it needs the NLL term."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax import algorithms
from reasoning_jax.algorithms import irpo
from reasoning_jax.sampling import methods
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition
from reasoning_jax.training import losses, packing
from reasoning_jax.training.rows import attach, pair_row

IRPO = algorithms.get("irpo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups(scripted.Groups):
    """Sample i of an example begins with i blank lines; notes how samples are drawn."""

    methods: list = dataclasses.field(default_factory=list)

    def __call__(self, examples, *, hint=False, num_samples=1, temperature=None):
        self.methods.append(
            methods.make_method(
                self.temperature if temperature is None else temperature, self.top_k, self.top_p
            )
        )
        return super().__call__(examples, hint=hint, num_samples=num_samples)

    def attempt(self, e, index, hint):
        sample = super().attempt(e, index, hint)
        tokens = np.concatenate([TOK.encode("\n" * index), sample.tokens]).astype(np.int32)
        return dataclasses.replace(sample, tokens=tokens)


def made_up_logprobs(row):
    return -0.5 * np.arange(len(row["tokens"]), dtype=np.float32)


def collect(script, round=1, max_length=256, examples=None, temperature=0.7, **changes):
    """What a round collects, and the rollout."""
    roll = scripted.rollout(
        script, kind=Groups, max_length=max_length, token_logprobs=made_up_logprobs
    )
    settings = {"num_samples": len(script[0]), **changes}
    cfg = config("irpo", rounds={"restart": False}, **settings)
    cfg.sampling.temperature = temperature
    IRPO.check(cfg)
    memory = IRPO.init_memory(cfg, len(script))
    examples = examples or [example(i, 10 + i, 40) for i in script]
    result = irpo.collect(roll, examples, memory, round, cfg)
    assert memory == result.memory == ()
    assert roll.calls == [(False, list(script), len(script[0]))]
    return result, roll


def texts(row):
    """(prompt, chosen, rejected) of a pair.

    The number of blank lines before a side is the sample's index.
    """
    sides = [(row["side"] == i, row["weights"] > 0) for i in (0, 1)]
    prompts = {TOK.decode(row["tokens"][side & ~used]) for side, used in sides}
    assert len(prompts) == 1 and (row["tokens"] == TOK.bos_id).sum() == 2
    return prompts.pop(), *(TOK.decode(row["tokens"][side & used]) for side, used in sides)


def index(text):
    return len(text) - len(text.lstrip("\n"))


SCRIPT = {
    0: [WRONG, CORRECT, CORRECT, TRUNCATED],
    1: [CORRECT] * 4,
    2: [WRONG, UNPARSED, WRONG, TRUNCATED],
    3: [UNPARSED, WRONG, WRONG, CORRECT],
}


# ---- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "winners, losers, count", [(1, 3, 10), (3, 1, 2), (4, 6, 10), (2, 2, 5), (29, 1, 10)]
)
def test_both_lists_are_walked_through(winners, losers, count):
    pairs = irpo.zipped(range(winners), range(losers), count)
    assert pairs == [(k % winners, k % losers) for k in range(count)]
    for side, size in enumerate((winners, losers)):
        times = np.bincount([pair[side] for pair in pairs], minlength=size)
        assert times.min() >= count // size and times.max() <= -(-count // size)


def test_an_empty_side_makes_no_pairs():
    assert irpo.zipped([], [1, 2], 10) == irpo.zipped([1, 2], [], 10) == []


def test_the_pairs_of_a_round():
    """Winners and losers in lock step.

    A question all right or all wrong makes none; what is cut off is a loser.
    """
    result, _ = collect(SCRIPT, pairs_per_question=3)
    pairs = [texts(row) for row in result.rows]
    assert [prompt for prompt, _, _ in pairs] == ["10+40\n"] * 3 + ["13+40\n"] * 3
    indices = [(index(won), index(lost)) for _, won, lost in pairs]
    assert indices == [(1, 0), (2, 3), (1, 0), (3, 0), (3, 1), (3, 2)]
    for prompt, won, lost in pairs:
        answer = str(eval(prompt))
        assert addition.extract(won) == answer
        assert addition.extract(lost) != answer or index(lost) == 3
    for row in result.rows:
        prompt, _, lost = texts(row)
        ends = row["tokens"][[(row["side"] == 0).sum() - 1, -1]]
        assert ends[0] == TOK.eos_id  # scored; but a sample that was cut off has none
        cut_off = prompt == "10+40\n" and index(lost) == 3
        assert (ends[1] == TOK.eos_id) == (not cut_off)
    assert result.kept == {(0, 1, False), (0, 2, False), (3, 3, False)}
    assert len(result.samples) == 16 and result.warnings == []
    assert result.stats == pytest.approx(
        {
            "kept_rows": 6,
            "kept": 0.5,
            "all_right": 0.25,
            "all_wrong": 0.25,
            "gold": 0,
            "pairs_too_long": 0,
            "temperature": 0.7,
        }
    )


def test_the_reference_is_the_model_that_sampled():
    """The sum over the completion of each side, under the rollout's model, on its last token."""
    result, roll = collect(SCRIPT)
    ((method, asked),) = roll.policy.calls
    assert method == "logprobs" and len(asked) == len(result.rows)
    for row in result.rows:
        scored = -0.5 * np.arange(len(row["tokens"])) * row["weights"]
        lengths = [(row["side"] == 0).sum(), len(row["tokens"])]
        sums = [scored[: lengths[0]].sum(), scored[lengths[0] :].sum()]
        assert row["ref"][[n - 1 for n in lengths]].tolist() == sums
        assert np.count_nonzero(row["ref"]) == 2


def test_a_worked_rationale_wins_where_nothing_was_right():
    given = [example(i, 10 + i, 40, given=i > 0) for i in SCRIPT]
    result, _ = collect(SCRIPT, examples=given, pairs_per_question=2)
    rows = result.rows
    of_the_third = [texts(row) for row in rows[2:4]]
    losers = [(prompt, index(lost)) for prompt, _, lost in of_the_third]
    assert losers == [("12+40\n", 0), ("12+40\n", 1)]
    assert {won for _, won, _ in of_the_third} == {addition.target(given[2])}
    assert rows[2]["tokens"][(rows[2]["side"] == 0).sum() - 1] == TOK.eos_id
    assert result.stats["gold"] == 0.25 and result.stats["kept"] == 0.75
    assert {index for id, index, _ in result.kept if id == 2} == {-1}  # no sample
    result, _ = collect(SCRIPT, examples=given, pairs_per_question=2, gold=False)
    assert len(result.rows) == 4 and result.stats["gold"] == 0


def test_pairs_that_are_too_long_are_counted():
    rows = collect(SCRIPT, pairs_per_question=3)[0].rows
    lengths = sorted(len(row["tokens"]) for row in rows)
    result, _ = collect(SCRIPT, pairs_per_question=3, max_length=lengths[3])
    assert len(result.rows) == 4 and result.stats["pairs_too_long"] == 2
    sentence = "2 pairs are longer than config.sequence_length and left out."
    assert result.warnings == [sentence]
    result, _ = collect(SCRIPT, max_length=lengths[0] - 1)
    assert result.rows == [] and result.kept == set() and result.stats["kept"] == 0


@pytest.mark.parametrize("round, temperature", [(1, 0.8), (2, 0.8), (3, 1.3), (7, 1.3)])
def test_the_temperature_of_a_round(round, temperature):
    result, roll = collect(SCRIPT, round=round, temperatures=(0.8, 0.8, 1.3), temperature=0.0)
    assert roll.methods == [methods.Temperature(temperature)]
    assert result.stats["temperature"] == temperature


def test_settings():
    linear = config("irpo", rounds={"updates": 70, "growth": 1.0, "increment": 5})
    assert [IRPO.num_updates(n, 9, linear) for n in (1, 3)] == [70, 80]
    IRPO.check(config("irpo", rounds={"restart": False}, temperatures=(0.8,)))
    with pytest.raises(ValueError, match=r"config\.rounds\.restart"):
        IRPO.check(config("irpo", rounds={"restart": True}, temperatures=(0.8,)))
    for changes, key in (
        ({"preference": "kto"}, r"config\.algorithm\.preference"),
        ({"temperatures": ()}, r"config\.sampling\.temperature"),
    ):
        settings = {"temperatures": (0.8,)} | changes
        with pytest.raises(ValueError, match=key):
            IRPO.check(config("irpo", rounds={"restart": False}, **settings))


# ---- the loss ------------------------------------------------------------------------------------


def to_device(batch):
    return jax.tree.map(jnp.asarray, batch)


def test_without_dpo_it_is_fine_tuning_on_the_chosen_side():
    """dpo_weight 0: the gradient of the weighted NLL, each chosen token with 1 / |w|.

    And nothing else.
    """
    rows = collect(SCRIPT, pairs_per_question=3)[0].rows
    batch = to_device(packing.pack(rows, multiple=2, length=256))
    lp = jnp.full(batch["tokens"].shape, -0.7)
    cfg = config("irpo", dpo_weight=0.0, alpha=1.0)
    gradient = jax.grad(lambda x: irpo.loss(x, batch, cfg).total)(lp)
    chosen = []
    for row in rows:
        weights = (row["weights"] * (row["side"] == 0)).astype(np.float32)
        chosen.append(row | {"weights": weights / weights.sum()})
    alone = to_device(packing.pack(chosen, multiple=2, length=256))
    expected = jax.grad(lambda x: losses.weighted_nll(x, alone).total)(lp)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def descend(alpha, steps=200):
    """Likelihoods of (chosen, rejected) and the margin along gradient descent on a pair.

    Its sides are of one token each. The tokens' logits are inner products of fixed embeddings with
    a trained hidden state. The pair's embeddings are alike, and that of a third token lies in the
    direction of their difference (Razin et al. 2024, arXiv 2410.08847).
    """
    embeddings = jnp.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    row = attach(pair_row([7], [[0], [1]]), "ref", np.log([1 / 3, 1 / 3]))
    batch = to_device(packing.fill([[row]], 1, 4))
    cfg = config("irpo", alpha=alpha, beta=1.0)

    @jax.jit
    def step(hidden):
        def mean_loss(hidden):
            log_p = jax.nn.log_softmax(embeddings @ hidden)
            of_tokens = log_p[batch["tokens"] % 3] * (batch["weights"] > 0)
            loss = irpo.loss(of_tokens, batch, cfg)
            return loss.total, loss

        gradient, loss = jax.grad(mean_loss, has_aux=True)(hidden)
        return hidden - 0.5 * gradient, loss

    hidden, path = jnp.zeros(2), []
    for _ in range(steps):
        hidden, loss = step(hidden)
        names = ("chosen_logprob", "rejected_logprob", "margin")
        path.append([float(loss.means[name]) for name in names])
    return np.array(path)


def test_the_chosen_likelihood_falls_without_the_nll_term_and_rises_with_it():
    """Figure 2 of arXiv 2404.19733, on a toy: the margin grows either way."""
    alone, both = descend(0.0), descend(1.0)
    assert (np.diff(alone[:, 2]) > 0).all() and alone[-1, 2] > 0.1 and both[-1, 2] > 0.05
    assert (np.diff(alone[:, 0]) < 0).all() and alone[-1, 0] < alone[0, 0] - 0.3
    assert (np.diff(both[:, 0]) > 0).all() and both[-1, 0] > both[0, 0] + 0.2
