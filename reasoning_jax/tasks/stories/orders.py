"""Stories of what is left of, above or bigger than what: of two things a chain tells it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from reasoning_jax.tasks.stories import YES_NO, Form, Story, coin, each_as_often, one, some

DISTANCE = (1, 2, 2, 3, 4)  # statements of each level that the answer needs
NUM_STATEMENTS = (3, 4, 6, 8, 10)
SHAPES = tuple("arrow circle cross cube diamond heart moon oval ring square star triangle".split())
CONTAINERS = tuple("bag barrel basket bottle bowl box chest crate cup jar purse trunk".split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """How a story says that one thing comes before another, or after it, and asks for that."""

    before: str
    after: str
    asks_before: str
    asks_after: str

    def statement(self, first: str, second: str, is_before: bool) -> str:
        return f"The {first} {self.before if is_before else self.after} the {second}."


POSITIONS = (
    Order(
        before="is left of",
        after="is right of",
        asks_before="Is the {} left of the {}?",
        asks_after="Is the {} right of the {}?",
    ),
    Order(
        before="is below",
        after="is above",
        asks_before="Is the {} below the {}?",
        asks_after="Is the {} above the {}?",
    ),
)
SIZES = (
    Order(
        before="fits in",
        after="is bigger than",
        asks_before="Does the {} fit in the {}?",
        asks_after="Is the {} bigger than the {}?",
    ),
)
WORDS = (
    *(f" {o.before} the" for o in (*POSITIONS, *SIZES)),
    *(f" {o.after} the" for o in (*POSITIONS, *SIZES)),
    *(" left of the", " right of the", " below the", " above the", " fit in the"),
    *(" bigger than the", " The", " Is the", " Does the", " So the"),
    *(f" {name}" for name in (*SHAPES, *CONTAINERS)),
)


def compare(
    rng: np.random.Generator, level: int, orders: Sequence[Order], names: Sequence[str]
) -> Story:
    """Does one thing come before another? By a chain of statements, each in either wording.

    The chain goes on beyond both things, or the first and last of it would tell. Other statements
    are about things outside of it.
    """

    def draw(answer: str) -> Story:
        distance = DISTANCE[level - 1]
        order = one(rng, orders)
        things = some(rng, names, len(names))
        chain = things[: distance + 3]
        links = [(order, a, b) for a, b in itertools.pairwise(chain)]
        others = things[len(chain) :][: NUM_STATEMENTS[level - 1] - len(links)]
        for other in others:
            first, second = some(rng, [one(rng, chain), other], 2)
            links.append((one(rng, orders), first, second))
        statements = [_said(rng, *link) for link in links]
        asked = chain[1 : distance + 2]
        told = statements[1 : distance + 1]
        is_before = coin(rng)
        if not is_before:
            asked, told = asked[::-1], told[::-1]
        lines = []
        for thing, statement in zip(asked[1:], told, strict=True):
            conclusion = order.statement(asked[0], thing, is_before)
            lines += [statement, f"So {conclusion[0].lower()}{conclusion[1:]}"]
        asks_before = is_before == (answer == "yes")
        question = order.asks_before if asks_before else order.asks_after
        return Story(
            statements=tuple(some(rng, statements, len(statements))),
            asked=question.format(asked[0], asked[-1]),
            answer=answer,
            lines=tuple(lines),
        )

    return each_as_often(rng, YES_NO, draw)


def _said(rng: np.random.Generator, order: Order, first: str, second: str) -> str:
    """That the first comes before the second, in either wording."""
    if coin(rng):
        return order.statement(first, second, is_before=True)
    return order.statement(second, first, is_before=False)


FORMS = {
    "positions": Form(
        draw=functools.partial(compare, orders=POSITIONS, names=SHAPES),
        answers=(YES_NO,),
        is_named=False,
    ),
    "sizes": Form(
        draw=functools.partial(compare, orders=SIZES, names=CONTAINERS),
        answers=(YES_NO,),
        is_named=False,
    ),
}
