"""Rows with filler tokens, and rows with a working in their place (arXiv:2404.15758).

    " QUESTION . . . =" " ANSWER"          a row with fillers; without any, an immediate one
    " QUESTION" " WORKING = ANSWER"        a worked row

A worked row has a symbol for each filler, all of which could be written at once. With as many
fillers, the answer is at the same position in both kinds of row. Fillers belong to the prompt:
nothing trains the model to write them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import Example, GeneratedConfig, generated

SYMBOLS = (" .", " =")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillerConfig(GeneratedConfig):
    # The fraction of worked rows; the others have fillers. All held-out rows are of the others,
    # where there are any.
    worked: float = key(0.5, between(0, 1))
    num_fillers: int = key(20, between(0, 1000))  # before "="; as many as a working has symbols


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Example):
    num_fillers: int | None = None  # None: a worked row


# Draws the question, the answer and the working, such as " 3 E".
Draw = Callable[[np.random.Generator], tuple[str, str, str]]


def load(cfg: ConfigDict, split: str, draw: Draw) -> Sequence[Row]:
    """The questions of a split; UserError for an unknown one, and for keys without an effect.

    "train" has no rationales: its worked rows are to be solved with the prompt of one.
    """
    if cfg.worked == 1 and cfg.num_fillers:
        raise UserError(
            f"config.task.num_fillers: {cfg.num_fillers} have no effect with config.task.worked=1; "
            "set 0."
        )

    def draw_row(rng: np.random.Generator) -> Row:
        question, answer, working = draw(rng)
        is_worked = bool(rng.random() < cfg.worked)
        if split in ("validation", "test"):
            is_worked = cfg.worked == 1
        return Row(
            id=0,
            question=question,
            answer=answer,
            rationale=working if is_worked else "",
            num_fillers=None if is_worked else cfg.num_fillers,
        )

    return generated(cfg, split, draw_row)


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question, and for all but a worked row the fillers and "="; the hint is before them."""
    hinted = "" if hint is None else f" {hint}"
    question = f" {example.question.strip()}{hinted}"
    if _is_worked(example):
        return question
    fillers = example.num_fillers if isinstance(example, Row) else cfg.num_fillers
    return f"{question}{' .' * fillers} ="


def target(example: Example, direct: bool = False) -> str:
    """The answer, and for a worked row what is before it."""
    answer = f" {example.answer}"
    if not _is_worked(example):
        return answer
    return f" ={answer}" if direct else f"{example.rationale} ={answer}"


def _is_worked(example: Example) -> bool:
    return isinstance(example, Row) and example.num_fillers is None


def extract_one_of(text: str, answers: Sequence[str]) -> str | None:
    """The text after the last "=", or all of it, where that is one of the answers."""
    answer = text.rpartition("=")[2].strip()
    return answer if answer in answers else None
