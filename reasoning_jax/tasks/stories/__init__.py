"""Short stories, each with a question and the statements that answer it (bAbI, arXiv:1502.05698).

A file here makes the forms of one family. A form's function draws a story of a level, 1 to LEVELS,
and knows answer and supporting facts from the world that the story is about. The oracles know only
its text. WORDS of each file are symbols that spell its stories and rationales.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

LEVELS = 5
WOMEN = ("Ada", "Dora", "Fay", "Hana")
MEN = ("Ben", "Carl", "Emil", "Gus")
PERSONS = (*WOMEN, *MEN)
PLACES = ("attic", "barn", "cellar", "dairy", "forge", "garden", "harbor", "library")
THINGS = ("basket", "candle", "drum", "feather", "kettle", "lantern", "map", "rope")
YES_NO = ("yes", "no")
VERBS = ("went", "walked")
WORDS = tuple(f" {word}" for word in (*PERSONS, *PLACES, *THINGS, *(f"{v} to the" for v in VERBS)))

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Story:
    """Statements, what is asked after them, and the answer with what leads to it."""

    statements: tuple[str, ...]
    asked: str
    answer: str
    lines: tuple[str, ...]  # of the rationale: statements, or conclusions from them

    @property
    def question(self) -> str:
        return " ".join([*self.statements, self.asked])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """One kind of question."""

    draw: Callable[[np.random.Generator, int], Story]  # of a level
    # What may be an answer, or a part of one: of each sort that questions ask for.
    answers: tuple[tuple[str, ...], ...]
    # Whether a story names what may be the answer, and so a rule may take one of these.
    is_named: bool = True


class Solved(NamedTuple):
    """What follows from a story."""

    answer: str
    conclusions: frozenset[str] = frozenset()  # lines of a rationale that are no statements


# The statements and what is asked after them; ValueError where that does not follow from them.
Oracle = Callable[[Sequence[str], str], Solved]


def sentences(question: str) -> tuple[list[str], str]:
    """The statements of a question, and what is asked after them."""
    *statements, asked = re.split(r"(?<=[.?]) ", question)
    return statements, asked


def read(pattern: str, sentence: str) -> tuple[str, ...]:
    """What the groups of a pattern match; ValueError for a sentence that is not as it says."""
    match = re.fullmatch(pattern, sentence)
    if match is None:
        raise ValueError(f"This is not understood: {sentence!r}.")
    return match.groups()


# ---- what the families draw with -----------------------------------------------------------------


def one(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def some(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """``count`` different items, in random order."""
    return [items[i] for i in rng.permutation(len(items))[:count].tolist()]


def coin(rng: np.random.Generator, probability: float = 0.5) -> bool:
    return bool(rng.random() < probability)


def moved(rng: np.random.Generator, who: str, place: str) -> str:
    """ "Ada went to the barn."; who: one person, two, or a pronoun."""
    return f"{who} {one(rng, VERBS)} to the {place}."


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def named(statements: Iterable[str], names: Collection[str]) -> list[str]:
    """Those of some names that statements have, in their order, as often as they have them."""
    return [word for word in words(" ".join(statements)) if word in names]


def choices(story: Story, names: Collection[str]) -> list[str]:
    """Those of some names that a story has and its question has not; one of them is the answer."""
    return [name for name in named(story.statements, names) if name not in words(story.asked)]


def unless_last(
    rng: np.random.Generator, names: Collection[str], draw: Callable[[], Story | None]
) -> Story:
    """A story of whose choices the last is the answer no more often than another.

    Without this it would be, as the newest statements are those that hold. draw(): a story, or
    None where it does not come out.
    """
    chance = rng.random()
    while True:
        story = draw()
        if story is None:
            continue
        found = choices(story, names)
        if (found[-1] == story.answer) == (chance < 1 / len(set(found))):
            return story


def each_as_often(
    rng: np.random.Generator, answers: Sequence[T], draw: Callable[[T], Story | None]
) -> Story:
    """A story with one of ``answers``, all of which are as likely.

    draw(answer): a story with this answer, or None where it does not come out.
    """
    answer = one(rng, answers)
    while True:
        story = draw(answer)
        if story:
            return story
