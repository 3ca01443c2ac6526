"""A JSON object as files of a run hold it: config.json, and the lines of metrics and samples."""

from __future__ import annotations

import json
from collections.abc import Iterable

Json = bool | int | float | str | list | dict | None  # what a value of a JSON file is read as
Line = dict[str, Json]  # an object of a JSON-lines file
DEEPEST = 50  # lists and objects in one another


def parse_object(text: bytes) -> Line:
    """A JSON object; ValueError where it is none, or nested so deeply that nothing can read it."""
    too_deep = ValueError("nested too deeply")
    try:
        parsed = json.loads(text.decode())
    except RecursionError:
        raise too_deep from None
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    if text.count(b"[") + text.count(b"{") > DEEPEST:
        level: list[Json] = [parsed]
        for _ in range(DEEPEST):
            level = [item for value in level for item in _items(value)]
        if level:
            raise too_deep
    return parsed


def _items(value: Json) -> Iterable[Json]:
    """What a list or an object holds."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
