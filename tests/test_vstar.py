"""V-STaR: what the generator and the verifier are trained on, and the two models that a run ends with."""

from __future__ import annotations

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, example

from configs import vstar_addition
from reasoning_jax.training import checkpoint, losses
from reasoning_jax import evaluate, experiment, loop, metrics, report, workdir
from reasoning_jax.algorithms import sft, vstar
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition


class Groups(scripted.Scripted):
    """``script[round][example id]`` lists the verdicts of an example's samples; those of one verdict are alike."""

    def attempt(self, e, index, hint):
        verdict = self.script[self.round][e.id][index]
        return scripted.rollout({e.id: (verdict, verdict)}).attempt(e, index, hint)

    def row_logprobs(self, rows):
        assert self.params == "base"
        return [np.full(len(row["tokens"]), -0.25, np.float32) for row in rows]


SCRIPT = {
    1: [
        [CORRECT, WRONG, WRONG],
        [WRONG, UNPARSED, TRUNCATED],
        [CORRECT, CORRECT, CORRECT],
        [WRONG, WRONG, WRONG],
    ],
    2: [
        [CORRECT, CORRECT, UNPARSED],
        [WRONG, WRONG, CORRECT],
        [CORRECT, CORRECT, CORRECT],
        [WRONG, WRONG, WRONG],
    ],
}
EXAMPLES = [example(i, 10 + i, 40, worked=i == 3) for i in range(4)]


def config(**changes):
    cfg = vstar_addition.get_config()
    cfg.algorithm.update({"num_rounds": 3, "num_samples": 3, **changes})
    cfg.sampling.max_new_tokens = 64
    return cfg


def rounds(last, max_length=256, **changes):
    """(rows, memory, report, calls) of the rounds up to ``last``."""
    cfg = config(**changes)
    memory, found, kind = (
        vstar.init_memory(cfg, 4),
        [],
        type("Script", (Groups,), {"script": SCRIPT, "calls": []}),
    )
    for n in range(1, last + 1):
        roll = kind(
            "new",
            None,
            TOK,
            addition,
            (),
            None,
            8,
            64,
            max_length,
            None,
            None,
            round=n,
            reference=lambda: "base",
        )
        before = jax.tree.map(np.copy, memory)
        rows, after, report = vstar.collect(roll, EXAMPLES, memory, n, cfg)
        assert all(
            np.array_equal(a, b) for a, b in zip(before, memory, strict=True)
        )  # it returns another one
        memory = after
        found.append((rows, report))
    return found, memory, roll


def texts(row):
    """Of a pair: the prompts and the completions of both halves."""
    halves = [row["part"] == i for i in (0, 1)]
    return [
        [TOK.decode(row["tokens"][half & (row["weights"] == w)]) for w in (0, 1)] for half in halves
    ]


# ---- the generator -------------------------------------------------------------------------------------------------------


def test_the_generator_sees_every_distinct_right_solution_of_all_rounds_and_the_worked_ones():
    (first, second), memory, _ = rounds(2)
    questions = [
        [TOK.decode(row["tokens"]).split("\n")[0] for row in rows] for rows, _ in (first, second)
    ]
    assert questions == [["10+40", "12+40", "13+40"], ["10+40", "11+40", "12+40", "13+40"]]
    for row in second[0]:
        completion = TOK.decode(row["tokens"][row["weights"] == 1])
        a, b = map(int, TOK.decode(row["tokens"][row["weights"] == 0]).strip().split("+"))
        assert addition.extract(completion) == str(a + b) and row["tokens"][-1] == TOK.eos_id
    assert (
        first[1].kept == {(0, 0, False), *((2, i, False) for i in range(3))}
        and len(first[1].samples) == 12
    )
    assert first[1].values == pytest.approx({"kept_rows": 3, "reached": 0.5, "distinct": 0.5})
    assert second[1].values == pytest.approx({"kept_rows": 4, "reached": 0.75, "distinct": 0.75})


