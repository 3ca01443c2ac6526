"""IRPO: which pairs a round makes, what they are compared to, and why the chosen side's likelihood needs a term of its own."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.training import losses, packing
from reasoning_jax.training.rows import mark, pair
from reasoning_jax.sampling import methods
from reasoning_jax.algorithms import irpo
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition


class Groups(scripted.Scripted):
    """``script[example id]`` lists the verdicts of an example's samples; text i of an example ends in i blank lines."""

    def attempt(self, e, index, hint):
        self.rules.append(self.rule)
        found = scripted.rollout({e.id: (self.script[e.id][index],) * 2}).attempt(e, index, hint)
        tokens = np.concatenate([TOK.encode("\n" * index), found.tokens]).astype(np.int32)
        return dataclasses.replace(found, tokens=tokens)

    def row_logprobs(self, rows):
        return [-0.5 * np.arange(len(row["tokens"]), dtype=np.float32) for row in rows]


def collect(script, round=1, max_length=256, examples=None, temperature=0.7, **changes):
    kind = type("Script", (Groups,), {"script": script, "calls": [], "rules": []})
    roll = kind(None, None, TOK, addition, (), None, 8, 64, max_length, None, None)
    cfg = config(name="irpo", restart=False, num_samples=len(script[0]), **changes)
    cfg.sampling.temperature = temperature
    memory = irpo.init_memory(cfg, len(script))
    examples = examples or [example(i, 10 + i, 40) for i in script]
    rows, after, report = irpo.collect(roll, examples, memory, round, cfg)
    assert memory == after == () and roll.calls == [(False, list(script), len(script[0]))]
    return rows, report, kind


def sides(row):
    """(prompt, chosen, rejected) of a record; the number of blank lines before a side is the sample's index."""
    halves = [(row["part"] == i, row["weights"] > 0) for i in (0, 1)]
    prompts = {TOK.decode(row["tokens"][part & ~used]) for part, used in halves}
    assert len(prompts) == 1 and (row["tokens"] == TOK.bos_id).sum() == 2
    return prompts.pop(), *(TOK.decode(row["tokens"][part & used]) for part, used in halves)


def index(text):
    return len(text) - len(text.lstrip("\n"))


SCRIPT = {0: [WRONG, CORRECT, CORRECT, TRUNCATED], 1: [CORRECT] * 4, 2: [WRONG, UNPARSED, WRONG, TRUNCATED],
          3: [UNPARSED, WRONG, WRONG, CORRECT]}  # fmt: skip


