"""What a judge's text says: a score after "Score:", or which of two responses is better.

A text that can mean two things is not read: to take the first of two verdicts favours one side.
"""

from __future__ import annotations

import re

SCORE = re.compile(r"Score:\s*(-?\d+(?:\.\d+)?)")
TAG = re.compile(r"\[\[([ABC])\]\]")
FIRST, SECOND, TIE = "first", "second", "tie"
OF_TAG = {"A": FIRST, "B": SECOND, "C": TIE}
SWAPPED = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}


def read_score(text: str, scale: float) -> float | None:
    """The number after the last "Score:"; None where there is none from 0 to ``scale``."""
    found = SCORE.findall(text)
    if not found:
        return None
    score = float(found[-1])
    return score if 0 <= score <= scale else None


def read_letter(text: str) -> str | None:
    """The A, B or C of [[A]], [[B]] or [[C]]; None without one, or with several."""
    found = set(TAG.findall(text))
    return found.pop() if len(found) == 1 else None


def read_verdict(text: str) -> str | None:
    """FIRST for [[A]], SECOND for [[B]], TIE for [[C]]; None without one, or with several."""
    letter = read_letter(text)
    return None if letter is None else OF_TAG[letter]
