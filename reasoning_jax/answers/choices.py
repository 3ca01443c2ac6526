"""Which of several choices an answer names: "(B)", "B) Guilty of Romance", "option b"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reasoning_jax.answers import MAX_CHARACTERS, markup
from reasoning_jax.answers.doubt import DENIED_OR_SEVERAL, TAKEN_BACK

IN_BRACKETS = re.compile(r"\(([A-Za-z])\)|\[([A-Za-z])\]")
# Without brackets it must begin the answer: "B", "B)", "B: text", "option B".
LEADING = re.compile(
    r"(?:(?:option|choice|letter|answer)\s+)?([A-Za-z])(?:\Z|\s*(?:[).:,]|-(?=\s))\s*(.*))",
    re.IGNORECASE,
)
# A choice that is named to be denied: "not (b) but", "not bank (b), it is", "(c), not (d)".
DENIED = re.compile(r"\bnot\b[^,;()]*\([A-Za-z]\)\s*(?:[,;]|\bbut\b|\Z)", re.IGNORECASE)
# A lone letter in the text after the first may be a second choice; "a" and "I" are words there.
OTHER_LETTER = re.compile(r"(?<![\w'])(?:[B-HJ-Zb-hj-z]|A\Z)(?![\w'])")


def read(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one choice that an answer names.

    None where it names none or several, may deny or take back the one that it names, or gives it
    exactly the text of another. options: lower-case letter -> the choice's text; {} where they are
    not known.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    clean = markup.clean(text)
    for key, option in options.items():
        clean = _without_text(clean, key, option)
    clean = DENIED.sub("", clean).strip(" ,.;:")
    if DENIED_OR_SEVERAL.search(clean) or TAKEN_BACK.search(clean):
        return None
    letter, rest = _letter(clean)
    others = [
        markup.clean(option[:MAX_CHARACTERS]).lower()
        for key, option in options.items()
        if key != letter
    ]
    if letter is None or (options and letter not in options) or rest.lower() in others:
        return None
    return letter


def _without_text(clean: str, letter: str, option: str) -> str:
    """ "(B)" for "(B) no idea" and "no idea (B)": an option's own words deny nothing."""
    option = markup.clean(option[:MAX_CHARACTERS])
    start = clean.lower().find(option.lower())
    if not option or start < 0:
        return clean
    end = start + len(option)
    near = f"{clean[max(start - 4, 0) : start]} {clean[end : end + 4]}".lower()
    if not re.search(rf"(?<![a-z]){letter}(?![a-z])", near):
        return clean
    return f"{clean[:start].rstrip(' :,-')} {clean[end:]}".strip()


def _letter(clean: str) -> tuple[str | None, str]:
    """The one letter that is named, in lower case, and the text around it."""
    named = {(a or b).lower() for a, b in IN_BRACKETS.findall(clean)}
    if named:
        around = IN_BRACKETS.sub("", clean).strip(" ,.;:-")
        return (named.pop() if len(named) == 1 else None), around
    leading = LEADING.fullmatch(clean)
    if leading is None or OTHER_LETTER.search(leading[2] or ""):
        return None, ""
    return leading[1].lower(), leading[2] or ""
