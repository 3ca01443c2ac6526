"""SFT: the rows of given rationales and of answers alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, config, example

from reasoning_jax import algorithms
from reasoning_jax.algorithms import sft
from reasoning_jax.starting import base_config
from reasoning_jax.tasks import addition

SFT = algorithms.get("sft")
WORKED = [example(i, 11 * i, 12 * i, given=True) for i in range(1, 5)]
BARE = [example(i, 11 * i, 12 * i) for i in range(5, 8)]


def collect(examples, max_length=256, **changes):
    roll = scripted.rollout({}, max_length=max_length)
    result = sft.collect(roll, examples, (), 1, config("sft", **changes))
    assert result.memory == () and roll.calls == [] and roll.policy.calls == []  # no model is asked
    return result.rows, result.stats


def test_given_rationales_are_trained_on_and_the_rest_left_out():
    rows, stats = collect(WORKED + BARE)
    texts = [scripted.prompt(e) + addition.target(e) for e in WORKED]
    assert [TOK.decode(r["tokens"]) for r in rows] == texts
    assert stats == {"kept_rows": 4, "kept": 1.0, "samples": 4}
    for e, row in zip(WORKED, rows, strict=True):
        prompt = 1 + len(e.question) + 1
        assert not row["weights"][:prompt].any() and row["weights"][prompt:].all()
        assert row["tokens"][-1] == TOK.eos_id


def test_direct_trains_on_every_answer_alone():
    rows, stats = collect(WORKED + BARE, direct=True)
    examples = WORKED + BARE
    texts = [f"{e.question}\n{e.answer}" for e in examples]
    assert [TOK.decode(r["tokens"]) for r in rows] == texts
    assert [int(r["weights"].sum()) for r in rows] == [len(e.answer) + 1 for e in examples]
    assert stats["kept_rows"] == 7


def test_each_hint_is_shown_once_in_a_prompt():
    """The base model learns what a hint is; the hint itself is prompt, and weighs nothing."""
    rows, _ = collect(WORKED, hinted=1.0)
    assert len(rows) == 8
    for e, plain, hinted in zip(WORKED, rows[:4], rows[4:], strict=True):
        text = scripted.prompt(e, hint=e.answer) + addition.target(e)
        assert TOK.decode(hinted["tokens"]) == text
        trained = [TOK.decode(r["tokens"][r["weights"] > 0]) for r in (plain, hinted)]
        assert trained == [addition.target(e)] * 2
    assert len(collect(WORKED, hinted=0.0)[0]) == len(collect(WORKED)[0]) == 4


def test_a_fraction_of_the_hints_is_shown():
    rows, stats = collect(WORKED, hinted=0.5)
    hinted = [TOK.decode(row["tokens"]) for row in rows[4:]]
    shown = [WORKED[0], WORKED[2]]
    assert hinted == [scripted.prompt(e, hint=e.answer) + addition.target(e) for e in shown]
    assert stats == {"kept_rows": 6, "kept": 1.0, "samples": 6}


def test_rows_that_are_too_long_are_left_out_and_counted():
    longest = [example(9, 12345, 54321, given=True), *WORKED]
    limit = max(len(r["tokens"]) for r in collect(WORKED)[0])
    rows, stats = collect(longest, max_length=limit)
    assert len(rows) == 4 and stats == {"kept_rows": 4, "kept": 0.8, "samples": 5}


def test_what_is_too_long_is_said_before_the_training():
    def check(examples, max_length, **changes):
        roll = scripted.rollout({}, max_length=max_length)
        return sft.check_data(roll, examples, config("sft", **changes))

    longest = [example(9, 12345, 54321, given=True), *WORKED]
    lengths = [len(row["tokens"]) for row in collect(longest)[0]]
    assert check(longest, max(lengths)) == []
    [warning] = check(longest, max(lengths) - 1)
    assert warning.startswith("1 of 5 worked examples are longer than config.sequence_length")
    [warning] = check(longest, max(lengths), hinted=1.0)
    assert warning.startswith("1 of 10 ")  # the longest with its hint
    with pytest.raises(ValueError, match="no room for any of the 5 worked examples"):
        check(longest, min(lengths) - 1)
    foreign = dataclasses.replace(WORKED[1], rationale="é")
    with pytest.raises(
        ValueError, match=r"^sample, example 2 \('22\+24'\): .*'é' is not in the al"
    ):
        check([WORKED[0], foreign], 256)


def test_examples_without_rationales_are_a_sentence():
    sentence = r"^None of the examples has a rationale [^\n]*config\.algorithm\.direct=True\?$"
    with pytest.raises(ValueError, match=sentence):
        collect(BARE)


def test_updates_and_loss():
    cfg = config("sft", rounds={"updates": 7, "growth": 1.0})
    assert [SFT.num_updates(n, 10, cfg) for n in (1, 2)] == [7, 7]
    cfg.base.num_updates = 3
    assert SFT.num_updates(0, 10, base_config(cfg)) == 3  # of the base model
    assert SFT.init_memory(cfg, 3) == ()
    batch = {"weights": jnp.array([[0, 1, 1, 0]], jnp.float32)}
    loss = sft.loss(jnp.log(jnp.array([[0.1, 0.5, 0.25, 0.9]])), batch, cfg)
    assert float(loss.total) == pytest.approx(np.log(8)) and float(loss.weight) == 2
    zeros = jnp.zeros((1, 4))
    gradient = jax.grad(lambda x: sft.loss(x, batch, cfg).total)(zeros)
    assert np.array_equal(gradient, -batch["weights"])
