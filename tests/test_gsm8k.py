"""GSM8K: pasted records, the published files, extraction, grading, and calculator spans."""

from __future__ import annotations

import collections
import dataclasses
import json

import graded
import pytest
from ml_collections import ConfigDict

from reasoning_jax import tasks
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, gsm8k

TASK = tasks.get("gsm8k")
QUESTION = "Natalia sold clips to 48 of her friends, then half as many. How many altogether?"
ANSWER = """She sold 48/2 = <<48/2=24>>24 clips in May.
She sold 48+24 = <<48+24=72>>72 clips altogether.
#### 72"""


def config(path, source="jsonl", calculator=True):
    keys = gsm8k.Config(path=str(path), source=source, calculator=calculator)
    return ConfigDict(dataclasses.asdict(keys))


def problem(answer="5"):
    return Example(id=0, question="?", answer=answer)


def grade(text, example):
    return graded.verdict(TASK, text, example)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(i):
    return {
        "question": f"What is {i} and 1?",
        "answer": f"It is {i}+1 = <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}",
    }


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", [record(i) for i in range(503)])
    write(tmp_path / "test.jsonl", [{"question": QUESTION, "answer": ANSWER}])
    return tmp_path


def test_a_record(folder):
    cfg = config(folder)
    [example] = gsm8k.load(cfg, "test")
    assert (example.question, example.answer, example.rationale) == (QUESTION, "72", ANSWER)
    assert gsm8k.prompt(example, cfg) == f"Q: {QUESTION}\nA:"
    # The number, never the worked solution.
    assert gsm8k.prompt(example, cfg, hint="72") == f"Q: {QUESTION} (72)\nA:"
    assert gsm8k.target(example) == f" {ANSWER}"
    assert gsm8k.target(example, direct=True) == " #### 72"
    assert grade(gsm8k.target(example), example) == CORRECT
    assert grade(gsm8k.target(example, direct=True), example) == CORRECT
    assert gsm8k.steps(gsm8k.target(example)) == 2
    assert gsm8k.difficulty(example) == ("steps", 2)
    assert gsm8k.wrong_line(gsm8k.target(example), example) is None


def test_a_part_of_the_train_split(folder):
    cfg = config(folder)
    assert [len(gsm8k.load(cfg, split)) for split in ("train", "given", "validation")] == [
        3,
        3,
        500,
    ]
    cfg.num_train = 2
    assert [e.id for e in gsm8k.load(cfg, "train")] == [0, 1]
    assert [e.rationale is None for e in gsm8k.load(cfg, "given")] == [False, False]
    assert [len(gsm8k.load(cfg, split)) for split in ("validation", "test")] == [500, 1]
    cfg.num_train = 4
    with pytest.raises(UserError, match="num_train: 4 are more than the 3 examples"):
        gsm8k.load(cfg, "train")


def test_the_calculator_can_be_left_out(folder):
    [example] = gsm8k.load(config(folder, calculator=False), "test")
    lines = ["She sold 48/2 = 24 clips in May.", "She sold 48+24 = 72 clips altogether.", "#### 72"]
    assert example.rationale == "\n".join(lines)


def test_splits_and_ids(folder):
    splits = {
        name: gsm8k.load(config(folder), name) for name in ("train", "given", "validation", "test")
    }
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 3,
        "given": 3,
        "validation": 500,
        "test": 1,
    }
    assert [e.question for e in splits["train"]] == [record(i)["question"] for i in range(3)]
    assert all(e.rationale is None for e in splits["train"])
    assert all(e.rationale for e in splits["given"])
    assert splits["train"] == [dataclasses.replace(e, rationale=None) for e in splits["given"]]
    ids = [e.id for name in ("train", "validation", "test") for e in splits[name]]
    assert len(set(ids)) == len(ids) and ids[:504] == [*range(503), 1_000_000]
    plain = gsm8k.load(config(folder, calculator=False), "validation")
    assert [e.id for e in plain] == [*range(3, 503)]


def test_bad_data_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match="no split 'dev'"):
        gsm8k.load(config(folder), "dev")
    records = [record(i) for i in range(503)]
    for bad in ("It is five.", "It is 5.\n####", "It is 5.\n#### five", "It is 5.\n#### 5 or 8"):
        content = [*records[:2], {"question": "?", "answer": bad}, *records[3:]]
        write(folder / "train.jsonl", content)
        with pytest.raises(ValueError, match=r"train\.jsonl, line 3: .*'####'"):
            gsm8k.load(config(folder), "train")
    for bad, sentence in [
        ({"question": "?"}, "the key 'answer' is missing"),
        ({**records[0], "question": None}, "'question' is null, not text"),
        ({**records[0], "question": ["a"]}, "'question' is a list, not text"),
        ({**records[0], "question": " "}, "'question' is empty"),
        ({**records[0], "question": "\ud800"}, r"'question' holds .ud800, half of a character"),
        ({**records[0], "answer": 5}, "'answer' is a number, not text"),
        ({**records[0], "answer": {"a": 5}}, "'answer' is an object, not text"),
        ({**records[0], "answer": "\udfff #### 5"}, r"'answer' holds .udfff, half of a character"),
    ]:
        write(folder / "test.jsonl", [*records[:7], bad])
        with pytest.raises(ValueError, match=rf"test\.jsonl, line 8: {sentence}"):
            gsm8k.load(config(folder), "test")
    write(folder / "train.jsonl", records[:500])
    with pytest.raises(ValueError, match=r"train\.jsonl: 500 examples"):
        gsm8k.load(config(folder), "train")
    with pytest.raises(FileNotFoundError, match=r"absent/test\.jsonl"):
        gsm8k.load(config(tmp_path / "absent"), "test")


