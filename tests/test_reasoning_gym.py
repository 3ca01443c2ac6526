"""Generators of reasoning-gym: splits, scores, what is refused, and that answers are not run."""

from __future__ import annotations

import importlib.util
import time

import graded
import pytest

from reasoning_jax import default, extraction, graders, prompts, tasks
from reasoning_jax.answers import generators
from reasoning_jax.answers.killable import Pool
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, reasoning_gym

pytest.importorskip("reasoning_gym")

# These have no answer of their own, only a score.
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


def settled(generator="basic_arithmetic", **changes):
    cfg = default.get_config(task="reasoning_gym").task
    cfg.update({"generator": generator, "num_train": 20, "num_eval": 4, **changes})
    return extraction.make(cfg), extraction.settle(cfg)


def grade(task, text, example):
    cfg = default.get_config(task="reasoning_gym")
    completion = graded.Completion(example=example, text=text)
    [found] = graders.make(cfg, task)([completion], None)
    return found


def test_an_entry():
    task, cfg = settled()
    [first, *_] = task.load(cfg, "test")
    assert prompts.build(task, first, cfg) == f"Q: {first.question}\nA:"
    assert task.target(first, direct=True) == f" <answer>{first.answer}</answer>"
    assert grade(task, task.target(first, direct=True), first)[:2] == (1.0, CORRECT)
    assert grade(task, "<answer>0.123</answer>", first).verdict == WRONG
    assert grade(task, f"It is {first.answer}.", first).verdict == UNPARSED
    [turn] = prompts.messages(task, first, cfg)
    assert turn["content"].endswith("End with the answer between <answer> and </answer>.")
    with pytest.raises(UserError, match="gives no rationales"):
        task.target(first)


def test_a_part_of_the_score_is_a_part_of_the_reward():
    task, cfg = settled("spell_backward")
    example = next(e for e in task.load(cfg, "test") if len(set(e.answer)) > 3)
    almost = example.answer[:-1] + ("x" if example.answer[-1] != "x" else "y")
    found = grade(task, f"<answer>{almost}</answer>", example)
    assert found.verdict == WRONG and 0 < found.score < 1


def test_splits_share_no_question():
    task, cfg = settled("gcd", num_train=300, num_eval=60, options='{"max_value": 12}')
    splits = {name: task.load(cfg, name) for name in ("train", "validation", "test")}
    questions = {name: [e.question for e in split] for name, split in splits.items()}
    everything = [question for split in questions.values() for question in split]
    assert len(set(everything)) == len(everything)
    assert len(questions["train"]) < 300  # some were in the others, or twice
    ids = [e.id for split in splits.values() for e in split]
    assert len(set(ids)) == len(ids)
    assert task.load(cfg, "test") == splits["test"]
    other, other_cfg = settled("gcd", seed=1, num_eval=60, options='{"max_value": 12}')
    assert [e.question for e in other.load(other_cfg, "test")] != questions["test"]
    with pytest.raises(UserError, match="no split 'given' as it has no rationales"):
        task.load(cfg, "given")


def test_nothing_but_the_question_is_asked():
    """An entry's metadata holds the answer: neither prompts nor examples have it."""
    made = __import__("reasoning_gym").create_dataset("leg_counting", seed=0)
    task, cfg = settled("leg_counting")
    [first, *_] = task.load(cfg, "test")
    assert first.question == made[0]["question"] and first.answer == made[0]["answer"]
    assert "metadata" in made[0]
    fields = {"generator": "leg_counting", "options": "{}", "seed": 0, "index": 0}
    own = {name: getattr(first, name) for name in first.__dataclass_fields__}
    base = {name: own[name] for name in Example.__dataclass_fields__}
    assert own == base | fields and base["rationale"] is None and base["turns"] == ()
    assert prompts.build(task, first, cfg) == f"Q: {made[0]['question']}\nA:"


def test_every_generator_makes_entries_and_knows_its_answer():
    """Three entries each; where a generator gives an answer, its own score of it is 1."""
    pool = reasoning_gym._pool()
    without = set()
    for name in generators.names():
        if name in reasoning_gym.REFUSED:
            continue
        count = 1 if name == "knight_swap" else 3  # which takes seconds an entry
        made = pool.ask("entries", name, "{}", 5, 0, count)
        assert isinstance(made, list) and len(made) == count, (name, made)
        for index, (question, answer) in enumerate(made):
            assert isinstance(question, str) and question.strip()
            if answer is None:
                without.add(name)
                continue
            assert pool.ask("score", name, "{}", 5, index, answer) == 1.0, (name, index)
    assert without == WITHOUT_ANSWER


