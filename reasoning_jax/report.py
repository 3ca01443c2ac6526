"""One HTML page about a run: accuracy, curves, chains, samples.

python -m reasoning_jax.report --workdir=DIR        writes DIR/report.html, which needs no network and no other file
"""

from __future__ import annotations

import collections
import datetime
import difflib
import html
import itertools
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import app, flags

from reasoning_jax import charts, metrics
from reasoning_jax import workdir as files

PER_ROUND, IN_ALL, FEWEST, LONGEST = 60, 4000, 8, 6000  # samples a round, in all, at least a round; characters of one
STATES = 2000  # of all chains together
Line = dict[str, Any]


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Write report.html into ``workdir`` and return its path; the errors are those of ``build``."""
    page, path = build(workdir), files.path(workdir) / "report.html"
    files.write(path, page.encode(errors="replace"))
    return path


def build(workdir: str | os.PathLike[str]) -> str:
    """The page as text; whatever the run has not written is left out.

    Raises FileNotFoundError where ``workdir`` holds no run, ValueError where one of its files is broken.
    """
    workdir = files.path(workdir)
    config_file, metrics_file = workdir / "config.json", workdir / "metrics.jsonl"
    if not any(path.exists() for path in (config_file, metrics_file, workdir / "rounds")):
        raise FileNotFoundError(f"{workdir} holds no run: no config.json, no metrics.jsonl and no rounds.")
    lines = metrics.read(workdir) if metrics_file.exists() else []
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{config_file} is not JSON: {error}.") from None
    samples, total = choose_samples(workdir)
    # "<" never stands in the data, so no sample can end the script element early.
    data = json.dumps({"samples": samples, "total": total}, allow_nan=False, separators=(",", ":"))
    parts = {
        "TITLE": html.escape(workdir.resolve().name),
        "HEADER": header(lines, config, total),
        "TABLE": table(lines),
        "PLOTS": charts.plots(lines, evaluations(lines), votes(workdir)),
        "CHAINS": chains(workdir),
        "DATA": data.replace("<", "\\u003c"),
    }
    page = pathlib.Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], page)


def header(lines: Sequence[Line], config: Any, total: int) -> str:
    """What ran and when, the numbers one asks for first, and the whole config, folded away."""
    flat = dict(flatten(config))
    about = [str(flat[key]) for key in ("algorithm.name", "task.name", "model.name", "model.preset") if flat.get(key)]
    scores = [metrics.percent(line["eval/accuracy"]) for line in evaluations(lines) if "eval/accuracy" in line]
    tiles = [("accuracy, first → last", f"{scores[0]} → {scores[-1]} %")] if scores else []
    for name, key in (("rounds", "round"), ("updates", "step")):
        tiles += [(name, f"{max(line.get(key, 0) for line in lines):,}")] if lines else []
    tiles.append(("samples written", f"{total:,}"))
    times = [line["time"] for line in lines if "time" in line]
    if times:
        tiles.append(("first to last line", str(datetime.timedelta(seconds=round(max(times) - min(times))))))
        about.append(f"ran {datetime.datetime.fromtimestamp(min(times)):%Y-%m-%d %H:%M}")
    about.append(f"reported {datetime.datetime.now():%Y-%m-%d %H:%M}")
    boxes = "".join(f"<div class=tile><b>{value}</b><span>{name}</span></div>" for name, value in tiles)
    pairs = [(html.escape(key), html.escape(json.dumps(value, ensure_ascii=False))) for key, value in flat.items()]
    keys = "".join(f"<div><span>{key}</span> {value}</div>" for key, value in pairs)
    page = f"<p class=muted>{html.escape(' · '.join(about))}</p><div class=tiles>{boxes}</div>"
    folded = f"<details><summary>Config, {len(flat)} keys</summary><div class=config>{keys}</div></details>"
    return page + folded * bool(flat)


def flatten(config: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested dict."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield from flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else [(f"{prefix}.{key}"[1:], value)]


def evaluations(lines: Sequence[Line], split: str | None = None) -> list[Line]:
    """One split's evaluations in the run's order (validation where there is one), the last where one was repeated."""
    found = [line for line in lines if line.get("phase") == "eval"]
    splits = [line.get("split", "validation") for line in found]
    split = split or ("validation" if "validation" in splits or not splits else splits[0])
    return list({(m.get("round"), m.get("step")): m for m, s in zip(found, splits, strict=True) if s == split}.values())


def votes(workdir: pathlib.Path) -> list[Line]:
    """What ``evaluate`` has found of several samples a question, a split each."""
    found = []
    for path in sorted(workdir.glob("evaluation_*.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from None
    return [line for line in found if line.get("samples")]


def table(lines: Sequence[Line]) -> str:
    """Accuracy by difficulty of base, some rounds, the best and the last, for each split there is."""
    evals = [line for line in lines if line.get("phase") == "eval"]
    if not evals:
        return "<p class=muted>This run has no evaluations.</p>"
    levels = sorted({level for line in evals for level in metrics.by_difficulty(line)})
    asides = [key for key in ("unparsed", "truncated", "true_lines") if any(f"eval/{key}" in line for line in evals)]
    heads = ["all", *(html.escape(f"{name} {value}") for name, value in levels)]
    rows = "<tr><th>accuracy, %" + "".join(f"<th>{head}" for head in heads)
    rows += "".join(f"<th class=aside>{key.replace('_', ' ')}" for key in asides)
    for split in dict.fromkeys(line.get("split", "validation") for line in evals):
        scores = evaluations(lines, split)
        rounds = len({score.get("round") for score in scores}) == len(scores)  # else rows are told by their updates
        last, best = len(scores) - 1, max(range(len(scores)), key=lambda i: scores[i].get("eval/accuracy", -1.0))
        rows += f"<tr><th class=split colspan={1 + len(heads) + len(asides)}>{html.escape(split)}"
        for i in sorted({best, *evenly(range(len(scores)), 6)}):
            line, by_level = scores[i], metrics.by_difficulty(scores[i])
            cells = [(line.get("eval/accuracy"), line.get("eval/accuracy_stderr"))]
            cells += [by_level.get(level, (None, None)) for level in levels]
            name = f"round {line.get('round')}" if rounds else f"update {line.get('step')}"
            name = name if line.get("step") or line.get("round") else "base"
            notes = ", ".join(word for word, here in (("best", i == best), ("last", i == last)) if here and last > 0)
            rows += f"<tr><th>{name} <i>{notes}</i>"
            for value, stderr in cells:
                tint = 0.0 if value is None or not math.isfinite(value) else 0.4 * value
                number, _, error = metrics.percent(value, stderr).partition(" ")
                rows += f"<td style='--tint:{tint:.3f}'>{number}<small>{error}</small>"
            rows += "".join(f"<td class=aside>{metrics.percent(line.get(f'eval/{key}'))}" for key in asides)
    return f"<div class=scroll><table>{rows}</table></div>"


def chains(workdir: pathlib.Path) -> str:
    """The section on the chains of a method that keeps some, a folded box for each; "" where none were written."""
    histories: dict[str, list[Line]] = {}
    paths = round_files(workdir, "chains.jsonl")
    for path in paths:
        for row in metrics.read_lines(path):
            histories.setdefault(str(row.get("id")), []).append(row | {"round": int(path.parent.name)})
    if not histories:
        return ""
    limit = max(2, STATES // len(histories))
    boxes = "".join(chain(rows, limit) for rows in histories.values())
    note = f"The rationales that {len(histories)} questions held one after another, as seen after {len(paths):,} of the rounds"
    note += f" (at most {limit} of each are shown)" * (len(paths) > limit)
    note += ". A line marked + is not in the rationale shown before."
    return f"<section id=chains><h2>Chains</h2><p class=muted>{note}</p>{boxes}</section>"


def chain(rows: Sequence[Line], limit: int) -> str:
    """A question's states in the run's order, equal neighbours as one; at most ``limit`` of them, at even distances."""
    cards, old = "", []
    for span in evenly([list(equal) for _, equal in itertools.groupby(rows, rationale)], limit):
        first, last = span[0], span[-1]
        new = shortened(rationale(last)).split("\n") if rationale(last) else []
        fresh = changed(old, new) if old else set()
        spans = "".join(f"<span{' class=new' * (i in fresh)}>{html.escape(line)}</span>" for i, line in enumerate(new))
        kind, name = ("correct", "correct") if last.get("correct") else ("wrong", "wrong") if new else ("", "no rationale yet")
        time = f"round {last['round']}" if first is last else f"rounds {first['round']}–{last['round']}"
        facts = [time, *(f"{key} {last[key]}" for key in ("age", "visits", "accepted") if key in last)]
        top = f"<span class='badge {kind}'>{name}</span><span>{html.escape(' · '.join(facts))}</span>"
        cards += f"<article class='sample {kind}'><div class=top>{top}</div>{f'<pre>{spans}</pre>' if new else ''}</article>"
        old = new
    last = rows[-1]
    kind, name = ("correct", "valid") if last.get("correct") else ("wrong", "not valid")
    facts = [difficulty(last), f"accepted {last.get('accepted', 0)}", f"gold {last.get('gold')}", f"id {last.get('id')}"]
    about = f"<span class=muted>{html.escape(' · '.join(filter(None, facts)))}</span>"
    row = f"<span class='badge {kind}'>{name}</span><b>{html.escape(str(last.get('question')))}</b>{about}"
    return f"<details class=chain><summary><div>{row}</div></summary><div class=cards>{cards}</div></details>"


def changed(old: Sequence[str], new: Sequence[str]) -> set[int]:
    """The numbers of the lines of ``new`` that are not in ``old``, or not in that order."""
    same = difflib.SequenceMatcher(None, old, new).get_matching_blocks()
    return set(range(len(new))) - {i for block in same for i in range(block.b, block.b + block.size)}


def round_files(workdir: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The files of this name that the rounds have written, in the run's order."""
    paths = [path for path in (workdir / "rounds").glob(f"*/{name}") if path.parent.name.isdigit()]
    return sorted(paths, key=lambda path: int(path.parent.name))


