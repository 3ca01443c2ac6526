"""Where a text says what its answer is: "So the answer is (B).", "Answer: C"."""

from __future__ import annotations

import re

from reasoning_jax.answers import MAX_CHARACTERS
from reasoning_jax.answers.doubt import TAKEN_BACK

SEARCHED = 20_000  # the answer is looked for in so many characters at the end
STATED = re.compile(
    r"\banswer(?: choice| option)?(?: to (?:the|this) (?:question|problem))?"
    r"(?: ?:| (?:is|should be|would be|must be)\b ?:?)",
    re.IGNORECASE,
)
# A statement ends at a line's end, or at a full stop before white space, at the end of the text, or
# between a bracket and a letter, "(B).So". That of a lone letter ends nothing: "B. Some text".
END = re.compile(r"(?<!^[A-Za-z])(?<!\s[A-Za-z])\.(?=\s)|\.\Z|(?<=\))\.(?=[A-Za-z])|\n")
# On lines of its own it ends at an empty line, or at a full stop that follows no digit, "1. a".
END_OF_LINES = re.compile(r"(?<!\d)\.(?=\s|\Z)|\n\s*\n")


def own_words(text: str) -> str:
    """A completion without the questions that it goes on to ask itself."""
    return text.partition("\nQ:")[0]


def final(text: str) -> str | None:
    """What stands between the last "the answer is" of a text and the end of that sentence.

    None where there is none in the last SEARCHED characters, where it is empty or too long, and
    where what follows takes it back.
    """
    text = text[-SEARCHED:]
    ends = [match.end() for match in STATED.finditer(text)]
    if not ends:
        return None
    stated = ends[-1]
    start = len(text) - len(text[stated:].lstrip())
    on_own_lines = "\n" in text[stated:start]
    following = text[start : start + MAX_CHARACTERS]
    end_of_statement = END_OF_LINES if on_own_lines else END
    statement, *rest = end_of_statement.split(following, maxsplit=1)
    is_cut_off = not rest and start + len(following) < len(text)
    if not statement.strip() or is_cut_off:
        return None
    if TAKEN_BACK.search(text, start + len(statement)):
        return None
    return " ".join(statement.split())
