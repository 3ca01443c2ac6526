"""How many of one kind are there? Published questions have 2 to 12 kinds of things.

At most three of them are of another sort than the one that is asked for. A line of the rationale
is a thing that counts and the total so far.

    | a flute: 1
    | two violins: 3
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)  # kinds of things
SORTS = {  # singular and plural, in turn
    "vegetables": "yam yams onion onions potato potatoes cauliflower cauliflowers cabbage cabbages "
    "carrot carrots garlic garlics lettuce_head lettuce_heads head_of_broccoli heads_of_broccoli "
    "stalk_of_celery stalks_of_celery",
    "fruits": "plum plums apple apples banana bananas raspberry raspberries strawberry "
    "strawberries grape grapes peach peaches blackberry blackberries nectarine nectarines orange "
    "oranges",
    "musical instruments": "trumpet trumpets piano pianos drum drums accordion accordions trombone "
    "trombones flute flutes clarinet clarinets violin violins",
    "animals": "fish fish mouse mice pig pigs donkey donkeys rabbit rabbits cow cows snail snails "
    "frog frogs cat cats dog dogs bear bears chicken chickens snake snakes duck ducks goat goats",
    "objects": "toaster toasters bed beds fridge fridges lamp lamps table tables chair chairs "
    "microwave microwaves oven ovens car cars stove stoves couch couches",
}
THINGS = {
    sort: [word.replace("_", " ") for word in listed.split()] for sort, listed in SORTS.items()
}
AMOUNTS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
WORDS = (
    *dict.fromkeys(f" {thing}" for listed in THINGS.values() for thing in listed),
    *(f" {word}" for word in AMOUNTS),
    *(" I have", " and", ". How many"),
    *(f" {sort}" for sort in SORTS),
    *(" do I have?", ": ", " |", "\n|"),
)
MAX_ASKED, MAX_OTHERS = 10, 3  # kinds of things of the sort that is asked for, and of another
QUESTION = re.compile(r"I have (.+), and (.+)\. How many ([a-z ]+) do I have\?")


def question(rng: np.random.Generator, level: int) -> str:
    """At most ten things of the sort that is asked for; some questions have another sort too.

    A quarter of those that need no other sort have one to three things of it.
    """
    most = {sort: min(MAX_ASKED, len(listed) // 2) for sort, listed in THINGS.items()}
    possible = []
    for sort in SORTS:
        others = 0 if sort == "objects" else MAX_OTHERS  # everything is an object
        if level <= most[sort] + others:
            possible.append(sort)
    sort = str(rng.choice(possible))
    others = max(0, level - most[sort])
    if not others and level > 2 and sort != "objects" and rng.random() < 0.25:
        others = int(rng.integers(1, min(MAX_OTHERS, level - 2) + 1))
    other_sort = str(rng.choice([other for other in SORTS if other != sort]))
    things = _some(rng, sort, level - others) + _some(rng, other_sort, others)
    listed = [things[i] for i in rng.permutation(level)]
    return f"I have {', '.join(listed[:-1])}, and {listed[-1]}. How many {sort} do I have?"


def solve(question: str) -> tuple[str, str]:
    """ValueError also for a thing or a sort that is not in the lists above."""
    match = QUESTION.fullmatch(question)
    if not match or match[3] not in THINGS:
        raise ValueError(f"This does not ask to count: {question!r}.")
    total = 0
    lines = []
    for listed in [*match[1].split(", "), match[2]]:
        amount, _, thing = listed.partition(" ")
        if amount not in AMOUNTS or not any(thing in things for things in THINGS.values()):
            raise ValueError(f"{listed!r} cannot be counted: {question!r}.")
        if match[3] == "objects" or thing in THINGS[match[3]]:  # everything is an object
            total += AMOUNTS[amount]
            lines.append(f"| {listed}: {total}")
    return str(total), "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "things", question.count(", ") + 1


def _some(rng: np.random.Generator, sort: str, count: int) -> list[str]:
    """``count`` different things with their amounts, which are mostly one."""
    amounts = rng.choice([1, 2, 3, 4, 5], size=count, p=[0.78, 0.11, 0.065, 0.035, 0.01])
    singular, plural = THINGS[sort][::2], THINGS[sort][1::2]
    kinds = rng.permutation(len(singular))[:count]
    things = []
    for kind, amount in zip(kinds, amounts, strict=True):
        if amount == 1:
            article = "an" if singular[kind][0] in "aeiou" else "a"
            things.append(f"{article} {singular[kind]}")
        else:
            things.append(f"{list(AMOUNTS)[amount]} {plural[kind]}")
    return things
