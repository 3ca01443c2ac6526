"""report.py: one page that stands alone, whatever the run has and has not written."""

from __future__ import annotations

import html.parser
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest

from reasoning_jax import metrics, report

NASTY = "</script><script>alert(1)</script><!-- {{DATA}} \u2028 ' \" \\u003c & é \ud800"


def write_run(workdir: pathlib.Path, rounds: int = 8, examples: int = 150) -> None:
    """A work directory such as a STaR run on addition leaves, with invented numbers."""
    rng = random.Random(0)
    writer, step = metrics.Writer(workdir), 0
    config = {"seed": 0, "algorithm": {"name": "star", "keep": 1.0}, "task": {"name": "addition", "path": ""}}
    config |= {"model": {"name": "tiny", "layers": 6}, "optim": {"learning_rate": 3e-4, "note": "<b>"}}
    (workdir / "config.json").write_text(json.dumps(config))

    def evaluate(number: int, split: str) -> None:
        skill = number / rounds
        values = {"eval/accuracy": 0.1 + 0.8 * skill, "eval/accuracy_stderr": 0.008, "eval/unparsed": 0.2 * (1 - skill)}
        for digits in range(1, 6):
            values[f"eval/accuracy_digits_{digits}"] = min(1.0, max(0.0, 1.6 * skill - 0.15 * digits + 0.3))
            values[f"eval/accuracy_stderr_digits_{digits}"] = 0.02
        values |= {"eval/true_lines": 0.2 + 0.7 * skill, "eval/tokens": 40 + 10 * skill, "eval/truncated": 0.01}
        writer.write(step, number, "eval", values, split=split)

    evaluate(0, "validation")
    for number in range(1, rounds + 1):
        skill = number / rounds
        values = {"collect/samples": examples, "collect/correct": skill, "collect/kept": 0.3 + 0.6 * skill}
        values |= {"collect/rationalized": 0.3 * (1 - skill), "collect/unparsed": 0.2 * (1 - skill)}
        values |= {"collect/truncated": 0.05, "collect/true_lines": 0.5 + 0.5 * skill, "collect/tokens": 45 + number}
        values |= {"collect/hinted_true_lines": 0.3 + 0.4 * skill, "collect/samples_per_second": 210 + 3 * number}
        values |= {"collect/tokens_per_second": 9000 + rng.random() * 500}
        writer.write(step, number, "collect", values)
        folder = workdir / "rounds" / f"{number:04}"
        folder.mkdir(parents=True)
        with open(folder / "samples.jsonl", "w") as file:
            for i in range(examples):
                file.write(json.dumps(sample(rng, i)) + "\n")
            file.write('{"id": 1, "question": "torn')
        for _ in range(30):
            step += 10
            loss = 0.02 + 1.5 / (1 + (step % 300) / 20) + 0.05 * rng.random()
            speeds = {"update/tokens_per_second": 52000 + 900 * rng.random(), "update/grad_norm": 1 + rng.random()}
            writer.write(step, number, "update", {"update/loss": loss, **speeds})
        evaluate(number, "validation")
    evaluate(rounds, "test")
    writer.close()
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "upd')


def sample(rng: random.Random, i: int) -> dict:
    digits = rng.randint(1, 5)
    a, b = rng.randrange(10**digits), rng.randrange(10**digits)
    verdict = rng.choices(["correct", "wrong", "unparsed", "truncated"], [0.9, 0.06, 0.02, 0.02])[0]
    lines, carry = ["<scratch>"], 0
    for k in range(digits):
        x, y = a // 10**k % 10, b // 10**k % 10
        lines.append(f"{x} + {y} + {carry} = {x + y + carry}")
        carry = (x + y + carry) // 10
    wrong_line = rng.randint(1, digits) if verdict == "wrong" or rng.random() < 0.03 else None
    if wrong_line:
        lines[wrong_line] += "1"
    answer = {"correct": str(a + b), "wrong": str(a + b + 10)}.get(verdict)
    lines += [] if verdict == "truncated" else ["</scratch>", answer or "?"]
    return {
        "id": i, "question": NASTY if i == 0 else f"What is {a} + {b}?", "rationale": "\n".join(lines),
        "answer": answer, "gold": str(a + b), "verdict": verdict,
        "hinted": rng.random() < 0.2, "kept": verdict == "correct",
        "wrong_line": wrong_line, "tokens": 8 * len(lines), "difficulty": ["digits", digits],
    }  # fmt: skip


