"""Entries of reasoning-gym's generators, and the scores of answers; run in processes of their own.

Some of its scores evaluate an answer as Python. Here they get literals and formulas only.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import Any

from reasoning_jax.json_object import Json

# Modules that parse answers by sympy, which runs them as Python, have one of these names.
PARSERS = {"parse_expr", "sympify", "sympy", "sp"}
FUNCTIONS = set(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln sqrt abs Abs pi erf".split()
) | {"Integral"}
NAME = re.compile(r"[^\W\d]\w*")
NO_FORMULA = re.compile(r"['\"\[\]{}\\@;:`]|\.\s*[^\W\d]|\w\s*\(.*=|__")
MAX_FORMULA = 500
NUMBER = re.compile(r"[-+]?\d[\d.,/]*")
NO_NUMBER = re.compile(r"\b(?:nan|inf|infinity)\b", re.IGNORECASE)


def serve(kind: str, *arguments: Json) -> Json:
    """What a process of the pool calls: "entries" or "score", with their arguments."""
    import reasoning_gym  # noqa: F401  (takes seconds)

    if kind == "entries":
        return entries(*arguments)
    if kind == "score":
        return score(*arguments)
    return None


def entries(name: str, options: str, seed: int, start: int, stop: int) -> Json:
    """[question, answer] of entries start ... stop - 1; a text that says why there are none.

    An answer is None where the generator gives none. options: a JSON object.
    """
    try:
        made = _dataset(name, options, seed)
        return [[made[i]["question"], made[i]["answer"]] for i in range(start, stop)]
    except Exception as error:  # whatever a generator makes of options that it does not take
        return f"{type(error).__name__}: {error}"


def score(name: str, options: str, seed: int, index: int, answer: str | None) -> Json:
    """The generator's own score of an answer to an entry, from 0 to 1; None only makes the entry.

    Whatever it raises counts as 0 with the caller.
    """
    entry = _entry(name, options, seed, index)
    if answer is None:
        return 0.0
    if _is_evasive(answer, entry["answer"] or ""):
        return 0.0
    dataset = _dataset(name, options, seed)
    module = sys.modules[type(dataset).__module__]
    if PARSERS & vars(module).keys() and not is_formula(answer):
        return 0.0
    with _without_eval(module, entry["metadata"].values()):
        return min(max(float(dataset.score_answer(answer, entry)), 0.0), 1.0)


def _is_evasive(answer: str, gold: str) -> bool:
    """Whether an answer leaves open what the right one says: two of them, or no number at all.

    Some scores read the first number of a text, and compare nan as equal.
    """
    for word in ("or", "not"):
        if re.search(rf"\b{word}\b", answer) and not re.search(rf"\b{word}\b", gold):
            return True
    if NUMBER.search(gold) and NO_NUMBER.search(answer):
        return True
    return bool(NUMBER.fullmatch(gold.strip())) and len(NUMBER.findall(answer)) > 1


def is_formula(answer: str) -> bool:
    """Whether a text holds numbers, variables of one letter, FUNCTIONS and operators only."""
    if len(answer) > MAX_FORMULA or NO_FORMULA.search(answer):
        return False
    return all(len(name) == 1 or name in FUNCTIONS for name in NAME.findall(answer))


@contextlib.contextmanager
def _without_eval(module: ModuleType, own: Collection[object]) -> Iterator[None]:
    """``eval`` in a module reads literals only, but texts of the entry's own; ``exec`` is none."""

    def evaluate(text: str) -> object:
        return eval(text, {}) if text in own else ast.literal_eval(text)

    replaced: dict[str, Any] = {"eval": evaluate, "exec": None}
    before = {name: vars(module).get(name, getattr(builtins, name)) for name in replaced}
    vars(module).update(replaced)
    try:
        yield
    finally:
        vars(module).update(before)


@functools.lru_cache(maxsize=8)
def _dataset(name: str, options: str, seed: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=seed, **json.loads(options))


@functools.lru_cache(maxsize=1000)
def _entry(name: str, options: str, seed: int, index: int) -> dict[str, Any]:
    return _dataset(name, options, seed)[index]


def names() -> Sequence[str]:
    """The generators of the installed release."""
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)
