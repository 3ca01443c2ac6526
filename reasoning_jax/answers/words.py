"""Answers in words: yes or no, and lists of words in order."""

from __future__ import annotations

import re

from reasoning_jax.answers import MAX_CHARACTERS, markup

VERDICTS = ("yes", "no", "true", "false", "valid", "invalid")
SYNONYMS = {"plausible": "yes", "implausible": "no"}
DENIALS = {*VERDICTS, *SYNONYMS, "not", "or", "but"}  # in an explanation: a second answer
ENCLOSING = "[](){}'\"`*.$"  # of a word in a list


def verdict(answer: str) -> str | None:
    """The one of VERDICTS that an answer is; an explanation may follow a comma."""
    if len(answer) > MAX_CHARACTERS:
        return None
    word, _, explanation = markup.clean(answer).lower().partition(",")
    word = SYNONYMS.get(word, word)
    explained = set(re.findall(r"\w+", explanation))
    return word if word in VERDICTS and not explained & DENIALS else None


def in_order(answer: str, gold: str) -> str | None:
    """The words of a list, separated by spaces, without numbers and an "and" of its own.

    What ``gold`` has too is kept. None where no word is left.
    """
    words = [word.strip(ENCLOSING) for word in re.split(r"[\s,;]+", answer.casefold())]
    own = set(gold.casefold().split())
    numbers = {word for word in words if re.fullmatch(r"\d+[.)]?", word)}
    dropped = {"", "and", *numbers} - own
    return " ".join(word for word in words if word not in dropped) or None
