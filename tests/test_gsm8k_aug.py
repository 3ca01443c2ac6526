"""GSM8K's equations: pasted lines, the published files, what is trained on, judging."""

from __future__ import annotations

import json

import pytest

from reasoning_jax import default, extraction, tasks
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import gsm8k_aug

LINES = [
    "Ann  has 16 eggs and eats 3 and 4.||<<16-3-4=9>> <<9*2=18>> #### 18",
    "How many?|| #### 1,026",
    "And of 5 halves?||<<5*.5=2.5>> #### 2.5",
]
GSM8K = [
    {"question": "Ann has 16 eggs and eats 3 and 4.", "answer": "x\n#### 18"},
    {"question": "What is 1 and 1?", "answer": "It is <<1+1=2>>2.\nSo 1 + 2 = <<1+2=3>>3.\n#### 3"},
]


@pytest.fixture
def folder(tmp_path):
    for name in ("valid", "test", "train"):
        (tmp_path / f"{name}.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "gsm8k").mkdir()
    records = "".join(json.dumps(record) + "\n" for record in GSM8K)
    (tmp_path / "gsm8k" / "train.jsonl").write_text(records)
    return tmp_path


def config(folder, **changes):
    cfg = default.section(tasks, "gsm8k_aug")
    cfg.update({"path": str(folder), "gsm8k_path": str(folder / "gsm8k")} | changes)
    return cfg


def test_an_equation_is_a_line(folder):
    first, second, third = gsm8k_aug.load(config(folder), "test")
    assert gsm8k_aug.target(first) == " <<16-3-4=9>>\n<<9*2=18>>\n#### 18"
    assert gsm8k_aug.target(first, direct=True) == " #### 18"
    assert gsm8k_aug.prompt(first, None) == "Q: Ann  has 16 eggs and eats 3 and 4.\nA:"
    assert gsm8k_aug.prompt(first, None, hint="18").endswith("and 4. (18)\nA:")
    assert (second.answer, second.rationale) == ("1026", "#### 1026")
    assert third.answer == "2.5" and third.where.endswith("test.txt, line 3")
    difficulties = [gsm8k_aug.difficulty(e) for e in (first, second, third)]
    assert difficulties == [("steps", 2), ("steps", 0), ("steps", 1)]


def test_answers_may_be_marked_otherwise(folder):
    cfg = config(folder, extraction="boxed")
    [first, *_] = extraction.make(cfg).load(cfg, "given")
    assert first.rationale == "<<1+1=2>>\n<<1+2=3>>\n\\boxed{3}"


def test_gsm8k_is_trained_on_without_validation(folder):
    [example] = gsm8k_aug.load(config(folder), "given")
    assert example.question == "What is 1 and 1?"
    assert example.rationale == "<<1+1=2>>\n<<1+2=3>>\n#### 3"
    [example] = gsm8k_aug.load(config(folder), "train")
    assert example.rationale is None


def test_augmented_is_the_file(folder):
    cfg = config(folder, train="augmented", gsm8k_path="", num_train=2)
    assert [e.answer for e in gsm8k_aug.load(cfg, "given")] == ["18", "1026"]
    cfg.num_train = 4
    with pytest.raises(UserError, match=r"config\.task\.num_train: 4 are more than the 3"):
        gsm8k_aug.load(cfg, "given")
    (folder / "train.txt").unlink()
    with pytest.raises(MissingFileError, match=r"^config\.task\.train=augmented: .*/train\.txt: "):
        gsm8k_aug.load(cfg, "given")
    assert gsm8k_aug.load(cfg, "test")
    cfg.gsm8k_path = "elsewhere"
    with pytest.raises(UserError, match=r"config\.task\.gsm8k_path: .*no effect"):
        gsm8k_aug.load(cfg, "test")


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("What?", r"this is no 'QUESTION\|\|EQUATIONS #### ANSWER'"),
        ("||<<1+1=2>> #### 2", r"this is no 'QUESTION"),
        ("What?||<<1+1=2>> 2", r"the answer has no number after '####'"),
        ("What?||<<1+1=2>> #### two", r"the answer has no number after '####'"),
        ("", r"this is no 'QUESTION"),
    ],
)
def test_a_bad_line_is_one_sentence_with_its_place(folder, line, sentence):
    (folder / "test.txt").write_text(f"{LINES[0]}\n{line}\n{LINES[1]}\n")
    with pytest.raises(UserError, match=rf"test\.txt, line 2: {sentence}"):
        gsm8k_aug.load(config(folder), "test")
    with pytest.raises(UserError, match=r"no split 'dev'"):
        gsm8k_aug.load(config(folder), "dev")


@pytest.mark.parametrize(
    "text, line",
    [
        ("<<16-3-4=9>>\n<<9*2=18>>\n#### 18", None),
        ("<<16-3-4=9>>\n<<9*2=17>>\n#### 17", 1),
        ("<<1+1=3>> <<1/0=1>>", 0),
        ("1+1=3\n<<1/3=.33>>\n<<1/3=.35>>", 2),
        ("<<no>>\n<<x=3>>", None),
        ("", None),
    ],
)
def test_each_equation_is_judged(text, line):
    example = tasks.Example(id=0, question="?", answer="18")
    assert gsm8k_aug.wrong_line(text, example) == line


@pytest.mark.parametrize("split, count", [("given", 6973), ("validation", 500), ("test", 1319)])
def test_published_solutions_are_read_and_true(data_dir, split, count):
    """What is left of GSM8K's train split is as many as are published without augmentation."""
    cfg = config(data_dir / "gsm8k_aug", gsm8k_path=str(data_dir / "gsm8k"))
    examples = gsm8k_aug.load(cfg, split)
    assert len(examples) == count
    for example in examples:
        text = gsm8k_aug.target(example)
        assert gsm8k_aug.extract(text) == example.answer
        assert gsm8k_aug.wrong_line(text, example) is None


def test_validation_has_the_equations_of_gsm8k(data_dir):
    """All but what GSM8K's own spans spell otherwise: 494 of 500."""
    cfg = config(data_dir / "gsm8k_aug")
    own = {}
    gsm8k = tasks.get("gsm8k")
    section = default.section(tasks, "gsm8k")
    section.path = str(data_dir / "gsm8k")
    for split in ("given", "validation"):
        for example in gsm8k.load(section, split):
            own[" ".join(example.question.split())] = example.rationale
    validation = gsm8k_aug.load(cfg, "validation")
    same = 0
    for example in validation:
        solution = own[" ".join(example.question.split())]
        same += gsm8k_aug.EQUATION.findall(solution) == gsm8k_aug.EQUATION.findall(
            example.rationale
        )
    assert len(validation) == 500 and same >= 494
