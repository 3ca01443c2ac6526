"""What a model is asked, and how its answer is judged: one file a task; the file's name is the task's name.

A task is a module with these functions (``cfg`` is the experiment's ``task`` section):

    load(cfg, split) -> Sequence[Example]      random access: len() and [i]
    prompt(example, hint=None) -> str          the text the model continues; ``hint`` is the answer, for rationalization
    target(example, direct=False)              the text a worked example trains on; ``direct`` leaves the rationale out
    extract(text) -> str | None                the answer in a completion; None = unparsed, which is its own verdict
    grade(text, example) -> str                CORRECT, WRONG or UNPARSED
    steps(text) -> int                         reasoning steps in a completion
    wrong_line(text, example) -> int | None    the first line (from 0) that the task can tell is false
    difficulty(example) -> (name, value)       what reports split accuracy by, such as ("digits", 3)

and, where the task is spelled in characters, ``ALPHABET``: the symbols of its tokenizer.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType

CORRECT, WRONG, UNPARSED, TRUNCATED = "correct", "wrong", "unparsed", "truncated"


@dataclasses.dataclass(frozen=True)
class Example:
    """One problem: ``id`` names its random stream, ``rationale`` is None where no worked solution is given."""

    id: int
    question: str
    answer: str
    rationale: str | None = None


def get(name: str) -> ModuleType:
    """The task module of this name; ValueError listing those there are."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in names:
        raise ValueError(f"config.task.name: there is no task {name!r}; the tasks are {', '.join(names)}.")
    return importlib.import_module(f"{__name__}.{name}")
