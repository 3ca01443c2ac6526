"""How many of one kind are there? Published rows have 2 to 12 kinds of things, at most three of another sort.

A line of the rationale is a thing that counts and the total so far.

    | a flute: 1
    | two violins: 3
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
SORTS = {  # singular and plural, in turn
    "vegetables": "yam yams onion onions potato potatoes cauliflower cauliflowers cabbage cabbages carrot carrots garlic "
    "garlics lettuce_head lettuce_heads head_of_broccoli heads_of_broccoli stalk_of_celery stalks_of_celery",
    "fruits": "plum plums apple apples banana bananas raspberry raspberries strawberry strawberries grape grapes peach "
    "peaches blackberry blackberries nectarine nectarines orange oranges",
    "musical instruments": "trumpet trumpets piano pianos drum drums accordion accordions trombone trombones flute flutes "
    "clarinet clarinets violin violins",
    "animals": "fish fish mouse mice pig pigs donkey donkeys rabbit rabbits cow cows snail snails frog frogs cat cats "
    "dog dogs bear bears chicken chickens snake snakes duck ducks goat goats",
    "objects": "toaster toasters bed beds fridge fridges lamp lamps table tables chair chairs microwave microwaves oven "
    "ovens car cars stove stoves couch couches",
}
THINGS = {sort: [word.replace("_", " ") for word in listed.split()] for sort, listed in SORTS.items()}
AMOUNTS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
WORDS = (*dict.fromkeys(f" {thing}" for listed in THINGS.values() for thing in listed), *(f" {word}" for word in AMOUNTS))
WORDS += (" I have", " and", ". How many", *(f" {sort}" for sort in SORTS), " do I have?", ": ", " |", "\n|")
QUESTION = re.compile(r"I have (.+), and (.+)\. How many ([a-z ]+) do I have\?")


def question(rng: np.random.Generator, level: int) -> str:
    """At most ten things of the sort that is asked for, and in a quarter of the questions up to three of another sort."""
    room = {sort: min(10, len(listed) // 2) for sort, listed in THINGS.items()}
    sort = str(rng.choice([sort for sort in SORTS if level <= room[sort] + 3 * (sort != "objects")]))
    others = max(0, level - room[sort])
    if not others and level > 2 and sort != "objects" and rng.random() < 0.25:
        others = int(rng.integers(1, min(3, level - 2) + 1))
    other = str(rng.choice([other for other in SORTS if other != sort]))
    things = _some(rng, sort, level - others) + _some(rng, other, others)
    listed = [things[i] for i in rng.permutation(level)]
    return f"I have {', '.join(listed[:-1])}, and {listed[-1]}. How many {sort} do I have?"


def solve(question: str) -> tuple[str, str]:
    """ValueError for a thing or a sort that is not in the lists above."""
    match = QUESTION.fullmatch(question)
    if not match or match[3] not in THINGS:
        raise ValueError(f"This does not ask to count: {question!r}.")
    total, lines = 0, []
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
    chosen = zip(rng.permutation(len(singular))[:count], amounts, strict=True)
    articles = ["an" if word[0] in "aeiou" else "a" for word in singular]
    return [f"{articles[i]} {singular[i]}" if n == 1 else f"{list(AMOUNTS)[n]} {plural[i]}" for i, n in chosen]
