"""benchmarks/evaluator_study.py: fixed pairs, judges that are no models, and a run of it all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import XLA_FLAGS

from reasoning_jax import default, tasks
from reasoning_jax.answers.judgements import FIRST, SECOND
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.tasks import cards

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evaluator_study

    return evaluator_study


@pytest.fixture(scope="module")
def examples():
    cfg = default.section(tasks, "rule_cards")
    cfg.num_held_out = 40
    return tasks.get("rule_cards").load(cfg, "test")


def test_pairs_are_as_far_apart_as_their_part_says(study, examples):
    pairs = study.fixed_pairs(examples, 30)
    assert [pair.part for pair in pairs] == ["near"] * 30 + ["wide"] * 30
    assert study.fixed_pairs(examples, 30) == pairs
    asked = {example.question for example in examples}
    for pair in pairs:
        card = cards.read_card(pair.instruction)
        quality = [cards.quality(card, text.split()) for text in (pair.first, pair.second)]
        margin = quality[0] - quality[1] if pair.answer == "A" else quality[1] - quality[0]
        assert margin == 1 if pair.part == "near" else margin >= 3
        assert pair.instruction in asked
    assert [pair.answer for pair in pairs].count("A") == 30


def test_judges_that_are_no_models(study, examples):
    pairs = study.fixed_pairs(examples, 200)
    found = {}
    for name, verdicts in study.judge_study.without_reading(pairs).items():
        found[name] = study.figures(pairs, verdicts)
    for column in ("near", "rules 4-5", "wide"):
        assert found["always A"][column] == 0.5 and found["always A"][f"{column} both"] == 0
        assert found["oracle"][column] == found["oracle"][f"{column} both"] == 1
        assert found["chance"][column] == pytest.approx(0.5, abs=0.12)
        assert found["chance"][f"{column} both"] == pytest.approx(0.25, abs=0.12)
        assert found["longer"][column] == pytest.approx(0.5, abs=0.12)
    assert found["always A"]["A"] == 1


def test_a_line_of_the_table(study, examples):
    pairs = [pair for pair in study.fixed_pairs(examples, 2) if pair.part == "near"]
    right = [Verdicts(FIRST, FIRST) if p.answer == "A" else Verdicts(SECOND, SECOND) for p in pairs]
    half = [right[0], Verdicts(FIRST, SECOND)]
    found = [study.figures(pairs, verdicts) for verdicts in (right, half)]
    assert study.line("j", found).startswith("| j | 87.5 ± 12.5 / 75.0 ± 25.0 |")
    unread = study.figures(pairs, [Verdicts(None, None)] * 2)
    assert unread["near"] == 0 and "A" not in unread and "wide" not in unread
    assert study.line("j", [unread]).split("|")[2].strip() == "0.0 / 0.0"


def test_an_arm_that_is_not_there(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--arms=thought"])
    with pytest.raises(SystemExit):
        study.main()
    assert "there is no 'thought'; there are taught" in capsys.readouterr().err


@pytest.mark.slow
def test_the_study_runs(study, tmp_path):
    command = [sys.executable, study.__file__, "--seeds=1", "--smoke", "--pairs=4"]
    done = subprocess.run(
        [*command, "--arms=taught,planner", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": XLA_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    first = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"]
    assert {"always A", "oracle", "seed", "seed, with a plan"} <= set(first)
    assert {"taught, round 1", "taught, round 2", "planner, round 2"} <= set(first)
    assert "rules that plans name, planner, round 2:" in done.stdout
