"""Question-and-answer files of one's own: keys, kinds of answer, splits, conversations."""

from __future__ import annotations

import json

import graded
import pytest

from reasoning_jax import default, extraction, prompts
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG

SVAMP = {"Body": "There are 8 apples. ", "Question": "How many are 3 fewer?", "Answer": 5.0}
GSM8K = {"question": "3 and 4?", "answer": "It is 3+4 = 7.\n#### 7"}
CHOICE = {"question": "Where?\nA. in\nB. on\nC. up", "answer": "B"}


def settled(path, **changes):
    cfg = default.get_config(task="jsonl").task
    cfg.update({"path": str(path), **changes})
    cfg = extraction.settle(cfg)
    return extraction.make(cfg), cfg


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(tmp_path, record, **changes):
    """(the task, its section, the only example of a file)"""
    task, cfg = settled(write(tmp_path / "a.jsonl", [record]), **changes)
    [example] = task.load(cfg, "all")
    return task, cfg, example


def grade(task, text, example):
    return graded.verdict(task, text, example)


def test_several_keys_make_a_question(tmp_path):
    task, cfg, example = one(tmp_path, SVAMP, question="Body,Question", answer="Answer")
    assert example.question == "There are 8 apples. How many are 3 fewer?"
    assert example.answer == "5" and example.rationale is None
    assert prompts.build(task, example, cfg) == f"Q: {example.question}\nA:"
    assert task.target(example, direct=True) == " The answer is 5."
    assert grade(task, "8-3 = 5. The answer is 5 apples.", example) == CORRECT
    assert grade(task, "The answer is 6.", example) == WRONG
    assert grade(task, "The answer is some.", example) == UNPARSED
    with pytest.raises(UserError, match="no rationale to train on"):
        task.target(example)


@pytest.mark.parametrize(
    "extraction, ending", [("", "The answer is 7."), ("hashes", "#### 7"), ("boxed", r"\boxed{7}")]
)
def test_solutions_with_their_answer(tmp_path, extraction, ending):
    task, _, example = one(tmp_path, GSM8K, extraction=extraction)
    assert example.answer == "7" and example.rationale == f"It is 3+4 = 7.\n{ending}"
    assert grade(task, task.target(example), example) == CORRECT
    assert grade(task, task.target(example, direct=True), example) == CORRECT


def test_solutions_beside_their_answer(tmp_path):
    record = {"q": "3 and 4?", "a": 7, "why": "3+4 = 7."}
    task, _, example = one(tmp_path, record, question="q", answer="a", rationale="why")
    assert example.rationale == "3+4 = 7.\nThe answer is 7."
    assert grade(task, task.target(example), example) == CORRECT


def test_choices(tmp_path):
    task, cfg, example = one(tmp_path, CHOICE, kind="choice")
    assert example.answer == "b"
    assert task.target(example, direct=True) == " The answer is (b)."
    for text, verdict in [
        ("It is on. The answer is (B).", CORRECT),
        ("The answer is B. on", CORRECT),
        ("The answer is (c).", WRONG),
        ("The answer is (b) up.", UNPARSED),
        ("The answer is (d).", UNPARSED),
    ]:
        assert grade(task, text, example) == verdict, text
    [turn] = prompts.messages(task, example, cfg)
    assert turn["content"].endswith("then the letter of your choice in parentheses.")


def test_texts(tmp_path):
    task, _, example = one(tmp_path, {"question": "Who?", "answer": "Ada Lovelace"}, kind="text")
    assert grade(task, "The answer is Ada Lovelace.", example) == CORRECT
    assert grade(task, "The answer is Lovelace, Ada.", example) == WRONG
    task, _, example = one(tmp_path, {"question": "Is it?", "answer": "yes"}, kind="text")
    assert grade(task, "The answer is yes, it is.", example) == CORRECT
    assert grade(task, "The answer is yes or no.", example) == UNPARSED


def test_a_conversation(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "3 and 4?"},
        {"role": "assistant", "content": "7"},
    ]
    record = {"messages": messages, "answer": 7}
    task, cfg, example = one(tmp_path, record, question="messages")
    assert example.question == "3 and 4?"
    asked = prompts.messages(task, example, cfg)
    assert asked[:3] == messages[:3] and asked[3]["content"].startswith("3 and 4?\n\nSolve")
    with pytest.raises(UserError, match=r"config\.tokenizer\.chat=True"):
        prompts.build(task, example, cfg)


