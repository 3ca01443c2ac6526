"""report.py: one page that stands alone, whatever the run has and has not written."""

from __future__ import annotations

import html
import html.parser
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tracemalloc

import pytest

from reasoning_jax import (
    command_line,
    metrics,
    report,
    report_histories,
    report_samples,
    workdir,
)
from reasoning_jax.errors import UserError

NASTY = "</script><script>alert(1)</script><!-- {{DATA}} \u2028 ' \" \\u003c & é \ud800"


def write_run(directory: pathlib.Path, rounds: int = 8, examples: int = 150) -> None:
    """A work directory such as a STaR run on addition leaves, with invented numbers."""
    rng = random.Random(0)
    writer, step = metrics.Writer(directory), 0
    config = {
        "seed": 0,
        "algorithm": {"name": "star", "keep": 1.0},
        "task": {"name": "addition", "path": ""},
        "model": {"name": "tiny", "layers": 6},
        "optim": {"learning_rate": 3e-4, "note": "<b>"},
    }
    (directory / "config.json").write_text(json.dumps(config))

    def evaluate(number: int, split: str) -> None:
        skill = number / rounds
        values = {
            "eval/accuracy": 0.1 + 0.8 * skill,
            "eval/accuracy_stderr": 0.008,
            "eval/unparsed": 0.2 * (1 - skill),
        }
        for digits in range(1, 6):
            accuracy = min(1.0, max(0.0, 1.6 * skill - 0.15 * digits + 0.3))
            values[f"eval/accuracy_digits_{digits}"] = accuracy
            values[f"eval/accuracy_stderr_digits_{digits}"] = 0.02
        values["eval/true_lines"] = 0.2 + 0.7 * skill
        values["eval/tokens"] = 40 + 10 * skill
        values["eval/truncated"] = 0.01
        writer.write(step, number, "eval", values, split=split)

    evaluate(0, "validation")
    for number in range(1, rounds + 1):
        skill = number / rounds
        values = {
            "collect/samples": examples,
            "collect/correct": skill,
            "collect/kept": 0.3 + 0.6 * skill,
            "collect/rationalized": 0.3 * (1 - skill),
            "collect/unparsed": 0.2 * (1 - skill),
            "collect/truncated": 0.05,
            "collect/true_lines": 0.5 + 0.5 * skill,
            "collect/tokens": 45 + number,
            "collect/hinted_true_lines": 0.3 + 0.4 * skill,
            "collect/samples_per_second": 210 + 3 * number,
            "collect/tokens_per_second": 9000 + rng.random() * 500,
        }
        writer.write(step, number, "collect", values)
        folder = directory / "rounds" / f"{number:04}"
        folder.mkdir(parents=True)
        with open(folder / "samples.jsonl", "w") as file:
            for i in range(examples):
                file.write(json.dumps(sample(rng, i)) + "\n")
            file.write('{"id": 1, "question": "torn')
        for _ in range(30):
            step += 10
            loss = 0.02 + 1.5 / (1 + (step % 300) / 20) + 0.05 * rng.random()
            values = {
                "update/loss": loss,
                "update/tokens_per_second": 52000 + 900 * rng.random(),
                "update/grad_norm": 1 + rng.random(),
            }
            writer.write(step, number, "update", values)
        evaluate(number, "validation")
    evaluate(rounds, "test")
    writer.close()
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "upd')


def sample(rng: random.Random, i: int) -> dict:
    digits = rng.randint(1, 5)
    a, b = rng.randrange(10**digits), rng.randrange(10**digits)
    verdicts = ["correct", "wrong", "unparsed", "truncated"]
    verdict = rng.choices(verdicts, [0.9, 0.06, 0.02, 0.02])[0]
    lines, carry = ["<scratch>"], 0
    for k in range(digits):
        x, y = a // 10**k % 10, b // 10**k % 10
        lines.append(f"{x} + {y} + {carry} = {x + y + carry}")
        carry = (x + y + carry) // 10
    wrong_line = None
    if verdict == "wrong" or rng.random() < 0.03:
        wrong_line = rng.randint(1, digits)
        lines[wrong_line] += "1"
    answer = {"correct": str(a + b), "wrong": str(a + b + 10)}.get(verdict)
    lines += [] if verdict == "truncated" else ["</scratch>", answer or "?"]
    return {
        "id": i,
        "question": NASTY if i == 0 else f"What is {a} + {b}?",
        "rationale": "\n".join(lines),
        "answer": answer,
        "gold": str(a + b),
        "verdict": verdict,
        "hinted": rng.random() < 0.2,
        "kept": verdict == "correct",
        "wrong_line": wrong_line,
        "tokens": 8 * len(lines),
        "difficulty": ["digits", digits],
    }


