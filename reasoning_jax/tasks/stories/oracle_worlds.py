"""Answers to questions about persons, places and things, from the text alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoning_jax.tasks.stories import Solved, read

PERSONS = r"(\w+)(?: and (\w+))?"
MOVE = rf"(?:Then )?{PERSONS} (?:went|walked) to the (\w+)\."
TAKE = r"(\w+) (?:took|picked up) the (\w+)\."
PUT = r"(\w+) (?:put down|dropped) the (\w+)\."
GIVE = r"(\w+) gave the (\w+) to (\w+)\."
CLOCK = ("dawn", "the morning", "noon", "dusk", "midnight")
COUNTED = ("none", "one", "two", "three", "four", "five")


# ---- persons -------------------------------------------------------------------------------------


def where(statements: Sequence[str], asked: str) -> Solved:
    """A pronoun means those whom the statement before is about."""
    [person] = read(r"Where is (\w+)\?", asked)
    places: dict[str, str] = {}
    movers: list[str] = []
    for statement in statements:
        first, second, place = read(MOVE, statement)
        if not statement.startswith("Then "):
            movers = [name for name in (first, second) if name]
        places.update(dict.fromkeys(movers, place))
    if person not in places:
        raise ValueError(f"Nothing is said of {person}.")
    return Solved(places[person])


def is_in(statements: Sequence[str], asked: str) -> Solved:
    """By the last statement about the person, which may deny or be in doubt."""
    person, place = read(r"Is (\w+) in the (\w+)\?", asked)
    about = [statement for statement in statements if statement.startswith(f"{person} ")]
    if not about:
        raise ValueError(f"Nothing is said of {person}.")
    names_place = re.search(rf"\b{place}\b", about[-1]) is not None
    if " no longer " in about[-1]:
        if not names_place:
            raise ValueError(f"It is not said whether {person} is in the {place}.")
        return Solved("no")
    if not names_place:
        return Solved("no")
    return Solved("maybe" if " or " in about[-1] else "yes")


def where_before(statements: Sequence[str], asked: str) -> Solved:
    person, place = read(r"Where was (\w+) before the (\w+)\?", asked)
    visits = {}
    for statement in statements:
        clock, mover, where = read(
            r"(?:At|In) (.+) (\w+) (?:went|walked) to the (\w+)\.", statement
        )
        if mover == person:
            visits[CLOCK.index(clock)] = where
    in_order = [visits[when] for when in sorted(visits)]
    return Solved(_before(in_order, place))


def _before(places: Sequence[str], place: str) -> str:
    """The place before one that is there once, and not first."""
    if places.count(place) != 1 or places[0] == place:
        raise ValueError(f"It is not said what was before the {place}.")
    return places[places.index(place) - 1]


# ---- things --------------------------------------------------------------------------------------


def _trails(statements: Sequence[str]) -> dict[str, list[str]]:
    """The places of each person, and of each thing since it was first taken."""
    trails: dict[str, list[str]] = {}
    carried: dict[str, set[str]] = {}
    for statement in statements:
        if match := re.fullmatch(MOVE, statement):
            person, _, place = match.groups()
            for who in (person, *sorted(carried.get(person, ()))):
                trails.setdefault(who, []).append(place)
        elif match := re.fullmatch(TAKE, statement):
            person, thing = match.groups()
            carried.setdefault(person, set()).add(thing)
            trails.setdefault(thing, [trails[person][-1]])
        else:
            person, thing = read(PUT, statement)
            carried[person].remove(thing)
    return trails


def where_is_thing(statements: Sequence[str], asked: str) -> Solved:
    [thing] = read(r"Where is the (\w+)\?", asked)
    return Solved(_trails(statements)[thing][-1])


def where_was_thing(statements: Sequence[str], asked: str) -> Solved:
    thing, place = read(r"Where was the (\w+) before the (\w+)\?", asked)
    return Solved(_before(_trails(statements)[thing], place))


def how_many(statements: Sequence[str], asked: str) -> Solved:
    [person] = read(r"How many things does (\w+) have\?", asked)
    hands = _hands(statements, person)
    lines = [f"{told}: {COUNTED[len(has)]}." for told, has in hands]
    return Solved(COUNTED[len(hands[-1][1])], frozenset(lines))


def what(statements: Sequence[str], asked: str) -> Solved:
    [person] = read(r"What does (\w+) have\?", asked)
    hands = _hands(statements, person)
    lines = [f"{told}: {', '.join(has) or 'nothing'}." for told, has in hands]
    return Solved(", ".join(hands[-1][1]) or "nothing", frozenset(lines))


def _hands(statements: Sequence[str], person: str) -> list[tuple[str, list[str]]]:
    """Each statement that changes what a person has, without its full stop, and what that is."""
    changes = []
    has: list[str] = []
    for statement in statements:
        given = re.fullmatch(GIVE, statement)
        taken = re.fullmatch(TAKE, statement)
        lost = given or re.fullmatch(PUT, statement)
        if given and given[3] == person:
            has = [*has, given[2]]
        elif taken and taken[1] == person:
            has = [*has, taken[2]]
        elif lost and lost[1] == person:
            has = [thing for thing in has if thing != lost[2]]
        else:
            continue
        changes.append((statement.removesuffix("."), has))
    if not changes:
        raise ValueError(f"Nothing is said of what {person} has.")
    return changes


ORACLES = {
    "one_fact": where,
    "coreference": where,
    "conjunction": where,
    "compound_coreference": where,
    "yes_no": is_in,
    "negation": is_in,
    "indefinite": is_in,
    "time": where_before,
    "two_facts": where_is_thing,
    "three_facts": where_was_thing,
    "counting": how_many,
    "lists": what,
}
