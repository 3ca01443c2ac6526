"""Who tells the truth: each person speaks of the one before; published questions have 5 people.

A line of the rationale is what one person does.

    | Fidel tells the truth.
    | Jerry lies.
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5)  # people
NAMES = (
    "Alejandro Alexis Amberly Andree Antwan Audrie Bernita Christie Conception Crista Dallas "
    "Delbert Delfina Elanor Fidel Fletcher Gwenn Helene Inga Jamey Jaymie Jerry Jim Ka Kandi "
    "Kristian Leda Lorine Maybelle Michael Michaela Millicent Millie Osvaldo Phoebe Rashida "
    "Raymond Ryan Sal Shalonda Shaunda Shenna Sherrie Sima Tamika Teressa Vernell Vina Willian "
    "Yoland"
).split()
LIES, HONEST = "lies", "tells the truth"
WORDS = (
    *(f" {name}" for name in NAMES),
    *(f" {LIES}.", f" {HONEST}.", " says", " Question:", " Does", " tell the truth?", " |", "\n|"),
)


def question(rng: np.random.Generator, level: int) -> str:
    names = rng.permutation(NAMES)[:level]
    claims = [(LIES, HONEST)[i] for i in rng.integers(2, size=level)]
    sentences = [f"Question: {names[0]} {claims[0]}."]
    for i in range(1, level):
        sentences.append(f"{names[i]} says {names[i - 1]} {claims[i]}.")
    return " ".join([*sentences, f"Does {names[-1]} tell the truth?"])


def solve(question: str) -> tuple[str, str]:
    statements = re.findall(rf"(\w+) (?:says (\w+) )?({LIES}|{HONEST})\.", question)
    asked = re.search(r" Does (\w+) tell the truth\?$", question)
    honest: dict[str, bool] = {}
    for name, other, claim in statements:
        if other and other not in honest:
            raise ValueError(f"Nothing is known of {other}: {question!r}.")
        other_is_honest = honest[other] if other else True
        honest[name] = other_is_honest == (claim == HONEST)
    if not asked or asked[1] not in honest:
        raise ValueError(f"This does not ask who tells the truth: {question!r}.")
    lines = [f"| {name} {HONEST if truth else LIES}." for name, truth in honest.items()]
    return "Yes" if honest[asked[1]] else "No", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "people", question.count(".")