def write_trice(directory: pathlib.Path, rounds: int, every: int, count: int = 24) -> None:
    """A work directory such as a long TRICE run leaves.

    It has a line each round, a folder and an evaluation each ``every``th.
    """
    rng, lines = random.Random(0), []
    (directory / "config.json").write_text(json.dumps({"algorithm": {"name": "trice"}}))
    firsts = [sample(rng, i + 1) for i in range(count)]
    chains = []
    for i, first in enumerate(firsts):
        chain = {"id": i, "rationale": "", "age": 0, "visits": 0, "accepted": 0, "correct": False}
        chains.append(chain | {key: first[key] for key in ("question", "gold", "difficulty")})
    for number in range(1, rounds + 1):
        skill, line = number / rounds, {"step": number, "round": number, "time": number}
        values = {
            "correct": skill,
            "accepted": min(1, max(0, skill + rng.gauss(0, 0.1))),
            "valid": min(1, 2 * skill),
            "age_mean": 4 + rng.random(),
            "age_max": 30 * rng.random(),
            "distinct": 60 * number,
            "expired": 0.1,
            "beta": 0.9 * skill,
            "samples_drawn": 64 * number,
        }
        if number % 5 == 0:
            noise = (1.02 - skill) * rng.random()
            values["variance_basic"] = 9 * noise
            values["variance_paper"] = 3 * noise
            values["variance_ours"] = noise
        collected = {f"collect/{k}": v for k, v in values.items()}
        lines.append(line | {"phase": "collect"} | collected)
        loss = 2 - skill + 0.1 * rng.random()
        lines.append(line | {"phase": "update", "update/loss": loss})
        for chain in rng.sample(chains, max(1, count // 10)):
            visit(chain, firsts[chain["id"]]["rationale"], rng, skill / 2)
        if number % every == 0:
            values = {f"eval/accuracy_digits_{digits}": skill / digits for digits in range(1, 6)}
            values["eval/accuracy"] = skill
            about = {"phase": "eval", "split": "validation", "samples": 64 * number}
            lines.append(line | about | values)
            write_chains(directory, number, *chains)
            samples = [json.dumps(sample(rng, i)) for i in range(64)]
            path = directory / "rounds" / f"{number:04}" / "samples.jsonl"
            path.write_text("\n".join(samples) + "\n")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def visit(chain: dict, rationale: str, rng: random.Random, chance: float) -> None:
    """One step of a chain, which takes a new rationale with this chance."""
    chain["visits"] += 1
    chain["age"] += 1
    if rng.random() < chance:
        proposal = rationale.split("\n")
        proposal.insert(rng.randrange(1, len(proposal)), f"carry {rng.randrange(10)}")
        chain["rationale"] = "\n".join(proposal)
        chain["correct"] = True
        chain["age"] = 0
        chain["accepted"] += 1


def write_chains(directory: pathlib.Path, number: int, *chains: dict) -> None:
    write_states(directory, number, "chains", *chains)


def write_states(directory: pathlib.Path, number: int, name: str, *states: dict) -> None:
    folder = directory / "rounds" / f"{number:04}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(state) + "\n" for state in states))


class Page(html.parser.HTMLParser):
    """Tags in order, the text of each kind of element, and whether every element was closed."""

    # The end tags of th, td and tr are optional.
    VOID = {"meta", "use", "path", "rect", "line", "br", "input", "th", "td", "tr"}

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[pathlib.Path, str]:
    directory = tmp_path_factory.mktemp("star_addition")
    write_run(directory)
    return directory, report.write(directory).read_text(encoding="utf-8")


def data(page: str) -> dict:
    scripts = [text for text in Page(page).texts["script"] if text.startswith("{")]
    return json.loads(scripts[0], parse_constant=pytest.fail)


def histories(page: str) -> list[tuple[str, list[tuple[str, list[str], list[int]]]]]:
    """Of each history its summary and its states.

    A state is its heading, its lines and the numbers of the marked ones.
    """
    history = r"<details class=history><summary>(.*?)</summary>(.*?)</details>"
    state = r"<div class=top>(.*?)</div>(.*?)</article>"
    result = []
    for summary, cards in re.findall(history, page, re.S):
        states = []
        for top, body in re.findall(state, cards, re.S):
            lines = re.findall(r"<span( class=new)?>(.*?)</span>", body, re.S)
            marked = [i for i, (new, _) in enumerate(lines) if new]
            states.append((words(top), [html.unescape(line) for _, line in lines], marked))
        result.append((words(summary), states))
    return result


def words(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", markup)).strip()


def test_a_chain_is_shown_as_its_successive_rationales(tmp_path):
    chain = {"id": 17, "question": "29+57", "gold": "86", "difficulty": ["digits", 2]}
    states = [  # from round 9975 on, so that the order is that of numbers; another chain beside it
        (9975, "", False, 0, 0, 0),
        (9999, "", False, 1, 1, 0),
        (10000, "a\nb\nc", True, 0, 2, 1),
        (10025, "a\nb\nc", True, 4, 6, 1),
        (10050, "a\nx\nb\nz", True, 0, 7, 2),
        (10075, "a\nb\nc", False, 3, 11, 3),
    ]
    other = {"id": 3, "question": "1+1", "rationale": "2", "correct": False}
    for number, text, correct, age, visits, accepted in states:
        state = {"rationale": text, "correct": correct}
        state |= {"age": age, "visits": visits, "accepted": accepted}
        write_chains(tmp_path, number, other, chain | state)
    page = report.build(tmp_path)
    (other_summary, other_states), (summary, shown) = histories(page)
    assert "<h2>Chains</h2>" in page
    facts = "digits 2 · accepted 3 · gold 86 · id 17"
    assert re.split(r"\s{2,}", summary) == ["not valid", "29+57", facts]
    a, b = ["a", "b", "c"], ["a", "x", "b", "z"]
    assert shown == [
        ("no rationale yet  rounds 9975–9999 · age 1 · visits 1 · accepted 0", [], []),
        ("correct  rounds 10000–10025 · age 4 · visits 6 · accepted 1", a, []),
        ("correct  round 10050 · age 0 · visits 7 · accepted 2", b, [1, 3]),
        ("wrong  round 10075 · age 3 · visits 11 · accepted 3", a, [2]),
    ]
    assert re.split(r"\s{2,}", other_summary) == ["not valid", "1+1", "id 3"]
    assert other_states == [("wrong  rounds 9975–10075", ["2"], [])]


def test_whatever_a_method_shows_has_a_section(tmp_path):
    """Each file name of the rounds is one, in alphabetical order, with the keys of its lines."""
    write_chains(tmp_path, 1, {"id": 1, "question": "1+1", "rationale": "2", "correct": True})
    for number, won in ((1, 3), (2, 5)):
        state = {"id": 7, "question": "<i>", "rationale": "x", "played": 8, "won": won}
        write_states(tmp_path, number, "own_prompts", state)
        write_states(tmp_path, number, "empty")
    page = report.build(tmp_path)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Accuracy", "Curves", "Chains", "Own prompts", "Samples"]
    assert '<section id="own_prompts">' in page and Page(page).open == []
    summary, states = histories(page)[1]
    assert re.split(r"\s{2,}", summary) == ["not valid", "<i>", "won 5 · id 7"]
    assert states == [("wrong  rounds 1–2 · played 8 · won 5", ["x"], [])]
    assert data(page)["total"] == 0  # they are no samples


@pytest.mark.parametrize(
    "old, new, marked",
    [
        ("abc", "abc", []),
        ("abc", "ac", []),
        ("ac", "abc", [1]),
        ("ab", "ax", [1]),
        ("a", "aa", [1]),
        ("ab", "xy", [0, 1]),
    ],
)
def test_the_lines_that_changed(old, new, marked):
    assert sorted(report_histories.changed(old, new)) == marked


def test_a_chain_is_only_text(tmp_path):
    nasty = f"</span></pre></details></section>{NASTY}\n<img src=x onerror='alert(1)'>&amp;"
    chain = {key: nasty for key in ("id", "question", "gold", "rationale", "age")}
    write_chains(tmp_path, 1, chain | {"difficulty": [nasty]})
    text = report.write(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert page.open == [] and tags.count("script") == 2 and tags.count("section") == 4
    assert "img" not in tags
    [(summary, [(heading, lines, _)])] = histories(text)
    shown = nasty.replace("\ud800", "?")  # what UTF-8 cannot hold
    assert "\n".join(lines) == shown and shown in heading
    assert summary.count(shown) == 5  # question, difficulty, age, gold and id


def test_a_long_history_is_thinned_and_a_long_rationale_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(report_histories, "STATE_LIMIT", 10)
    monkeypatch.setattr(report_samples, "TEXT_LIMIT", 12)
    for number in range(1, 31):
        state = {"rationale": f"think {number}\n" + "x" * 20, "correct": True}
        write_chains(tmp_path, number, {"id": 0} | state, {"id": 1} | state)
    page = report.build(tmp_path)
    assert "as seen after 30 of the rounds (at most 5 of each are shown)" in page
    for _, states in histories(page):
        assert [heading.split()[2] for heading, _, _ in states] == ["1", "8", "15", "22", "30"]
        _, lines, _ = states[-1]
        assert lines[0] == "think 30" and re.fullmatch(r"\[\d\d more characters\]", lines[-1])


@pytest.mark.parametrize("text", [None, ""])
def test_without_chains_there_is_no_section(tmp_path, run, text):
    (tmp_path / "rounds" / "0001").mkdir(parents=True)
    if text is not None:
        (tmp_path / "rounds" / "0001" / "chains.jsonl").write_text(text)
    assert "<h2>Chains" not in report.build(tmp_path) and "<h2>Chains" not in run[1]


def test_thousands_of_rounds_make_a_small_page(tmp_path):
    write_trice(tmp_path, rounds=2000, every=25)
    page = report.build(tmp_path)
    assert len(page.encode("utf-8", "replace")) < 3e6 and Page(page).open == []
    samples = data(page)["samples"]
    assert len(samples) == report_samples.PAGE_LIMIT
    assert {sample["round"] for sample in samples} == set(range(25, 2001, 25))
    counts = [len(states) for _, states in histories(page)]
    assert len(counts) == 24 and 24 * 10 < sum(counts) <= report_histories.STATE_LIMIT
    assert page.index("<h2>Curves") < page.index("<h2>Chains") < page.index("<h2>Samples")


def test_the_page_parses_and_stands_alone(run):
    directory, text = run
    page = Page(text)
    assert page.open == [] and not list(directory.glob("*.tmp"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 8 and tags.count("script") == 2
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert name not in {"src", "action", "data"}
            assert not name.endswith("href") or value.startswith("#"), value
            assert not re.search(r"https?://", value or ""), (tag, name, value)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    # Every colour became one of the page's variables.
    assert not re.search(r"#00000[0-9a-f]|#0000f\d", text)
    assert "<b>" not in page.texts["div"] and any('"<b>"' in part for part in page.texts["div"])


def test_nasty_samples_round_trip(run):
    samples = data(run[1])["samples"]
    assert sum(sample["question"] == NASTY for sample in samples) >= 1


def test_the_samples_are_chosen_evenly_and_rare_kinds_first(run):
    directory, text = run
    page = data(text)
    assert page["total"] == 8 * 150 and len(page["samples"]) == 8 * report_samples.ROUND_LIMIT
    lines = workdir.read_lines(directory / "rounds" / "0003" / "samples.jsonl")
    shown = [sample for sample in page["samples"] if sample["round"] == 3]
    kinds = [("wrong", True), ("unparsed", False), ("truncated", False), ("correct", True)]
    for kind in kinds:
        written = [line for line in lines if kind_of(line) == kind]
        assert written and len(written) == sum(kind_of(sample) == kind for sample in shown), kind
    assert page == data(report.build(directory))


def kind_of(line: dict) -> tuple[str, bool]:
    return line["verdict"], line["wrong_line"] is not None


def test_every_filter_finds_its_field(run):
    _, text = run
    fields = {
        "round",
        "verdict",
        "hinted",
        "kept",
        "difficulty",
        "question",
        "rationale",
        "answer",
        "gold",
    }
    for sample in data(text)["samples"]:
        assert fields <= set(sample)
        assert re.fullmatch(r"digits [1-5]", sample["difficulty"])
        assert isinstance(sample["hinted"], bool)
        if sample["wrong_line"] is not None:  # the line that the page marks
            assert sample["rationale"].split("\n")[sample["wrong_line"]].endswith("1")
    assert 'make("span", i === s.wrong_line ? "bad" : "", line)' in text
    assert "pre span.bad { color: var(--bad)" in text


def test_the_table_has_base_best_last_and_the_test_split(run):
    rows = re.findall(r"<tr>(.*?)(?=<tr>|</table>)", run[1])
    cells = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "|", row)).strip("| ") for row in rows]
    assert re.sub(r"[| ]+", " ", cells[0]).startswith("accuracy, % all digits 1 digits 2")
    named = [cell.split("|")[0].strip() for cell in cells]
    rounds = [f"round {number}" for number in (1, 3, 4, 6, 8)]
    assert named == ["accuracy, %", "validation", "base", *rounds, "test", "round 8"]
    assert "best, last" in cells[7] and "90.0" in cells[7] and "± 0.8" in cells[7]


def test_a_run_of_one_round_is_shown_by_updates(tmp_path):
    writer = metrics.Writer(tmp_path)
    for step in (0, 100, 200):
        round = 1 if step else 0
        writer.write(step, round, "eval", {"eval/accuracy": step / 250}, split="validation")
    writer.close()
    page = report.build(tmp_path)
    assert "<th>base <" in page and "<th>update 200 <i>best, last" in page
    assert ">updates</text>" in page
    assert page.count("<svg") == 1 and "Not logged in this run: what was collected" in page


def test_a_repeated_evaluation_counts_once(tmp_path):
    writer = metrics.Writer(tmp_path)
    for accuracy in (0.25, 0.5):
        writer.write(0, 0, "eval", {"eval/accuracy": accuracy}, split="validation")
    writer.close()
    page = report.build(tmp_path)
    assert page.count("<th>base") == 1 and "50.0" in page and "25.0<" not in page


def test_a_rare_kind_is_not_lost():
    lines = [{"verdict": "correct", "id": i} for i in range(1000)]
    lines[500] = {"verdict": "wrong", "id": 500}
    lines[700] = {"verdict": "correct", "wrong_line": 2, "id": 700}
    chosen = [line["id"] for line in report_samples.pick(lines, 12)]
    assert len(chosen) == 12 and chosen == sorted(chosen) and {0, 500, 700, 999} <= set(chosen)
    assert report_samples.pick(lines[:5], 12) == lines[:5] and report_samples.pick([], 12) == []


def test_many_rounds_are_in_one_page(tmp_path, monkeypatch):
    monkeypatch.setattr(report_samples, "PAGE_LIMIT", 40)
    for number in range(20):
        folder = tmp_path / "rounds" / f"{number:04}"
        folder.mkdir(parents=True)
        lines = [json.dumps(sample(random.Random(i), i)) for i in range(30)]
        (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    page = data(report.build(tmp_path))
    rounds = [sample["round"] for sample in page["samples"]]
    assert page["total"] == 600 and len(rounds) == 40 and sorted(set(rounds)) == [0, 4, 9, 14, 19]


NO_NUMBER = """{"step": 5, "round": 1, "phase": "eval", "eval/accuracy": "nan", "split": "test"}
"""
INFINITE = """{"step": 5, "round": 1, "phase": "update", "update/loss": "inf"}
{"phase": "collect"}
{}
"""
NEGATIVE = """{"step": 5, "phase": "update", "update/loss": -0.5}
"""


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}"},
        {"config.json": '{"algorithm": "star"}'},
        {"config.json": '{"algorithm": {"name": "of_another_version"}}'},
        {"config.json": '{"algorithm": {"name": 3}}'},
        {"metrics.jsonl": ""},
        {"metrics.jsonl": NO_NUMBER},
        {"metrics.jsonl": INFINITE},
        {"metrics.jsonl": NEGATIVE, "rounds/0001/samples.jsonl": ""},
        {"rounds/0002/samples.jsonl": '{"id": 3}\n', "rounds/notes/samples.jsonl": "?"},
    ],
)
def test_missing_pieces_are_left_out(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    page = report.build(tmp_path)
    samples = 1 if "rounds/0002/samples.jsonl" in files else 0
    assert Page(page).open == [] and data(page)["total"] == samples


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        (None, "", r".*holds no run.*"),
        ("config.json", "{", r".*config\.json: this is not the config of a run.*"),
        ("config.json", "[1]", r".*config\.json: this is not the config of a run.*"),
        ("config.json", "null", r".*config\.json: this is not the config of a run.*"),
        ("config.json", '{"a":' * 900 + "1" + "}" * 900, r".*config\.json: this is not.*"),
        ("metrics.jsonl", "{}\n[1]\n", r".*metrics\.jsonl, line 2: this is not a JSON object.*"),
        ("metrics.jsonl", '{"a": ' + "[" * 60 + "]" * 60 + "}\n", r".*, line 1: this is not.*"),
        ("metrics.jsonl", '{"step": ' + "1" * 5000 + "}\n", r".*, line 1: this is not.*"),
        ("metrics.jsonl", '{"step": 1.5}\n', r".*, line 1: 'step' must be a whole number.*"),
        ("metrics.jsonl", '{}\n{"eval/accuracy": "x"}\n', r".*, line 2: .* must be a number.*"),
        ("metrics.jsonl", '{"update/loss": null}\n', r".*'update/loss' must be a number.*"),
        ("metrics.jsonl", '{"time": 1e300}\n', r".*'time' must be a time.*"),
        ("metrics.jsonl", '{"split": []}\n', r".*'split' must be a text.*"),
        ("evaluation_test.json", '{"eval/pass_at_1": [1]}', r".*evaluation_test\.json: .*number.*"),
        ("evaluation_test.json", "3", r".*evaluation_test\.json: this is not .* evaluation.*"),
        ("metrics.jsonl", "{\n{}\n", r".*metrics\.jsonl, line 1: .*"),
        ("rounds/0001/samples.jsonl", "{}\n{\n{}\n", r".*0001/samples\.jsonl, line 2: .*"),
        ("rounds/0025/chains.jsonl", '{"id": 1}\n{}\n{"id"\n', r".*0025/chains\.jsonl, line 3: .*"),
    ],
)
def test_a_bad_run_is_one_sentence(tmp_path, name, text, sentence):
    if name:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / "rounds").mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        report.build(tmp_path)
    assert re.fullmatch(sentence, str(caught.value)) and str(caught.value).endswith(".")


