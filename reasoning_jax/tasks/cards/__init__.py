"""Rule cards: instructions in a small formal language, and how well a response follows them.

    START 3 ; HAS 5 2 ; CHECK          a card: one to five rules
    3 5 1 5 . 4                        a response: 4 to 24 symbols, digits and "."

    START d    the first symbol is d
    HAS d n    d stands there n times or more
    NOT d      d does not stand there
    EVEN       the number of symbols is even
    SORTED     no digit is less than the one before it
    MIRROR     it is the same from its end
    CHECK      the last symbol is the sum of the digits before it, modulo 10
    COUNT d    the last symbol is how often d is before it

"." is allowed everywhere, counts as a symbol, and is worth nothing: what a judge with a taste for
length is fooled by. The quality of a response is the number of rules that it follows. CHECK and
COUNT are the hard ones: they ask for a small working.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

DIGITS = tuple("0123456789")
PADDING = "."
SYMBOLS = (*DIGITS, PADDING)
LENGTHS = range(4, 25)  # of a response
MOST_RULES = 5
SEPARATOR = " ; "


class Rule(NamedTuple):
    kind: str  # one of KINDS
    digit: str = ""  # of START, HAS, NOT and COUNT
    times: int = 0  # of HAS

    def __str__(self) -> str:
        return " ".join([self.kind, *self.digit, *(str(self.times) if self.times else "")])


Card = tuple[Rule, ...]


def is_started(rule: Rule, response: Sequence[str]) -> bool:
    return response[0] == rule.digit


def has(rule: Rule, response: Sequence[str]) -> bool:
    return response.count(rule.digit) >= rule.times


def has_not(rule: Rule, response: Sequence[str]) -> bool:
    return rule.digit not in response


def is_even(rule: Rule, response: Sequence[str]) -> bool:
    return len(response) % 2 == 0


def is_sorted(rule: Rule, response: Sequence[str]) -> bool:
    digits = [symbol for symbol in response if symbol != PADDING]
    return digits == sorted(digits)


def is_mirrored(rule: Rule, response: Sequence[str]) -> bool:
    return list(response) == list(reversed(response))


def sum_of_digits(rule: Rule, before: Sequence[str]) -> str:
    """What CHECK asks for after these symbols."""
    return str(sum(int(symbol) for symbol in before if symbol != PADDING) % 10)


def count_of_digit(rule: Rule, before: Sequence[str]) -> str:
    """What COUNT asks for after these symbols; more than one symbol where that is above 9."""
    return str(list(before).count(rule.digit))


def is_checked(rule: Rule, response: Sequence[str]) -> bool:
    return response[-1] == sum_of_digits(rule, response[:-1])


def is_counted(rule: Rule, response: Sequence[str]) -> bool:
    return response[-1] == count_of_digit(rule, response[:-1])


FOLLOWS: Mapping[str, Callable[[Rule, Sequence[str]], bool]] = {
    "START": is_started,
    "HAS": has,
    "NOT": has_not,
    "EVEN": is_even,
    "SORTED": is_sorted,
    "MIRROR": is_mirrored,
    "CHECK": is_checked,
    "COUNT": is_counted,
}
KINDS = tuple(FOLLOWS)
# The hard ones: what the last symbol has to be after those before it.
LAST: Mapping[str, Callable[[Rule, Sequence[str]], str]] = {
    "CHECK": sum_of_digits,
    "COUNT": count_of_digit,
}
HARD = tuple(LAST)
WITH_DIGIT = ("START", "HAS", "NOT", "COUNT")
TIMES = range(2, 5)  # of HAS


# ---- quality -------------------------------------------------------------------------------------


def marks(card: Card, response: Sequence[str]) -> list[bool]:
    """Of each rule, whether the response follows it; of none where its length is not allowed."""
    if len(response) not in LENGTHS:
        return [False for _ in card]
    return [FOLLOWS[rule.kind](rule, response) for rule in card]


def quality(card: Card, response: Sequence[str]) -> int:
    """The number of rules that are followed."""
    return sum(marks(card, response))


# ---- text ----------------------------------------------------------------------------------------


def text_of(card: Card) -> str:
    return SEPARATOR.join(map(str, card))


def read_card(text: str) -> Card | None:
    """The card that is written so; None where a rule is not one, or stands there twice."""
    rules = [_read_rule(part.split()) for part in text.split(";")]
    kinds = [rule.kind for rule in rules if rule is not None]
    if len(kinds) < len(rules) or len(set(kinds)) < len(kinds) or len(kinds) > MOST_RULES:
        return None
    return tuple(rule for rule in rules if rule is not None)


def _read_rule(words: Sequence[str]) -> Rule | None:
    if not words or words[0] not in KINDS:
        return None
    kind, *values = words
    expected = [DIGITS] if kind in WITH_DIGIT else []
    if kind == "HAS":
        expected.append(tuple(map(str, TIMES)))
    if len(values) != len(expected):
        return None
    if not all(value in allowed for value, allowed in zip(values, expected, strict=True)):
        return None
    if kind == "HAS":
        return Rule(kind, values[0], int(values[1]))
    return Rule(kind, *values)


def read_response(text: str) -> list[str] | None:
    """Its symbols; None where there are too few or too many, or others than these."""
    symbols = text.split()
    if len(symbols) not in LENGTHS or not set(symbols) <= set(SYMBOLS):
        return None
    return symbols


def contradicts(card: Card) -> bool:
    """Whether two rules cannot, or can hardly, be followed at once."""
    rules = {rule.kind: rule for rule in card}
    last_ones = {"MIRROR", "SORTED", *HARD} & rules.keys()
    if len(last_ones) > 1:  # each of them decides the last symbol
        return True
    if "NOT" in rules:
        others = [rules[kind].digit for kind in ("START", "HAS", "COUNT") if kind in rules]
        if rules["NOT"].digit in others:
            return True
    sorted_from = rules["START"].digit if {"START", "SORTED"} <= rules.keys() else "0"
    return "HAS" in rules and rules["HAS"].digit < sorted_from
