"""How an experiment's task reads answers: by its convention, or by a second prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from reasoning_jax import tasks
from reasoning_jax.answers import statements
from reasoning_jax.answers.conventions import CONVENTIONS
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, FolderConfig, Task
from reasoning_jax.training import data


def settle(cfg: ConfigDict) -> ConfigDict:
    """A ``task`` section with what it leaves to others: its data's folder, the shots' convention.

    UserError for keys that do not go together.
    """
    _check(cfg)
    settled = cfg.copy_and_resolve_references()
    task = tasks.get(cfg.name)
    if issubclass(task.Config, FolderConfig) and not settled.path:
        settled.path = data.folder(task.FOLDER or task.name)
    known = task.SHOTS.get(cfg.shots)
    if known is not None:
        file, convention = known
        settled.shots = data.folder(file)
        if "extraction" in settled and not settled.extraction:
            settled.extraction = convention
    return settled


def make(cfg: ConfigDict) -> Task:
    """The task of a settled ``task`` section, which reads answers as its keys say."""
    task = tasks.get(cfg.name)
    task = task.configured(task, cfg)
    if is_zero_shot(cfg):
        return dataclasses.replace(task, extract=_second_answer(task, cfg))
    convention = CONVENTIONS.get(cfg.get("extraction", ""))
    if convention is None:
        return task

    def extract(text: str) -> str | None:
        return convention.find(text, task.parse)

    def target(example: Example, direct: bool = False) -> str:
        marked = convention.mark.format(task.marked(example.answer))
        if direct:
            return f" {marked}"
        worked, own = task.target(example), task.target(example, direct=True)
        # A line of its own, as a clause may hold words of doubt: "= not False The answer is".
        return f"{worked.removesuffix(own)}\n{marked}" if worked.endswith(own) else worked

    return dataclasses.replace(task, extract=extract, target=target)


def _check(cfg: ConfigDict) -> None:
    if cfg.num_shots and not cfg.shots:
        raise UserError("config.task.num_shots: without config.task.shots it has no effect.")
    if not is_zero_shot(cfg):
        return
    for name in ("shots", "extraction"):
        if cfg[name]:
            raise UserError(
                f"config.task.{name}={cfg[name]}: with config.task.prompting=zero_shot it has no "
                "effect."
            )


def is_zero_shot(cfg: ConfigDict) -> bool:
    """Whether answers come from a second prompt, after the rationale (arXiv:2205.11916)."""
    # Not cfg.get: for a key that is absent ConfigDict looks, slowly, for names that are near.
    return "prompting" in cfg and cfg["prompting"] == "zero_shot"


def second_prompt(task: Task, cfg: ConfigDict) -> str:
    """What follows a rationale, so that the model states its answer."""
    return f"\n{task.trigger(cfg)}"


def first_line(answer: str, finished: bool) -> str:
    """The line that answers the second prompt; "" where the limit may have cut it off."""
    line, newline, _ = answer.lstrip().partition("\n")
    return f" {line}" if newline or finished else ""


def end_of_answer(text: str) -> int | None:
    """Where a completion goes on to ask itself the next question; None where it does not."""
    following = statements.NEXT_QUESTION.search(text)
    return None if following is None else following.start()


def surely_of_answer(text: str) -> str:
    """The beginning of a growing completion that is before any question it may go on to ask."""
    following = statements.NEXT_QUESTION.search(text) or statements.MAY_ASK.search(text)
    return text if following is None else text[: following.start()]


def _second_answer(task: Task, cfg: ConfigDict) -> Callable[[str], str | None]:
    """Reads the line after the second prompt as what follows "the answer is"."""
    prompt = second_prompt(task, cfg)

    def extract(text: str) -> str | None:
        _, separator, answer = text.rpartition(prompt)
        line = answer.strip().partition("\n")[0]
        if not separator or not line:
            return None
        stated = statements.final(f"The answer is {line}")
        return None if stated is None else task.parse(stated)

    return extract


def readers(text: str, task: Task) -> list[str]:
    """The conventions that read an answer in a text."""
    found = []
    for name, convention in CONVENTIONS.items():
        if convention.find(text, task.parse) is not None:
            found.append(name)
    return found


def instruction(task: Task, cfg: ConfigDict) -> str:
    """How a chat asks for an answer that can be read: 'End with "#### " and the number.'"""
    name = cfg.get("extraction", "") or task.convention(cfg)
    return CONVENTIONS[name].instruction.format(task.KIND)
