"""CommonsenseQA: a pasted record, the published files, extraction and grading."""

from __future__ import annotations

import collections
import dataclasses
import json

import graded
import pytest
from ml_collections import ConfigDict

from reasoning_jax import tasks
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, commonsense_qa

TASK = tasks.get("commonsense_qa")
TEXTS = ["radio shack", "substation", "Television ", "cabinet", "desk"]
RECORD = {
    "answerKey": "C",
    "id": "90b3",
    "question": {
        "question_concept": "cable",
        "choices": [
            {"label": label, "text": text} for label, text in zip("ABCDE", TEXTS, strict=True)
        ],
        "stem": "What home entertainment equipment requires cable?",
    },
}
QUESTION = """What home entertainment equipment requires cable?
Answer Choices:
(a) radio shack
(b) substation
(c) television
(d) cabinet
(e) desk"""


def config(path):
    return ConfigDict(dataclasses.asdict(commonsense_qa.Config(path=str(path))))


def grade(text, example):
    return graded.verdict(TASK, text, example)


def problem(answer):
    return Example(id=0, question=QUESTION, answer=answer)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train_rand_split.jsonl", [RECORD] * 1002)
    write(tmp_path / "dev_rand_split.jsonl", [RECORD])
    return tmp_path


def test_a_record(folder):
    cfg = config(folder)
    [example] = commonsense_qa.load(cfg, "test")
    assert (example.question, example.answer, example.rationale) == (QUESTION, "c", None)
    assert commonsense_qa.prompt(example, cfg) == f"Q: {QUESTION}\nA:"
    hinted = commonsense_qa.prompt(example, cfg, hint="c")
    assert hinted == f"Q: {QUESTION}\nA:".replace("television", "television (CORRECT)")
    assert commonsense_qa.target(example, direct=True) == " (c)."
    assert grade(commonsense_qa.target(example, direct=True), example) == CORRECT
    assert commonsense_qa.difficulty(example) == ("choices", 5)
    with pytest.raises(ValueError, match="no rationales"):
        commonsense_qa.target(example)


def test_a_hint_marks_one_choice_only():
    choices = "(a) x\n(b) y\n(c) (b) z\n(d) w\n(e) v"
    odd = Example(id=0, question=f"(b) is where?\nAnswer Choices:\n{choices}", answer="b")
    hinted = commonsense_qa.prompt(odd, config("absent"), hint="b")
    assert hinted.count("(CORRECT)") == 1 and "\n(b) y (CORRECT)\n" in hinted


def test_splits_and_ids(folder):
    splits = {
        name: commonsense_qa.load(config(folder), name) for name in ("train", "validation", "test")
    }
    assert [len(split) for split in splits.values()] == [2, 1000, 1]
    ids = [e.id for split in splits.values() for e in split]
    assert ids == [*range(1002), 1_000_000]


def test_bad_data_is_named(folder, tmp_path):
    for split in ("given", "dev"):
        with pytest.raises(ValueError, match=f"no split '{split}'"):
            commonsense_qa.load(config(folder), split)
    four = json.loads(json.dumps(RECORD))
    four["question"]["choices"].pop()
    twice = json.loads(json.dumps(RECORD))
    twice["question"]["choices"][1]["label"] = "A"
    doubled = json.loads(json.dumps(RECORD))
    doubled["question"]["choices"].insert(1, doubled["question"]["choices"][0])
    number = json.loads(json.dumps(RECORD))
    number["question"]["choices"][3]["text"] = 5
    half = json.loads(json.dumps(RECORD))
    half["question"]["stem"] = "Where is \ud800?"
    for bad, key in [
        (twice, "A to E"),
        (doubled, "A to E"),
        (number, "in a choice: 'text' is a number, not text"),
        (half, r"in 'question': 'stem' holds .ud800, half of a character"),
        ({**RECORD, "answerKey": None}, "'answerKey' is null, not text"),
        ({**RECORD, "question": {**RECORD["question"], "stem": " "}}, "'stem' is empty"),
        ({**RECORD, "question": {**RECORD["question"], "choices": ["A"] * 5}}, "a choice must be"),
        ({**RECORD, "answerKey": "F"}, "the answer"),
        (four, "A to E"),
        ({**RECORD, "question": "What?"}, "'question' must be an object"),
        ({"question": {}}, "answerKey"),
        ({**RECORD, "question": {"stem": "a"}}, "choices"),
    ]:
        write(folder / "dev_rand_split.jsonl", [RECORD, bad])
        with pytest.raises(ValueError, match=rf"dev_rand_split\.jsonl, line 2.*{key}"):
            commonsense_qa.load(config(folder), "test")
    write(folder / "train_rand_split.jsonl", [RECORD] * 1000)
    with pytest.raises(ValueError, match=r"train_rand_split\.jsonl: .*1000"):
        commonsense_qa.load(config(folder), "train")
    with pytest.raises(FileNotFoundError, match=r"absent/train_rand_split\.jsonl"):
        commonsense_qa.load(config(tmp_path / "absent"), "train")


