"""Answers in words: yes or no, and lists of words in order."""

from __future__ import annotations

import re

from reasoning_jax.answers import MAX_CHARACTERS, markup

VERDICTS = ("yes", "no", "true", "false", "valid", "invalid")
SYNONYMS = {"plausible": "yes", "implausible": "no"}
POSITIVE = {"yes", "true", "valid"}
EXPLANATION = re.compile(
    r"(?:it|this|that|he|she|they) (?:is|are|was|were|does|do|did|can|will)( not)?"
)
NUMBERED = re.compile(r"\d+[.)]")
ENCLOSING = "[](){}'\"`*.$"  # of a word in a list


def verdict(answer: str) -> str | None:
    """The one of VERDICTS that an answer is; "it is", or "it is not", may follow a comma."""
    if len(answer) > MAX_CHARACTERS:
        return None
    word, comma, explanation = markup.clean(answer).lower().partition(", ")
    word = SYNONYMS.get(word, word)
    if word not in VERDICTS:
        return None
    explained = EXPLANATION.fullmatch(explanation)
    agrees = explained is not None and (explained[1] is None) == (word in POSITIVE)
    return word if agrees or not comma else None


def in_order(answer: str, gold: str) -> str | None:
    """The words of a list, separated by spaces, without numbers and an "and" of its own.

    What ``gold`` has too is kept. None where no word is left.
    """
    words = re.split(r"[\s,;]+", answer.casefold())
    words = [w if NUMBERED.fullmatch(w) else w.strip(ENCLOSING) for w in words]
    own = set(gold.casefold().split())
    numbers = {f"{n}{end}" for n in range(1, len(words) + 1) for end in ".)"}
    dropped = {"", "and", *numbers} - own
    return " ".join(word for word in words if word not in dropped) or None
