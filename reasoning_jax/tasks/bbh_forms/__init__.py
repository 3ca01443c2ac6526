"""The 27 forms of BIG-Bench Hard, and generators of the questions of some: one file a form.

A generator is a module with the constants and functions that ``Form`` lists. Rationales are
written for small models: short lines, one easy step each, that hold all that the next step needs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import pkgutil
import zlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import numpy as np

from reasoning_jax import contracts, text_files
from reasoning_jax.errors import UserError

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


def published_file(folder: str | Path, name: str) -> Path:
    """Where the published records of a form are."""
    return Path(folder) / "bbh" / f"{name}.json"


def published(folder: str | Path, name: str) -> list[tuple[str, str]]:
    """(question, answer) of every published record of a form.

    MissingFileError, or UserError naming the file and the record.
    """
    path = published_file(folder, name)
    text = text_files.read_text(path, f"config.task.path: {path}")
    content = text_files.parse_json(text, str(path))
    records = content.get("examples") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: not a file of BIG-Bench Hard: it needs a list 'examples'.")
    pairs = []
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: not an object with 'input' and 'target'.")
        question, answer = text_files.check_texts(record, ("input", "target"), where)
        pairs.append((question, answer))
    return pairs


def check_is_read(form: Form, question: str, where: str) -> None:
    """UserError where a form's generator cannot read a question, as grading line by line does."""
    try:
        form.solve(question)
        form.difficulty(question)
    except (ValueError, ArithmeticError, LookupError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(".")
        raise UserError(f"{where}: this is no question of the form ({reason}).") from None