@pytest.mark.parametrize("generator", reasoning_gym.REFUSED)
def test_generators_that_accept_false_answers_are_refused(generator):
    task, cfg = settled(generator)
    with pytest.raises(UserError, match=f"config.task.generator: {generator} is not offered"):
        task.load(cfg, "test")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"generator": "sums"}, "sums makes no entries .*not registered"),
        ({"options": "{"}, "config.task.options: not valid JSON"),
        ({"options": "[1]"}, "config.task.options: this must be a JSON object"),
        ({"options": '{"seed": 1}'}, "without seed and size"),
        ({"options": '{"terms": 1}'}, "makes no entries .*terms"),
        ({"options": '{"min_terms": -1}'}, "makes no entries .*min_terms must be positive"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    task, cfg = settled(**changes)
    with pytest.raises(UserError, match=sentence):
        task.load(cfg, "test")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    task, cfg = settled()
    with pytest.raises(UserError, match="pip install reasoning-gym"):
        task.load(cfg, "test")


def test_a_task_that_scores_nothing_has_no_such_grader():
    cfg = default.get_config(task="gsm8k", grader="scored")
    with pytest.raises(UserError, match="gsm8k has no score of its own"):
        graders.make(cfg, tasks.get("gsm8k"))


# ---- answers are not run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "generator, attack",
    [
        ("n_queens", "[[__import__('os').open({path!r}, 66)]]"),
        ("string_insertion", "[str(open({path!r}, 'w'))]"),
        ("spiral_matrix", "[open({path!r}, 'w')]"),
        ("binary_matrix", "[[open({path!r}, 'w')]]"),
        ("countdown", "open({path!r}, 'w')"),
        ("countdown", "exec('open({path}, 1)')"),
        ("simple_integration", "x + len(str(open({path!r}, 'w')))"),
        ("polynomial_multiplication", "().__class__ + open({path!r}, 'w')"),
    ],
)
def test_an_answer_is_never_run(generator, attack, tmp_path):
    path = tmp_path / "made"
    answer = attack.format(path=str(path))
    found = reasoning_gym._pool().ask("score", generator, "{}", 5, 0, answer)
    assert found in (None, 0.0) or found < 1
    assert not path.exists()


def test_formulas_are_read():
    for formula in ("2*x**3/3 + C", "exp(x)*sin(2*x)", "-3.5", "(5 + 1)*6/2", "x^2"):
        assert generators.is_formula(formula)
    for text in ("open(1)", "x.real", "x.__class__", "lambda: 1", "[1]", "'a'", "a or b", "f(x=1)"):
        assert not generators.is_formula(text)


@pytest.mark.parametrize(
    "generator, change",
    [("gsm_symbolic", "{} or 7"), ("complex_arithmetic", "nan"), ("gsm_symbolic", "7\n{}")],
)
def test_evasive_answers_are_wrong(generator, change):
    [[_, answer]] = reasoning_gym._pool().ask("entries", generator, "{}", 5, 0, 1)
    evasive = change.format(answer)
    assert reasoning_gym._pool().ask("score", generator, "{}", 5, 0, answer) == 1
    assert reasoning_gym._pool().ask("score", generator, "{}", 5, 0, evasive) == 0


def test_a_formula_that_takes_forever_scores_nothing(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "SCORE_SECONDS", 0.5)
    task, cfg = settled("countdown", num_eval=1)
    [example] = task.load(cfg, "test")
    start = time.monotonic()
    assert task.score("9**9**9**9**9", example) == 0
    assert time.monotonic() - start < 20


def test_entries_are_the_same_in_every_process():
    """Some generators go through sets, whose order differs from process to process."""
    made = []
    for _ in range(2):
        pool = Pool(generators.__name__ + ":serve", size=1, seconds=60, warm_up=("import",))
        try:
            made.append(pool.ask("entries", "isomorphic_strings", "{}", 5, 0, 5))
        finally:
            pool.close()
    assert made[0] == made[1] and len(made[0]) == 5
