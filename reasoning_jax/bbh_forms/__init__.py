"""The 27 forms of BIG-Bench Hard, and generators of the questions of some: one file a form.

    LEVELS                                    the difficulties that can be made, easy to hard; published rows are within
    WORDS                                     symbols of several characters that spell its questions and rationales
    question(rng, level) -> str               a new question, worded as the published rows are
    solve(question) -> (answer, rationale)    from the text alone, so published rows too; ValueError for other texts
    difficulty(question) -> (name, value)

Rationales are written for small models: short lines, one easy step each, that hold all that the next step needs.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import pkgutil
import types
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NAMES = (
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies "
    "geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects "
    "logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting "
    "penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting"
).split()
SIZES = {"three": 3, "five": 5, "seven": 7}  # tracking_shuffled_objects.py makes three forms
PATIENCE = 1000  # draws without a new question, after which a level has no more


@functools.cache
def get(name: str) -> types.ModuleType | types.SimpleNamespace | None:
    """The generator of this form; None where there is none."""
    family, _, size = name.removesuffix("_objects").rpartition("_")
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    if name in files:
        return importlib.import_module(f"{__name__}.{name}")
    if family in files and size in SIZES:
        return importlib.import_module(f"{__name__}.{family}").of_size(SIZES[size])
    return None


def words() -> list[str]:
    """The symbols of every form, each once."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return list(dict.fromkeys(word for module in modules for word in module.WORDS))


def draw(form, level: int, count: int, seed: Sequence[int], tenths: range, taken: set[str], repeat: bool) -> list[str]:
    """``count`` questions of a level, none of them ``taken``: distinct while there are any, then again if they may repeat.

    ``tenths`` (of 0 to 9) are those that a question's checksum may be in, so that disjoint tenths never share a question.
    """
    rng, found, misses = np.random.default_rng(seed), dict[str, None](), 0  # a dict keeps the order
    while len(found) < count and misses < PATIENCE:
        question = form.question(rng, level)
        misses += 1
        if zlib.crc32(question.encode()) % 10 in tenths and question not in found and " ".join(question.split()) not in taken:
            found[question], misses = None, 0
    return list(itertools.islice(itertools.cycle(found), count if repeat else len(found)))


def published(folder: str | Path, name: str) -> list[tuple[str, str]]:
    """(question, answer) of every published row of a form; FileNotFoundError or ValueError naming the file and row."""
    path = Path(folder) / "bbh" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"config.task.path: there is no file {path}.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["examples"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of BIG-Bench Hard ({type(error).__name__}: {error}).") from None
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("input", "target")):
            raise ValueError(f"{path}, row {i + 1}: the texts 'input' and 'target' are needed.")
    return [(row["input"], row["target"]) for row in rows]
