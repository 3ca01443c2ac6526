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
    assert not {e.question for e in train} & {e.question for e in unseen}
    for example in unseen:
        equations = gsm8k_aug.EQUATION.findall(example.rationale)
        assert equations and gsm8k_aug.wrong_line(example.rationale, example) is None
        assert arithmetic.value(equations[-1].partition("=")[2]) == int(example.answer)


def test_numbers_of_a_question_are_drawn_together(folder):
    """What stands once and is an operand changes, with all that follows from it."""
    import gsm8k_renumbered

    rationale = "<<48/2=24>>\n<<48+24=72>>\n#### 72"
    question = "He sold 48 clips on day 3, and then half as many in 7 hours."
    example = tasks.Example(id=0, question=question, answer="72", rationale=rationale)
    for seed in range(30):
        line = gsm8k_renumbered.renumber(example, np.random.default_rng(seed))
        found = re.fullmatch(
            r"He sold (\d+) clips on day 3, and then half as many in 7 hours.\|\|"
            r"<<(\d+)/2=(\d+)>> <<(\d+)\+(\d+)=(\d+)>> #### (\d+)",
            line,
        )
        sold, a, half, b, c, total, answer = map(int, found.groups())
        assert 24 <= sold <= 97 and sold == a == b and half == c and 2 * half == sold
        assert total == answer == sold + half
    twice = dataclasses.replace(example, question=question.replace("7", "48"))
    assert gsm8k_renumbered.renumber(twice, np.random.default_rng(0)) is None
