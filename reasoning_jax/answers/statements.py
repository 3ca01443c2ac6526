"""Where a text says what its answer is: "So the answer is (B).", "Answer: C"."""

from __future__ import annotations

import re

from reasoning_jax.answers import MAX_CHARACTERS

SEARCHED = 20_000  # the answer is looked for in so many characters at the end
STATED = re.compile(
    r"\b(?:answer|(?:correct|right|best) (?:option|choice))\*{0,2}(?: choice| option)?"
    r"(?: to (?:the|this) (?:question|problem))?"
    r"(?: ?:| (?:is|should be|would be|must be)\b ?:?)(?:\*\*)?|<answer>",
    re.IGNORECASE,
)
# The clause before it, which may deny it: "I doubt that the answer is", "the wrong answer is".
CLAUSE_START = re.compile(r"[,;:.!?\n]|\b(?:so|therefore|thus|hence)\b", re.IGNORECASE)
DOUBTED = re.compile(
    r"\b(?:not|never|doubt|wrong|incorrect|worst|least|unlikely|might|may|could|if|suppose|assume"
    r"|unless|either|whether|another|alternative|alternatively|maybe|perhaps|hardly|no|or|false"
    r"|opposite|first|second|says?|claims?|else)\b|n['’]t\b",
    re.IGNORECASE,
)
# A statement ends at a line's end, or at a full stop before white space, at the end of the text, or
# between a bracket and a letter, "(B).So". That of a lone letter ends nothing: "B. Some text".
END = re.compile(r"(?<!^[A-Za-z])(?<!\s[A-Za-z])\.(?=\s)|\.\Z|(?<=\))\.(?=[A-Za-z])|\n")
# On lines of its own it ends at an empty line, or at a full stop that follows no digit, "1. a".
END_OF_LINES = re.compile(r"(?<!\d)\.(?=\s|\Z)|\n\s*\n")
# What may stand after a statement: markup. Words may take it back, or state another answer.
TAG = r"</?(?:answer|s)>|<\|[a-z_]{1,20}\|>"
MARKUP = re.compile(rf"{TAG}|[\s*_`\"'.]")
NEXT_QUESTION = re.compile(r"\n ?(?:Q|Question|Problem|User|Human)(?: \d+)? ?:")
# A last line that may become one.
MAY_ASK = re.compile(r"\n ?(?:[A-Z][a-z]{0,7})?(?: \d*)? ?\Z")


def own_words(text: str) -> str:
    """A completion without its thinking and the questions that it goes on to ask itself."""
    return NEXT_QUESTION.split(text.rpartition("</think>")[2], maxsplit=1)[0]


def is_doubted(before: str) -> bool:
    """Whether the clause that a text ends with denies or doubts what it goes on to state."""
    return bool(DOUBTED.search(CLAUSE_START.split(before[-MAX_CHARACTERS:])[-1]))


def final(text: str) -> str | None:
    """What stands between the last "the answer is" of a text and its end.

    None where there is none in the last SEARCHED characters, where it is empty or too long, where
    the clause before it doubts it, and where more than markup follows it.
    """
    text = text[-SEARCHED:]
    matches = list(STATED.finditer(text))
    if not matches:
        return None
    stated = matches[-1]
    if is_doubted(text[: stated.start()]):
        return None
    start = len(text) - len(text[stated.end() :].lstrip())
    on_own_lines = "\n" in text[stated.end() : start]
    following = text[start : start + MAX_CHARACTERS]
    end_of_statement = END_OF_LINES if on_own_lines else END
    statement, *rest = end_of_statement.split(following, maxsplit=1)
    is_cut_off = start + len(following) < len(text)
    if not statement.strip() or is_cut_off or (rest and MARKUP.sub("", rest[0])):
        return None
    return " ".join(re.sub(TAG, "", statement).split()) or None