def choose_samples(workdir: pathlib.Path) -> tuple[list[Line], int]:
    """The samples to show, and of how many: evenly from the rounds and, within one, evenly from every kind."""
    paths = round_files(workdir, "samples.jsonl")
    shown = set(evenly(paths, IN_ALL // FEWEST))
    chosen, total = [], 0
    for path in paths:
        rows = metrics.read_lines(path)
        total += len(rows)
        if path in shown:
            chosen += [entry(row, int(path.parent.name)) for row in pick(rows, min(PER_ROUND, IN_ALL // len(shown)))]
    return chosen, total


def pick(rows: Sequence[Line], limit: int) -> list[Line]:
    """At most ``limit`` rows, in order: every kind gets an equal share, what a rare kind leaves goes to the others."""
    kinds = collections.defaultdict(list)
    for i, row in enumerate(rows):
        kinds[row.get("verdict"), row.get("wrong_line") is None, bool(row.get("hinted"))].append(i)
    chosen, room = [], limit
    for left, members in zip(range(len(kinds), 0, -1), sorted(kinds.values(), key=len), strict=True):
        chosen += evenly(members, room // left)
        room = limit - len(chosen)
    return [rows[i] for i in sorted(chosen)]


def evenly(items: Sequence[Any], number: int) -> list[Any]:
    """At most ``number`` of ``items`` at even distances, the first and (where there are two) the last among them."""
    number = min(number, len(items))
    return [items[i * (len(items) - 1) // max(number - 1, 1)] for i in range(number)]


def entry(row: Line, round: int) -> Line:
    """A sample as the page's script takes it."""
    texts = {k: None if row.get(k) is None else str(row[k]) for k in ("id", "question", "answer", "gold", "verdict")}
    numbers = {key: row[key] if isinstance(row.get(key), int) else None for key in ("wrong_line", "tokens")}
    marks = {key: bool(row.get(key)) for key in ("hinted", "kept")}
    return {"round": round, "rationale": shortened(rationale(row)), "difficulty": difficulty(row), **texts, **numbers, **marks}


def rationale(row: Line) -> str:
    return str(row.get("rationale") or "")


def shortened(text: str) -> str:
    return f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]" if len(text) > LONGEST else text


def difficulty(row: Line) -> str:
    return " ".join(str(part) for part in row.get("difficulty") or ())


def main(argv: Sequence[str]) -> None:
    try:
        print(f"Wrote {write(flags.FLAGS.workdir)}")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":  # not at import: main.py has a flag of this name too
    flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
    app.run(main)
