"""Digits in two brackets, such as "((-1 + 2 + 9 * 5) - (-2 + -4 + -4 * -7)) =".

A line of the rationale is the line before with one thing computed: the first product, else the
first sum. Each bracket is reduced to a number, then the two are joined. A product of two longer
numbers is first split into digits.

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
PRODUCT = re.compile(r"(-?\d+) \* (-?\d+)")
SUM = re.compile(r"(-?\d+) ([-+]) (-?\d+)")


def question(rng: np.random.Generator, level: int) -> str:
    """Four digits in each bracket; signs and operators all as likely, as in the published ones."""
    while True:
        digits = rng.integers(-9, 10, 8)
        operators = ["+-*"[i] for i in rng.integers(3, size=7)]
        words = [str(digits[0])]
        for operator, digit in zip(operators, digits[1:], strict=True):
            words += [operator, str(digit)]
        made = f"(({' '.join(words[:7])}) {words[7]} ({' '.join(words[8:])})) ="
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
    numbers = re.findall(r"\d+", solve(question)[1])
    return "digits", min(max(map(len, numbers)), LEVELS[-1])


def _reduced(text: str) -> list[str]:
    """The lines from an expression without brackets to its value."""
    lines: list[str] = []
    while True:
        match = PRODUCT.search(text)
        if match:
            value = _product(match[1], match[2])
        else:
            match = SUM.match(text)
            if not match:
                return lines
            value = _sum(match[1], match[2], match[3])
        text = text[: match.start()] + value + text[match.end() :]
        lines.append(text)


def _product(a: str, b: str) -> str:
    """The value; of two numbers of several digits, the products with the shorter one's digits."""
    digits_a, digits_b = _digits(a), _digits(b)
    if min(len(digits_a), len(digits_b)) < 2:
        return str(int(a) * int(b))
    if len(digits_b) <= len(digits_a):
        return " + ".join(f"{a} * {digit}" for digit in digits_b)
    return " + ".join(f"{digit} * {b}" for digit in digits_a)


def _sum(a: str, operator: str, b: str) -> str:
    return str(int(a) + int(b)) if operator == "+" else str(int(a) - int(b))


def _digits(number: str) -> list[int]:
    """The numbers of one digit and zeros that add up to this one: -70 and -6 for "-76"."""
    sign = -1 if number.startswith("-") else 1
    digits = number.lstrip("-")
    powers = range(len(digits) - 1, -1, -1)
    values = [sign * int(digit) * 10**i for i, digit in zip(powers, digits, strict=True)]
    return [value for value in values if value != 0]
