"""What a line of metrics.jsonl, or an evaluation's file, may hold."""

from __future__ import annotations

import math
from collections.abc import Callable

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json, Line

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def checked(line: Line, where: str) -> Line:
    """The line, its non-finite numbers as floats; UserError for a value of another type.

    where: the beginning of that sentence.
    """
    for key, value in line.items():
        if isinstance(value, float) and "/" in key:
            continue
        if isinstance(value, str) and value in _NON_FINITE:
            line[key] = value = _NON_FINITE[value]
        kind = _KINDS.get(key, _METRIC if "/" in key else None)
        if kind is not None and not kind[0](value):
            raise UserError(f"{where}: {key[:100]!r} must be {kind[1]}.")
    return line


def _is_number(value: Json, least: float, most: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and least <= value <= most


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and _is_number(value, 0, 2**53)


def _is_metric(value: Json) -> bool:
    return isinstance(value, float) or _is_number(value, -(2**1000), 2**1000)


_Kind = tuple[Callable[[Json], bool], str]  # whether a value is of it, and its description
_METRIC: _Kind = (_is_metric, "a number")
_TEXT: _Kind = (lambda value: isinstance(value, str), "a text")
_COUNT: _Kind = (_is_count, "a whole number from 0")
_KINDS: dict[str, _Kind] = {
    "step": _COUNT,
    "round": _COUNT,
    "samples": (lambda value: value is None or _is_count(value), "a whole number from 0"),
    "time": (lambda value: _is_number(value, 0, 2**37), "a time in seconds since 1970"),
    "phase": _TEXT,
    "split": _TEXT,
}
