"""benchmarks/judge_study.py: figures by hand, dummy judges, published models and runs as judges."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import speaking
import test_judge_data
from published import chat_model

import reasoning_jax
from reasoning_jax import config, default
from reasoning_jax.answers.judgements import FIRST, SECOND, TIE
from reasoning_jax.errors import UserError
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.tasks.comparisons import Comparison

ROOT = Path(__file__).resolve().parent.parent
RECORDS = [
    {"prompt": "a", "chosen": "yes", "rejected": "perhaps", "subset": "x", "id": 0},  # A
    {"prompt": "b", "chosen": "surely", "rejected": "no", "subset": "x", "id": 1},  # B
    {"prompt": "c", "chosen": "no", "rejected": "hardly", "subset": "y", "id": 6},  # B
    {"prompt": "d", "chosen": "up", "rejected": "it", "subset": "y", "id": 2},  # A
]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import judge_study

    return judge_study


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.fixture
def no_mesh():
    """Puts the process's mesh back: a study sets that of its model."""
    mesh = jax.sharding.get_mesh()
    yield
    jax.set_mesh(mesh)


def pairs_of(answers: str) -> list[Comparison]:
    texts = {"question": "?", "instruction": "?", "first": "f", "second": "s", "part": "p"}
    return [Comparison(id=i, answer=answer, **texts) for i, answer in enumerate(answers)]


# ---- figures -------------------------------------------------------------------------------------


def test_figures_by_hand(study):
    verdicts = [
        Verdicts(FIRST, FIRST),  # of A: right in both orders
        Verdicts(FIRST, SECOND),  # of A: says A twice, right as given
        Verdicts(FIRST, None),  # of B
        Verdicts(TIE, SECOND),  # of B: right when swapped, where it says A
        Verdicts(SECOND, SECOND),  # of A
    ]
    found = study.figures(pairs_of("AABBA"), verdicts)
    assert found.count == 5
    assert (found.shown, found.swapped, found.both) == (2 / 5, 2 / 5, 1 / 5)
    assert (found.ties, found.unread) == (1 / 10, 1 / 10)
    # Shown first and named: 1, 1, 1, 0, 0 as given; 0, 1, 1, 1 of the swapped ones.
    assert found.a == 6 / 8


def test_figures_where_nothing_is_named(study):
    found = study.figures(pairs_of("AB"), [Verdicts(None, None), Verdicts(TIE, TIE)])
    assert (found.shown, found.both, found.ties, found.unread) == (0, 0, 0.5, 0.5)
    assert found.a is None and study.cells(found)[-1] == "–"


def test_judges_that_read_nothing(study, file):
    """Balanced: the constant judge is right half the time in each order, and never in both."""
    pairs = study.load(str(file), None)
    assert [pair.answer for pair in pairs] == ["A", "B", "B", "A"]
    judges = study.without_reading(pairs)
    found = {name: study.figures(pairs, verdicts) for name, verdicts in judges.items()}
    constant = found["always A"]
    assert (constant.shown, constant.swapped, constant.both, constant.a) == (0.5, 0.5, 0, 1)
    longer = found["longer"]  # right of "surely" alone; "up" and "it" are as long
    assert (longer.shown, longer.swapped, longer.both, longer.ties) == (0.25, 0.25, 0.25, 0.25)
    assert longer.a == 0.5
    oracle = found["oracle"]
    assert (oracle.shown, oracle.swapped, oracle.both, oracle.a) == (1, 1, 1, 0.5)


def test_chance_is_a_half_in_each_order_and_a_quarter_in_both(study):
    pairs = pairs_of("AB" * 2000)
    found = study.figures(pairs, study.without_reading(pairs)["chance"])
    for value, expected in ((found.shown, 0.5), (found.swapped, 0.5), (found.both, 0.25)):
        assert value == pytest.approx(expected, abs=0.03)
    assert found.a == pytest.approx(0.5, abs=0.03) and found.unread == 0


# ---- models --------------------------------------------------------------------------------------


def longer_of(prompt: str) -> str:
    """A judge that says which response is longer, and cannot say where neither is."""
    first, second = prompt.removesuffix(" [V]").partition(" [A] ")[2].split(" [B] ")
    if len(first) == len(second):
        return " both [[A]] [[B]]"
    return " [[A]]" if len(first) > len(second) else " [[B]]"


def test_a_model_is_asked_in_both_orders(study, file):
    pairs = study.load(str(file), None)
    found = study.of_model(speaking.rollout(longer_of), pairs, "cards_pair", 24)
    longer = study.without_reading(pairs)["longer"]
    assert found == [*longer[:3], Verdicts(None, None)]
    constant = study.of_model(speaking.rollout(lambda text: "[[A]]"), pairs, "cards_pair", 24)
    assert constant == study.without_reading(pairs)["always A"]


