"""Where a text says what its answer is: "So the answer is (B).", "Answer: C"."""

from __future__ import annotations

import re

from reasoning_jax.answers import MAX_CHARACTERS

LAST = 20_000  # characters of a completion, in which the answer is looked for
STATED = re.compile(
    r"\banswer(?: choice| option)?(?: to (?:the|this) (?:question|problem))?"
    r"(?: ?:| (?:is|should be|would be|must be)\b ?:?)",
    re.IGNORECASE,
)
# A full stop ends the statement where white space, the end, or after a bracket a word follows; but
# "B. Guilty of Romance" goes on.
END = re.compile(r"(?<!^[A-Za-z])(?<!\s[A-Za-z])\.(?=\s)|\.\Z|(?<=\))\.(?=[A-Za-z])|\n")
# Of a statement on lines of its own: an empty line, and no full stop after an item's number.
END_OF_LINES = re.compile(r"(?<!\d)\.(?=\s|\Z)|\n\s*\n")
TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|scratch that|correction|sorry|my mistake|on second thought|i mean|rather"
    r"|hold on|hmm|oops)\b|(?<![a-z] )\bno[,:.;!]|\bnot (?:right|correct|quite)\b",
    re.IGNORECASE,
)


def own_words(text: str) -> str:
    """A completion without the questions that it goes on to ask itself."""
    return text.partition("\nQ:")[0]


def final(text: str) -> str | None:
    """What stands between the last "the answer is" of a text and the end of that sentence.

    None where there is none in the last LAST characters, where it is empty or too long, and where
    what follows takes it back.
    """
    text = text[-LAST:]
    ends = [match.end() for match in STATED.finditer(text)]
    if not ends:
        return None
    end = stated = ends[-1]
    while text[end : end + 1].isspace():
        end += 1
    on_own_lines = "\n" in text[stated:end]
    following = text[end : end + MAX_CHARACTERS]
    statement, *rest = (END_OF_LINES if on_own_lines else END).split(following, maxsplit=1)
    is_whole = rest or end + len(following) == len(text)
    if not statement.strip() or not is_whole or TAKEN_BACK.search(text, end + len(statement)):
        return None
    return " ".join(statement.split())
