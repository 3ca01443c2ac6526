"""What the benchmarks on GSM8K read: a small tokenizer, and questions with other numbers."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from reasoning_jax import default, extraction, tasks
from reasoning_jax.tasks import gsm8k_aug

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_small_tokenizer_for_gsm8k(folder, tmp_path, monkeypatch, data_dir):
    """Digits are tokens of their own; the files are read as a published tokenizer's."""
    import gsm8k_tokenizer

    from reasoning_jax import pretrained_tokenizer

    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--size=400"])
    gsm8k_tokenizer.main()
    words = pretrained_tokenizer.Pretrained(tmp_path)
    text = "Q: He has 1024 apples.\nA: <<16-3=13>>"
    ids = words.encode(text)
    assert words.decode(ids) == text and max(ids) < 400
    assert [words.decode([id]) for id in ids].count("1") == 3


def test_renumbered_questions_of_gsm8k(folder, tmp_path, monkeypatch, data_dir):
    """Each line's equations are true and lead to its answer; the task reads all three files."""
    import gsm8k_renumbered

    from reasoning_jax.answers import arithmetic

    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--count=300"])
    gsm8k_renumbered.main()
    cfg = default.section(tasks, "gsm8k_aug")
    cfg.train, cfg.path = "augmented", str(tmp_path)
    cfg = extraction.settle(cfg)
    train = gsm8k_aug.load(cfg, "given")
    unseen = gsm8k_aug.load(cfg, "validation")
    assert len(train) == 300 and len(unseen) == 500 and len(gsm8k_aug.load(cfg, "test")) == 1319
    assert len({e.question for e in unseen}) == 500
    assert not {e.question for e in train} & {e.question for e in unseen}
    cfg.train = "gsm8k"
    cfg.path = str(data_dir / "gsm8k_aug")
    assert not {e.question for e in gsm8k_aug.load(cfg, "given")} & {e.question for e in unseen}
    for example in unseen:
        equations = gsm8k_aug.EQUATION.findall(example.rationale)
        assert equations and gsm8k_aug.wrong_line(example.rationale, example) is None
        assert arithmetic.value(equations[-1].partition("=")[2]) == int(example.answer)


QUESTION = "He sold 48 clips on day 3, and then half as many in 7 hours."
WORKED = tasks.Example(
    id=0, question=QUESTION, answer="72", rationale="<<48/2=24>>\n<<48+24=72>>\n#### 72"
)


def test_numbers_of_a_question_are_drawn_together(folder):
    """What stands once and is an operand changes, with all that follows from it."""
    import gsm8k_renumbered

    drawn = set()
    for seed in range(30):
        line = gsm8k_renumbered.renumber(WORKED, np.random.default_rng(seed))
        found = re.fullmatch(
            r"He sold (\d+) clips on day 3, and then half as many in 7 hours.\|\|"
            r"<<(\d+)/2=(\d+)>> <<(\d+)\+(\d+)=(\d+)>> #### (\d+)",
            line,
        )
        sold, a, half, b, c, total, answer = map(int, found.groups())
        assert 24 <= sold <= 96 and sold != 48 and sold == a == b
        assert half == c and 2 * half == sold and total == answer == sold + half
        drawn.add(sold)
    assert len(drawn) > 10


@pytest.mark.parametrize(
    ("why", "question", "rationale"),
    [
        ("stands twice", QUESTION.replace("7", "48"), WORKED.rationale),
        ("part of 48,000", QUESTION.replace("48", "48,000"), WORKED.rationale),
        ("a clock's", QUESTION.replace("48", "48:30"), WORKED.rationale),
        ("a share", QUESTION.replace("48", "48%"), WORKED.rationale),
        ("a result is a number of the question", QUESTION, "<<48/2=24>>\n<<24*2=48>>\n#### 48"),
        ("an operand is from elsewhere", QUESTION, "<<48+23=71>>\n<<71+1=72>>\n#### 72"),
        ("a constant is added", QUESTION, "<<48+12=60>>\n<<60*2=120>>\n#### 120"),
        ("a result is not used", QUESTION, "<<48/2=24>>\n<<48*3=144>>\n#### 144"),
        ("3 may be two things", QUESTION, "<<48*3=144>>\n<<144*3=432>>\n#### 432"),
        ("no whole result", QUESTION, "<<48/5=9.6>>\n<<9.6*2=19.2>>\n#### 19.2"),
        ("a false equation", QUESTION, "<<48/2=25>>\n<<48+25=73>>\n#### 73"),
        ("another answer", QUESTION, "<<48/2=24>>\n#### 72"),
    ],
)
def test_what_stays_as_it_is(folder, why, question, rationale):
    import gsm8k_renumbered

    answer = rationale.rpartition("#### ")[2]
    example = dataclasses.replace(WORKED, question=question, rationale=rationale, answer=answer)
    assert gsm8k_renumbered.renumber(example, np.random.default_rng(0)) is None, why


def test_numbers_stay_as_round_as_they_are(folder):
    import gsm8k_renumbered

    rng = np.random.default_rng(0)
    assert {gsm8k_renumbered.draw(3, rng) for _ in range(200)} == set(range(2, 7))
    assert {gsm8k_renumbered.draw(20, rng) for _ in range(200)} == {10, 20, 30, 40}


def test_published_files_are_not_written_over(folder, tmp_path, monkeypatch, data_dir):
    import gsm8k_renumbered

    monkeypatch.setattr(sys, "argv", ["", f"--out={data_dir / 'gsm8k_aug'}"])
    with pytest.raises(SystemExit, match="published files"):
        gsm8k_renumbered.main()