def test_the_likelier_letter(study, file):
    """Log-probabilities by hand: [[A]] in the first order of each pair, [[B]] in the other."""
    asked = []

    class Policy:
        max_length = 200

        def logprobs(self, rows):
            asked.extend(rows)
            values = [-1.0, -2.0, -2.0, -1.0] * (len(rows) // 4)
            return [np.array([0.0, v]) for v in values]

    pairs = study.load(str(file), None)
    rollout = speaking.rollout(str)
    model = dataclasses.replace(rollout, policy=Policy())
    assert study.by_likelihood(model, pairs, "cards_pair") == [Verdicts(FIRST, FIRST)] * 4
    texts = [rollout.tokenizer.decode(row["tokens"].tolist()) for row in asked[:4]]
    both = [f" [J] a [A] {x} [B] {y} [V]" for x, y in (("yes", "perhaps"), ("perhaps", "yes"))]
    assert texts == [f"{text} [[{letter}]]" for text in both for letter in "AB"]
    model.policy.max_length = 20
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: \d+ tokens exceed"):
        study.by_likelihood(model, pairs, "cards_pair")


def rows(printed: str) -> dict[tuple[str, str], list[str]]:
    """The cells of a table's lines by part and judge."""
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:1] == "|"]
    return {(line[0], line[1]): line[2:] for line in lines[2:]}


def command(study, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["", *(str(argument) for argument in arguments)])
    study.main()


def test_the_table(study, file, monkeypatch, capsys):
    monkeypatch.setattr(study, "restored", lambda args, changes: speaking.rollout(longer_of))
    own = ["--max_new_tokens=24", "--template=cards_pair"]
    command(study, monkeypatch, "--model=any", f"--data={file}", *own)
    found = rows(capsys.readouterr().out)
    assert {part for part, _ in found} == {"x", "y", "all"}
    assert {judge for _, judge in found} == {"model", "always A", "longer", "chance", "oracle"}
    assert found["all", "always A"] == [
        *("4", "50.0 ± 25.0", "50.0 ± 25.0", "0.0 ± 0.0", "0.0", "0.0", "100.0")
    ]
    assert found["y", "model"] == [
        "2",
        "0.0 ± 0.0",
        "0.0 ± 0.0",
        "0.0 ± 0.0",
        "0.0",
        "50.0",
        "50.0",
    ]
    command(study, monkeypatch, "--model=any", f"--data={file}", "--num=2", *own)
    assert rows(capsys.readouterr().out)["all", "oracle"][0] == "2"


def test_a_published_model(study, file, tmp_path, monkeypatch, capsys, no_mesh):
    """A random chat model, whose judgements cannot be read."""
    model = chat_model(tmp_path / "model")
    own = ["--chat", "--max_new_tokens=3", "--template=cards_pair"]
    command(study, monkeypatch, f"--model={model}", f"--data={file}", *own)
    assert rows(capsys.readouterr().out)["all", "model"][4:] == ["0.0", "100.0", "–"]
    own = ["--chat", "--likelihood", "--template=cards_pair"]
    command(study, monkeypatch, f"--model={model}", f"--data={file}", *own)
    assert rows(capsys.readouterr().out)["all", "model, likelier"][4:6] == ["0.0", "0.0"]


def test_a_run(study, tmp_path, monkeypatch, capsys, no_mesh):
    """A run whose task is LLMBar: what it begins with is evaluated, and judges."""
    folder = tmp_path / "llmbar"
    folder.mkdir()
    test_judge_data.write_llmbar(folder)
    cfg = default.get_config("rejection", task="llmbar")
    cfg.task.path, cfg.task.template = str(folder), "cards_pair"
    cfg.tokenizer.name, cfg.model.preset = "bytes", "tiny"
    cfg.sequence_length, cfg.batch_size = 96, 8
    cfg.sampling.max_new_tokens, cfg.sampling.batch_size = 4, 8
    cfg.sampling.temperature = 1.0
    cfg.rounds.count, cfg.eval.num_examples = 0, 2
    for _ in reasoning_jax.train(cfg, tmp_path / "run"):
        pass
    assert config.rebuild(tmp_path / "run").task.name == "llmbar"
    capsys.readouterr()
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    flags = [f"--workdir={tmp_path / 'run'}", "--data=natural,manual", "--template=cards_pair"]
    command(study, monkeypatch, *flags, "--max_new_tokens=4", "--config.sampling.batch_size=16")
    found = rows(capsys.readouterr().out)
    assert {part for part, _ in found} == {"natural", "manual", "all"}
    assert found["all", "model"][0] == "4" and found["all", "oracle"][3] == "100.0 ± 0.0"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--data=dev"], "'dev' is no file of records, and no part of LLMBar: natural, neigh"),
        (["--data=no.jsonl"], "no.jsonl: there is no such file"),
        (["--config.sampling.size=3"], "config.sampling.size"),
        (["more"], "'more': this is no flag"),
    ],
)
def test_mistakes(study, file, tmp_path, monkeypatch, arguments, said):
    model = chat_model(tmp_path / "model")
    if not arguments[0].startswith("--data"):
        arguments = [*arguments, f"--data={file}"]
    with pytest.raises(SystemExit, match=said):
        command(study, monkeypatch, f"--model={model}", *arguments)


def test_a_chat_is_the_runs_own(study, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(study, monkeypatch, f"--workdir={tmp_path}", "--chat")
    assert "--chat goes with --model" in capsys.readouterr().err