@pytest.mark.parametrize(
    "text, answer",
    [
        (" so 5.\n#### 5", "5"),
        ("#### 1,234,567", "1234567"),
        ("#### -3", "-3"),
        ("#### $29.00", "29"),
        ("#### -$5", "-5"),
        ("####72", "72"),
        ("#### .5", "0.5"),
        ("#### 72 clips.", "72"),
        ("#### 5\n\nQ: Another?\nA: No.\n#### 6", "5"),
        (
            "no number\n\nQ: Another?\nA: No.\n#### 6",
            None,
        ),  # the answer to a question it asked itself
        ("#### 5\n#### 6", None),
        ("The answer is 5.", None),
        ("#### five", None),
        ("### 5", None),
        ("#### 15/8", "1.875"),
        ("####", None),
        ("", None),
    ],
)
def test_extract(text, answer):
    assert gsm8k.extract(text) == answer


@pytest.mark.parametrize(
    "answer, gold, verdict",
    [
        ("1,000", "1000", CORRECT),
        ("$29.00", "29", CORRECT),
        ("-5", "5", WRONG),
        ("10", "100", WRONG),
    ],
)
def test_grade(answer, gold, verdict):
    example = problem(gold)
    assert grade(f"So.\n#### {answer}", example) == verdict
    assert grade(f"So {answer}.", example) == UNPARSED
    assert grade("", example) == UNPARSED


@pytest.mark.parametrize(
    "span, false",
    [
        ("48/2=24", False),
        ("48/2=25", True),
        ("2+3*4=14", False),
        ("2+3*4=20", True),
        ("(2+3)*4=20", False),
        ("-5+2=-3", False),
        ("5-(-2)=7", False),
        ("8*.5=4", False),
        ("18*.5=9.00", False),
        ("10/3=3.33", False),
        ("2/3=.66", False),  # cut
        ("2/3=.67", False),  # rounded
        ("2/3=.6", False),
        ("2/3=.5", True),
        ("10/3=3", True),  # no decimals: exact
        ("1,000*2=2,000", False),
        ("180//3=60", False),
        ("007+1=8", False),
        ("10+0=10", False),
        ("+30+46=76", False),
        ("1/0=5", True),
        ("0.1+0.2=0.3", False),  # exact, not floating point
        ("x+3=7", False),  # no arithmetic: not judged
        ("2**3=9", False),
        ("f(2)=9", False),
        ("__import__('os')=1", False),
        ("12", False),
        ("", False),
        ("((((=1", False),
        ("9" * 150 + "*1=1", True),
        ("1" + "+1" * 300 + "=5", False),  # too long to be looked at
    ],
)
def test_wrong_line_judges_spans(span, false):
    text = f" First.\nThen <<1+1=2>>2.\nIt is <<{span}>>5.\n#### 5"
    assert gsm8k.wrong_line(text, problem()) == (2 if false else None)


def test_wrong_line_is_the_first():
    example = problem()
    assert gsm8k.wrong_line(" <<1+1=3>>3\n<<1+1=4>>4\n#### 5", example) == 0
    assert gsm8k.wrong_line(" a\n<<1+1=2>>2 and <<1+1=4>>4\n#### 5", example) == 1
    assert gsm8k.wrong_line(" 1+1=3\n#### 5", example) is None


def test_the_published_files(data_dir):
    cfg = config(data_dir / "gsm8k")
    splits = {name: gsm8k.load(cfg, name) for name in ("train", "given", "validation", "test")}
    assert [len(splits[name]) for name in splits] == [6973, 6973, 500, 1319]
    everything = [*splits["given"], *splits["validation"], *splits["test"]]
    assert len({e.id for e in everything}) == 8792
    for example in everything:
        assert grade(gsm8k.target(example), example) == CORRECT
        assert "," not in example.answer
        # No published span is false.
        assert gsm8k.wrong_line(gsm8k.target(example), example) is None
    assert sum(len(gsm8k.SPAN.findall(e.rationale)) for e in everything) > 25_000
    counts = collections.Counter(gsm8k.difficulty(e)[1] for e in splits["test"])
    assert counts[2] == 326 and counts[3] == 371
    assert splits["test"][0].answer == "18"


def test_the_verdicts_of_published_model_solutions(data_dir):
    """The paper's own labels of 4 x 1319 sampled solutions, which end in "A: 18", not "#### 18"."""
    examples = gsm8k.load(config(data_dir / "gsm8k"), "test")
    path = data_dir / "gsm8k" / "example_model_solutions.jsonl"
    solutions = [json.loads(line) for line in path.open()]
    agree = total = false_but_correct = false_and_wrong = 0
    for example, published in zip(examples, solutions, strict=True):
        assert example.question == published["question"]
        for key in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            text = published[key]["solution"].replace("\nA: ", "\n#### ")
            correct = grade(text, example) == CORRECT
            agree += correct == published[key]["is_correct"]
            total += 1
            false = gsm8k.wrong_line(text, example) is not None
            false_but_correct += false and correct
            false_and_wrong += false and not correct
    assert agree == total == 4 * 1319
    # A false line usually spoils the answer, not always.
    assert false_and_wrong > 5 * false_but_correct and false_but_correct > 0
