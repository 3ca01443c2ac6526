"""Draws cards, and responses that follow some of their rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from reasoning_jax.tasks.cards import (
    DIGITS,
    HARD,
    KINDS,
    LAST,
    MOST_RULES,
    PADDING,
    TIMES,
    WITH_DIGIT,
    Card,
    Rule,
    contradicts,
    marks,
)

USUAL_LENGTHS = range(4, 13)  # of responses before padding
PADDINGS = range(1, 9)
ATTEMPTS = 200
# What a rule is followed by without being asked for, by chance: so many of ten.
BY_CHANCE = 0.2


T = TypeVar("T")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of them, in a tenth of the time of ``rng.choice``."""
    return items[int(rng.integers(len(items)))]


def draw_card(rng: np.random.Generator, hard: float) -> Card:
    """One to five rules without contradiction; with probability ``hard`` one of them is hard."""
    easy_kinds = [kind for kind in KINDS if kind not in HARD]
    is_hard = rng.random() < hard
    while True:
        count = int(rng.integers(1, MOST_RULES + 1))
        kinds = rng.permutation(easy_kinds)[:count].tolist()
        if is_hard:
            kinds[int(rng.integers(count))] = pick(rng, HARD)
        card = tuple(_draw_rule(rng, kind) for kind in kinds)
        if not contradicts(card):
            return card


def change_card(rng: np.random.Generator, card: Card, count: int) -> Card:
    """The card with so many other rules in the place of its own, or with all of them others."""
    while True:
        rules = list(card)
        places = rng.permutation(len(card))[:count]
        for place in places:
            rules[place] = _draw_rule(rng, pick(rng, KINDS))
        changed = tuple(rules)
        if any(changed[place] == card[place] for place in places):
            continue
        if len({rule.kind for rule in changed}) == len(changed) and not contradicts(changed):
            return changed


def _draw_rule(rng: np.random.Generator, kind: str) -> Rule:
    digit = pick(rng, DIGITS) if kind in WITH_DIGIT else ""
    times = pick(rng, TIMES) if kind == "HAS" else 0
    return Rule(kind, digit, times)


def draw_response(rng: np.random.Generator, card: Card, followed: float) -> list[str]:
    """A response that follows each rule with about this probability, often padded."""
    by_will = max(0.0, (followed - BY_CHANCE) / (1 - BY_CHANCE))
    chosen = [rule for rule in card if rng.random() < by_will]
    return write(rng, chosen, padded=rng.random() < 0.5)


def write(rng: np.random.Generator, rules: Sequence[Rule], padded: bool = False) -> list[str]:
    """A random response that follows these rules, which do not contradict each other.

    ValueError where none was found.
    """
    card = tuple(rules)
    for _ in range(ATTEMPTS):
        response = _attempt(rng, {rule.kind: rule for rule in rules}, padded)
        if all(marks(card, response)):
            return response
    raise ValueError(f"No response to {card} was found.")


Rules = Mapping[str, Rule]


def _attempt(rng: np.random.Generator, rules: Rules, padded: bool) -> list[str]:
    """A response that likely follows them."""
    allowed = [digit for digit in DIGITS if digit not in _forbidden(rules)]
    response = [pick(rng, allowed) for _ in range(pick(rng, USUAL_LENGTHS))]
    if "HAS" in rules:
        places = rng.permutation(np.arange(1, max(len(response) - 1, 2)))[: rules["HAS"].times]
        _put(response, places.tolist(), rules["HAS"].digit)
    if "START" in rules:
        response[0] = rules["START"].digit
    if padded:
        for _ in range(pick(rng, PADDINGS)):
            response.insert(int(rng.integers(1, len(response))), PADDING)
    if "EVEN" in rules and len(response) % 2:
        response.insert(1, pick(rng, allowed))
    for kind, finish in FINISHES.items():
        if kind in rules:
            response = finish(rules[kind], response)
    return response


def _forbidden(rules: Rules) -> Collection[str]:
    forbidden = {rules["NOT"].digit} if "NOT" in rules else set()
    if "SORTED" in rules and "START" in rules:
        forbidden |= {digit for digit in DIGITS if digit < rules["START"].digit}
    return forbidden


def _put(response: list[str], places: Sequence[int], digit: str) -> None:
    for place in places:
        response[place] = digit


def _sorted(rule: Rule, response: Sequence[str]) -> list[str]:
    """The digits in order, with the padding where it was."""
    digits = iter(sorted(symbol for symbol in response if symbol != PADDING))
    return [symbol if symbol == PADDING else next(digits) for symbol in response]


def _mirrored(rule: Rule, response: Sequence[str]) -> list[str]:
    half = list(response[: (len(response) + 1) // 2])
    rest = list(reversed(half))
    return half + rest[len(response) % 2 :]


def _finished(rule: Rule, response: Sequence[str]) -> list[str]:
    return [*response[:-1], LAST[rule.kind](rule, response[:-1])]


FINISHES: Mapping[str, Callable[[Rule, Sequence[str]], list[str]]] = {
    "SORTED": _sorted,
    "MIRROR": _mirrored,
    "CHECK": _finished,
    "COUNT": _finished,
}
