"""V-STaR: what generator and verifier are trained on, and the two models that a run ends with."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scripted import TOK, example

from configs import vstar_addition
from reasoning_jax import (
    algorithms,
    api,
    experiment,
    loop,
    metrics,
    report,
    rows_file,
    starting,
    workdir,
)
from reasoning_jax.algorithms import SideModel, vstar
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, addition
from reasoning_jax.training import checkpoint, losses
from reasoning_jax.training.train_step import make_train_step

VSTAR = algorithms.get("vstar")
# Round -> the verdicts of each example's samples; the samples of one verdict are alike.
SCRIPTS = {
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
    3: [],
}
EXAMPLES = [example(i, 10 + i, 40, given=i == 3) for i in range(4)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasePolicy(scripted.ScriptedPolicy):
    """A policy that is asked for log-probabilities only as the base model."""

    def logprobs(self, rows):
        assert self.params == "base"
        return super().logprobs(rows)


def config(*, rounds=None, **changes):
    cfg = vstar_addition.get_config()
    cfg.algorithm.update({"num_samples": 3, **changes})
    cfg.rounds.update({"count": 3, **(rounds or {})})
    cfg.sampling.max_new_tokens = 64
    return cfg


def collect_until(last, max_length=256, **changes):
    """What the rounds up to ``last`` collect, the memory, and each round's rollout's calls."""
    cfg = config(**changes)
    memory, results, calls = vstar.init_memory(cfg, 4), [], []
    policy = BasePolicy(
        params="new",
        model_cfg=None,
        mesh=None,
        batch_size=8,
        max_length=max_length,
        token_logprobs=lambda row: np.full(len(row["tokens"]), -0.25, np.float32),
    )
    for n in range(1, last + 1):
        roll = scripted.rollout(
            SCRIPTS[n],
            kind=scripted.Groups,
            policy=policy,
            round=n,
            base_params=lambda: "base",
        )
        before = jax.tree.map(np.copy, memory)
        result = vstar.collect(roll, EXAMPLES, memory, n, cfg)
        # It returns another memory.
        assert all(np.array_equal(a, b) for a, b in zip(before, memory, strict=True))
        memory = result.memory
        results.append(result)
        calls += roll.calls
    return results, memory, calls


def texts(row):
    """Of a pair: the prompts and the completions of both sides."""
    pair = []
    for i in (0, 1):
        side = row["side"] == i
        pair.append([TOK.decode(row["tokens"][side & (row["weights"] == w)]) for w in (0, 1)])
    return pair


# ---- the generator -------------------------------------------------------------------------------


def test_the_generator_sees_every_distinct_right_solution_of_all_rounds_and_the_worked_ones():
    (first, second), _, _ = collect_until(2)
    questions = []
    for result in (first, second):
        questions.append([TOK.decode(row["tokens"]).split("\n")[0] for row in result.rows])
    assert questions[0] == ["10+40", "12+40", "13+40"]
    assert questions[1] == ["10+40", "11+40", "12+40", "13+40"]
    for row in second.rows:
        completion = TOK.decode(row["tokens"][row["weights"] == 1])
        prompt = TOK.decode(row["tokens"][row["weights"] == 0])
        a, b = map(int, prompt.strip().split("+"))
        assert addition.extract(completion) == str(a + b) and row["tokens"][-1] == TOK.eos_id
    assert first.kept == {(0, 0, False), *((2, i, False) for i in range(3))}
    assert len(first.samples) == 12
    assert first.stats == pytest.approx({"kept_rows": 3, "reached": 0.5, "distinct": 0.5})
    assert second.stats == pytest.approx({"kept_rows": 4, "reached": 0.75, "distinct": 0.75})


def test_every_sample_is_remembered_with_its_verdict():
    results, memory, _ = collect_until(2)
    assert memory.tokens.shape == (4, 6, 64) and (memory.lengths > 0).all()
    for result, start in zip(results, (0, 3), strict=True):
        for s in result.samples:
            place = s.example.id, start + s.index
            length = memory.lengths[place]
            assert memory.tokens[place][:length].tolist() == s.tokens.tolist()
            assert memory.correct[place] == s.correct
            assert not memory.tokens[place][length:].any()
    assert [len(vstar.solutions(memory, i, True)) for i in range(4)] == [1, 1, 1, 0]
    assert [len(vstar.solutions(memory, i, False)) for i in range(4)] == [2, 3, 0, 1]
    known, other = vstar.solutions(memory, 0, True)[0].copy(), np.array([5], np.int32)
    lengths = [len(t) for t in vstar.solutions(memory, 0, True, known)]
    assert lengths == [len(known)], "the known one is no other one"
    assert [len(t) for t in vstar.solutions(memory, 0, True, other)] == [1, len(known)]
    _, early, _ = collect_until(1)
    # What was not drawn is no solution.
    assert [len(vstar.solutions(early, i, False)) for i in range(4)] == [1, 3, 0, 1]


# ---- the verifier --------------------------------------------------------------------------------


def test_the_verifier_sees_pairs_of_a_right_and_a_wrong_solution_of_one_question():
    results, memory, calls = collect_until(3)
    last = results[-1]
    assert len(calls) == 2 and list(last.samples) == []  # nothing is drawn
    assert len(last.rows) == 1 * 2 + 1 * 3 + 0 + 1 * 1
    assert last.stats["questions_with_pairs"] == 0.75
    seen = []
    for row in last.rows:
        (prompt, chosen), (other, rejected) = texts(row)
        assert prompt == other
        i = int(prompt.split("+")[0]) - 10
        right, wrong = (
            [TOK.decode(t) for t in vstar.solutions(memory, i, correct)]
            for correct in (True, False)
        )
        assert chosen in right or (i == 3 and chosen == addition.target(EXAMPLES[3]))
        assert rejected in wrong
        seen.append((i, chosen, rejected))
        lengths = [int(((row["side"] == h) & (row["weights"] > 0)).sum()) for h in (0, 1)]
        # Of the base model, at each side's end.
        ends = np.flatnonzero(row["ref"])
        assert ends.tolist() == [(row["side"] == 0).sum() - 1, len(row["tokens"]) - 1]
        assert row["ref"][ends].tolist() == [-0.25 * n for n in lengths]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_pairs_of_a_question(most):
    rows = collect_until(3, pairs_per_question=most)[0][-1].rows
    prompts = [texts(row)[0][0] for row in rows]
    counts = [prompts.count(f"{10 + i}+40\n") for i in range(4)]
    assert counts == [min(most, n) for n in (2, 3, 0, 1)]
    again = collect_until(3, pairs_per_question=most)[0][-1].rows
    assert all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(rows, again, strict=True))


def test_pairs_that_do_not_fit_are_counted_and_said():
    longest = max(len(row["tokens"]) for row in collect_until(3)[0][-1].rows)
    result = collect_until(3, max_length=longest - 1)[0][-1]
    left_out = 6 - len(result.rows)
    assert 0 < len(result.rows) < 6 and result.stats["pairs_too_long"] == left_out
    sentence = f"{left_out} pairs are longer than config.sequence_length and left out."
    assert result.warnings == [sentence]


def test_the_loss_is_that_of_what_the_batch_holds():
    cfg, log_p = config(), jnp.full((1, 6), -1.0)
    single = {"weights": jnp.array([[0, 1, 1, 0, 1, 0.0]])}
    total = vstar.loss(log_p, single, cfg).total
    assert total == losses.weighted_nll(log_p, single).total == 3.0
    pair = single | {
        "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]]),
        "ref": jnp.array([[0, 0, -2.0, 0, -1.0, 0]]),
    }
    loss = vstar.loss(log_p, pair, cfg)
    assert loss.total == losses.pair_loss(log_p, pair, cfg.algorithm).total
    assert loss.total == pytest.approx(np.log(2)) and loss.weight == 1


def test_rounds():
    cfg = config(verifier_updates=7)
    assert [vstar.num_updates(n, 100, cfg) for n in (1, 2, 3)] == [60, 80, 7]
    verifier = SideModel("verifier", cfg.algorithm.verifier_learning_rate)
    assert [VSTAR.side_model(n, cfg) for n in (1, 2, 3)] == [None, None, verifier]


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("rounds", "count", 1),
        ("rounds", "examples", 2),
        ("rounds", "restart", False),
        ("rounds", "online", True),
        ("rounds", "patience", 4),
        ("algorithm", "preference", "kto"),
        ("sampling", "temperature", 0.0),
    ],
)
def test_errors(section, key, value):
    cfg = config()
    VSTAR.check(cfg)
    cfg[section][key] = value
    with pytest.raises(ValueError, match=rf"^config\.[^\n]*{key}[^\n]*: [^\n]*\.$"):
        VSTAR.check(cfg)


# ---- a run ---------------------------------------------------------------------------------------


def small():
    cfg = vstar_addition.get_config("smoke")
    cfg.sequence_length = 96
    cfg.batch_size = 8
    cfg.task.max_digits = 1
    cfg.task.given = (40,)
    cfg.task.num_eval = 8
    cfg.base.num_updates = 60
    cfg.algorithm.verifier_updates = 6
    cfg.rounds.updates = 4
    cfg.rounds.min_kept_rows = 1
    cfg.sampling.max_new_tokens = 32
    cfg.sampling.batch_size = 16
    cfg.checkpoint.every = 3
    cfg.log_every = 1
    return cfg


def test_a_run_ends_with_a_generator_and_a_verifier(tmp_path, monkeypatch):
    """The verifier starts from the base model (DPO loss ln 2).

    Cut off as it begins, the run remembers all samples; cut off amid the verifier's updates, it
    goes on there.
    """
    directory, cfg, starts, left = tmp_path / "run", small(), [], [5]

    def watched(algorithm, *args):
        step = make_train_step(algorithm, *args)

        def update(state, batch, rate, frozen):
            if not any(np.any(x) for x in jax.tree.leaves(state.opt_state)):  # a fresh optimiser
                params = jax.device_get(state.params)
                starts.append((algorithm.name, params, float(rate), "ref" in batch))
            if "ref" in batch:
                left[0] -= 1
                if left[0] == 0:
                    raise RuntimeError("cut off")
            return step(state, batch, rate, frozen)

        return update

    monkeypatch.setattr(starting, "make_train_step", watched)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(vstar, "_collect_pairs", lambda *_: 1 / 0)
        loop.train(cfg, directory)
    drawn = workdir.read_lines(directory / "rounds/0001/samples.jsonl")
    with pytest.raises(RuntimeError, match="cut off"):
        loop.train(cfg, directory)
    assert not (directory / "verifier").exists()
    loop.train(cfg, directory)
    abstract = experiment.make(cfg).abstract_state().params
    base, verifier, best = (
        checkpoint.restore(directory / name, abstract) for name in ("base", "verifier", "best")
    )
    begun = [(name, pairs) for name, _, _, pairs in starts]
    assert begun == [("sft", False), ("vstar", False), ("vstar", True)]
    for _, params, _, _ in starts[1:]:
        leaves = zip(jax.tree.leaves(params), jax.tree.leaves(base.params), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves)
    # The first of 20 updates of warmup.
    assert starts[-1][2] * 20 == pytest.approx(cfg.algorithm.verifier_learning_rate)
    assert verifier.meta["round"] == 2 and best.meta["round"] < 2
    lines = metrics.read(directory)
    updates = [m for m in lines if m["phase"] == "update" and m["round"] == 2]
    assert updates[0]["update/loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert abs(updates[0]["update/margin"]) < 1e-5
    assert [m["step"] for m in updates] == [*range(65, 71)]
    assert updates[-1]["update/loss"] < np.log(2)
    # The verifier is not evaluated as a generator.
    assert {m["round"] for m in lines if m["phase"] == "eval"} == {0, 1}
    like = (vstar.init_memory(cfg, 32), np.int64(0))
    rows, (memory, _) = rows_file.read_rows(directory / "rounds/0002/rows.npz", like)
    assert (memory.lengths > 0).all()
    assert memory.correct.sum() == sum(s["verdict"] == "correct" for s in drawn) > 0
    assert rows and set(rows[0]) == {"tokens", "weights", "side", "position", "ref"}

    api.SavedRun(directory, cfg).evaluate("validation", samples=4, temperature=1.0)
    found = json.loads((directory / "evaluation_validation.json").read_text())
    for name in ("best_of", "best_of_ratio"):
        assert found[f"eval/{name}_1"] == pytest.approx(found["eval/pass_at_1"])
        for k in (1, 2, 4):
            assert 0 <= found[f"eval/{name}_{k}"] <= found[f"eval/pass_at_{k}"] + 1e-12
    assert {"eval/best_of_4_digits_1", "eval/best_of_4_stderr_digits_1"} <= set(found)
    assert "best-of-k by log-ratio" in report.build(directory)
