"""Close the open brackets; published questions have 2 to 99 of them and leave 1 to 3 open.

The rationale copies every bracket with its depth as a letter, "a" outermost, and begins a line
after each run of closing ones. The last line is what is open, from the innermost: for each depth
the last bracket that has its letter.

    | {a <b (c )c >b
    | [b
    b [,a {
"""

from __future__ import annotations

import numpy as np

LEVELS = (4, 8, 16, 32, 64, 100)  # brackets, at most
START = (
    "Complete the rest of the sequence, making sure that the parentheses are closed properly. "
    "Input:"
)
OPENING = "([{<"
CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
DEPTHS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (f" {START}", *(f" {bracket}" for pair in CLOSING.items() for bracket in pair), " |", "\n|")
# Fitted, so that runs are as long, and the first bracket as seldom closed, as in published ones.
SAME = 0.81  # how often a bracket is of the kind of the one before: both open, or both close
ENCLOSED = 0.8  # how often the first bracket stays open to the end


def question(rng: np.random.Generator, level: int) -> str:
    """Runs of brackets that open and that close, mostly within the first pair, 1 to 3 left open."""
    easier = [other for other in LEVELS if other < level]
    shortest = max(easier) + 1 if easier else 2
    while True:
        brackets, left_open, deepest = _sequence(rng, shortest, level)
        if 1 <= left_open <= 3 and deepest <= len(DEPTHS):
            return f"{START} {' '.join(brackets)}"


def _sequence(rng: np.random.Generator, shortest: int, longest: int) -> tuple[str, int, int]:
    """Brackets, how many of them are left open, and the greatest number open at once."""
    brackets, opened, deepest = "", "", 0
    kept_open = 1 if rng.random() < ENCLOSED else 0
    length = rng.integers(shortest, longest + 1)
    for same in rng.random(length) < SAME:
        opens = len(opened) <= kept_open or same == (brackets[-1] in CLOSING)
        if opens:
            brackets += OPENING[rng.integers(4)]
            opened += brackets[-1]
        else:
            brackets += CLOSING[opened[-1]]
            opened = opened[:-1]
        deepest = max(deepest, len(opened))
    return brackets, len(opened), deepest


def solve(question: str) -> tuple[str, str]:
    opened: list[str] = []
    trace = ""
    new_line = True
    for bracket in question.removeprefix(START).split():
        if bracket in CLOSING:
            if new_line:
                trace += "\n|"
            trace += f" {bracket}{DEPTHS[len(opened)]}"
            opened.append(bracket)
        elif opened and bracket == CLOSING[opened[-1]]:
            opened.pop()
            trace += f" {bracket}{DEPTHS[len(opened)]}"
        else:
            raise ValueError(f"{bracket!r} closes nothing: {question!r}.")
        new_line = bracket not in CLOSING
    if not question.startswith(START) or not opened:
        raise ValueError(f"These are no open brackets: {question!r}.")
    innermost_first = list(zip(DEPTHS, opened, strict=False))[::-1]
    answer = " ".join(CLOSING[bracket] for _, bracket in innermost_first)
    still_open = ",".join(f"{depth} {bracket}" for depth, bracket in innermost_first)
    return answer, trace.removeprefix("\n") + f"\n{still_open}"


def difficulty(question: str) -> tuple[str, int]:
    """The level with so many brackets; longer ones count as the last."""
    brackets = len(question.removeprefix(START).split())
    return "brackets", next((level for level in LEVELS if brackets <= level), LEVELS[-1])
