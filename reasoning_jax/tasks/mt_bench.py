"""MT-Bench and Vicuna-Bench: open questions (arXiv:2306.05685), whose answers a judge scores.

Splits are "mt_bench", which is "test" too: 80 questions of eight kinds, each with a second one that
goes on from its answer; and "vicuna_bench": 80 single ones. With config.task.turn=2 the second is
asked, after the first and its reference answer, so of the questions that have one. An example's
answer is the reference where there is one, which a judge is shown beside the request, else "".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import Example, FolderConfig, conversation
from reasoning_jax.training import data

GRADER = "judge"
OF_SPLIT = {"test": "mt_bench", "mt_bench": "mt_bench", "vicuna_bench": "vicuna_bench"}
TURNS = {"mt_bench": 2, "vicuna_bench": 1}
VICUNA_ID = 1_000_000  # the ids of Vicuna-Bench begin here
REFERENCE = "A reference answer, to check the answer against:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FolderConfig):
    turn: int = key(1, between(1, 2))  # which question of a conversation


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenQuestion(Example):
    category: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    id: int
    where: str
    category: str
    turns: list[str]


def load(cfg: ConfigDict, split: str) -> Sequence[OpenQuestion]:
    """The questions of a split; UserError, naming file and line, for what cannot be read."""
    if split not in OF_SPLIT:
        raise UserError(f"mt_bench has no split {split!r}; it has {', '.join(OF_SPLIT)}.")
    name = OF_SPLIT[split]
    if cfg.turn > TURNS[name]:
        raise UserError(f"config.task.turn: the questions of {name} have one turn; set 1.")
    folder = Path(cfg.path) / name
    questions = _questions(folder, TURNS[name])
    references = _references(folder, questions)
    first_id = VICUNA_ID if name == "vicuna_bench" else 0
    examples = []
    for record in questions.values():
        answers = references.get(record.id, [""] * len(record.turns))
        turns: data.Turns = ()
        if cfg.turn == 2:
            if record.id not in references:
                continue
            turns = (("user", record.turns[0]), ("assistant", answers[0]))
        examples.append(
            OpenQuestion(
                id=first_id + record.id,
                question=record.turns[cfg.turn - 1],
                answer=answers[cfg.turn - 1],
                where=record.where,
                turns=turns,
                category=record.category,
            )
        )
    return examples


def _questions(folder: Path, num_turns: int) -> dict[int, _Record]:
    """The records of question.jsonl by their ids."""
    found: dict[int, _Record] = {}
    for where, record in data.read_split(folder, "question"):
        [category] = text_files.check_texts(record, ("category",), where)
        id = _id_of(record, where)
        if id in found:
            raise UserError(f"{where}: the 'question_id' {id} is there twice.")
        turns = _texts(record, "turns", where, num_turns)
        found[id] = _Record(id=id, where=where, category=category, turns=turns)
    return found


def _references(folder: Path, questions: dict[int, _Record]) -> dict[int, list[str]]:
    """The answers of reference_answer/gpt-4.jsonl by the ids of their questions."""
    found = {}
    for where, record in data.read_split(folder / "reference_answer", "gpt-4"):
        id = _id_of(record, where)
        if id not in questions:
            raise UserError(f"{where}: there is no question with the 'question_id' {id}.")
        choices = record.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise UserError(f"{where}: 'choices' must be a list of objects with 'turns'.")
        found[id] = _texts(choices[0], "turns", where, len(questions[id].turns))
    return found


def _id_of(record: data.Record, where: str) -> int:
    id = record.get("question_id")
    if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < VICUNA_ID:
        raise UserError(f"{where}: 'question_id' must be a whole number from 0.")
    return id


def _texts(record: data.Record, name: str, where: str, count: int) -> list[str]:
    """A list of so many texts."""
    texts = record.get(name)
    if not isinstance(texts, list) or len(texts) != count:
        kind = "one text" if count == 1 else f"{count} texts"
        raise UserError(f"{where}: {name!r} must be a list of {kind}.")
    for text in texts:
        problem = text_files.text_problem(text)
        if problem is not None:
            raise UserError(f"{where}: a text of {name!r} {problem}.")
    return texts


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the reference answer in parentheses after the question."""
    hinted = "" if hint is None else f" ({hint})"
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """The reference answer; UserError where there is none to train on."""
    if not example.answer:
        raise UserError("the question has no reference answer to train on.")
    return f" {example.answer}"


def extract(text: str) -> str | None:
    """The whole response."""
    return text.strip() or None


def judged_request(example: Example) -> str:
    """The conversation, and after it the reference answer where there is one."""
    asked = conversation(example)
    return f"{asked}\n\n{REFERENCE}\n{example.answer}" if example.answer else asked


def difficulty(example: Example) -> tuple[str, int] | None:
    """The kind of question, and which question of its conversation it is."""
    if not isinstance(example, OpenQuestion):
        return None
    return re.sub(r"\W+", "_", example.category), 2 if example.turns else 1
