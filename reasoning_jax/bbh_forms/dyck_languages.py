"""Close the open brackets; published rows have 2 to 99 of them and leave 1 to 3 open.

The rationale copies every bracket with its depth as a letter, "a" outermost, and begins a line after each run of closing
ones. The last line is what is open, from the innermost: for each depth the last bracket that has its letter.

    | {a <b (c )c >b
    | [b
    b [,a {
"""

from __future__ import annotations

import numpy as np

LEVELS = (4, 8, 16, 32, 64, 100)  # brackets, at most
START = "Complete the rest of the sequence, making sure that the parentheses are closed properly. Input:"
CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
DEPTHS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (f" {START}", *(f" {bracket}" for pair in CLOSING.items() for bracket in pair), " |", "\n|")
SAME, ENCLOSED = 0.81, 0.8  # fitted: runs as long, and the first bracket as seldom closed, as in the published rows


def question(rng: np.random.Generator, level: int) -> str:
    """Runs of brackets that open and that close, mostly within the first pair, with 1 to 3 left open."""
    shortest = max([2, *(shorter + 1 for shorter in LEVELS if shorter < level)])
    while True:
        made, opened, deepest, least = "", "", 0, int(rng.random() < ENCLOSED)
        for same in rng.random(rng.integers(shortest, level + 1)) < SAME:
            if len(opened) <= least or same == (made[-1] in CLOSING):
                made += "([{<"[rng.integers(4)]
                opened += made[-1]
            else:
                made += CLOSING[opened[-1]]
                opened = opened[:-1]
            deepest = max(deepest, len(opened))
        if 1 <= len(opened) <= 3 and deepest <= len(DEPTHS):
            return f"{START} {' '.join(made)}"


def solve(question: str) -> tuple[str, str]:
    brackets = question.removeprefix(START).split()
    opened: list[str] = []
    trace, before = "", ")"
    for bracket in brackets:
        if bracket in CLOSING:
            trace += "\n|" if before not in CLOSING else ""
            trace += f" {bracket}{DEPTHS[len(opened)]}"
            opened.append(bracket)
        elif opened and bracket == CLOSING[opened[-1]]:
            opened.pop()
            trace += f" {bracket}{DEPTHS[len(opened)]}"
        else:
            raise ValueError(f"{bracket!r} closes nothing: {question!r}.")
        before = bracket
    if not question.startswith(START) or not opened:
        raise ValueError(f"These are no open brackets: {question!r}.")
    still = list(zip(DEPTHS, opened, strict=False))[::-1]
    answer = " ".join(CLOSING[bracket] for _, bracket in still)
    return answer, f"{trace[1:]}\n{','.join(f'{depth} {bracket}' for depth, bracket in still)}"


def difficulty(question: str) -> tuple[str, int]:
    """The level with so many brackets; longer ones count as the last."""
    brackets = len(question.removeprefix(START).split())
    return "brackets", next((level for level in LEVELS if brackets <= level), LEVELS[-1])
