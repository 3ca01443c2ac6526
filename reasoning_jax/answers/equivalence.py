"""Whether two mathematical answers are the same: numbers here, other expressions by math-verify.

math-verify runs in processes that are killed where they take too long. What it calls equal is
computed once more, as it rounds to 6 decimals.
"""

from __future__ import annotations

import functools
import re

from reasoning_jax.answers import MAX_CHARACTERS, markup, quantities, units
from reasoning_jax.answers.killable import Pool

SECONDS = 3.0  # for one comparison by math-verify
CHECKER = "reasoning_jax.answers.expressions:equal"
# Functions and constants as people write them without the backslash of LaTeX.
BARE_NAMES = re.compile(r"(?<![\\a-zA-Z])(pi|exp|sqrt|sin|cos|tan|log|ln)(?![a-zA-Z])")
ROOT = re.compile(r"\\sqrt ?\(([^()]*)\)")
# What math-verify drops, and calls the rest equal: "~72", "\\ne 72", "72?", "72_8", "5 Mb", "1..2".
DROPPED = re.compile(
    r"[?'\"~°$≠≈±√π∓≤≥]|\d\.\s|\.\.|\\[lc]?dots"
    r"|\\(?:neq?|approx|sim|simeq|cong|sum|prod|int)(?![a-z])"
    r"|(?<!log)_ ?\{?\d|\d\s+(?!or\b|and\b)[A-Za-z]{2}"
)
RELATION = re.compile(r"\s*(?:[<>=]|\\(?:le|ge|leq|geq|lt|gt)(?![a-z]))")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")


def equal(text: str, gold: str) -> bool:
    """Whether two answers mean the same; a comparison that takes too long, or fails, says no.

    Numbers are compared exactly, here. A unit may be on one side only, but two different ones
    differ; "50%" equals "50" and "0.5". Words are compared as words. All other expressions go to
    math-verify in another process.
    """
    if max(len(text), len(gold)) > MAX_CHARACTERS:
        return False
    a, b = markup.clean(text), markup.clean(gold)
    if not a or not b:
        return False
    quantity_a, quantity_b = quantities.read_equation(a), quantities.read_equation(b)
    if quantity_a and quantity_b:
        return quantities.same(quantity_a, quantity_b)
    if a == b or _choice(a) == _choice(b) != "":
        return True
    # math-verify reads a word as a product of letters ("on" = "no") and "3 4" as a sum.
    if _has_words(a) or _has_words(b):
        return _words(a) == _words(b)
    a, b = _in_latex(a), _in_latex(b)
    if not (_is_expression(a) and _is_expression(b)):
        return False
    if {a[:1], b[:1]} == {"(", "\\"} and {a[-1:], b[-1:]} == {")", "}"}:  # a tuple is no set
        return False
    return _pool().equal(a, b)


def _choice(clean: str) -> str:
    """ "c" for "(C)" and "C"; "" for what is not a choice."""
    match = re.fullmatch(r"\(([A-Za-z])\)|([A-Z])", clean)
    return (match[1] or match[2]).lower() if match else ""


def _has_words(clean: str) -> bool:
    words = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", ENVIRONMENT.sub("", clean))
    return any(word.lower() not in units.FUNCTIONS for word in words)


def _words(clean: str) -> list[str]:
    """Words in the singular, numbers and signs, in their order."""
    tokens = re.findall(r"[^\W\d_]+|\d+|[^\w\s]", clean.casefold())
    return [token.removesuffix("s") if len(token) > 3 else token for token in tokens]


def _is_expression(clean: str) -> bool:
    """Whether math-verify reads all of it: it drops what has no closing bracket, and more."""
    if DROPPED.search(clean) or RELATION.match(clean) or re.search(r"(?<![_\d])\d+\s+\d", clean):
        return False
    left, equals, _ = clean.partition("=")
    if equals and not re.search("[A-Za-z]", left):  # of "73=72" it reads 72
        return False
    open_brackets = []
    for character in clean.replace("\\{", "").replace("\\}", ""):
        if character in "([{":
            open_brackets.append(character)
        elif character in ")]}":
            if not open_brackets:
                return False
            open_brackets.pop()
    return not open_brackets


def _in_latex(clean: str) -> str:
    """ "\\sqrt{2}" for "sqrt(2)": math-verify reads letters, and drops the parenthesis."""
    return ROOT.sub(r"\\sqrt{\1}", BARE_NAMES.sub(r"\\\1", clean))


@functools.cache
def _pool() -> Pool:
    return Pool(CHECKER, size=2, seconds=SECONDS)
