"""Tasks that make their questions: the same from a seed, splits that never meet, one sentence."""

from __future__ import annotations

import itertools

import pytest

from reasoning_jax import default, tasks, tokenizer
from reasoning_jax.errors import UserError

NAMES = ["babi", "graph_search", "multi_hop_text", "parity", "three_sum"]
SPLITS = ["train", "given", "validation", "test"]


def config(name, **changes):
    """The task's section, with few questions."""
    cfg = default.section(tasks, name)
    cfg.update({"num_train": 40, "num_held_out": 20} | changes)
    return cfg


def texts(name, cfg, split):
    """What is asked and written of each example of a split."""
    task = tasks.get(name)
    examples = task.load(cfg, split)
    return [(task.prompt(e, cfg), e.rationale, e.answer) for e in examples]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_seed_makes_the_same_questions_and_more_begin_with_them(name, split):
    first = texts(name, config(name), split)
    assert first == texts(name, config(name), split)
    assert first != texts(name, config(name, seed=1), split)
    more = texts(name, config(name, num_train=60, num_held_out=30), split)
    assert len(more) == (60 if split in ("train", "given") else 30)
    assert more[: len(first)] == first


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_question_and_no_id(name):
    task = tasks.get(name)
    cfg = config(name, num_train=400, num_held_out=200)
    loaded = {split: task.load(cfg, split) for split in SPLITS}
    whole = {s: [e.question or e.text for e in examples] for s, examples in loaded.items()}
    for split, questions in whole.items():
        assert len(set(questions)) == len(questions), split
    for one, other in itertools.combinations(("train", "validation", "test"), 2):
        assert not set(whole[one]) & set(whole[other])
        assert not {e.id for e in loaded[one]} & {e.id for e in loaded[other]}
    assert whole["train"] == whole["given"]
    assert [e.id for e in loaded["train"]] == [e.id for e in loaded["given"]]


def test_small_spaces_of_questions_are_split_and_used_up():
    """Three numbers of one digit: 1,000 questions, a tenth of them in validation."""
    cfg = config("three_sum", num_numbers=3, dimension=1, num_fillers=3, num_held_out=60)
    task = tasks.get("three_sum")
    held_out = {e.question for e in task.load(cfg, "validation")}
    assert len(held_out) == 60
    cfg.num_train = 600
    assert not held_out & {e.question for e in task.load(cfg, "given")}
    cfg.num_held_out = 1000
    message = r"config\.task\.num_held_out: three_sum finds only \d+ questions .* not 1000\."
    with pytest.raises(UserError, match=message):
        task.load(cfg, "test")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_prompts_and_targets_are_spelled_by_the_alphabet(name, split):
    task = tasks.get(name)
    words = tokenizer.Characters(task.ALPHABET)
    cfg = config(name)
    for example in task.load(cfg, split):
        parts = [task.prompt(example, cfg), task.target(example, direct=True)]
        if name != "multi_hop_text":
            parts.append(task.prompt(example, cfg, hint=example.answer))
        if example.rationale is not None:
            parts.append(task.target(example))
            assert words.encode(parts[0] + parts[-1]) == [
                *words.encode(parts[0]),
                *words.encode(parts[-1]),
            ]
        for text in parts:
            assert words.decode(words.encode(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_worked_examples_are_right_and_all_lines_true(name):
    task = tasks.get(name)
    for split in ("given", "validation", "test"):
        for example in task.load(config(name), split):
            if not example.question:  # a document to train on
                continue
            text = task.target(example)
            assert task.extract(text) == example.answer
            assert task.extract(task.target(example, direct=True)) == example.answer
            assert task.wrong_line(text, example) is None


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_one_sentence(name):
    with pytest.raises(UserError, match=rf"^{name} has no split 'dev'; it has train, given, val"):
        tasks.get(name).load(config(name), "dev")


@pytest.mark.parametrize("name", ["graph_search", "multi_hop_text"])
def test_the_splits_of_a_task_with_walks_are_all_named(name):
    with pytest.raises(UserError, match=r"it has train, given, validation, test, walked\.$"):
        tasks.get(name).load(config(name), "recited")


@pytest.mark.parametrize(
    "name, changes, sentence",
    [
        ("graph_search", {"num_steps": ()}, r"config\.task\.num_steps: \(\) names no number"),
        ("graph_search", {"num_steps": (3, 5)}, r"config\.task\.width: 3 .*num_steps 5 makes 32"),
        ("graph_search", {"width": 5}, r"config\.task\.width: 5 with .*num_steps 3 makes 32 nodes"),
        ("parity", {"worked": 1.0}, r"config\.task\.num_fillers: 20 have no effect .*worked=1"),
        ("three_sum", {"worked": 1.0}, r"config\.task\.num_fillers: 15 have no effect .*worked=1"),
        (
            "three_sum",
            {"num_numbers": 20, "dimension": 1},
            r"config\.task\.num_numbers: among 20 numbers of config\.task\.dimension=1",
        ),
        (
            "multi_hop_text",
            {"num_questions": 7},
            r"config\.task\.num_questions: 7 must be less than config\.task\.num_facts 7",
        ),
        (
            "multi_hop_text",
            {"num_facts": 6},
            r"config\.task\.hops: 3 and config\.task\.num_facts 6 must not have a common divisor",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_one_sentence(name, changes, sentence):
    with pytest.raises(UserError, match=f"^{sentence}") as error:
        tasks.get(name).load(config(name, **changes), "validation")
    assert "\n" not in str(error.value)
