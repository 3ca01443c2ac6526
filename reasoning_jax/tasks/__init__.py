"""What a model is asked, and how its answer is read: one file a task, named like the task.

A task is a module with a class ``Config`` and the functions that ``Task`` lists; ``get`` fills a
``Task`` from it. In all of them ``cfg`` is the experiment's ``task`` section. What
``extraction.make`` gives reads answers as that section says.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contracts
from reasoning_jax.answers import conventions
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, between, key, one_of

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
    # The turns of a conversation before the question, as (role, content).
    turns: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The keys that every task has."""

    shots: str = ""  # few-shot prompts: a file, or the name of known ones; "" = none
    num_shots: int = key(0, at_least(0))  # the first so many of them; 0 = all


@dataclasses.dataclass(frozen=True)
class QuestionConfig(TaskConfig):
    """The keys of a task that asks in words."""

    # How a completion marks its answer; "" = as known shots do, else as the task's own solutions.
    extraction: str = key("", one_of("", *conventions.CONVENTIONS))
    # zero_shot: "Let's think step by step.", and the answer by a second prompt (arXiv:2205.11916).
    prompting: str = key("few_shot", one_of("few_shot", "zero_shot"))


@dataclasses.dataclass(frozen=True)
class FolderConfig(TaskConfig):
    """The keys of a task whose examples are in files."""

    # The folder of the data; "" = $REASONING_DATA/<task>, else ../shared/data/<task>. That of
    # prosqa_symbols is prosqa's.
    path: str = ""


@dataclasses.dataclass(frozen=True)
class FileTaskConfig(FolderConfig, QuestionConfig):
    """The keys of a task that asks in words what is in files."""


# ---- tasks that make their questions -------------------------------------------------------------

IDS = 10_000_000  # a split's ids begin at so many times its number: no two splits share an id
# The number of each split; "given" has the questions of "train", with rationales.
GENERATED = {"train": 0, "given": 0, "validation": 1, "test": 2}
# Tenths of all questions, by their checksum: splits have none in common, whatever their sizes.
TENTHS = {"train": range(8), "given": range(8), "validation": range(8, 9), "test": range(9, 10)}
PATIENCE = 1000  # draws without a new question, after which there are no more
E = TypeVar("E", bound=Example)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedConfig(TaskConfig):
    """The keys of a task that makes its questions."""

    seed: int = key(0, between(0, 2**32 - 1))  # of the questions: the same for every config.seed
    num_train: int = key(50_000, between(1, IDS))  # questions of "train" and "given"
    num_held_out: int = key(500, between(1, IDS))  # of validation, and of test


def generated(
    cfg: ConfigDict,
    split: str,
    draw: Callable[[np.random.Generator], E],
    others: Sequence[str] = (),
) -> list[E]:
    """The questions of a split, each once; more of them begin with the same ones.

    draw(rng): a worked example, whose id is replaced. others: splits of the task that are made in
    another way, for the message. UserError for an unknown split, and where there are not so many
    questions.
    """
    if split not in GENERATED:
        known = ", ".join([*GENERATED, *others])
        raise UserError(f"{cfg.name} has no split {split!r}; it has {known}.")
    size = "num_train" if GENERATED[split] == 0 else "num_held_out"
    rng = np.random.default_rng([cfg.seed, GENERATED[split]])
    first_id = GENERATED[split] * IDS
    found: dict[str, E] = {}
    misses = 0
    while len(found) < cfg[size]:
        example = draw(rng)
        tenth = zlib.crc32(example.question.encode()) % 10
        if tenth in TENTHS[split] and example.question not in found:
            found[example.question] = dataclasses.replace(example, id=first_id + len(found))
            misses = 0
            continue
        misses += 1
        if misses == PATIENCE:
            raise UserError(
                f"config.task.{size}: {cfg.name} finds only {len(found)} questions of this size "
                f"for {split}, not {cfg[size]}."
            )
    if split == "train":
        return [dataclasses.replace(example, rationale=None) for example in found.values()]
    return list(found.values())


def line_ends(text: str) -> list[int]:
    """The ends of all lines but the last, which states the answer."""
    return [i + 1 for i, character in enumerate(text.rstrip("\n")) if character == "\n"]


def conversation(example: Example) -> str:
    """The question; in a conversation it comes after the turns before it, each with its role."""
    if not example.turns:
        return example.question
    said = [*example.turns, ("user", example.question)]
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in said)


# ---- the contract --------------------------------------------------------------------------------


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
    # The folder of its data in the folder of all data, where it is another than the task's name.
    FOLDER: str = ""
    # Known few-shot prompts: name -> (file in the folder of all data, how they mark the answer).
    SHOTS: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict, hash=False)
    # What an answer is, for the instruction of a chat: 'End with "#### " and the number.'
    KIND: str = "the answer"
    # extract(text): the answer in a completion; None = unparsed, which is its own verdict.
    extract: Callable[[str], str | None]
    # parse(answer): what ``extract`` gives for an answer that a convention has found; None = none.
    parse: Callable[[str], str | None] = conventions.any_text
    # marked(answer): an answer as a sentence ends with it, such as "(b)".
    marked: Callable[[str], str] = lambda answer: answer
    # trigger(cfg): the second prompt of zero-shot prompting.
    trigger: Callable[[ConfigDict], str] = lambda cfg: "Therefore, the answer is"
    # convention(cfg): how completions mark their answer where config.task.extraction says nothing.
    convention: Callable[[ConfigDict], str] = lambda cfg: "answer_is"
    # configured(task, cfg): the task itself, where its functions depend on its keys.
    configured: Callable[[Task, ConfigDict], Task] = lambda task, cfg: task
    # reading(answer, example): an extracted answer in the one form that all of its spellings have,
    # for the grader "exact"; None = unparsed. The example's own answer is read in the same way.
    reading: Callable[[str, Example], str | None] = lambda answer, example: answer
    # score(answer, example): how right an answer is, from 0 to 1, for the grader "scored".
    score: Callable[[str, Example], float] | None = None
    # steps(text): the number of reasoning steps in a completion.
    steps: Callable[[str], int] = lambda text: 0
    # step_ends(text): where each step of a worked example's text ends; what follows the last is the
    # answer. A curriculum leaves out the first of them.
    step_ends: Callable[[str], list[int]] = line_ends
    # wrong_line(text, example): the first line, from 0, that the task can tell is false.
    wrong_line: Callable[[str, Example], int | None] = lambda text, example: None
    # invented(text, id): the example of an instruction that a model wrote, for methods that ask
    # themselves; None = it is none.
    invented: Callable[[str, int], Example | None] | None = None
    # judged_request(example): what a judge is shown as the request.
    judged_request: Callable[[Example], str] = conversation
    # changed(example, rng): one that asks for something else, though much the same; its answer is
    # left out.
    changed: Callable[[Example, np.random.Generator], Example] | None = None
    # judged_part(text): what a judge sees of a completion: not its thought. None = nothing.
    judged_part: Callable[[str], str | None] = lambda text: text
    # role(example): "answer", or what a worked example of "given" teaches besides: "judge" other
    # answers, or "invent" questions.
    role: Callable[[Example], str] = lambda example: "answer"
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
