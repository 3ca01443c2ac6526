"""Graders: verdicts that no lucky text can change, rewards, verifiers, and the parts of a task."""

from __future__ import annotations

import dataclasses
import math
import sys
import types

import graded
import numpy as np
import pytest
from ml_collections import ConfigDict

from reasoning_jax import graders, tasks
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Grade, rewards, verifier
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example

ADDITION = tasks.get("addition")
EXAMPLE = Example(id=0, question="17+26", answer="43")
RIGHT = "<scratch>\n17+26,C:0\n1+2,3C:1\n,43C:0\n043\n</scratch>\n43"
LUCKY = RIGHT.replace("1+2,3C:1", "1+2,3C:0")


def config(name="", limit=64, **keys):
    return ConfigDict({"grader": {"name": name} | keys, "sampling": {"max_new_tokens": limit}})


def reward_config(limit=64, **keys):
    return config("rewards", limit, **dataclasses.asdict(rewards.Config(**keys)))


def sample(text, **changes):
    tokens = np.zeros(len(text) + 1, np.int32)
    return graded.Completion(**({"example": EXAMPLE, "text": text, "tokens": tokens} | changes))


def grade(samples, cfg=None, task=ADDITION, model=None):
    return graders.make(cfg or config(), task)(samples, model)


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "exact", "math"])
def test_a_grade_is_a_verdict_on_the_answer(name):
    texts = [RIGHT, LUCKY, f"{RIGHT}1", "<scratch>\n17+26,C:0"]
    assert grade([sample(text) for text in texts], config(name)) == [
        Grade(score=1.0, verdict=CORRECT, answer="43", wrong_line=None),
        Grade(score=1.0, verdict=CORRECT, answer="43", wrong_line=2),
        Grade(score=0.0, verdict=WRONG, answer="431", wrong_line=6),
        Grade(score=0.0, verdict=UNPARSED, answer=None, wrong_line=1),
    ]


@pytest.mark.parametrize("cfg", [config("exact"), config("math"), reward_config()])
def test_what_is_cut_off_or_empty_is_never_correct(cfg):
    cut_off, empty = sample(RIGHT, finished=False), sample(RIGHT, tokens=np.zeros(1, np.int32))
    unfinished_and_empty = sample(RIGHT, finished=False, tokens=np.zeros(0, np.int32))
    grades = grade([cut_off, empty, unfinished_and_empty], cfg)
    assert [g.verdict for g in grades] == [TRUNCATED, UNPARSED, TRUNCATED]
    assert [g.score for g in grades] == [0.0, 0.0, 0.0]
    assert [g.answer for g in grades] == ["43"] * 3  # what it says is known all the same
    assert [g.wrong_line for g in grades] == [None] * 3


def test_a_task_reads_answers_and_has_a_grader_of_its_own():
    gsm8k, bbh = tasks.get("gsm8k"), tasks.get("bbh")
    assert (gsm8k.GRADER, bbh.GRADER, ADDITION.GRADER) == ("math", "exact", "exact")
    problem = Example(id=0, question="?", answer="1000")
    assert graded.verdict(gsm8k, "#### 1,000.0", problem) == CORRECT
    half = Example(id=0, question="?", answer="0.5")
    assert graded.verdict(gsm8k, "#### 50%", half) == CORRECT
    assert graded.verdict(gsm8k, "#### 50%", half, grader="exact") == WRONG
    choice = Example(id=0, question="?", answer="(B)")
    assert graded.verdict(bbh, "So the answer is b.", choice) == CORRECT
    assert ADDITION.reading("43.0", problem) == "43.0"


def test_unknown_graders():
    assert graders.names() == ["exact", "judge", "math", "rewards", "scored", "verifier"]
    with pytest.raises(UserError, match=r"config\.grader\.name: .*'jury'.*exact, judge, math"):
        graders.make(config("jury"), ADDITION)
    with pytest.raises(UserError, match=r"config\.grader\.name: 'verifier' needs"):
        graders.make(config("verifier"), ADDITION)


# ---- rewards -----------------------------------------------------------------------------------


def test_the_soft_penalty_by_hand():
    values = {1: 0.0, 60: 0.0, 80: 0.0, 85: -0.25, 90: -0.5, 95: -0.75, 100: -1.0, 120: -1.0}
    assert {n: rewards.overlong(n, limit=100, cache=20) for n in values} == values
    assert [rewards.overlong(n, limit=100, cache=0) for n in (99, 100, 101)] == [0, 0, -1]


