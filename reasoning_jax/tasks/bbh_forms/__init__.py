"""The 27 forms of BIG-Bench Hard, and generators of the questions of some: one file a form.

A generator is a module with the constants and functions that ``Form`` lists. Rationales are
written for small models: short lines, one easy step each, that hold all that the next step needs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import pkgutil
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import numpy as np

from reasoning_jax import contracts
from reasoning_jax.errors import MissingFileError, UserError

NAMES = (
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages "
    "formal_fallacies geometric_shapes hyperbaton logical_deduction_five_objects "
    "logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation "
    "multistep_arithmetic_two navigate object_counting penguins_in_a_table "
    "reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies "
    "word_sorting"
).split()
SIZES = {"three": 3, "five": 5, "seven": 7}  # tracking_shuffled_objects.py makes three forms
PATIENCE = 1000  # draws without a new question, after which a level has no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The generator of a form's questions."""

    # The difficulties that can be made, easy to hard; published questions are within them.
    LEVELS: tuple[int, ...]
    # Symbols of several characters that spell its questions and rationales.
    WORDS: tuple[str, ...]
    # question(rng, level): a new question, worded as the published ones are.
    question: Callable[[np.random.Generator, int], str]
    # solve(question): (answer, rationale) from the text alone, so of published questions too;
    # ValueError for other texts.
    solve: Callable[[str], tuple[str, str]]
    # difficulty(question): its name and value, such as ("words", 8).
    difficulty: Callable[[str], tuple[str, int]]


@functools.cache
def get(name: str) -> Form | None:
    """The generator of this form; None where there is none."""
    family, _, size = name.removesuffix("_objects").rpartition("_")
    if name in _files():
        return contracts.fill(Form, importlib.import_module(f"{__name__}.{name}"))
    if family in _files() and size in SIZES:
        return importlib.import_module(f"{__name__}.{family}").of_size(SIZES[size])
    return None


def words() -> list[str]:
    """The symbols of every form, each once."""
    modules = [importlib.import_module(f"{__name__}.{name}") for name in _files()]
    return list(dict.fromkeys(word for module in modules for word in module.WORDS))


def _files() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def draw(
    form: Form,
    level: int,
    count: int,
    *,
    seed: Sequence[int],
    tenths: Container[int],
    taken: Container[str],
    repeat: bool,
) -> list[str]:
    """``count`` distinct questions of a level, none of them ``taken``.

    Where a level has fewer, they begin again if they may ``repeat``. ``tenths`` (of 0 to 9) are
    the last digits that a question's checksum may have, so that splits with disjoint ``tenths``
    never share a question.
    """
    rng = np.random.default_rng(seed)
    questions: dict[str, None] = {}  # a dict keeps the order
    misses = 0
    while len(questions) < count and misses < PATIENCE:
        question = form.question(rng, level)
        allowed = zlib.crc32(question.encode()) % 10 in tenths
        if allowed and question not in questions and " ".join(question.split()) not in taken:
            questions[question] = None
            misses = 0
        else:
            misses += 1
    return list(itertools.islice(itertools.cycle(questions), count if repeat else len(questions)))


def published(folder: str | Path, name: str) -> list[tuple[str, str]]:
    """(question, answer) of every published record of a form.

    MissingFileError, or UserError naming the file and the record.
    """
    path = Path(folder) / "bbh" / f"{name}.json"
    if not path.is_file():
        raise MissingFileError(f"config.task.path: there is no file {path}.")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["examples"]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a file of BIG-Bench Hard ({reason}).") from None
    for i, record in enumerate(records):
        texts = [record.get(k) for k in ("input", "target")] if isinstance(record, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, record {i + 1}: the texts 'input' and 'target' are needed.")
    return [(record["input"], record["target"]) for record in records]
