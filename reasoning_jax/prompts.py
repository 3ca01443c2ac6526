"""Prompts: worked examples before the question, step-by-step reasoning without any, and chats."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from reasoning_jax import extraction, text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, Task
from reasoning_jax.training import data

SEPARATOR = "\n\n"  # between shots
STEP_BY_STEP = "Let's think step by step."  # Kojima et al. 2022, arXiv:2205.11916
Messages = list[dict[str, str]]  # {"role": "user" or "assistant", "content": ...}

# ---- files of worked examples --------------------------------------------------------------------


def read_shots(path: str | Path, task: Task, cfg: ConfigDict) -> list[Example]:
    """The worked examples of a few-shot file.

    Either text in the format of STaR's (arXiv:2203.14465): blank lines separate shots, "Q: " begins
    a question and "A: " its rationale. Or JSONL or Parquet records with "question" and "target" (or
    "answer"), such as those of Wei et al. ``cfg`` is the experiment's ``task`` section.
    MissingFileError, or UserError naming file and line, for a shot that ``task`` would not write
    so, or whose answer it does not read, and for one whose question holds the hint already.
    """
    worked = _records(path) if data.holds_records(path) else _blocks(path)
    shots = [_shot(block, -1 - i, task, cfg) for i, block in enumerate(worked)]
    count = cfg.get("num_shots", 0) or len(shots)
    if count > len(shots):
        raise UserError(f"config.task.num_shots: {path} has {len(shots)} examples, not {count}.")
    return shots[:count]


class _Worked(NamedTuple):
    """A worked example as a file has it."""

    where: str
    question: str
    rationale: str
    text: str  # both, as in a prompt


def _records(path: str | Path) -> list[_Worked]:
    found = []
    for where, record in data.read_records(path):
        target = "target" if "target" in record else "answer"
        question, rationale = text_files.check_texts(record, ("question", target), where)
        text = f"Q: {question}\nA: {rationale}"
        found.append(_Worked(where=where, question=question, rationale=rationale, text=text))
    return found


def _blocks(path: str | Path) -> list[_Worked]:
    text = text_files.read_text(path, f"config.task.shots={path}")
    line = 1 + len(text) - len(text.lstrip("\n"))
    found = []
    for block in text.strip("\n").split(SEPARATOR):
        where = f"{path}, line {line}"
        question, separator, rationale = block.removeprefix("Q: ").partition("\nA: ")
        if not separator:
            raise UserError(
                f"{where}: a shot needs lines 'Q: ...' and 'A: ...' and an answer at the end."
            )
        found.append(_Worked(where=where, question=question, rationale=rationale, text=block))
        line += block.count("\n") + 2
    return found


def _shot(worked: _Worked, id: int, task: Task, cfg: ConfigDict) -> Example:
    where, rationale = worked.where, worked.rationale
    answer = task.extract(f" {rationale}")
    shot = Example(
        id=id, question=worked.question, answer=answer or "", rationale=rationale, where=where
    )
    answer = None if answer is None else task.reading(answer, shot)
    if not shot.question.strip() or answer is None:
        raise UserError(f"{where}: {_problem(rationale, task)}.")
    shot = dataclasses.replace(shot, answer=answer)
    plain, hinted = task.prompt(shot, cfg), task.prompt(shot, cfg, hint=answer)
    if plain + task.target(shot) != worked.text:
        raise UserError(f"{where}: this shot is not in the format of the task {task.name}.")
    start = len(os.path.commonprefix([plain, hinted]))
    hint = hinted[start : start + len(hinted) - len(plain)]
    if hint in plain:
        raise UserError(f"{where}: the question already holds the hint {hint.strip()!r}.")
    return shot


def _problem(rationale: str, task: Task) -> str:
    """Why a shot cannot be read; where another convention reads it, which."""
    others = extraction.readers(f" {rationale}", task)
    if others:
        return f"no answer is read here; config.task.extraction={others[0]} reads one"
    return "a shot needs a question, and an answer at the end"


# ---- prompts -------------------------------------------------------------------------------------


def build(
    task: Task,
    example: Example,
    cfg: ConfigDict,
    shots: Sequence[Example] = (),
    hint: str | None = None,
) -> str:
    """The prompt of an example after its shots; without any, "Let's think step by step." after it.

    The latter where ``cfg``, the experiment's ``task`` section, says so. With a hint, every shot is
    hinted with its own answer too. UserError for a conversation, which only a chat can hold.
    """
    if example.turns:
        raise UserError(
            "the question is the last turn of a conversation, which needs "
            "config.tokenizer.chat=True."
        )
    worked = []
    for shot in shots:
        shot_hint = None if hint is None else shot.answer
        worked.append(task.prompt(shot, cfg, hint=shot_hint) + task.target(shot))
    prompt = SEPARATOR.join([*worked, task.prompt(example, cfg, hint=hint)])
    return f"{prompt} {STEP_BY_STEP}" if extraction.is_zero_shot(cfg) else prompt


def messages(
    task: Task,
    example: Example,
    cfg: ConfigDict,
    shots: Sequence[Example] = (),
    hint: str | None = None,
) -> Messages:
    """The same prompt as a chat: shots are earlier turns, and users say how to end."""
    turns = []
    for shot in shots:
        shot_hint = None if hint is None else shot.answer
        turns.append(("user", user_text(task, shot, cfg, shot_hint)))
        turns.append(("assistant", task.target(shot).strip()))
    turns += [*example.turns, ("user", user_text(task, example, cfg, hint))]
    return [{"role": role, "content": content} for role, content in turns]


def user_text(task: Task, example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question without the frame "Q: ... A:", and what its answer is to look like."""
    question = question_text(task, example, cfg, hint)
    if extraction.is_zero_shot(cfg):
        return f"{question}\n\n{STEP_BY_STEP}"
    if "extraction" not in cfg:
        return question
    return f"{question}\n\nSolve the problem step by step. {extraction.instruction(task, cfg)}"


def question_text(task: Task, example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question as the task asks it, without the frame "Q: ... A:"."""
    return task.prompt(example, cfg, hint).removesuffix("\nA:").removeprefix("Q: ").strip()
