"""Stories of persons who move: where each is, is not, may be, or was."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from reasoning_jax.tasks.stories import (
    PERSONS,
    PLACES,
    YES_NO,
    Form,
    Story,
    coin,
    each_as_often,
    moved,
    one,
    some,
    unless_last,
)

NUM_PERSONS = (2, 2, 3, 4, 6)  # of each level
NUM_STATEMENTS = (3, 5, 7, 10, 14)
DENIED = 0.4  # the probability that what is known of a person is denied next
EITHER = 0.5  # the probability that a statement names two places
TRAVELLERS = (1, 2, 2, 3, 3)  # persons of each level, in ``time``
JOURNEYS = (3, 3, 4, 4, 5)  # of each of them
TIMES = ("At dawn", "In the morning", "At noon", "At dusk", "At midnight")  # in their order
ANSWERS = (*YES_NO, "maybe")
WORDS = (
    *(f" {time}" for time in TIMES),
    *(" is in the", " is no longer in the", " or the", " in the", " before the"),
    *(" Where is", " Where was", " Is"),
)


class Fact(NamedTuple):
    """A statement about a person, and the places that it names."""

    person: str
    statement: str
    places: tuple[str, ...]


def _asked_of(rng: np.random.Generator, facts: list[Fact]) -> Fact:
    """The last fact of one of the persons."""
    person = one(rng, sorted({fact.person for fact in facts}))
    return next(fact for fact in reversed(facts) if fact.person == person)


def _elsewhere(facts: list[Fact], last: Fact) -> list[str]:
    """Places of a person's facts that the last of these does not name.

    Asked for one of them, a question cannot be told from others by who is named with the place.
    """
    named = {place for fact in facts if fact.person == last.person for place in fact.places}
    return sorted(named - set(last.places))


def _moves(rng: np.random.Generator, level: int) -> list[Fact]:
    """Nobody goes to where they are."""
    persons = some(rng, PERSONS, NUM_PERSONS[level - 1])
    places: dict[str, str] = {}
    facts: list[Fact] = []
    for _ in range(NUM_STATEMENTS[level - 1]):
        person = one(rng, persons)
        places[person] = one(rng, [place for place in PLACES if place != places.get(person)])
        facts.append(Fact(person, moved(rng, person, places[person]), (places[person],)))
    return facts


def _is_in(facts: list[Fact], last: Fact, place: str, answer: str) -> Story:
    """A story that asks whether the person of its fact ``last`` is in a place."""
    return Story(
        statements=tuple(fact.statement for fact in facts),
        asked=f"Is {last.person} in the {place}?",
        answer=answer,
        lines=(last.statement,),
    )


def one_fact(rng: np.random.Generator, level: int) -> Story:
    """Where is a person? Where the last move brought them."""

    def draw() -> Story:
        facts = _moves(rng, level)
        last = _asked_of(rng, facts)
        return Story(
            statements=tuple(fact.statement for fact in facts),
            asked=f"Where is {last.person}?",
            answer=last.places[0],
            lines=(last.statement,),
        )

    return unless_last(rng, PLACES, draw)


def yes_no(rng: np.random.Generator, level: int) -> Story:
    """Is a person in a place? If not, the person was there before."""

    def draw(answer: str) -> Story | None:
        facts = _moves(rng, level)
        last = _asked_of(rng, facts)
        elsewhere = _elsewhere(facts, last)
        if not elsewhere:
            return None
        place = last.places[0] if answer == "yes" else one(rng, elsewhere)
        return _is_in(facts, last, place, answer)

    return each_as_often(rng, YES_NO, draw)


def negation(rng: np.random.Generator, level: int) -> Story:
    """Is a person in a place, where some statements say that somebody is no longer there?"""

    def draw(answer: str) -> Story | None:
        facts: list[Fact] = []
        denied: set[str] = set()  # statements
        for fact in _moves(rng, level):
            known = [f for f in facts if f.person == fact.person][-1:]
            if known and known[0].statement not in denied and coin(rng, DENIED):
                [place] = known[0].places
                fact = Fact(fact.person, f"{fact.person} is no longer in the {place}.", (place,))
                denied.add(fact.statement)
            facts.append(fact)
        last = _asked_of(rng, facts)
        elsewhere = _elsewhere(facts, last)
        is_denied = last.statement in denied
        if not elsewhere or (is_denied and answer == "yes"):
            return None
        place = last.places[0] if is_denied or answer == "yes" else one(rng, elsewhere)
        return _is_in(facts, last, place, answer)

    return each_as_often(rng, YES_NO, draw)


def indefinite(rng: np.random.Generator, level: int) -> Story:
    """Is a person in a place, where some statements name two places that it may be?"""

    def draw(answer: str) -> Story | None:
        facts: list[Fact] = []
        for fact in _moves(rng, level):
            places = tuple(some(rng, PLACES, 2 if coin(rng, EITHER) else 1))
            statement = f"{fact.person} is in the {' or the '.join(places)}."
            facts.append(Fact(fact.person, statement, places))
        last = _asked_of(rng, facts)
        elsewhere = _elsewhere(facts, last)
        other = "maybe" if len(last.places) == 1 else "yes"  # than what the statement can answer
        if not elsewhere or answer == other:
            return None
        place = one(rng, elsewhere if answer == "no" else last.places)
        return _is_in(facts, last, place, answer)

    return each_as_often(rng, ANSWERS, draw)


def time(rng: np.random.Generator, level: int) -> Story:
    """Where was a person before a place? Journeys are told in any order, each with its time."""

    def draw() -> Story:
        facts: list[Fact] = []
        for person in some(rng, PERSONS, TRAVELLERS[level - 1]):
            count = JOURNEYS[level - 1]
            times = sorted(some(rng, range(len(TIMES)), count))
            for when, place in zip(times, some(rng, PLACES, count), strict=True):
                statement = f"{TIMES[when]} {moved(rng, person, place)}"
                facts.append(Fact(person, statement, (place,)))
        pairs = [(a, b) for a, b in itertools.pairwise(facts) if a.person == b.person]
        before, after = one(rng, pairs)
        return Story(
            statements=tuple(fact.statement for fact in some(rng, facts, len(facts))),
            asked=f"Where was {after.person} before the {after.places[0]}?",
            answer=before.places[0],
            lines=(after.statement, before.statement),
        )

    return unless_last(rng, PLACES, draw)


FORMS = {
    "one_fact": Form(draw=one_fact, answers=(PLACES,)),
    "yes_no": Form(draw=yes_no, answers=(YES_NO,), is_named=False),
    "negation": Form(draw=negation, answers=(YES_NO,), is_named=False),
    "indefinite": Form(draw=indefinite, answers=(ANSWERS,), is_named=False),
    "time": Form(draw=time, answers=(PLACES,)),
}