@pytest.mark.parametrize(
    "text, in_format",
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
def test_the_format(text, in_format):
    assert rewards.well_formed(text) == in_format


def test_a_reward_is_a_sum_and_only_a_whole_right_answer_earns_one():
    right = sample(RIGHT)
    cfg = reward_config(len(right.tokens) + 5, format=0.5, overlong=0.25, overlong_tokens=10)
    tagged = "<think>a</think><answer>b</answer>"
    short = np.zeros(3, np.int32)
    samples = [
        right,
        sample(tagged, tokens=short),
        sample(tagged, tokens=short, finished=False),
        sample(RIGHT, finished=False, tokens=np.zeros(len(right.tokens) + 5, np.int32)),
        sample("0", tokens=short),
    ]
    scores = [g.score for g in grade(samples, cfg)]
    assert scores == pytest.approx([1 - 0.25 * 0.5, 0.5, 0.5, -0.25, 0.0])
    assert [g.score for g in grade(samples, reward_config())] == [1.0, 0.0, 0.0, 0.0, 0.0]
    by_math = grade([sample("#### 43.0")], reward_config(answers="math"), tasks.get("gsm8k"))
    assert [g.score for g in by_math] == [1.0]


def test_a_reward_that_is_no_number_is_an_error():
    other = sample(RIGHT, example=dataclasses.replace(EXAMPLE, id=7), index=2)
    message = r"^Example 7, sample 2: its reward nan is not a number\.$"
    with pytest.raises(UserError, match=message):
        grade([other], reward_config(overlong=math.nan))


# ---- verifiers ---------------------------------------------------------------------------------


class Scripted:
    """A policy whose log p of a token is minus its id, and that remembers what it was asked."""

    def logprobs(self, rows):
        self.rows = rows
        return [-row["tokens"].astype(np.float32) for row in rows]


def test_a_verifier_ranks_by_log_likelihood():
    prompt, tokens = np.array([1, 8, 9], np.int32), np.array([4, 5, 2], np.int32)
    made = [
        sample(text, prompt_ids=prompt, tokens=tokens, finished=finished)
        for text, finished in ((RIGHT, True), (f"{RIGHT}1", True), ("?", True), (RIGHT, False))
    ]
    policy = Scripted()
    model = types.SimpleNamespace(policy=policy)
    grades = verifier.grade(made, model, ADDITION, config("exact"))
    assert [g.score for g in grades] == [-11.0, -11.0, -math.inf, -math.inf]
    assert [g.verdict for g in grades] == [CORRECT, WRONG, UNPARSED, TRUNCATED]
    assert all(row["tokens"].tolist() == [1, 8, 9, 4, 5, 2] for row in policy.rows)
    assert all(row["weights"].tolist() == [0, 0, 0, 1, 1, 1] for row in policy.rows)


# ---- tasks -------------------------------------------------------------------------------------


def test_the_tasks():
    generated = ["addition", "graph_search", "multi_hop_text", "parity", "reasoning_gym"]
    generated += ["three_sum", "babi"]
    generated += ["people", "opinions", "distractors", "rule_cards"]
    of_files = ["bbh", "commonsense_qa", "gsm8k", "gsm8k_aug", "jsonl", "prosqa"]
    of_files += ["prosqa_symbols"]
    of_files += ["llmbar", "mt_bench", "reward_bench", "self_instruct"]
    known = sorted([*generated, *of_files])
    assert tasks.names() == known
    for name in tasks.names():
        task = tasks.get(name)
        assert task.name == name and task.GRADER in ("exact", "judge", "math", "scored")
        keys = {field.name for field in dataclasses.fields(task.Config)}
        assert "shots" in keys
        assert ("path" in keys) == (name in of_files)
    with pytest.raises(UserError, match=r"config\.task\.name: .*'sums'.*addition, babi, bbh"):
        tasks.get("sums")


@pytest.fixture
def toy(monkeypatch):
    """Makes "toy" a task with these names in its module."""

    def make(**names):
        module = types.ModuleType("reasoning_jax.tasks.toy")
        for name, value in names.items():
            setattr(module, name, value)
            if isinstance(value, types.FunctionType):
                value.__module__ = module.__name__
        monkeypatch.setattr(tasks, "names", lambda: ["toy"])
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return tasks.get("toy")

    return make


def parts():
    return {
        "Config": tasks.TaskConfig,
        "load": lambda cfg, split: [],
        "prompt": lambda example, cfg, hint=None: "",
        "target": lambda example, direct=False: "",
        "extract": lambda text: text,
    }


def test_a_task_may_leave_out_what_has_a_default(toy):
    task = toy(**parts())
    assert (task.name, task.GRADER, task.ALPHABET) == ("toy", "exact", ())
    assert task.reading("A", EXAMPLE) == "A"
    assert task.steps("a") == 0 and task.wrong_line("a", EXAMPLE) is None
    assert task.difficulty(EXAMPLE) is None
    assert graded.verdict(task, "43", EXAMPLE) == CORRECT


@pytest.mark.parametrize("missing", parts())
def test_a_task_without_a_required_part_is_an_error(toy, missing):
    some = parts()
    del some[missing]
    with pytest.raises(UserError, match=rf"tasks/toy\.py: {missing} is missing"):
        toy(**some)


@pytest.mark.parametrize(
    "name, meant",
    [("dificulty", "difficulty"), ("wrongline", "wrong_line"), ("step", "steps")],
)
def test_a_misspelt_function_is_an_error(toy, name, meant):
    message = rf"tasks/toy\.py: {name} has no effect; did you mean {meant}\?"
    with pytest.raises(UserError, match=message):
        toy(**parts(), **{name: lambda example: None})
    assert toy(**parts(), helper=lambda example: None, _step=lambda example: None)


def test_a_misspelt_constant_is_an_error(toy):
    with pytest.raises(UserError, match="GRADERS has no effect; did you mean GRADER?"):
        toy(**parts(), GRADERS="math")