def test_the_splits_of_a_folder(tmp_path):
    records = [{"question": f"{i}?", "answer": i} for i in range(9)]
    write(tmp_path / "train.jsonl", records[:6])
    write(tmp_path / "test.jsonl", records[6:])
    task, cfg = settled(tmp_path, held_out=2)
    splits = {name: task.load(cfg, name) for name in ("train", "given", "validation", "test")}
    questions = {name: [e.answer for e in split] for name, split in splits.items()}
    assert questions == {
        "train": ["0", "1", "2", "3"],
        "given": ["0", "1", "2", "3"],
        "validation": ["4", "5"],
        "test": ["6", "7", "8"],
    }
    ids = [e.id for name in ("train", "validation", "test") for e in splits[name]]
    assert len(set(ids)) == 9
    write(tmp_path / "validation.jsonl", records[:1])
    assert [e.answer for e in task.load(cfg, "validation")] == ["0"]
    assert len(task.load(cfg, "train")) == 6
    with pytest.raises(UserError, match="'all' is of one file"):
        task.load(cfg, "all")


def test_the_splits_of_one_file(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": f"{i}?", "answer": i} for i in range(9)])
    task, cfg = settled(path, held_out=3)
    found = {name: [int(e.answer) for e in task.load(cfg, name)] for name in ("train", "test")}
    assert found == {"train": [0, 1, 2], "test": [3, 4, 5]}
    assert [int(e.answer) for e in task.load(cfg, "validation")] == [6, 7, 8]
    assert len(task.load(cfg, "all")) == 9
    task, cfg = settled(path)
    with pytest.raises(UserError, match="9 records are too few: .*held_out=500, 1001 are needed"):
        task.load(cfg, "test")


def test_train_withholds_rationales(tmp_path):
    write(tmp_path / "train.jsonl", [GSM8K, GSM8K])
    task, cfg = settled(tmp_path, held_out=1)
    assert task.load(cfg, "train")[0].rationale is None
    assert task.load(cfg, "given")[0].rationale == "It is 3+4 = 7.\nThe answer is 7."


@pytest.mark.parametrize(
    "record, changes, sentence",
    [
        ({"question": "?"}, {}, "the key 'answer' is missing"),
        ({"answer": 5}, {}, "the key 'question' is missing"),
        ({"question": "?", "answer": "some"}, {}, "'answer' is no number: 'some'"),
        ({"question": "?", "answer": None}, {}, "'answer' is null, not text"),
        ({"question": "?", "answer": True}, {}, "'answer' is true or false, not text"),
        ({"question": 5, "answer": 5}, {}, "'question' is a number, not text"),
        ({"question": [], "answer": 5}, {}, "no turn of a user"),
        ({"question": ["a"], "answer": 5}, {}, "a message is an object"),
        ({"question": [{"role": "user"}], "answer": 5}, {}, "the key 'content' is missing"),
        (
            {"question": [{"role": "judge", "content": "a"}], "answer": 5},
            {},
            "the role 'judge' is not one of",
        ),
        ({**CHOICE, "answer": "D"}, {"kind": "choice"}, "'answer' is no choice: 'D'"),
        (GSM8K, {"rationale": "why"}, "the key 'why' is missing"),
    ],
)
def test_bad_records_are_named(tmp_path, record, changes, sentence):
    path = write(tmp_path / "a.jsonl", [record])
    task, cfg = settled(path, **changes)
    with pytest.raises(UserError, match=rf"a\.jsonl, line 1.*{sentence}"):
        task.load(cfg, "all")


def test_a_path_is_needed(tmp_path):
    task, cfg = settled("")
    with pytest.raises(UserError, match=r"config\.task\.path: the task jsonl needs"):
        task.load(cfg, "test")
    task, cfg = settled(tmp_path / "absent")
    with pytest.raises(MissingFileError, match="absent: there is no such file"):
        task.load(cfg, "test")
    with pytest.raises(UserError, match="no split 'dev'"):
        task.load(cfg, "dev")
