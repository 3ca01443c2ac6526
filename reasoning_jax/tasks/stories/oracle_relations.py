"""Answers to questions about relations, orders and kinds, from the text alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoning_jax.tasks.stories import Solved, read

LINK = r"The (\w+) is just (\w+) of the (\w+)\."
GIFT = r"(\w+) gave the (\w+) to (\w+)\."
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
# What is said of two things, and the same of them in the other order.
CONVERSE = {
    "is left of": "is right of",
    "is below": "is above",
    "fits in": "is bigger than",
}
CONVERSE |= {other: said for said, other in CONVERSE.items()}
MOODS = {
    "kitchen": ("hungry", "thirsty"),
    "bedroom": ("tired", "sleepy"),
    "library": ("bored", "curious"),
    "garden": ("restless", "cheerful"),
}

Pairs = set[tuple[str, str]]


def _only(found: Sequence[str]) -> str:
    """The one item of a sequence."""
    if len(found) != 1:
        raise ValueError(f"There are {len(found)} answers, not one.")
    return found[0]


# ---- gifts and places ----------------------------------------------------------------------------


def gift(statements: Sequence[str], asked: str) -> Solved:
    gifts = [m.groups() for m in (re.fullmatch(GIFT, s) for s in statements) if m]
    if match := re.fullmatch(r"Who gave the (\w+) to (\w+)\?", asked):
        return Solved(_only([who for who, *rest in gifts if tuple(rest) == match.groups()]))
    if match := re.fullmatch(r"What did (\w+) give to (\w+)\?", asked):
        return Solved(_only([thing for who, thing, to in gifts if (who, to) == match.groups()]))
    known = read(r"Who did (\w+) give the (\w+) to\?", asked)
    return Solved(_only([to for *rest, to in gifts if tuple(rest) == known]))


def beside(statements: Sequence[str], asked: str) -> Solved:
    links = [read(LINK, statement) for statement in statements]
    links += [(second, BACK[direction], first) for first, direction, second in links]
    if match := re.fullmatch(r"What is just (\w+) of the (\w+)\?", asked):
        return Solved(_only([first for first, *rest in links if tuple(rest) == match.groups()]))
    known = read(r"What is the (\w+) just (\w+) of\?", asked)
    return Solved(_only([second for *rest, second in links if tuple(rest) == known]))


def way(statements: Sequence[str], asked: str) -> Solved:
    """The shortest way; also true is each step between places that are side by side."""
    start, end = read(r"How does one go from the (\w+) to the (\w+)\?", asked)
    steps: dict[str, list[tuple[str, str]]] = {}
    for statement in statements:
        first, direction, second = read(LINK, statement)
        steps.setdefault(second, []).append((direction, first))
        steps.setdefault(first, []).append((BACK[direction], second))
    ways = {start: ""}
    queue = [start]
    for place in queue:
        for direction, other in steps[place]:
            if other not in ways:
                ways[other] = f"{ways[place]}, {direction}"
                queue.append(other)
    lines = []
    for place, nearby in steps.items():
        lines += [f"From the {place} go {direction} to the {other}." for direction, other in nearby]
    return Solved(ways[end].removeprefix(", "), frozenset(lines))


# ---- orders --------------------------------------------------------------------------------------


def compared(statements: Sequence[str], asked: str) -> Solved:
    """Also true is all that follows for any two things."""
    known: dict[str, Pairs] = {relation: set() for relation in CONVERSE}
    for statement in statements:
        first, relation, second = read(r"The (\w+) (.+) the (\w+)\.", statement)
        known[relation].add((first, second))
        known[CONVERSE[relation]].add((second, first))
    lines = set()
    for relation, pairs in known.items():
        known[relation] = _closure(pairs)
        lines |= {f"So the {a} {relation} the {b}." for a, b in known[relation]}
    first, relation, second = read(r"(?:Is|Does) the (\w+) (.+) the (\w+)\?", asked)
    relation = "fits in" if relation == "fit in" else f"is {relation}"
    if (first, second) in known[relation]:
        return Solved("yes", frozenset(lines))
    if (second, first) in known[relation]:
        return Solved("no", frozenset(lines))
    raise ValueError(f"Nothing is said of the {first} and the {second}.")


def _closure(pairs: Pairs) -> Pairs:
    """With a pair from a to c wherever there are pairs from a to b and from b to c."""
    following = pairs | {(a, d) for a, b in pairs for c, d in pairs if b == c}
    return pairs if following == pairs else _closure(following)


# ---- kinds and moods -----------------------------------------------------------------------------


def feared(statements: Sequence[str], asked: str) -> Solved:
    [name] = read(r"What does (\w+) fear\?", asked)
    kinds = [
        kind for who, kind in re.findall(r"(\w+) is a (\w+)", " ".join(statements)) if who == name
    ]
    rules = dict(re.findall(r"A (\w+) fears a (\w+)", " ".join(statements)))
    return Solved(rules[_only(kinds)])


def color(statements: Sequence[str], asked: str) -> Solved:
    [name] = read(r"What color is (\w+)\?", asked)
    kinds = dict(re.findall(r"(\w+) is a (\w+)\.", " ".join(statements)))
    colors = dict(re.findall(r"(\w+) is (\w+)\.", " ".join(statements)))
    alike = {colors[other] for other in colors if kinds[other] == kinds[name]}
    return Solved(_only(sorted(alike)))


def motive(statements: Sequence[str], asked: str) -> Solved:
    told = re.findall(r"(\w+) (?:is|went to the|walked to the) (\w+)\.", " ".join(statements))
    if match := re.fullmatch(r"Where will (\w+) go\?", asked):
        mood = [word for person, word in told if person == match[1]][-1]
        return Solved(_only([place for place, moods in MOODS.items() if mood in moods]))
    person, place = read(r"Why did (\w+) go to the (\w+)\?", asked)
    own = [word for who, word in told if who == person]
    before = [mood for mood, went in zip(own, own[1:], strict=False) if went == place]
    return Solved(_only(before))


ORACLES = {
    "three_arguments": gift,
    "two_arguments": beside,
    "paths": way,
    "positions": compared,
    "sizes": compared,
    "deduction": feared,
    "induction": color,
    "motivations": motive,
}
