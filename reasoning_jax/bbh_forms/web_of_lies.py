"""Who tells the truth: each person speaks of the one before; published rows have 5 people.

A line of the rationale is what one person does.

    | Fidel tells the truth.
    | Jerry lies.
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5)
NAMES = (
    "Alejandro Alexis Amberly Andree Antwan Audrie Bernita Christie Conception Crista Dallas Delbert Delfina Elanor Fidel "
    "Fletcher Gwenn Helene Inga Jamey Jaymie Jerry Jim Ka Kandi Kristian Leda Lorine Maybelle Michael Michaela Millicent "
    "Millie Osvaldo Phoebe Rashida Raymond Ryan Sal Shalonda Shaunda Shenna Sherrie Sima Tamika Teressa Vernell Vina "
    "Willian Yoland"
).split()
SAYINGS = ("lies", "tells the truth")
WORDS = (*(f" {name}" for name in NAMES), " lies.", " tells the truth.", " says", " Question:", " Does", " tell the truth?")
WORDS += (" |", "\n|")


def question(rng: np.random.Generator, level: int) -> str:
    names = rng.permutation(NAMES)[:level]
    claims = [SAYINGS[i] for i in rng.integers(2, size=level)]
    said = [f"{name} says {other} {claim}." for other, name, claim in zip(names, names[1:], claims[1:], strict=False)]
    return " ".join([f"Question: {names[0]} {claims[0]}.", *said, f"Does {names[-1]} tell the truth?"])


def solve(question: str) -> tuple[str, str]:
    said = re.findall(r"(\w+) (?:says (\w+) )?(lies|tells the truth)\.", question)
    asked = re.search(r" Does (\w+) tell the truth\?$", question)
    truth: dict[str, bool] = {}
    for name, other, claim in said:
        if other and other not in truth:
            raise ValueError(f"Nothing is known of {other}: {question!r}.")
        truth[name] = (claim == "tells the truth") == truth.get(other, True)
    if not asked or asked[1] not in truth:
        raise ValueError(f"This does not ask who tells the truth: {question!r}.")
    lines = [f"| {name} {SAYINGS[honest]}." for name, honest in truth.items()]
    return "Yes" if truth[asked[1]] else "No", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "people", question.count(".")
