"""Invented people, and three facts of each: a world that a small model can learn by heart.

" city p17 ?" " c7"        a fact, asked
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import IDS, Example, TaskConfig

ATTRIBUTES = ("city", "trade", "year")
MOST_PEOPLE = 2000
MOST_VALUES = 100  # of an attribute
PEOPLE = tuple(f"p{number}" for number in range(MOST_PEOPLE))
# c0, c1 ... for cities, and so on.
VALUES = {name: tuple(f"{name[0]}{n}" for n in range(MOST_VALUES)) for name in ATTRIBUTES}


def alphabet(num_people: int, num_values: int, marks: Sequence[str]) -> tuple[str, ...]:
    """The symbols of so many people, with a space before each but a line's end."""
    values = [value for own in VALUES.values() for value in own[:num_values]]
    symbols = [*PEOPLE[:num_people], *values, *ATTRIBUTES, "?", *marks]
    return tuple(symbol if symbol == "\n" else f" {symbol}" for symbol in symbols)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactConfig(TaskConfig):
    """The keys of a task about invented people."""

    seed: int = key(0, between(0, 2**32 - 1))  # of the people: the same for every config.seed
    num_people: int = key(1000, between(10, MOST_PEOPLE))
    num_values: int = key(50, between(2, MOST_VALUES))  # of an attribute: so many cities
    # Documents of "train" and "given". Few of them, read often, are learned with their noise.
    num_train: int = key(150_000, between(1, IDS))


class Fact(NamedTuple):
    person: str
    attribute: str
    value: str

    @property
    def question(self) -> str:
        return f"{self.attribute} {self.person} ?"


class World:
    """Who lives where, does what, and was born when."""

    def __init__(self, cfg: ConfigDict):
        rng = np.random.default_rng([cfg.seed, 0])
        # As many people of each value, or one more.
        numbers = np.arange(cfg.num_people) % cfg.num_values
        columns = {name: rng.permutation(numbers) for name in ATTRIBUTES}
        self.people = PEOPLE[: cfg.num_people]
        self.values = {name: VALUES[name][: cfg.num_values] for name in ATTRIBUTES}
        self.facts = [
            Fact(person, name, VALUES[name][columns[name][number]])
            for number, person in enumerate(self.people)
            for name in ATTRIBUTES
        ]
        self._value = {(fact.person, fact.attribute): fact.value for fact in self.facts}
        self._members: dict[tuple[str, str], list[str]] = {}
        for fact in self.facts:
            self._members.setdefault((fact.attribute, fact.value), []).append(fact.person)

    def value(self, person: str, attribute: str) -> str:
        """What is true: c7 of the city of p17."""
        return self._value[person, attribute]

    def members(self, attribute: str, value: str) -> list[str]:
        """The people of whom it is true; of a value that nobody has, none."""
        return self._members.get((attribute, value), [])

    def other_value(self, rng: np.random.Generator, fact: Fact) -> str:
        """Another value of the same attribute."""
        values = self.values[fact.attribute]
        own = values.index(fact.value)
        return values[(own + 1 + int(rng.integers(len(values) - 1))) % len(values)]


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """UserError for a split that the task has not."""
    if split not in known:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(known)}.")


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question; UserError for a hint."""
    if hint is not None:
        raise UserError(
            f"{cfg.name} has no place for a hint; where the base model is trained, set "
            "config.base.algorithm.hinted=0."
        )
    return f" {example.question}"


def target(example: Example, direct: bool = False) -> str:
    """What a document goes on with; of a question that is only asked, its answer."""
    return f" {example.answer}" if example.rationale is None else example.rationale
