"""Who holds what after some swaps; published questions have 3, 5 or 7 people and as many swaps.

A line of the rationale is a swap and what Alice, Bob, ... hold after it, as the options' letters.
At first Alice holds A.

    | Claire Bob: ACB
    | Bob Alice: CAB
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from reasoning_jax.tasks.bbh_forms import Form

NAMES = ("Alice", "Bob", "Claire", "Dave", "Eve", "Fred", "Gertrude")
LETTERS = "ABCDEFG"
LEVELS = (1, 2, 3, 4, 5, 6, 7)  # swaps; as many as people at most
COLORS = "red orange yellow green blue purple pink brown black white".split()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The phrases of a question, in their order, and the things that are swapped."""

    doing: str
    has: str
    between: str
    swap: str
    end: str
    has_now: str
    things: list[str]

    @property
    def phrases(self) -> tuple[str, ...]:
        return self.doing, self.has, self.between, self.swap, self.end, self.has_now


SCENES = (
    Scene(
        doing=" are friends and avid readers who occasionally trade books. At the start of the "
        "semester, they each buy one new book:",
        has=" gets",
        between="\nAs the semester proceeds, they start trading around the new books.",
        swap=" swap books.",
        end=" At the end of the semester,",
        has_now=" has",
        things="Ulysses,Frankenstein,Lolita,Hound of the Baskervilles,The Odyssey,Catch-22,"
        "Moby Dick,The Pearl,The Great Gatsby,The Fellowship of the Ring".split(","),
    ),
    Scene(
        doing=" are dancers at a square dance. At the start of a song, they each have a partner:",
        has=" is dancing with",
        between="\nThroughout the song, the dancers often trade partners.",
        swap=" switch partners.",
        end=" At the end of the dance,",
        has_now=" is dancing with",
        things="Helga Izzi Jamie Karl Lola Melissa Ophelia Patrick Rodrigo Sam".split(),
    ),
    Scene(
        doing=" are playing a game. At the start of the game, they are each holding a ball:",
        has=" has a",
        between="\nAs the game progresses, pairs of players trade balls.",
        swap=" swap balls.",
        end=" At the end of the game,",
        has_now=" has the",
        things=[f"{color} ball" for color in COLORS],
    ),
    Scene(
        doing=" are holding a white elephant gift exchange. At the start of the event, they are "
        "each holding a present of a different color:",
        has=" has a",
        between="\nAs the event progresses, pairs of people swap gifts.",
        swap=" swap their gifts.",
        end=" At the end of the event,",
        has_now=" has the",
        # Some presents are balls in the published questions too.
        things="red present,orange ball,yellow present,green present,blue present,purple present,"
        "pink ball,brown present,black ball,white present".split(","),
    ),
    Scene(
        doing=" are on the same team in a soccer match. At the start of the match, they are each "
        "assigned to a position:",
        has=" is playing",
        between="\nAs the game progresses, pairs of players occasionally swap positions.",
        swap=" trade positions.",
        end=" At the end of the match,",
        has_now=" is playing",
        things="striker,right winger,left winger,benchwarmer,goalkeeper,center midfielder,"
        "cheerleader,fullback,left midfielder,right midfielder".split(","),
    ),
)


def _phrases_and_things() -> list[str]:
    symbols: list[str] = []
    for scene in SCENES:
        symbols += scene.phrases
        symbols += [f" {thing}" for thing in scene.things]
    return symbols


WORDS = (
    *dict.fromkeys(_phrases_and_things()),
    *(f" {name}" for name in NAMES),
    *(" and", " First,", " Then,", " Finally,", "\nOptions:", ": ", " |", "\n|"),
    *(f"\n({letter})" for letter in LETTERS),
    *(f" ({letter})" for letter in LETTERS),
)
SWAP = re.compile(r"(?:First|Then|Finally), (\w+) and (\w+) ")
ASKED = re.compile(r" At the end of the \w+, (\w+) [a-z ]+\nOptions:((?:\n\([A-G]\) .+)+)$")


def of_size(people: int) -> Form:
    """The generator with so many people."""
    return Form(
        LEVELS=LEVELS[:people],
        WORDS=WORDS,
        question=functools.partial(question, people=people),
        solve=solve,
        difficulty=difficulty,
    )


def question(rng: np.random.Generator, level: int, people: int) -> str:
    """``level`` swaps, never the same one twice running, as in the published questions."""
    scene = SCENES[rng.integers(len(SCENES))]
    names = NAMES[:people]
    things = [str(thing) for thing in rng.permutation(scene.things)[:people]]
    pairs: list[list[str]] = []
    while len(pairs) < level:
        pair = [str(name) for name in rng.permutation(names)[:2]]
        if not pairs or set(pair) != set(pairs[-1]):
            pairs.append(pair)
    order = [" First,", *[" Then,"] * (level - 2), " Finally,"]
    swaps = [f"{word} {a} and {b}{scene.swap}" for word, (a, b) in zip(order, pairs, strict=False)]
    held = [f"{name}{scene.has} {thing}" for name, thing in zip(names, things, strict=True)]
    start = f"{_listed(names)}{scene.doing} {_listed(held)}.{scene.between}{''.join(swaps)}"
    options = [f"\n({letter}) {thing}" for letter, thing in zip(LETTERS, things, strict=False)]
    asked = f"{scene.end} {rng.choice(names)}{scene.has_now}"
    return f"{start}{asked}\nOptions:{''.join(options)}"


def solve(question: str) -> tuple[str, str]:
    match = ASKED.search(question)
    if not match or not question.startswith(NAMES[0]):
        raise ValueError(f"This does not ask who holds what: {question!r}.")
    people = match[2].count("\n")
    held = list(LETTERS[:people])  # the options are listed as they are held at first
    lines = []
    for pair in SWAP.findall(question):
        i, j = (NAMES.index(name) for name in pair)
        held[i], held[j] = held[j], held[i]
        lines.append(f"| {' '.join(pair)}: {''.join(held)}")
    return f"({held[NAMES.index(match[1])]})", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "swaps", len(SWAP.findall(question))


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])}, and {items[-1]}"
