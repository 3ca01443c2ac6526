"""Each config key is declared with its default and its range; ``check`` compares them.

    learning_rate: float = key(1e-3, above(0))  # the peak
    preference: str = key("dpo", one_of("dpo", "ipo"))

The annotation says what a key holds. An int without an upper end is at most 2^31 - 1. A float is
finite, and is compared as float32, in which it is computed with. Text and booleans need no range.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np

from reasoning_jax.errors import UserError

T = TypeVar("T")
INT32_MAX = 2**31 - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)
WITHOUT_RANGE = {bool: "True or False", str: "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """The numbers between two ends, which are in it unless they are excluded.

    also: one more number outside the ends, which means something of its own.
    """

    low: float
    high: float = math.inf
    excludes_low: bool = False
    excludes_high: bool = False
    also: int | None = None

    def allows(self, value: object, kind: type) -> bool:
        """Whether a value is of this kind, int or float, and in the interval."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if kind is int:
            return isinstance(value, int) and self.contains(value, kind)
        if not abs(value) <= FLOAT32_MAX:  # also true of nan
            return False
        return self.contains(float(np.float32(value)), kind)

    def contains(self, number: float, kind: type) -> bool:
        """Whether a number is in the interval, without rounding it to float32."""
        high = self._high(kind)
        over = number > self.low if self.excludes_low else number >= self.low
        under = number < high if self.excludes_high else number <= high
        return (over and under) or number == self.also

    def describe(self, kind: type) -> str:
        """ "a finite number above 0"."""
        noun = "a whole number" if kind is int else "a finite number"
        return f"{noun} {self.ends(kind)}"

    def ends(self, kind: type) -> str:
        """ "above 0", "of at least 1", "from 0 to below 1"."""
        low, high = _shown(self.low), self._high(kind)
        if high == math.inf:
            text = f"above {low}" if self.excludes_low else f"of at least {low}"
        elif not self.excludes_low:
            text = f"from {low} to {'below ' if self.excludes_high else ''}{_shown(high)}"
        else:
            text = f"above {low} and {'below' if self.excludes_high else 'at most'} {_shown(high)}"
        return text if self.also is None else f"{text}, or {self.also}"

    def _high(self, kind: type) -> float:
        return INT32_MAX if kind is int and self.high == math.inf else self.high


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some texts."""

    names: tuple[str, ...]

    def allows(self, value: object, kind: type) -> bool:
        return isinstance(value, str) and value in self.names

    def describe(self, kind: type) -> str:
        return f"one of {self.ends(kind)}"

    def ends(self, kind: type) -> str:
        return ", ".join(name or '""' for name in self.names)


@dataclasses.dataclass(frozen=True)
class Each:
    """A tuple of any length, whose items are all in one interval."""

    item: Interval

    def allows(self, value: object, kind: type) -> bool:
        item_kind = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(self.item.allows(x, item_kind) for x in value)

    def describe(self, kind: type) -> str:
        return f"a tuple of which each is {self.item.describe(typing.get_args(kind)[0])}"

    def ends(self, kind: type) -> str:
        return f"each {self.item.ends(typing.get_args(kind)[0])}"


Range = Interval | Choice | Each


# ---- what a Config is written with ---------------------------------------------------------------


def key(default: T, range: Range) -> T:
    """A field of a ``Config``: its default and its range."""
    return dataclasses.field(default=default, metadata={"range": range})


def above(low: float) -> Interval:
    return Interval(low=low, excludes_low=True)


def at_least(low: float, also: int | None = None) -> Interval:
    return Interval(low=low, also=also)


def between(low: float, high: float, *, above: bool = False, below: bool = False) -> Interval:
    """From low to high, both included, but low where ``above`` and high where ``below``."""
    return Interval(low=low, high=high, excludes_low=above, excludes_high=below)


def one_of(*names: str) -> Choice:
    return Choice(names)


def each(item: Interval) -> Each:
    return Each(item)


# ---- reading and checking a Config ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a ``Config``."""

    name: str
    default: object  # None: the key may be unset
    kind: type  # int, float, bool, str, or a tuple of one of them
    range: Range | None

    def allows(self, value: object) -> bool:
        if value is None:
            return self.default is None
        if self.range is None:
            return isinstance(value, self.kind)
        return self.range.allows(value, self.kind)

    def describe(self, value: object) -> str:
        """What the value should be, for a message: "a finite number above 0"."""
        if self.range is None:
            return WITHOUT_RANGE[self.kind]
        text = self.range.describe(self.kind)
        if isinstance(self.range, Interval) and self.kind is float and isinstance(value, float):
            # Rounding took it to an end, or to infinity.
            if math.isfinite(value) and self.range.contains(value, self.kind):
                return f"{text} in float32"
        return text


@functools.cache
def keys(config: type) -> tuple[Key, ...]:
    """The keys of a ``Config``, a dataclass, in their order."""
    hints = typing.get_type_hints(config)
    found = []
    for field in dataclasses.fields(config):
        found.append(
            Key(
                name=field.name,
                default=field.default,
                kind=_without_none(hints[field.name]),
                range=field.metadata.get("range"),
            )
        )
    return tuple(found)


def keys_without_range(config: type) -> list[str]:
    """The keys that need a range and have none."""
    without = [own for own in keys(config) if own.range is None]
    return [own.name for own in without if own.kind not in WITHOUT_RANGE]


def check(config: type, values: Mapping[str, object], prefix: str = "") -> None:
    """UserError naming the first key whose value is missing or out of its range, and the range.

    values: of a whole experiment, by dotted key; prefix: "" or that of the section, "optim.".
    """
    for own in keys(config):
        name = f"{prefix}{own.name}"
        if name not in values:
            raise UserError(f"config.{name} is missing.")
        value = values[name]
        if not own.allows(value):
            raise UserError(f"config.{name}: {value!r} is not {own.describe(value)}.")


def check_unused(
    config: type, values: Mapping[str, object], names: Collection[str], section: str, setting: str
) -> None:
    """UserError for one of these keys that is not its default, where by ``setting`` none is read.

    values: of the section ("config.algorithm"); setting: "with num_invented=0".
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        if values[name] != defaults[name]:
            raise UserError(f"{section}.{name}: {setting} it has no effect.")


def _without_none(hint: type) -> type:
    """The int of ``int | None``."""
    if isinstance(hint, types.UnionType):
        [hint] = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return hint


def _shown(number: float) -> str:
    """The number as text; "2^31 - 1" for 2147483647."""
    for exponent in range(20, 33):
        if number == 2**exponent:
            return f"2^{exponent}"
        if number == 2**exponent - 1:
            return f"2^{exponent} - 1"
    return str(number)