class Page(html.parser.HTMLParser):
    """Tags in order, the text of each kind of element, and whether every element was closed."""

    VOID = {"meta", "use", "path", "rect", "line", "br", "input", "th", "td", "tr"}  # th, td, tr: end tags are optional

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
    workdir = tmp_path_factory.mktemp("star_addition")
    write_run(workdir)
    return workdir, report.write(workdir).read_text(encoding="utf-8")


def data(page: str) -> dict:
    scripts = [text for text in Page(page).texts["script"] if text.startswith("{")]
    return json.loads(scripts[0], parse_constant=pytest.fail)


def test_the_page_parses_and_stands_alone(run):
    workdir, text = run
    page = Page(text)
    assert page.open == [] and not list(workdir.glob("*.tmp"))
    assert [tag for tag, _ in page.tags].count("svg") == 8 and [tag for tag, _ in page.tags].count("script") == 2
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert name not in {"src", "action", "data"}
            assert not name.endswith("href") or value.startswith("#"), value
            assert not re.search(r"https?://", value or ""), (tag, name, value)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert not re.search(r"#00000[0-9a-f]|#0000f\d", text)  # every colour became one of the page's variables
    assert "<b>" not in page.texts["div"] and any('"<b>"' in part for part in page.texts["div"])


def test_nasty_samples_round_trip(run):
    samples = data(run[1])["samples"]
    assert sum(sample["question"] == NASTY for sample in samples) >= 1


def test_the_samples_are_chosen_evenly_and_rare_kinds_first(run):
    workdir, text = run
    found = data(text)
    assert found["total"] == 8 * 150 and len(found["samples"]) == 8 * report.PER_ROUND
    rows = metrics.read_lines(workdir / "rounds" / "0003" / "samples.jsonl")
    shown = [sample for sample in found["samples"] if sample["round"] == 3]
    for verdict, marked in [("wrong", True), ("unparsed", False), ("truncated", False), ("correct", True)]:
        some = [r for r in rows if r["verdict"] == verdict and (r["wrong_line"] is not None) == marked]
        kept = [s for s in shown if s["verdict"] == verdict and (s["wrong_line"] is not None) == marked]
        assert some and len(kept) == len(some), (verdict, marked)
    assert found == data(report.build(workdir))


def test_every_filter_finds_its_field(run):
    _, text = run
    fields = {"round", "verdict", "hinted", "kept", "difficulty", "question", "rationale", "answer", "gold"}
    for sample in data(text)["samples"]:
        assert fields <= set(sample)
        assert re.fullmatch(r"digits [1-5]", sample["difficulty"]) and isinstance(sample["hinted"], bool)
        if sample["wrong_line"] is not None:  # the line that the page marks
            assert sample["rationale"].split("\n")[sample["wrong_line"]].endswith("1")
    assert 'make("span", i === s.wrong_line ? "bad" : "", line)' in text and "pre span.bad { color: var(--bad)" in text


def test_the_table_has_base_best_last_and_the_test_split(run):
    rows = re.findall(r"<tr>(.*?)(?=<tr>|</table>)", run[1])
    cells = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "|", row)).strip("| ") for row in rows]
    assert re.sub(r"[| ]+", " ", cells[0]).startswith("accuracy, % all digits 1 digits 2")
    named = [cell.split("|")[0].strip() for cell in cells]
    assert named == ["accuracy, %", "validation", "base", "round 1", "round 3", "round 4", "round 6", "round 8",
                     "test", "round 8"]  # fmt: skip
    assert "best, last" in cells[7] and "90.0" in cells[7] and "± 0.8" in cells[7]


