"""What a method remembers of some questions, by round: the sections of rounds/*/NAME.jsonl.

A line of such a file has the keys id, question, gold, rationale, correct and difficulty, as far as
the method has them. Its further keys are shown with each state as they are, the last of them in the
question's heading too.
"""

from __future__ import annotations

import difflib
import html
import itertools
from collections.abc import Sequence
from pathlib import Path

from reasoning_jax import workdir
from reasoning_jax.report_samples import (
    difficulty,
    evenly,
    rationale,
    round_files,
    round_of,
    shortened,
)
from reasoning_jax.workdir import Line

STATE_LIMIT = 2000  # states of all questions of a section together
KNOWN = {"id", "question", "gold", "rationale", "correct", "difficulty", "round"}


def sections(directory: Path) -> str:
    """A section for each NAME that the rounds have written, samples.jsonl aside; "" without any."""
    names = {path.name for path in round_files(directory, "*.jsonl")} - {"samples.jsonl"}
    return "".join(section(directory, name) for name in sorted(names))


def section(directory: Path, name: str) -> str:
    """The section of one file name, a folded box for each question; "" without any line."""
    histories: dict[str, list[Line]] = {}
    paths = round_files(directory, name)
    for path in paths:
        for line in workdir.read_lines(path):
            state = line | {"round": round_of(path)}
            histories.setdefault(str(line.get("id")), []).append(state)
    if not histories:
        return ""
    limit = max(2, STATE_LIMIT // len(histories))
    note = f"The rationales that {len(histories)} questions held one after another, as seen after "
    note += f"{len(paths):,} of the rounds"
    if len(paths) > limit:
        note += f" (at most {limit} of each are shown)"
    note += ". A line marked + is not in the rationale shown before."
    boxes = "".join(history(states, limit) for states in histories.values())
    stem = name.removesuffix(".jsonl")
    title = html.escape(stem.replace("_", " ").capitalize())
    heading = f"<h2>{title}</h2><p class=muted>{note}</p>"
    return f'<section id="{html.escape(stem)}">{heading}{boxes}</section>'


def history(states: Sequence[Line], limit: int) -> str:
    """A question's states in the run's order, equal neighbours as one.

    At most ``limit`` of them are shown, at even distances.
    """
    spans = [list(equal) for _, equal in itertools.groupby(states, rationale)]
    cards, before = "", ""
    for span in evenly(spans, limit):
        cards += card(span, before)
        before = rationale(span[-1])
    last = states[-1]
    badge = "<span class='badge wrong'>not valid</span>"
    if last.get("correct"):
        badge = "<span class='badge correct'>valid</span>"
    facts = [difficulty(last), *further(last)[-1:]]
    facts += [f"{key} {last[key]}" for key in ("gold", "id") if key in last]
    about = html.escape(" · ".join(fact for fact in facts if fact))
    question = html.escape(str(last.get("question", "")))
    heading = f"{badge}<b>{question}</b><span class=muted>{about}</span>"
    summary = f"<summary><div>{heading}</div></summary>"
    return f"<details class=history>{summary}<div class=cards>{cards}</div></details>"


def card(span: Sequence[Line], before: str) -> str:
    """One rationale, held for the rounds of ``span``; ``before`` is the one shown before it."""
    first, last = span[0], span[-1]
    text = rationale(last)
    kind, name = "", "no rationale yet"
    if last.get("correct"):
        kind, name = "correct", "correct"
    elif text:
        kind, name = "wrong", "wrong"
    rounds = f"round {last['round']}"
    if first is not last:
        rounds = f"rounds {first['round']}–{last['round']}"
    facts = html.escape(" · ".join([rounds, *further(last)]))
    top = f"<div class=top><span class='badge {kind}'>{name}</span><span>{facts}</span></div>"
    body = f"<pre>{marked_lines(text, before)}</pre>" if text else ""
    return f"<article class='sample {kind}'>{top}{body}</article>"


def marked_lines(text: str, before: str) -> str:
    """The lines of a rationale, marked where they are not in the one shown before it."""
    lines = shortened(text).split("\n")
    new = changed(shortened(before).split("\n"), lines) if before else set()
    spans = []
    for i, line in enumerate(lines):
        tag = "<span class=new>" if i in new else "<span>"
        spans.append(f"{tag}{html.escape(line)}</span>")
    return "".join(spans)


def changed(old: Sequence[str], new: Sequence[str]) -> set[int]:
    """The numbers of the lines of ``new`` that are not in ``old``, or not in that order."""
    lines = set(range(len(new)))
    for block in difflib.SequenceMatcher(None, old, new).get_matching_blocks():
        lines -= set(range(block.b, block.b + block.size))
    return lines


def further(line: Line) -> list[str]:
    """The method's own keys of a line, in the line's order."""
    return [f"{key} {value}" for key, value in line.items() if key not in KNOWN]