# ---- pairs ---------------------------------------------------------------------------------------------------------------


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
    """Winners and losers in lock step; a question all right or all wrong makes none; what is cut off is a loser."""
    rows, report, _ = collect(SCRIPT, pairs_per_question=3)
    found = [sides(row) for row in rows]
    assert [prompt for prompt, _, _ in found] == ["10+40\n"] * 3 + ["13+40\n"] * 3
    assert [(index(won), index(lost)) for _, won, lost in found] == [
        (1, 0),
        (2, 3),
        (1, 0),
        (3, 0),
        (3, 1),
        (3, 2),
    ]
    for prompt, won, lost in found:
        assert addition.extract(won) == str(eval(prompt)) and (
            addition.extract(lost) != str(eval(prompt)) or index(lost) == 3
        )
    for row in rows:
        ends = row["tokens"][[(row["part"] == 0).sum() - 1, -1]]
        assert ends[0] == TOK.eos_id  # scored; but a sample that was cut off has none
        assert (ends[1] == TOK.eos_id) == (index(sides(row)[2]) != 3 or sides(row)[0] != "10+40\n")
    assert (
        report.kept == {(0, 1, False), (0, 2, False), (3, 3, False)} and len(report.samples) == 16
    )
    assert report.values == pytest.approx(
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
    assert report.warnings == []


def test_the_reference_is_the_model_that_sampled():
    """The sum over the completion of each half, under the rollout's parameters, on its last token."""
    for row in collect(SCRIPT)[0]:
        scored = -0.5 * np.arange(len(row["tokens"])) * row["weights"]
        lengths = [(row["part"] == 0).sum(), len(row["tokens"])]
        assert row["ref"][[n - 1 for n in lengths]].tolist() == [
            scored[: lengths[0]].sum(),
            scored[lengths[0] :].sum(),
        ]
        assert np.count_nonzero(row["ref"]) == 2


def test_a_worked_rationale_wins_where_nothing_was_right():
    worked = [example(i, 10 + i, 40, worked=i > 0) for i in SCRIPT]
    rows, report, _ = collect(SCRIPT, examples=worked, pairs_per_question=2)
    assert [(sides(row)[0], index(sides(row)[2])) for row in rows[2:4]] == [
        ("12+40\n", 0),
        ("12+40\n", 1),
    ]
    assert {sides(row)[1] for row in rows[2:4]} == {addition.target(worked[2])}
    assert rows[2]["tokens"][(rows[2]["part"] == 0).sum() - 1] == TOK.eos_id
    assert report.values["gold"] == 0.25 and report.values["kept"] == 0.75
    assert {index for id, index, _ in report.kept if id == 2} == {-1}  # no sample
    rows, report, _ = collect(SCRIPT, examples=worked, pairs_per_question=2, gold=False)
    assert len(rows) == 4 and report.values["gold"] == 0


def test_pairs_that_are_too_long_are_counted():
    lengths = sorted(len(row["tokens"]) for row in collect(SCRIPT, pairs_per_question=3)[0])
    rows, report, _ = collect(SCRIPT, pairs_per_question=3, max_length=lengths[3])
    assert len(rows) == 4 and report.values["pairs_too_long"] == 2
    assert report.warnings == ["2 pairs are longer than config.sequence_length and left out."]
    rows, report, _ = collect(SCRIPT, max_length=lengths[0] - 1)
    assert rows == [] and report.kept == set() and report.values["kept"] == 0


@pytest.mark.parametrize("round, heat", [(1, 0.8), (2, 0.8), (3, 1.3), (7, 1.3)])
def test_the_temperature_of_a_round(round, heat):
    _, report, kind = collect(SCRIPT, round=round, temperatures=(0.8, 0.8, 1.3), temperature=0.0)
    assert set(kind.rules) == {methods.Temperature(heat)} and report.values["temperature"] == heat


def test_settings():
    assert [
        irpo.num_updates(n, 9, config(schedule="linear", start_updates=70, increment=5))
        for n in (1, 3)
    ] == [70, 80]
    for changes, key in (
        ({"restart": True}, r"config\.algorithm\.restart"),
        ({"preference": "kto"}, r"config\.algorithm\.preference"),
        ({"pairs_per_question": 0}, "pairs_per_question"),
        ({"num_samples": 1}, "num_samples"),
        ({"temperatures": (0.8, 0.0)}, r"config\.sampling\.temperature"),
        ({"temperatures": ()}, r"config\.sampling\.temperature"),
        ({"beta": -1.0}, r"config\.algorithm\.beta"),
    ):
        settings = {"restart": False, "temperatures": (0.8,)} | changes
        with pytest.raises(ValueError, match=key):
            irpo.init_memory(config(**settings), 5)


# ---- the loss ------------------------------------------------------------------------------------------------------------


def test_without_dpo_it_is_fine_tuning_on_the_chosen_side():
    """dpo_weight 0: the gradient of the weighted NLL, each chosen token with 1 / |w|, and nothing else."""
    rows, _, _ = collect(SCRIPT, pairs_per_question=3)
    batch = packing.pack(rows, multiple=2, length=256)
    lp = jnp.full(batch["tokens"].shape, -0.7)
    found = jax.grad(lambda x: irpo.loss(x, batch, config(dpo_weight=0.0, alpha=1.0))[0])(lp)
    chosen = [
        row | {"weights": (row["weights"] * (row["part"] == 0)).astype(np.float32)} for row in rows
    ]
    chosen = [row | {"weights": row["weights"] / row["weights"].sum()} for row in chosen]
    alone = packing.pack(chosen, multiple=2, length=256)
    np.testing.assert_allclose(
        found, jax.grad(lambda x: losses.weighted_nll(x, alone)[0])(lp), rtol=1e-5
    )


def descend(alpha, steps=200):
    """Likelihoods of (chosen, rejected, a third completion) along gradient descent on a pair of one token each.

    The tokens' logits are inner products of fixed embeddings with a trained hidden state. The pair's embeddings are alike, and
    that of the third token lies in the direction of their difference (Razin et al. 2024, arXiv 2410.08847).
    """
    embeddings = jnp.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    row = mark(pair([7], [[0], [1]]), "ref", np.log([1 / 3, 1 / 3]))
    batch, cfg = packing.fill([[row]], 1, 4), config(alpha=alpha, beta=1.0)

    @jax.jit
    def step(hidden):
        def loss(hidden):
            log_p = jax.nn.log_softmax(embeddings @ hidden)
            return irpo.loss(log_p[batch["tokens"] % 3] * (batch["weights"] > 0), batch, cfg)

        gradient, metrics = jax.grad(loss, has_aux=True)(hidden)
        return hidden - 0.5 * gradient, metrics

    hidden, path = jnp.zeros(2), []
    for _ in range(steps):
        hidden, metrics = step(hidden)
        path.append([float(metrics[k]) for k in ("chosen_logprob", "rejected_logprob", "margin")])
    return np.array(path)


def test_the_chosen_likelihood_falls_without_the_nll_term_and_rises_with_it():
    """The paper's figure 2, on a toy: the margin grows either way."""
    alone, both = descend(0.0), descend(1.0)
    assert (np.diff(alone[:, 2]) > 0).all() and alone[-1, 2] > 0.1 and both[-1, 2] > 0.05
    assert (np.diff(alone[:, 0]) < 0).all() and alone[-1, 0] < alone[0, 0] - 0.3
    assert (np.diff(both[:, 0]) > 0).all() and both[-1, 0] > both[0, 0] + 0.2