def test_what_is_no_file_is_not_read(tmp_path):
    """Else the report would wait for the writer of a pipe, or read a device for ever."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="it has no config.json"):
        report.build(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    os.mkfifo(tmp_path / "evaluation_pipe.json")
    (tmp_path / "evaluation_zero.json").symlink_to("/dev/zero")
    (tmp_path / "evaluation_gone.json").symlink_to("nowhere")
    assert "over k" not in report.build(tmp_path)


def test_an_evaluation_of_several_samples_is_drawn(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    path, curve = tmp_path / "evaluation_test.json", {f"eval/pass_at_{k}": 0.5 for k in (1, 2)}
    path.write_text(
        json.dumps(
            curve | {f"{key}_stderr": 0.1 for key in curve} | {"split": "test", "samples": 2}
        )
    )
    assert "Accuracy over k, test" in report.build(tmp_path)
    path.write_text(json.dumps({"split": "test", "samples": 0}))
    assert "over k" not in report.build(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match=rf"^{path}: this is not the file of an evaluation\.$"):
        report.build(tmp_path)


def test_samples_of_other_types_are_shown_as_they_are(tmp_path):
    line = {"id": [1], "verdict": {"a": 1}, "difficulty": 3, "rationale": 5, "wrong_line": "x"}
    for name in ("samples.jsonl", "chains.jsonl"):
        path = tmp_path / "rounds" / "0001" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"difficulty": "ab"}) + "\n")
    (tmp_path / "rounds" / "²").mkdir()
    (tmp_path / "rounds" / "²" / "samples.jsonl").write_text("{}\n")
    page = report.build(tmp_path)
    first, second = data(page)["samples"]
    assert first == second and first["rationale"] == "5" and first["wrong_line"] is None
    assert first["difficulty"] == "" and "<h2>Chains" in page


def test_metrics_are_read_a_line_at_a_time(tmp_path):
    """What is kept of a million lines are the numbers that are drawn."""
    line = {"step": 1, "round": 1, "phase": "update", "time": 1.0, "update/loss": 0.5}
    line |= {f"update/other_{i}": 0.25 for i in range(40)}
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(5000):
            file.write(json.dumps(line | {"step": step}) + "\n")
    tracemalloc.start()
    history = report.read_history(tmp_path, ())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.updates == 4999 and len(history.columns["update"]) == 5000
    assert peak < 1_000_000  # the lines themselves take 15 times that


def test_the_command_line(tmp_path):
    root = pathlib.Path(report.__file__).parents[1]
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-m", "reasoning_jax.report", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and (tmp_path / "report.html").exists(), done.stderr


def command(*arguments: str) -> int:
    """The report's exit code."""
    try:
        command_line.run(report.main, report.define, needs_config=False, argv=arguments)
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_several_runs_get_a_page_each_and_a_broken_one_a_sentence(tmp_path, capsys):
    names = [str(tmp_path / name) for name in ("first", "broken", "empty", "last")]
    for name in names:
        pathlib.Path(name).mkdir()
        (pathlib.Path(name) / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "broken" / "metrics.jsonl").write_text("3\n")
    (tmp_path / "empty" / "metrics.jsonl").unlink()
    assert command(*(f"--workdir={name}" for name in names)) == 1
    out, err = capsys.readouterr()
    assert out == "".join(f"Wrote {names[i]}/report.html\n" for i in (0, 3))
    broken, empty = err.splitlines()
    assert "broken/metrics.jsonl, line 1: this is not" in broken and "empty holds no run" in empty
    assert command(*(f"--workdir={names[i]}" for i in (0, 3))) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir is missing"),
        (["--workdir=.", "more"], "'more' belongs to no flag"),
        (["--workdir=.", "--wrkdir=x"], "wrkdir"),
        (["--workdir=.", "--config=x"], "config"),
        (["--workdir="], "not the name of a file or folder"),
        (["--workdir=a\0b"], "not the name of a file or folder"),
        (["--workdir=ftp://x"], "ftp://"),
        (["--workdir=~nosuchuser/x"], "nosuchuser"),
        (["--workdir=" + "x" * 300], "File name too long"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, words):
    assert command(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


def test_the_model_is_named_by_what_it_is():
    preset = {"model.preset": "0.4m", "model.source": "", "tune.name": "full"}
    assert report.model_name(preset) == ["0.4m"]
    published = preset | {"model.source": "/models/Qwen2.5-0.5B/", "tune.name": "lora"}
    assert report.model_name(published) == ["Qwen2.5-0.5B", "lora"]
    assert report.model_name({}) == []
