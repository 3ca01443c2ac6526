"""Boolean expressions such as "not ( True ) and False is"; published questions have 8 words.

A line of the rationale does one thing to the line before: it takes a bracket off a value, else
applies the leftmost "not", else "and", else "or".

    = False and False
    = False
"""

from __future__ import annotations

import functools
import re

import numpy as np

LEVELS = (3, 4, 5, 6, 7, 8)  # words
WORDS = (
    *(" True", " False", " and", " or", " not", " (", " )"),
    *(" is", " =", "\n=", "\n(True)", "\n(False)"),
)
VALUES = ("True", "False")
# The steps of a rationale, in order of precedence: what is replaced, and its value.
STEPS = (
    (r"\( (True|False) \)", lambda m: m[1]),
    (r"not (True|False)", lambda m: str(m[1] == "False")),
    (r"(True|False) and (True|False)", lambda m: str(m[1] == "True" and m[2] == "True")),
    (r"(True|False) or (True|False)(?! and)", lambda m: str("True" in (m[1], m[2]))),
)


def question(rng: np.random.Generator, level: int) -> str:
    """Each expression of ``level`` words is as likely as any other, as the published ones look."""
    return f"{_expression(rng, level)} is"


def solve(question: str) -> tuple[str, str]:
    text = question.removesuffix(" is")
    if text == question or not set(text.split()) <= {*VALUES, "and", "or", "not", "(", ")"}:
        raise ValueError(f"This is no boolean expression: {question!r}.")
    lines = []
    while text not in VALUES:
        shorter = _simplified(text)
        if shorter == text:
            raise ValueError(f"This is no boolean expression: {question!r}.")
        text = shorter
        lines.append(f"= {text}")
    return text, "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "words", len(question.split()) - 1


def _simplified(text: str) -> str:
    """The expression after one step; the same where there is none to take."""
    for pattern, value in STEPS:
        shorter = re.sub(pattern, value, text, count=1)
        if shorter != text:
            return shorter
    return text


@functools.cache
def _terms(words: int) -> int:
    """How many expressions of so many words are a value or a bracket, after any number of "not"."""
    if words < 1:
        return 0
    if words == 1:
        return len(VALUES)
    return _terms(words - 1) + _expressions(words - 2)


@functools.cache
def _expressions(words: int) -> int:
    return _terms(words) + sum(_joined(words, first) for first in range(1, words - 1))


def _joined(words: int, first: int) -> int:
    """How many are a term of ``first`` words, then "and" or "or", then an expression."""
    return 2 * _terms(first) * _expressions(words - 1 - first)


def _term(rng: np.random.Generator, words: int) -> str:
    if words == 1:
        return VALUES[rng.integers(2)]
    if rng.integers(_terms(words)) < _terms(words - 1):
        return f"not {_term(rng, words - 1)}"
    return f"( {_expression(rng, words - 2)} )"


def _expression(rng: np.random.Generator, words: int) -> str:
    counts = np.cumsum([_terms(words), *(_joined(words, n) for n in range(1, words - 1))])
    first = int(np.searchsorted(counts, rng.integers(counts[-1]), side="right"))
    if first == 0:
        return _term(rng, words)
    operator = ("and", "or")[rng.integers(2)]
    return f"{_term(rng, first)} {operator} {_expression(rng, words - 1 - first)}"