@pytest.mark.parametrize(
    "text, letter",
    [
        (" Cable is for television. Therefore, the answer is television (c).", "c"),
        (" (c).", "c"),
        ("(C)", "c"),
        (" Therefore, the answer is (c) television.", "c"),
        (" The answer is (a). No: the answer is desk (e).", "e"),
        (" The answer is not (a) but another. So the answer is desk (e).", "e"),
        (" The answer is television (c), not cabinet (d).", "c"),
        (" The answer is (vcr and plane are twice) (c).", None),
        (" The answer is desk (c).", None),
        (" Answer: (d)", "d"),
        (" THE ANSWER IS DESK (E)", "e"),
        (" The answer is desk (e).\n\nQ: Another?\nA: The answer is mouth (a).", "e"),
        (" It must be cable.\nThe answer is television (c).\n", "c"),
        (" The answer is not (a).", None),
        (" The answer must use cable (c) perhaps.", None),
        (" The answer is television.", None),
        (" The answer is television (f).", None),
        (" The answer is television\n(c)", None),
        (" Television (c).", None),
        ("", None),
    ],
)
def test_extract_and_grade(text, letter):
    answer = commonsense_qa.extract(text)
    assert (answer and commonsense_qa.reading(answer, problem("a"))) == letter
    verdicts = {answer: grade(text, problem(answer)) for answer in "abcde"}
    expected = UNPARSED if letter is None else WRONG
    assert verdicts == {answer: CORRECT if answer == letter else expected for answer in "abcde"}


def test_steps():
    last = "Therefore, the answer is television (c)."
    assert commonsense_qa.steps(f" It must use cable. Television does. {last}") == 2
    assert commonsense_qa.steps(f" The answer must use cable. {last}") == 1
    assert commonsense_qa.steps("") == 0
    assert TASK.wrong_line(" Anything.", problem("c")) is None


def test_the_published_files(data_dir):
    cfg = config(data_dir / "commonsenseqa")
    splits = {name: commonsense_qa.load(cfg, name) for name in ("train", "validation", "test")}
    assert [len(split) for split in splits.values()] == [8741, 1000, 1221]
    everything = [e for split in splits.values() for e in split]
    assert len({e.id for e in everything}) == 10962
    for example in everything:
        assert "(CORRECT)" not in commonsense_qa.prompt(example, cfg)
        hinted = commonsense_qa.prompt(example, cfg, hint=example.answer)
        assert hinted.count(" (CORRECT)\n") == 1
        choices = example.question.split("\n")[2:]
        right = next(line for line in choices if line.startswith(f"({example.answer}) "))
        said = f" Therefore, the answer is {right[4:]} ({example.answer})."
        assert grade(said, example) == CORRECT
    counts = collections.Counter(e.answer for e in splits["test"])
    assert set(counts) == set("abcde") and min(counts.values()) > 200
