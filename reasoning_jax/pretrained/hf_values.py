"""The values of a JSON file, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.text_files import kind_of

LARGEST = 2**31 - 1


class Values:
    """The values of a config.json, checked as they are read; errors name the file and the key."""

    def __init__(self, values: Mapping[str, Json], where: str, defaults: Mapping[str, Json] = {}):
        self.values = {**defaults, **values}
        self.where = where

    def error(self, key: str, problem: str) -> UserError:
        return UserError(f"{self.where}: {key!r} {problem}.")

    def get(self, key: str) -> Json:
        if key not in self.values:
            raise UserError(f"{self.where}: the key {key!r} is missing.")
        return self.values[key]

    def whole(self, key: str, largest: int = LARGEST) -> int | None:
        """A whole number from 1, or None."""
        value = self.get(key)
        if value is None:
            return None
        if type(value) is not int:
            raise self.error(key, f"is {shown(value)}, not a whole number")
        if not 1 <= value <= largest:
            raise self.error(key, f"is {value}, not from 1 to {largest}")
        return value

    def number(self, key: str) -> float | None:
        """A number above 0, or None."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"is {shown(value)}, not a number")
        if not 0 < value < math.inf:
            raise self.error(key, f"is {value}, not above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; null and a missing key are false."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"is {shown(value)}, not true or false")
        return bool(value)

    def object(self, key: str) -> Mapping[str, Json] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"is {shown(value)}, not an object")
        return value


def shown(value: Json) -> str:
    return str(value) if type(value) is float else kind_of(value)
