"""The study of systems: its figures by hand, and all of it on models that learn nothing."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from compiling import XLA_FLAGS

from reasoning_jax.rollout import Sample
from reasoning_jax.tasks import Example, distractors

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import systems_study

    return systems_study


def sample(example, answer, index=0, verdict="wrong", finished=True):
    return Sample(
        example=example,
        index=index,
        hinted=False,
        prompt_ids=np.zeros(2, np.int32),
        tokens=np.zeros(4, np.int32),
        logprobs=np.zeros(4, np.float32),
        finished=finished,
        text="",
        answer=answer,
        verdict=verdict,
    )


def test_precision_is_of_all_names_and_recall_of_each_list(study):
    first = Example(id=0, question="", answer="p1 p2 p3 p4")
    second = Example(id=1, question="", answer="p5 p6")
    lists = [
        sample(first, "p1 p2 p9"),
        sample(second, "none"),
        sample(second, None),
        sample(second, "p5", finished=False),
    ]
    assert study.list_figures(lists) == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(0.5 / 4),
        "right names": 0.5,
        "wrong names": 0.25,
    }
    assert study.list_figures(lists[1:2])["precision"] == 0.0


def test_votes_are_the_names_of_two_drafts(study):
    examples = [Example(id=n, question="", answer="p1") for n in range(2)]
    answers = [["p1 p2", "p2 p3", "none"], ["p4", "none", None]]
    samples = []
    for example, own in zip(examples, answers, strict=True):
        samples += [sample(example, answer, index) for index, answer in enumerate(own)]
    assert [one.answer for one in study.voted(samples, 3)] == ["p2", "none"]


def test_a_problem_counts_where_every_distractor_leaves_it_right(study):
    problems = [distractors.Problem(id=n, question="", answer="1", plain=str(n)) for n in range(2)]
    samples = [sample(problem, "1", verdict="correct") for problem in problems]
    samples[1] = sample(problems[1], "2")
    for problem in problems:
        for kind in distractors.DISTRACTORS:
            right = problem.id == 0 or not kind.in_topic
            asked = dataclasses.replace(problem, distractor=kind)
            samples.append(sample(asked, "1", verdict="correct" if right else "wrong"))
    found = study.distracted(samples)
    assert (found["clean"], found["micro"], found["macro"]) == (0.5, 0.75, 0.5)
    assert found["norm"] == 1.5
    assert (found["in topic"], found["off topic"]) == (0.5, 1.0)
    assert found["role overlaps"] == found["another role"] == found["in range"] == 0.75
    assert (found["calls"], found["tokens"]) == (1.0, 4.0)


def test_an_arm_that_is_not_there_is_one_sentence(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--arms=people,cove"])
    with pytest.raises(SystemExit):
        study.main()
    assert "--arms: there is no 'cove'; there are people, opinions, clean, distracted." in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_systems_study_smoke(study, tmp_path):
    flags = ["--seeds=1", "--smoke", "--arms=people,opinions,clean", f"--out={tmp_path}"]
    done = subprocess.run(
        [sys.executable, study.__file__, *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": XLA_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"}
    assert {"draft", "joint", "two step", "factored", "factor revise", "facts asked alone"} <= rows
    assert {"no opinion", "wrong opinion, S2A", "the oracle's text, S2A", "alone", "S2A"} <= rows
    assert {path.name for path in tmp_path.iterdir()} == {"people_0", "opinions_0", "clean_0"}