def test_every_sample_is_remembered_with_its_verdict():
    (first, second), memory, roll = rounds(2)
    assert memory.tokens.shape == (4, 6, 64) and (memory.lengths > 0).all()
    for found, start in ((first, 0), (second, 3)):
        for s in found[1].samples:
            at = s.example.id, start + s.index
            assert (
                memory.tokens[at][: memory.lengths[at]].tolist() == s.tokens.tolist()
                and memory.correct[at] == s.correct
            )
            assert not memory.tokens[at][memory.lengths[at] :].any()
    assert [len(vstar.solutions(memory, i, True)) for i in range(4)] == [1, 1, 1, 0]
    assert [len(vstar.solutions(memory, i, False)) for i in range(4)] == [2, 3, 0, 1]
    known, other = vstar.solutions(memory, 0, True)[0].copy(), np.array([5], np.int32)
    assert [len(t) for t in vstar.solutions(memory, 0, True, known)] == [len(known)], (
        "the known one is no other one"
    )
    assert [len(t) for t in vstar.solutions(memory, 0, True, other)] == [1, len(known)]
    _, early, _ = rounds(1)
    assert [len(vstar.solutions(early, i, False)) for i in range(4)] == [
        1,
        3,
        0,
        1,
    ]  # what was not drawn is no solution


# ---- the verifier --------------------------------------------------------------------------------------------------------


def test_the_verifier_sees_pairs_of_a_right_and_a_wrong_solution_of_one_question():
    found, memory, roll = rounds(3)
    rows, report = found[-1]
    assert len(roll.calls) == 2 and report.samples == []  # nothing is drawn
    assert len(rows) == 1 * 2 + 1 * 3 + 0 + 1 * 1 and report.values["questions_with_pairs"] == 0.75
    seen = []
    for row in rows:
        (prompt, chosen), (other, rejected) = texts(row)
        assert prompt == other
        i = int(prompt.split("+")[0]) - 10
        known = [
            [TOK.decode(t) for t in vstar.solutions(memory, i, right)] for right in (True, False)
        ]
        assert chosen in known[0] or (i == 3 and chosen == addition.target(EXAMPLES[3]))
        assert rejected in known[1]
        seen.append((i, chosen, rejected))
        ends = np.flatnonzero(row["ref"])
        completions = [int(((row["part"] == h) & (row["weights"] > 0)).sum()) for h in (0, 1)]
        assert row["ref"][ends].tolist() == [
            -0.25 * n for n in completions
        ]  # of the base model, at each half's end
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_pairs_of_a_question(most):
    found, _, _ = rounds(3, pairs_per_question=most)
    of = [texts(row)[0][0] for row in found[-1][0]]
    assert [of.count(f"{10 + i}+40\n") for i in range(4)] == [min(most, n) for n in (2, 3, 0, 1)]
    again, _, _ = rounds(3, pairs_per_question=most)
    assert all(
        np.array_equal(a["tokens"], b["tokens"])
        for a, b in zip(found[-1][0], again[-1][0], strict=True)
    )


def test_pairs_that_do_not_fit_are_counted_and_said():
    longest = max(len(row["tokens"]) for row in rounds(3)[0][-1][0])
    rows, report = rounds(3, max_length=longest - 1)[0][-1]
    assert (
        0 < len(rows) < 6
        and report.values["pairs_too_long"] == 6 - len(rows) == report.values["pairs_too_long"]
    )
    assert report.warnings == [
        f"{6 - len(rows)} pairs are longer than config.sequence_length and left out."
    ]


def test_the_loss_is_that_of_what_the_batch_holds():
    cfg, log_p = config(), jnp.full((1, 6), -1.0)
    single = {"weights": jnp.array([[0, 1, 1, 0, 1, 0.0]])}
    assert vstar.loss(log_p, single, cfg)[0] == losses.weighted_nll(log_p, single)[0] == 3.0
    pair = single | {
        "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]]),
        "ref": jnp.array([[0, 0, -2.0, 0, -1.0, 0]]),
    }
    total, figures = vstar.loss(log_p, pair, cfg)
    assert (
        total == losses.pair_loss(log_p, pair, cfg)[0] == pytest.approx(np.log(2))
        and figures["weight"] == 1
    )


def test_rounds_and_errors():
    cfg = config(verifier_updates=7)
    assert [vstar.num_updates(n, 100, cfg) for n in (1, 2, 3)] == [60, 80, 7]
    assert [vstar.side_model(n, cfg) for n in (1, 2, 3)] == [
        None,
        None,
        ("verifier", cfg.algorithm.verifier_learning_rate),
    ]
    for key, value in (("num_rounds", 1), ("examples_per_round", 2), ("restart", False), ("online", True), ("patience", 4),
                       ("preference", "kto"), ("num_samples", 0), ("beta", 0.0)):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^config\.[^\n]*{key}[^\n]*: [^\n]*\.$"):
            vstar.init_memory(config(**{key: value}), 4)
    cfg = config()
    cfg.sampling.temperature = 0.0
    with pytest.raises(ValueError, match=r"^config\.sampling\.temperature"):
        vstar.init_memory(cfg, 4)


