"""Stories of things that are taken, carried, put down and given: where they are, who has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from reasoning_jax.tasks.stories import (
    PERSONS,
    PLACES,
    THINGS,
    Form,
    Story,
    coin,
    each_as_often,
    moved,
    one,
    some,
    unless_last,
)

NUM_PERSONS = (2, 2, 3, 3, 4)  # of each level
NUM_THINGS = (2, 2, 3, 4, 5)
NUM_STATEMENTS = (4, 6, 9, 12, 16)
NUM_TRAIL = (6, 8, 11, 14, 18)  # statements of ``three_facts``
MOST = (1, 1, 2, 3, 3)  # things that the person has who is asked about
FEW_PLACES = 3  # of stories with gifts, for which two persons have to meet
MOVES = 0.45  # the probability of a move where there is something else to do
TAKE = ("took the", "picked up the")
PUT = ("put down the", "dropped the")
NUMBERS = ("none", "one", "two", "three", "four", "five")
NOTHING = "nothing"
WORDS = (
    *(f" {verb}" for verb in (*TAKE, *PUT)),
    *(" gave the", " to", " have", ":", ","),
    *(" Where is the", " Where was the", " before the"),
    *(" How many things does", " What does"),
)

Say = Callable[[tuple[str, ...]], str]  # what a person has, in words


class World:
    """Who is where and has what, and by which of the statements that is known."""

    def __init__(self, rng: np.random.Generator, level: int, num_places: int = len(PLACES)):
        self.rng = rng
        self.persons = some(rng, PERSONS, NUM_PERSONS[level - 1])
        self.things = some(rng, THINGS, NUM_THINGS[level - 1])
        self.places = some(rng, PLACES, num_places)
        self.statements: list[str] = []
        self.moves: dict[str, list[tuple[str, int]]] = {person: [] for person in self.persons}
        self.has: dict[str, dict[str, int]] = {person: {} for person in self.persons}
        # Of each thing that was taken: its place, and by which two statements that is known.
        self.found: dict[str, tuple[str, tuple[int, int]]] = {}
        # The places that a thing was carried to, the carrier's getting it, coming and last coming.
        self.trails: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        # After each getting and losing of a person: the statement, and what the person has.
        self.hands: dict[str, list[tuple[int, tuple[str, ...]]]] = {p: [] for p in self.persons}

    def place(self, person: str) -> str | None:
        return self.moves[person][-1][0] if self.moves[person] else None

    def say(self, statement: str) -> int:
        """The number of a new statement."""
        self.statements.append(statement)
        return len(self.statements) - 1

    def move(self, person: str) -> None:
        place = one(self.rng, [p for p in self.places if p != self.place(person)])
        number = self.say(moved(self.rng, person, place))
        self.moves[person].append((place, number))
        for thing, got in self.has[person].items():
            self.found[thing] = (place, (got, number))
            before = self.moves[person][-2][1]
            self.trails[thing].append((place, (got, number, before)))

    def take(self, person: str, thing: str) -> None:
        number = self.say(f"{person} {one(self.rng, TAKE)} {thing}.")
        self._get(person, thing, number)

    def put(self, person: str, thing: str) -> None:
        number = self.say(f"{person} {one(self.rng, PUT)} {thing}.")
        self._lose(person, thing, number)
        place, came = self.moves[person][-1]
        self.found[thing] = (place, (number, came))

    def give(self, person: str, thing: str, other: str) -> None:
        number = self.say(f"{person} gave the {thing} to {other}.")
        self._lose(person, thing, number)
        self._get(other, thing, number)

    def _get(self, person: str, thing: str, number: int) -> None:
        self.has[person][thing] = number
        self.hands[person].append((number, tuple(self.has[person])))
        place, came = self.moves[person][-1]
        self.found[thing] = (place, (number, came))
        self.trails.setdefault(thing, [(place, ())])

    def _lose(self, person: str, thing: str, number: int) -> None:
        del self.has[person][thing]
        self.hands[person].append((number, tuple(self.has[person])))

    def step(self, gifts: bool) -> None:
        """One more statement."""
        person = one(self.rng, self.persons)
        deeds = self._deeds(person, gifts)
        if not deeds or coin(self.rng, MOVES):
            self.move(person)
        else:
            one(self.rng, deeds)()

    def _deeds(self, person: str, gifts: bool) -> list[Callable[[], None]]:
        """What a person can do with things; persons without a place have to move first."""
        place = self.place(person)
        if place is None:
            return []
        carried = {thing for has in self.has.values() for thing in has}
        deeds: list[Callable[[], None]] = []
        for thing in self.things:
            known = self.found.get(thing)
            if thing not in carried and (known is None or known[0] == place):
                deeds.append(functools.partial(self.take, person, thing))
        near = [p for p in self.persons if p != person and self.place(p) == place]
        for thing in self.has[person]:
            deeds.append(functools.partial(self.put, person, thing))
            if gifts and near:
                deeds.append(functools.partial(self.give, person, thing, one(self.rng, near)))
        return deeds

    def story(self, asked: str, answer: str, lines: Sequence[str]) -> Story:
        statements = tuple(self.statements)
        return Story(statements=statements, asked=asked, answer=answer, lines=tuple(lines))


def two_facts(rng: np.random.Generator, level: int) -> Story:
    """Where is a thing? Where its carrier is, or was when putting it down."""

    def draw() -> Story | None:
        world = World(rng, level)
        for _ in range(NUM_STATEMENTS[level - 1]):
            world.step(gifts=False)
        if not world.found:
            return None
        thing = one(rng, sorted(world.found))
        place, numbers = world.found[thing]
        lines = [world.statements[number] for number in numbers]
        return world.story(f"Where is the {thing}?", place, lines)

    return unless_last(rng, PLACES, draw)


def three_facts(rng: np.random.Generator, level: int) -> Story:
    """Where was a thing before a place? Where its carrier came from."""

    def draw() -> Story | None:
        world = World(rng, level)
        for _ in range(NUM_TRAIL[level - 1]):
            world.step(gifts=False)
        asked = []  # a thing, the place before, the place that is named, and the statements
        for thing, trail in world.trails.items():
            places = [place for place, _ in trail]
            for i in range(1, len(trail)):
                if places.count(places[i]) == 1:
                    asked.append((thing, places[i - 1], *trail[i]))
        if not asked:
            return None
        thing, answer, place, numbers = one(rng, asked)
        lines = [world.statements[number] for number in numbers]
        return world.story(f"Where was the {thing} before the {place}?", answer, lines)

    return unless_last(rng, PLACES, draw)


def _hands(rng: np.random.Generator, level: int, asked: str, say: Say) -> Story:
    """What a person has after all; each number of things is as likely."""

    def draw(count: int) -> Story | None:
        world = World(rng, level, FEW_PLACES)
        for _ in range(NUM_STATEMENTS[level - 1]):
            world.step(gifts=True)
        persons = [p for p in world.persons if world.hands[p] and len(world.has[p]) == count]
        if not persons:
            return None
        person = one(rng, persons)
        lines = []
        for number, has in world.hands[person]:
            lines.append(f"{world.statements[number].removesuffix('.')}: {say(has)}.")
        return world.story(asked.format(person), say(tuple(world.has[person])), lines)

    return each_as_often(rng, range(MOST[level - 1] + 1), draw)


def counting(rng: np.random.Generator, level: int) -> Story:
    return _hands(rng, level, "How many things does {} have?", lambda has: NUMBERS[len(has)])


def lists(rng: np.random.Generator, level: int) -> Story:
    """Things are in the order in which the person got them."""
    return _hands(rng, level, "What does {} have?", lambda has: ", ".join(has) or NOTHING)


FORMS = {
    "two_facts": Form(draw=two_facts, answers=(PLACES,)),
    "three_facts": Form(draw=three_facts, answers=(PLACES,)),
    "counting": Form(draw=counting, answers=(NUMBERS,), is_named=False),
    "lists": Form(draw=lists, answers=((*THINGS, NOTHING),), is_named=False),
}
