"""Digits in two brackets, such as "((-1 + 2 + 9 * 5) - (-2 + -4 + -4 * -7)) =".

A line of the rationale is the line before with one thing computed: the first product, else the first sum. Each bracket is
reduced to a number, then the two are joined. A product of two longer numbers is first split into digits.

    37 * 26
    37 * 20 + 37 * 6
    740 + 37 * 6
    740 + 222
    962
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (1, 2, 3, 4, 5)  # digits of the largest number that is computed; 5 or more are one level
WORDS = (" ((", ")) =", " + ", " - ", " * ")
QUESTION = re.compile(r"\(\(([-+* 0-9]+)\) ([-+*]) \(([-+* 0-9]+)\)\) =")
PRODUCT, SUM = re.compile(r"(-?\d+) \* (-?\d+)"), re.compile(r"(-?\d+) ([-+]) (-?\d+)")


def question(rng: np.random.Generator, level: int) -> str:
    """Four digits in each bracket; signs and operators all as likely, which is how the published rows are."""
    while True:
        parts = [str(digit) for digit in rng.integers(-9, 10, 8)]
        for place, i in enumerate(rng.integers(3, size=7)):
            parts.insert(2 * place + 1, "+-*"[i])
        made = f"(({' '.join(parts[:7])}) {parts[7]} ({' '.join(parts[8:])})) ="
        if difficulty(made)[1] == level:
            return made


def solve(question: str) -> tuple[str, str]:
    match = QUESTION.fullmatch(question)
    if not match:
        raise ValueError(f"These are not two brackets of digits: {question!r}.")
    first, second = _reduced(match[1]), _reduced(match[3])
    joined = f"{first[-1]} {match[2]} {second[-1]}"
    lines = [*first, *second, joined, *_reduced(joined)]
    return lines[-1], "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "digits", min(max(map(len, re.findall(r"\d+", solve(question)[1]))), LEVELS[-1])


def _reduced(text: str) -> list[str]:
    """The lines from an expression without brackets to its value."""
    lines = []
    while True:
        if match := PRODUCT.search(text):
            a, b = _digits(match[1]), _digits(match[2])
            if min(len(a), len(b)) < 2:
                value = str(int(match[1]) * int(match[2]))
            elif len(b) <= len(a):
                value = " + ".join(f"{match[1]} * {part}" for part in b)
            else:
                value = " + ".join(f"{part} * {match[2]}" for part in a)
        elif match := SUM.match(text):
            value = str(int(match[1]) + int(match[3]) * (1 if match[2] == "+" else -1))
        else:
            return lines
        text = text[: match.start()] + value + text[match.end() :]
        lines.append(text)


def _digits(number: str) -> list[int]:
    """The numbers of one digit and zeros that add up to this one: -70 and -6 for "-76"."""
    sign, digits = -1 if number.startswith("-") else 1, number.lstrip("-")
    return [sign * int(digit) * 10**i for i, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True) if digit != "0"]
