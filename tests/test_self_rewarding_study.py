"""benchmarks/self_rewarding_study.py: the fixed pairs, judges that are no models, a run of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import XLA_FLAGS

from reasoning_jax import default, tasks
from reasoning_jax.tasks import cards

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import self_rewarding_study

    return self_rewarding_study


@pytest.fixture(scope="module")
def examples():
    cfg = default.section(tasks, "rule_cards")
    cfg.num_held_out = 40
    return tasks.get("rule_cards").load(cfg, "test")


def test_the_pairs_are_the_same_in_every_run_and_differ_in_quality(study, examples):
    pairs = study.fixed_pairs(examples)
    assert pairs == study.fixed_pairs(examples) and len(pairs) == 40
    for example, *both in pairs:
        card = cards.read_card(example.question)
        assert len({cards.quality(card, response.split()) for response in both}) == 2


def test_judges_that_are_no_models(study, examples):
    found = study.dummies(examples)
    assert found["constant"] == 0.5 and found["the rules"] == 1
    assert 0.2 < found["random"] < 0.8 and 0.2 < found["length"] < 0.8


def test_accuracy_by_hand(study, examples):
    pairs = study.fixed_pairs(examples)[:3]
    quality = [
        cards.quality(cards.read_card(example.question), response.split())
        for example, *both in pairs
        for response in both
    ]
    wrong_once = [-quality[0], -quality[1], *quality[2:]]
    assert study.accuracy(pairs, wrong_once) == pytest.approx(2 / 3)
    assert study.accuracy(pairs, [0, 0, *quality[2:]]) == pytest.approx(2.5 / 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, arms",
    [
        ("self_rewarding_cards", "self,positives"),
        ("meta_rewarding_cards", "meta"),
        ("thought_preference_cards", "thoughts"),
    ],
)
def test_the_study_runs(tmp_path, config, arms):
    command = [sys.executable, "benchmarks/self_rewarding_study.py", f"--out={tmp_path}"]
    command += [f"--config={config}", f"--arms={arms}", "--seeds=1", "--smoke"]
    env = os.environ | {"XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    own_prompts = config == "thought_preference_cards"  # each arm has its own M1
    titles = ["thoughts, M1" if own_prompts else "M1"]
    for arm in arms.split(","):
        titles += [f"{arm}, M2", f"{arm}, M3", f"{arm} | 1", f"{arm} | 2"]
    for title in titles:
        assert any(line.startswith(f"| {title} | ") for line in lines), title
