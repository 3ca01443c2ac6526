"""Who holds what after some swaps; published rows have 3, 5 or 7 people and as many swaps.

A line of the rationale is a swap and what Alice, Bob, ... hold after it, as the options' letters. At first Alice holds A.

    | Claire Bob: ACB
    | Bob Alice: CAB
"""

from __future__ import annotations

import functools
import re
import types

import numpy as np

NAMES = ("Alice", "Bob", "Claire", "Dave", "Eve", "Fred", "Gertrude")
LEVELS = (1, 2, 3, 4, 5, 6, 7)  # swaps; as many as people at most
COLORS = "red orange yellow green blue purple pink brown black white".split()
GIFTS = [f"{color} {'ball' if color in ('orange', 'pink', 'black') else 'present'}" for color in COLORS]  # as published
BOOKS = "Ulysses,Frankenstein,Lolita,Hound of the Baskervilles,The Odyssey,Catch-22,Moby Dick,The Pearl,The Great Gatsby"
PLAYERS = "striker,right winger,left winger,benchwarmer,goalkeeper,center midfielder,cheerleader,fullback"
# What they are doing, what each has at first, how they swap, and the end.
SCENES = (
    (" are friends and avid readers who occasionally trade books. At the start of the semester, they each buy one new book:",
     " gets", "\nAs the semester proceeds, they start trading around the new books.", " swap books.",
     " At the end of the semester,", " has", f"{BOOKS},The Fellowship of the Ring".split(",")),
    (" are dancers at a square dance. At the start of a song, they each have a partner:",
     " is dancing with", "\nThroughout the song, the dancers often trade partners.", " switch partners.",
     " At the end of the dance,", " is dancing with", "Helga Izzi Jamie Karl Lola Melissa Ophelia Patrick Rodrigo Sam".split()),
    (" are playing a game. At the start of the game, they are each holding a ball:",
     " has a", "\nAs the game progresses, pairs of players trade balls.", " swap balls.",
     " At the end of the game,", " has the", [f"{color} ball" for color in COLORS]),
    (" are holding a white elephant gift exchange. At the start of the event, they are each holding a present of a different "
     "color:", " has a", "\nAs the event progresses, pairs of people swap gifts.", " swap their gifts.",
     " At the end of the event,", " has the", GIFTS),
    (" are on the same team in a soccer match. At the start of the match, they are each assigned to a position:",
     " is playing", "\nAs the game progresses, pairs of players occasionally swap positions.", " trade positions.",
     " At the end of the match,", " is playing", f"{PLAYERS},left midfielder,right midfielder".split(",")),
)  # fmt: skip
WORDS = tuple(dict.fromkeys(phrase for *phrases, things in SCENES for phrase in (*phrases, *(f" {t}" for t in things))))
WORDS += (*(f" {name}" for name in NAMES), " and", " First,", " Then,", " Finally,", "\nOptions:", ": ", " |", "\n|")
WORDS += (*(f"\n({letter})" for letter in "ABCDEFG"), *(f" ({letter})" for letter in "ABCDEFG"))
SWAP = re.compile(r"(?:First|Then|Finally), (\w+) and (\w+) ")
ASKED = re.compile(r" At the end of the \w+, (\w+) [a-z ]+\nOptions:((?:\n\([A-G]\) .+)+)$")


def of_size(people: int) -> types.SimpleNamespace:
    """The generator with so many people."""
    made = functools.partial(question, people=people)
    return types.SimpleNamespace(LEVELS=LEVELS[:people], WORDS=WORDS, question=made, solve=solve, difficulty=difficulty)


def question(rng: np.random.Generator, level: int, people: int) -> str:
    """``level`` swaps, never the same one twice running, as in the published rows."""
    doing, has, between, swap, end, has_now, things = SCENES[rng.integers(len(SCENES))]
    names, things = NAMES[:people], [str(thing) for thing in rng.permutation(things)[:people]]
    pairs: list[list[str]] = []
    while len(pairs) < level:
        pair = [str(name) for name in rng.permutation(names)[:2]]
        if not pairs or set(pair) != set(pairs[-1]):
            pairs.append(pair)
    order = [" First,", *[" Then,"] * (level - 2), " Finally,"][:level]
    swaps = [f"{word} {a} and {b}{swap}" for word, (a, b) in zip(order, pairs, strict=True)]
    held = _listed([f"{name}{has} {thing}" for name, thing in zip(names, things, strict=True)])
    options = [f"\n({letter}) {thing}" for letter, thing in zip("ABCDEFG", things, strict=False)]
    asked = f"{end} {rng.choice(names)}{has_now}\nOptions:{''.join(options)}"
    return f"{_listed(names)}{doing} {held}.{between}{''.join(swaps)}{asked}"


def solve(question: str) -> tuple[str, str]:
    match = ASKED.search(question)
    if not match or not question.startswith(NAMES[0]):
        raise ValueError(f"This does not ask who holds what: {question!r}.")
    state = list("ABCDEFG"[: match[2].count("\n")])  # the options are listed as they are held at first
    lines = []
    for pair in SWAP.findall(question):
        i, j = (NAMES.index(name) for name in pair)
        state[i], state[j] = state[j], state[i]
        lines.append(f"| {' '.join(pair)}: {''.join(state)}")
    return f"({state[NAMES.index(match[1])]})", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "swaps", len(SWAP.findall(question))


def _listed(parts: list[str] | tuple[str, ...]) -> str:
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"
