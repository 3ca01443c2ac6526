"""Stories in which persons move together, or are named by a pronoun the next time."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from reasoning_jax.tasks.stories import (
    PERSONS,
    PLACES,
    WOMEN,
    Form,
    Story,
    coin,
    moved,
    one,
    some,
    unless_last,
)

NUM_PERSONS = (3, 3, 4, 5, 6)  # of each level
NUM_STATEMENTS = (3, 5, 7, 10, 14)
FOLLOWED = 0.5  # the probability that a statement is about those of the one before
WORDS = (" and", " Then she", " Then he", " Then they")


class Passage(NamedTuple):
    """Where some persons went, who are named in the first statement only."""

    persons: list[str]
    statements: list[str]
    places: list[str]


def _pronoun(persons: list[str]) -> str:
    if len(persons) > 1:
        return "they"
    return "she" if persons[0] in WOMEN else "he"


def _passages(
    rng: np.random.Generator, level: int, together: bool, by_pronoun: bool
) -> list[Passage]:
    """Persons move alone or by two; with ``by_pronoun`` some go on."""
    persons = some(rng, PERSONS, NUM_PERSONS[level - 1])
    passages: list[Passage] = []
    for _ in range(NUM_STATEMENTS[level - 1]):
        if by_pronoun and passages and coin(rng, FOLLOWED):
            passage = passages[-1]
            who = f"Then {_pronoun(passage.persons)}"
        else:
            passage = Passage(some(rng, persons, 2 if together else 1), [], [])
            passages.append(passage)
            who = " and ".join(passage.persons)
        place = one(rng, [place for place in PLACES if place not in passage.places[-1:]])
        passage.statements.append(moved(rng, who, place))
        passage.places.append(place)
    return passages


def where(
    rng: np.random.Generator, level: int, together: bool = False, by_pronoun: bool = False
) -> Story:
    """Where is a person? Of stories with pronouns, one of them tells it."""

    def draw() -> Story | None:
        passages = _passages(rng, level, together, by_pronoun)
        person = one(rng, sorted({person for passage in passages for person in passage.persons}))
        last = [passage for passage in passages if person in passage.persons][-1]
        if by_pronoun and len(last.statements) == 1:
            return None
        return Story(
            statements=tuple(line for passage in passages for line in passage.statements),
            asked=f"Where is {person}?",
            answer=last.places[-1],
            lines=tuple(last.statements),
        )

    return unless_last(rng, PLACES, draw)


FORMS = {
    "coreference": Form(draw=functools.partial(where, by_pronoun=True), answers=(PLACES,)),
    "conjunction": Form(draw=functools.partial(where, together=True), answers=(PLACES,)),
    "compound_coreference": Form(
        draw=functools.partial(where, together=True, by_pronoun=True), answers=(PLACES,)
    ),
}