def test_a_run_of_one_round_is_told_by_updates(tmp_path):
    writer = metrics.Writer(tmp_path)
    for step in (0, 100, 200):
        writer.write(step, 1 if step else 0, "eval", {"eval/accuracy": step / 250}, split="validation")
    writer.close()
    page = report.build(tmp_path)
    assert "<th>base <" in page and "<th>update 200 <i>best, last" in page and ">updates</text>" in page
    assert page.count("<svg") == 1 and "Not logged in this run: what was collected" in page


def test_a_repeated_evaluation_counts_once(tmp_path):
    writer = metrics.Writer(tmp_path)
    for accuracy in (0.25, 0.5):
        writer.write(0, 0, "eval", {"eval/accuracy": accuracy}, split="validation")
    writer.close()
    page = report.build(tmp_path)
    assert page.count("<th>base") == 1 and "50.0" in page and "25.0<" not in page


def test_a_rare_kind_is_not_lost():
    rows = [{"verdict": "correct", "id": i} for i in range(1000)]
    rows[500] = {"verdict": "wrong", "id": 500}
    rows[700] = {"verdict": "correct", "wrong_line": 2, "id": 700}
    chosen = [row["id"] for row in report.pick(rows, 12)]
    assert len(chosen) == 12 and chosen == sorted(chosen) and {0, 500, 700, 999} <= set(chosen)
    assert report.pick(rows[:5], 12) == rows[:5] and report.pick([], 12) == []


def test_many_rounds_share_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "IN_ALL", 40)
    for number in range(20):
        folder = tmp_path / "rounds" / f"{number:04}"
        folder.mkdir(parents=True)
        lines = [json.dumps(sample(random.Random(i), i)) for i in range(30)]
        (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    found = data(report.build(tmp_path))
    rounds = [sample["round"] for sample in found["samples"]]
    assert found["total"] == 600 and len(rounds) == 40 and sorted(set(rounds)) == [0, 4, 9, 14, 19]


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}"},
        {"metrics.jsonl": ""},
        {"metrics.jsonl": '{"step": 5, "round": 1, "phase": "eval", "eval/accuracy": "nan", "split": "test"}\n'},
        {"metrics.jsonl": '{"step": 5, "round": 1, "phase": "update", "update/loss": "inf"}\n{"phase": "collect"}\n'},
        {"metrics.jsonl": '{"step": 5, "phase": "update", "update/loss": -0.5}\n', "rounds/0001/samples.jsonl": ""},
        {"rounds/0002/samples.jsonl": '{"id": 3}\n', "rounds/notes/samples.jsonl": "?"},
    ],
)
def test_missing_pieces_are_left_out(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    page = report.build(tmp_path)
    assert Page(page).open == [] and data(page)["total"] == (1 if "rounds/0002/samples.jsonl" in files else 0)


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        (None, "", r".*holds no run.*"),
        ("config.json", "{", r".*config\.json is not JSON.*"),
        ("metrics.jsonl", "{\n{}\n", r".*metrics\.jsonl, line 1: .*"),
        ("rounds/0001/samples.jsonl", "{}\n{\n{}\n", r".*0001/samples\.jsonl, line 2: .*"),
    ],
)
def test_a_bad_run_is_one_sentence(tmp_path, name, text, sentence):
    if name:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        report.build(tmp_path)
    assert re.fullmatch(sentence, str(caught.value)) and str(caught.value).endswith(".")


def test_the_command_line(tmp_path):
    root = pathlib.Path(report.__file__).parents[1]
    command = [sys.executable, "-m", "reasoning_jax.report", f"--workdir={tmp_path}"]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert failed.returncode == 1 and failed.stdout == "" and failed.stderr.count("\n") == 1
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and (tmp_path / "report.html").exists(), done.stderr
