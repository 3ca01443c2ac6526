"""Stories of who gave what to whom, and of places that lie side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reasoning_jax.tasks.stories import (
    PERSONS,
    PLACES,
    THINGS,
    Form,
    Story,
    coin,
    one,
    some,
    unless_last,
)

NUM_PERSONS = (4, 4, 5, 6, 8)  # of each level, in ``three_arguments``
NUM_THINGS = (2, 3, 3, 4, 5)
NUM_GIFTS = (5, 7, 9, 12, 15)  # statements
NUM_PLACES = (3, 4, 5, 6, 8)  # in ``two_arguments``
NUM_CROSSROADS = (4, 5, 6, 7, 8)  # in ``paths``
NUM_STEPS = (2, 2, 3, 3, 4)
DIRECTIONS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
GIVER, THING, RECEIVER = range(3)  # what a question asks for
WORDS = (
    *(f" is just {direction} of the" for direction in DIRECTIONS),
    *(f" just {direction} of" for direction in DIRECTIONS),
    *(f" {direction}" for direction in DIRECTIONS),
    *(" What is", " is the", " of the", " The", " the"),
    *(" How does one go from the", " to the", " From the", " go"),
    *(" took the", " gave the", " to", ",", " Who gave the", " What did", " Who did", " give"),
)


class Gift(NamedTuple):
    giver: str
    thing: str
    receiver: str


def three_arguments(rng: np.random.Generator, level: int) -> Story:
    """Who gave what to whom? Of the three, one is asked for."""
    asks_for = int(rng.integers(3))

    def draw() -> Story | None:
        persons = some(rng, PERSONS, NUM_PERSONS[level - 1])
        things = some(rng, THINGS, NUM_THINGS[level - 1])
        owners: dict[str, str] = {}
        gifts: list[Gift | None] = []
        statements = []
        for _ in range(NUM_GIFTS[level - 1]):
            thing = one(rng, things)
            owner = owners.get(thing)
            owners[thing] = one(rng, [person for person in persons if person != owner])
            if owner is None:
                gifts.append(None)
                statements.append(f"{owners[thing]} took the {thing}.")
            else:
                gifts.append(Gift(owner, thing, owners[thing]))
                statements.append(f"{owner} gave the {thing} to {owners[thing]}.")
        number = int(rng.integers(len(gifts)))
        gift = gifts[number]
        if gift is None or _answers(gifts, gift, asks_for) != 1:
            return None
        asked = (
            f"Who gave the {gift.thing} to {gift.receiver}?",
            f"What did {gift.giver} give to {gift.receiver}?",
            f"Who did {gift.giver} give the {gift.thing} to?",
        )
        return Story(
            statements=tuple(statements),
            asked=asked[asks_for],
            answer=gift[asks_for],
            lines=(statements[number],),
        )

    return unless_last(rng, THINGS if asks_for == THING else PERSONS, draw)


def _answers(gifts: list[Gift | None], gift: Gift, asks_for: int) -> int:
    """How many gifts fit what the question says of one."""
    known = [i for i in range(3) if i != asks_for]
    return sum(g is not None and all(g[i] == gift[i] for i in known) for g in gifts)


# ---- places on a grid ----------------------------------------------------------------------------


class Link(NamedTuple):
    """A statement: ``first`` is just ``direction`` of ``second``."""

    first: str
    direction: str
    second: str

    @property
    def statement(self) -> str:
        return f"The {self.first} is just {self.direction} of the {self.second}."


def _map(rng: np.random.Generator, count: int) -> list[Link]:
    """Places that are linked as a tree, no two of them on one spot; links in random order."""
    places = some(rng, PLACES, count)
    spots = {(0, 0): places[0]}
    links = []
    for place in places[1:]:
        while True:
            x, y = one(rng, list(spots))
            direction = one(rng, list(DIRECTIONS))
            dx, dy = DIRECTIONS[direction]
            if (x + dx, y + dy) not in spots:
                break
        spots[x + dx, y + dy] = place
        link = Link(place, direction, spots[x, y])
        links.append(link if coin(rng) else Link(link.second, OPPOSITE[direction], place))
    return some(rng, links, len(links))


def two_arguments(rng: np.random.Generator, level: int) -> Story:
    """What is just north of a place, or what is it just north of?"""

    def draw() -> Story:
        links = _map(rng, NUM_PLACES[level - 1])
        link = one(rng, links)
        if coin(rng):
            asked, answer = f"What is just {link.direction} of the {link.second}?", link.first
        else:
            asked, answer = f"What is the {link.first} just {link.direction} of?", link.second
        return Story(
            statements=tuple(each.statement for each in links),
            asked=asked,
            answer=answer,
            lines=(link.statement,),
        )

    return unless_last(rng, PLACES, draw)


def paths(rng: np.random.Generator, level: int) -> Story:
    """How does one go from a place to another? By links alone, of which one way is made."""
    while True:
        links = _map(rng, NUM_CROSSROADS[level - 1])
        start, end = some(rng, sorted({link.first for link in links} | {links[0].second}), 2)
        path = _path(links, start, end, before="")
        if len(path) == NUM_STEPS[level - 1]:
            break
    lines = []
    place = start
    for link in path:
        direction, to = _step(link, place)
        lines += [link.statement, f"From the {place} go {direction} to the {to}."]
        place = to
    directions = [line.split()[4] for line in lines[1::2]]
    return Story(
        statements=tuple(link.statement for link in links),
        asked=f"How does one go from the {start} to the {end}?",
        answer=", ".join(directions),
        lines=tuple(lines),
    )


def _step(link: Link, start: str) -> tuple[str, str]:
    """The direction and the end of a link that is walked from one of its places."""
    if start == link.second:
        return link.direction, link.first
    return OPPOSITE[link.direction], link.second


def _path(links: list[Link], start: str, end: str, before: str) -> list[Link]:
    """The links from a place to another, [] where there is no way but through ``before``."""
    for link in links:
        if start not in (link.first, link.second):
            continue
        _, to = _step(link, start)
        if to == before:
            continue
        rest = _path(links, to, end, before=start)
        if to == end or rest:
            return [link, *rest]
    return []


FORMS = {
    "three_arguments": Form(draw=three_arguments, answers=(PERSONS, THINGS)),
    "two_arguments": Form(draw=two_arguments, answers=(PLACES,)),
    "paths": Form(draw=paths, answers=(tuple(DIRECTIONS),), is_named=False),
}
