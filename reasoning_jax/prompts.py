"""Few-shot prompts: worked examples before the question, and their form with hints."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, Task

SEPARATOR = "\n\n"  # between shots


def read_shots(path: str | Path, task: Task, cfg: ConfigDict) -> list[Example]:
    """The worked examples of a few-shot file in the format of STaR's (arXiv:2203.14465).

    Blank lines separate shots, "Q: " begins a question and "A: " its rationale. ``cfg`` is the
    experiment's ``task`` section. MissingFileError, or UserError naming file and line, for a shot
    that ``task`` would not write so, and for one whose question holds the hint already.
    """
    text = text_files.read_text(path, f"config.task.shots={path}")
    line = 1 + len(text) - len(text.lstrip("\n"))
    shots = []
    for i, block in enumerate(text.strip("\n").split(SEPARATOR)):
        shots.append(_shot(block, -1 - i, task, cfg, where=f"{path}, line {line}"))
        line += block.count("\n") + 2
    return shots


def _shot(block: str, id: int, task: Task, cfg: ConfigDict, where: str) -> Example:
    question, separator, rationale = block.removeprefix("Q: ").partition("\nA: ")
    answer = task.extract(f" {rationale}")
    shot = Example(id=id, question=question, answer=answer or "", rationale=rationale, where=where)
    answer = None if answer is None else task.reading(answer, shot)
    if not separator or not question.strip() or answer is None:
        raise UserError(
            f"{where}: a shot needs lines 'Q: ...' and 'A: ...' and an answer at the end."
        )
    shot = dataclasses.replace(shot, answer=answer)
    plain, hinted = task.prompt(shot, cfg), task.prompt(shot, cfg, hint=answer)
    if plain + task.target(shot) != block:
        raise UserError(f"{where}: this shot is not in the format of the task {task.name}.")
    start = len(os.path.commonprefix([plain, hinted]))
    hint = hinted[start : start + len(hinted) - len(plain)]
    if hint in plain:
        raise UserError(f"{where}: the question already holds the hint {hint.strip()!r}.")
    return shot


def build(
    task: Task,
    example: Example,
    cfg: ConfigDict,
    shots: Sequence[Example] = (),
    hint: str | None = None,
) -> str:
    """The prompt of an example after its shots.

    With a hint, every shot is hinted with its own answer too. ``cfg`` is the experiment's ``task``
    section.
    """
    worked = []
    for shot in shots:
        shot_hint = None if hint is None else shot.answer
        worked.append(task.prompt(shot, cfg, hint=shot_hint) + task.target(shot))
    return SEPARATOR.join([*worked, task.prompt(example, cfg, hint=hint)])