# ---- a run ---------------------------------------------------------------------------------------------------------------


def small():
    cfg = vstar_addition.get_config("smoke")
    cfg.task.num_eval = 8
    cfg.base.num_updates = 60
    cfg.algorithm.start_updates = 4
    cfg.algorithm.verifier_updates = 6
    cfg.algorithm.min_kept_rows = 1
    cfg.sampling.max_new_tokens = 40
    cfg.sampling.batch_size = 32
    cfg.checkpoint.every = 3
    cfg.log_every = 1
    return cfg


@pytest.mark.usefixtures("quick_compile")
def test_a_run_ends_with_a_generator_and_a_verifier(tmp_path, monkeypatch):
    """The verifier starts from the base model (DPO loss ln 2). Cut off as it begins, the run remembers all samples; cut off
    amid the verifier's updates, it goes on there."""
    directory, cfg, starts, left = tmp_path / "run", small(), [], [5]
    make = loop.update.make_update

    def watched(method, *args):
        step = make(method, *args)

        def update(state, batch, rate):
            if not any(np.any(x) for x in jax.tree.leaves(state.opt_state)):  # a fresh optimiser
                starts.append((method, jax.device_get(state.params), float(rate), "ref" in batch))
            left[0] -= "ref" in batch
            if not left[0]:
                raise RuntimeError("cut off")
            return step(state, batch, rate)

        return update

    monkeypatch.setattr(loop.update, "make_update", watched)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(vstar, "_pairs", lambda *_: 1 / 0)
        loop.train(cfg, directory)
    drawn = (directory / "rounds/0001/samples.jsonl").read_text().splitlines()
    with pytest.raises(RuntimeError, match="cut off"):
        loop.train(cfg, directory)
    assert not (directory / "verifier").exists()
    loop.train(cfg, directory)
    exp = experiment.make(cfg)
    abstract = exp.abstract_state().params
    base, verifier, best = (
        checkpoint.restore(directory / name, abstract) for name in ("base", "verifier", "best")
    )
    assert [(m, pairs) for m, _, _, pairs in starts] == [
        (sft, False),
        (vstar, False),
        (vstar, True),
    ]
    for _, params, _, _ in starts[1:]:
        assert all(
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (params, base[0])), strict=True)
        )
    assert starts[-1][2] * 20 == pytest.approx(
        cfg.algorithm.verifier_learning_rate
    )  # the first of 20 steps of warmup
    assert verifier[2]["round"] == 2 and best[2]["round"] < 2
    lines = metrics.read(directory)
    updates = [m for m in lines if m["phase"] == "update" and m["round"] == 2]
    assert (
        updates[0]["update/loss"] == pytest.approx(np.log(2), abs=1e-5)
        and abs(updates[0]["update/margin"]) < 1e-5
    )
    assert [m["step"] for m in updates] == [*range(65, 71)] and updates[-1]["update/loss"] < np.log(
        2
    )
    assert {m["round"] for m in lines if m["phase"] == "eval"} == {
        0,
        1,
    }  # the verifier is not evaluated as a generator
    rows, (memory, _) = workdir.read_rows(
        directory / "rounds/0002/rows.npz", (vstar.init_memory(cfg, 32), np.int64(0))
    )
    assert (memory.lengths > 0).all() and memory.correct.sum() == sum(
        json.loads(s)["verdict"] == "correct" for s in drawn
    ) > 0
    assert rows and set(rows[0]) == {"tokens", "weights", "part", "place", "ref"}

    evaluate.main(
        cfg, directory, types.SimpleNamespace(samples=4, split="validation", temperature=1.0)
    )
    found = json.loads((directory / "evaluation_validation.json").read_text())
    for name in ("best_of", "best_of_ratio"):
        assert found[f"eval/{name}_1"] == pytest.approx(found["eval/pass_at_1"])
        assert all(
            0 <= found[f"eval/{name}_{k}"] <= found[f"eval/pass_at_{k}"] + 1e-12 for k in (1, 2, 4)
        )
    assert {"eval/best_of_4_digits_1", "eval/best_of_4_stderr_digits_1"} <= set(found)
    assert "best-of-k by log-ratio" in report.build(directory)
