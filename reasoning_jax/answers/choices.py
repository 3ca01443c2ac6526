"""Which of several choices an answer names: "(B)", "B) Guilty of Romance", "option b"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reasoning_jax.answers import MAX_CHARACTERS, markup
from reasoning_jax.answers.doubt import DENIED_OR_SEVERAL, TAKEN_BACK

IN_BRACKETS = re.compile(r"\(([A-Za-z])\)|\[([A-Za-z])\]")
# Without brackets it must begin the answer: "B", "B)", "B: text", "option B".
LEADING = re.compile(
    r"(?:(?:option|choice|letter|answer)\s+)?([A-Za-z])(?:\Z|\s*(?:[).:,]|-(?=\s)| (?=\())\s*(.*))",
    re.IGNORECASE,
)
FILLERS = {"", "a", "an", "the", "it", "is", "option", "choice", "letter", "answer"}
# A choice that is named to be denied: "not (b) but", "not bank (b), it is", "(c), not (d)".
DENIED = re.compile(r"\bnot\b[^,;()]*\([A-Za-z]\)\s*(?:[,;]|\bbut\b|\Z)", re.IGNORECASE)
# A lone letter in the text after the first may be a second choice; "a" and "I" are words there.
OTHER_LETTER = re.compile(r"(?<![\w'])(?:[B-HJ-Zb-hj-z]|A\Z)(?![\w'])")


def read(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one choice that an answer names.

    None where it names none or several, or says more than the letter and the text of that choice.
    options: lower-case letter -> the choice's text; {} where they are not known.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    clean = markup.clean(text)
    letter = _only_choice(clean, options)  # "not hungry (c)" may be its own words
    return letter or _only_choice(DENIED.sub("", clean), options)


def _only_choice(clean: str, options: Mapping[str, str]) -> str | None:
    """The letter of a text that is nothing but a letter and the text of that choice."""
    letter, rest = _letter(clean)
    if letter is None or (options and letter not in options):
        return None
    own_text = _bare(markup.clean(options.get(letter, "")[:MAX_CHARACTERS]))
    if options and _bare(rest) not in ("", own_text):
        return None
    if not options and (DENIED_OR_SEVERAL.search(rest) or TAKEN_BACK.search(rest)):
        return None
    return letter


def _bare(text: str) -> str:
    """The words of a part of an answer, in lower case, without articles and the like."""
    words = [word for word in text.lower().split() if word.strip(" ,.:;-()") not in FILLERS]
    return " ".join(words).strip(' ,.:;-()*"“”_')


def _letter(clean: str) -> tuple[str | None, str]:
    """The one letter that is named, in lower case, and the text around it."""
    named = {(a or b).lower() for a, b in IN_BRACKETS.findall(clean)}
    if named:
        return (named.pop() if len(named) == 1 else None), IN_BRACKETS.sub(" ", clean)
    leading = LEADING.fullmatch(clean)
    if leading is None or OTHER_LETTER.search(leading[2] or ""):
        return None, ""
    return leading[1].lower(), leading[2] or ""
