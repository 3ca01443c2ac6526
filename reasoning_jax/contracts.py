"""A contract is a frozen dataclass of functions and constants, filled from a module's own.

``tasks.Task`` is one: each file in ``tasks`` has the functions that its fields name.
"""

from __future__ import annotations

import dataclasses
import difflib
from types import ModuleType
from typing import TypeVar

from reasoning_jax import ranges
from reasoning_jax.errors import UserError

Contract = TypeVar("Contract")
ALIKE = 0.85  # difflib's ratio from which a name is taken for a misspelling of another
PLAIN = (str, int, float, tuple, list, dict, set, frozenset)


def fill(contract: type[Contract], module: ModuleType) -> Contract:
    """The contract with the module's values; what the module leaves out keeps its default.

    The field ``name``, where there is one, is the module's name. UserError names the file for a
    field without default that is missing, for a public name that looks like a misspelt field, and
    for a key of its ``Config`` that needs a range and has none.
    """
    fields = dataclasses.fields(contract)  # type: ignore[arg-type]
    names = [field.name for field in fields if field.name != "name"]
    path = f"{module.__name__.replace('.', '/')}.py"
    for name in public_names(module):
        meant = difflib.get_close_matches(name, names, 1, ALIKE)
        if name not in names and meant:
            raise UserError(f"{path}: {name} has no effect; did you mean {meant[0]}?")
    values = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for field in fields:
        if field.name in names and field.name not in values and not _has_default(field):
            raise UserError(f"{path}: {field.name} is missing.")
    lacking = ranges.keys_without_range(values["Config"]) if "Config" in values else []
    if lacking:
        raise UserError(
            f"{path}: Config.{lacking[0]} has no range: write key(DEFAULT, at_least(0)), or "
            "another range of ranges.py."
        )
    if len(names) < len(fields):
        values["name"] = module.__name__.rpartition(".")[2]
    return contract(**values)


def public_names(module: ModuleType) -> list[str]:
    """The functions, classes and plain constants of a module, less the functions it imports."""
    names = []
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and (own or isinstance(value, PLAIN)):
            names.append(name)
    return names


def _has_default(field: dataclasses.Field[object]) -> bool:
    defaults = (field.default, field.default_factory)
    return defaults != (dataclasses.MISSING, dataclasses.MISSING)
