"""What a model is asked, and how its answer is read: one file a task, named like the task.

A task is a module with a class ``Config`` and the functions that ``Task`` lists; ``get`` fills a
``Task`` from it. In all of them ``cfg`` is the experiment's ``task`` section.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Protocol

from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.errors import UserError

# What a grader says of an answer.
CORRECT, WRONG, UNPARSED, TRUNCATED = "correct", "wrong", "unparsed", "truncated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One problem; ``rationale`` is None where no worked solution is given."""

    id: int  # names the example's random stream
    question: str
    answer: str
    rationale: str | None = None
    where: str = ""  # its place in a file, for messages: "FILE, line 3"


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The keys that every task has."""

    shots: str = ""  # a few-shot prompt file; "" = none


@dataclasses.dataclass(frozen=True)
class FileTaskConfig(TaskConfig):
    """The keys of a task whose examples are in files."""

    path: str = ""  # folder of the data; "" = $REASONING_DATA/<task>, else ../shared/data/<task>


class Prompt(Protocol):
    def __call__(self, example: Example, cfg: ConfigDict, hint: str | None = None) -> str: ...


class Target(Protocol):
    def __call__(self, example: Example, direct: bool = False) -> str: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task's parts; a task's file may leave out those that have a default here."""

    name: str
    Config: type[TaskConfig]  # a frozen dataclass: the task's keys, each with its range
    # The grader of an experiment that names none.
    GRADER: str = "exact"
    # The symbols of its tokenizer, where the task is spelled in characters.
    ALPHABET: tuple[str, ...] = ()
    # load(cfg, split): the examples, by random access.
    load: Callable[[ConfigDict, str], Sequence[Example]]
    # prompt(example, cfg, hint): the text that the model continues; ``hint`` is the answer, for
    # rationalization.
    prompt: Prompt
    # target(example, direct): the text that a worked example trains; ``direct`` leaves the
    # rationale out.
    target: Target
    # extract(text): the answer in a completion; None = unparsed, which is its own verdict.
    extract: Callable[[str], str | None]
    # reading(answer, example): an extracted answer in the one form that all of its spellings have,
    # for the grader "exact"; None = unparsed. The example's own answer is read in the same way.
    reading: Callable[[str, Example], str | None] = lambda answer, example: answer
    # steps(text): the number of reasoning steps in a completion.
    steps: Callable[[str], int] = lambda text: 0
    # wrong_line(text, example): the first line, from 0, that the task can tell is false.
    wrong_line: Callable[[str, Example], int | None] = lambda text, example: None
    # difficulty(example): what reports split accuracy by, such as ("digits", 3).
    difficulty: Callable[[Example], tuple[str, int] | None] = lambda example: None


def names() -> list[str]:
    """The tasks: the files in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


def get(name: str) -> Task:
    """The task of this name; UserError where there is none, or where its file is incomplete."""
    if name not in names():
        known = ", ".join(names())
        raise UserError(f"config.task.name: there is no task {name!r}; the tasks are {known}.")
    task = contracts.fill(Task, importlib.import_module(f"{__name__}.{name}"))
    if not issubclass(task.Config, TaskConfig):
        raise UserError(f"{__name__}.{name}: its Config must be a subclass of TaskConfig.")
    return task
