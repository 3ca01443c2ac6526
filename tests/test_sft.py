"""SFT: the rows of given rationales and of answers alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax.algorithms import sft
from reasoning_jax.tasks import addition

WORKED = [example(i, 11 * i, 12 * i, worked=True) for i in range(1, 5)]
BARE = [example(i, 11 * i, 12 * i) for i in range(5, 8)]


def collect(examples, round=1, max_length=256, hinted=1.0, **changes):
    cfg = config(name="sft", **changes)
    cfg.base.hinted = hinted
    roll = scripted.rollout({}, max_length)
    rows, memory, report = sft.collect(roll, examples, (), round, cfg)
    assert memory == () and roll.calls == []  # no model is asked
    return rows, report.values


def test_given_rationales_are_trained_on_and_the_rest_left_out():
    rows, values = collect(WORKED + BARE)
    assert [TOK.decode(r["tokens"]) for r in rows] == [
        addition.prompt(e) + addition.target(e) for e in WORKED
    ]
    assert values == {"kept_rows": 4, "kept": 1.0, "samples": 4}
    for e, row in zip(WORKED, rows, strict=True):
        prompt = 1 + len(e.question) + 1
        assert (
            not row["weights"][:prompt].any()
            and row["weights"][prompt:].all()
            and row["tokens"][-1] == TOK.eos_id
        )


def test_direct_trains_on_every_answer_alone():
    rows, values = collect(WORKED + BARE, direct=True)
    assert [TOK.decode(r["tokens"]) for r in rows] == [
        f"{e.question}\n{e.answer}" for e in WORKED + BARE
    ]
    assert [int(r["weights"].sum()) for r in rows] == [
        len(e.answer) + 1 for e in WORKED + BARE
    ] and values["kept_rows"] == 7


def test_round_0_shows_each_hint_once_in_a_prompt():
    """The base model learns what a hint is; the hint itself is prompt, and weighs nothing."""
    rows, _ = collect(WORKED, round=0)
    assert len(rows) == 8
    for e, plain, hinted in zip(WORKED, rows[:4], rows[4:], strict=True):
        assert TOK.decode(hinted["tokens"]) == addition.prompt(e, hint=e.answer) + addition.target(
            e
        )
        trained = [TOK.decode(r["tokens"][r["weights"] > 0]) for r in (plain, hinted)]
        assert trained == [addition.target(e)] * 2
    assert len(collect(WORKED, round=0, hinted=0.0)[0]) == len(collect(WORKED, round=1)[0]) == 4


def test_rows_that_are_too_long_are_left_out_and_counted():
    longest = [example(9, 12345, 54321, worked=True), *WORKED]
    limit = max(len(r["tokens"]) for r in collect(WORKED)[0])
    rows, values = collect(longest, max_length=limit)
    assert len(rows) == 4 and values == {"kept_rows": 4, "kept": 0.8, "samples": 5}


def test_examples_without_rationales_are_a_sentence():
    with pytest.raises(
        ValueError,
        match=r"^None of the examples has a rationale [^\n]*config\.algorithm\.direct=True\?$",
    ):
        collect(BARE)


def test_updates_and_loss():
    cfg = config(start_updates=7)
    cfg.base.num_updates = 3
    assert [sft.num_updates(n, 10, cfg) for n in (0, 1, 2)] == [3, 7, 7] and sft.init_memory(
        cfg, 3
    ) == ()
    weights = np.array([[0, 1, 1, 0]], np.float32)
    loss, metrics = sft.loss(np.log([[0.1, 0.5, 0.25, 0.9]]), {"weights": weights}, cfg)
    assert float(loss) == pytest.approx(np.log(8)) and float(metrics["weight"]) == 2
    gradient = jax.grad(lambda x: sft.loss(x, {"weights": weights}, cfg)[0])(
        np.zeros((1, 4), np.float32)
    )
    assert np.array_equal(gradient, -weights)
