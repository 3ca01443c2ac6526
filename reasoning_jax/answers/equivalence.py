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
# Texts of which math-verify drops a part, and compares the rest: "~72", "\\ne 72", "72?", "72_8",
# "5 Mb", "1..2".
DROPPED = re.compile(
    r"[?'\"~°$:]|[^\x00-\x7f]|\.\s|\.\.|(?<!log)_|\d\s+(?!or\b)[A-Za-z]{2}|\d(?:st|nd|rd|th)\b"
    r"|[-+*/=^_<>{\\]\Z|\(\)|\^ ?\{?[T*+']|\^ ?\\(?!circ)|\^ ?\{-1\} ?\(|(?<![\d.])0\d"
    r"|=(?:(?!\bor\b).)*=|#|->|\^ ?\{[-+]?\}"
    r"|\\(?:le|ge|leq|geq|lt|gt|in)\Z"
)
RELATION = re.compile(r"\s*(?:[<>=]|\\(?:le|ge|leq|geq|lt|gt)(?![a-z]))")
# What math-verify reads; other commands it drops.
COMMANDS = set(
    "frac dfrac tfrac sqrt pi infty cdot times div pm mp le ge leq geq lt gt sin cos tan cot "
    "sec csc arcsin arccos arctan sinh cosh tanh log ln exp binom begin end cup cap in "
    "emptyset varnothing alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi "
    "omega Delta Omega circ overline text or".split()
)
# Its names for what people write as one character.
SYMBOLS = {
    "π": "\\pi ",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "∪": "\\cup ",
    "∈": "\\in ",
    "±": "\\pm ",
}
EXPONENT = re.compile(r"\^ ?(-?\d+(?:\.\d+)?)")
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
    if _variable(a) and _variable(b) and _variable(a) != _variable(b):  # two different lines
        return False
    quantity_a, quantity_b = quantities.read_equation(a), quantities.read_equation(b)
    if quantity_a and quantity_b:
        return quantities.same(quantity_a, quantity_b)
    if a == b or (_choice(a) and _choice(a) == _choice(b)):
        return True
    # math-verify reads a word as a product of letters: "was" = "saw", "on" = "no".
    if _has_words(a) or _has_words(b):
        return _words(a) == _words(b)
    a, b = _in_latex(a), _in_latex(b)
    if _commas(a) != _commas(b):  # {0.5, 0.5} is {0.5} to math-verify
        return False
    if not (_is_expression(a) and _is_expression(b)):
        return False
    # math-verify takes the tuple (1,2) for the set \{1,2\}.
    if (_is_set(a) and _is_tuple(b)) or (_is_tuple(a) and _is_set(b)):
        return False
    return _pool().equal(a, b)


def _commas(clean: str) -> int:
    """How many elements a list has more than one."""
    return clean.count(",") + len(re.findall(r"\bor\b|\\pm\b", clean))


def _variable(clean: str) -> str:
    """ "x" for "x = 5"; "" for what does not begin so."""
    match = re.match(r"([A-Za-z]) ?=", clean)
    return match[1] if match else ""


def _is_set(clean: str) -> bool:
    return clean.startswith("\\{") and clean.endswith("\\}")


def _is_tuple(clean: str) -> bool:
    return clean.startswith("(") and clean.endswith(")")


def _choice(clean: str) -> str:
    """ "c" for "(C)" and "C"; "" for what is not a choice."""
    match = re.fullmatch(r"\(([A-Za-z])\)|([A-Z])", clean)
    return (match[1] or match[2]).lower() if match else ""


def _has_words(clean: str) -> bool:
    """Whether there is a word of 3 letters or more, or nothing but a word; functions are none."""
    if clean.isalpha() and len(clean) > 1 and clean.lower() not in units.FUNCTIONS:
        return True
    words = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", ENVIRONMENT.sub("", clean))
    return any(word.lower() not in units.FUNCTIONS for word in words)


def _words(clean: str) -> list[str]:
    """Words in the singular, numbers and signs, in their order."""
    tokens = re.findall(r"[^\W\d_]+|\d+|[^\w\s]", clean.casefold())
    return [token.removesuffix("s") if len(token) > 5 else token for token in tokens]


def _is_expression(clean: str) -> bool:
    """Whether math-verify would read all of the text."""
    if DROPPED.search(clean) or RELATION.match(clean) or re.search(r"(?<![_\d])\d+\s+\d", clean):
        return False
    without_commands = re.sub(r"\\[A-Za-z]+|\bor\b", ";", clean)
    if re.search(r"[A-Za-z]\s+[A-Za-z]\b", without_commands):
        return False
    left, equals, _ = without_commands.partition("=")
    if equals and not re.search("[A-Za-z]", left):  # of "73=72" it reads 72
        return False
    if clean.count("\\{") != clean.count("\\}"):
        return False
    if not COMMANDS >= set(re.findall(r"\\([A-Za-z]+)", clean)):
        return False
    depth = 0
    for character in clean.replace("\\{", "").replace("\\}", ""):
        depth += (character in "([{") - (character in ")]}")  # kinds may differ: "[1, 2)"
        if depth < 0:
            return False
    return depth == 0


def _in_latex(clean: str) -> str:
    """ "\\sqrt{2}" for "sqrt(2)", which math-verify takes for letters, without the parenthesis."""
    for symbol, command in SYMBOLS.items():
        clean = clean.replace(symbol, command)
    clean = EXPONENT.sub(r"^{\1}", clean)  # "x^10" is x 1 0 in LaTeX
    return ROOT.sub(r"\\sqrt{\1}", BARE_NAMES.sub(r"\\\1", clean))


@functools.cache
def _pool() -> Pool:
    return Pool(CHECKER, size=2, seconds=SECONDS)
