"""CommonsenseQA: five choices a question (arXiv:1811.00937), in the prompt format of STaR. No rationales are given.

The question's text holds the choices; the answer is the letter. Splits are "train", "validation" (the last 1000 rows of
train, which it leaves out) and "test" (the published development set, as the test set has no answers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoning_jax import data
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example

VALIDATION = 1000
TEST_ID = 1_000_000  # the ids of test rows begin here
LETTERS = "abcde"
HINT = " (CORRECT)"
# "..., the answer is television (c)."; the direct form is "(c)." alone.
ANSWER = re.compile(r"\banswer(?: choice)?(?: is|:)(?! not \()[^\n]*?\(([a-e])\)|\A\s*\(([a-e])\)", re.IGNORECASE)


def load(cfg: Any, split: str) -> Sequence[Example]:
    """The examples of a split; ValueError or FileNotFoundError, naming file and line, for what cannot be read."""
    slices = {"train": slice(-VALIDATION), "validation": slice(-VALIDATION, None), "test": slice(None)}
    if cfg.source != "jsonl":
        raise ValueError(f"config.task.source={cfg.source!r}: commonsense_qa is read from 'jsonl' only.")
    if split not in slices:
        reason = " as it has no rationales" if split == "given" else ""
        raise ValueError(f"commonsense_qa has no split {split!r}{reason}; it has {', '.join(slices)}.")
    path = Path(cfg.path) / f"{'dev' if split == 'test' else 'train'}_rand_split.jsonl"
    rows = list(enumerate(data.read_jsonl(path, ("answerKey", "question"))))
    if split != "test" and len(rows) <= VALIDATION:
        raise ValueError(f"{path}: more than {VALIDATION} rows are needed, as the last {VALIDATION} are validation.")
    first_id = TEST_ID if split == "test" else 0
    return [_example(row, number + first_id, f"{path}, line {number + 1}") for number, row in rows[slices[split]]]


def prompt(example: Example, hint: str | None = None) -> str:
    """ "Q: ...\nAnswer Choices:\n(a) ...\nA:"; the hint marks the right choice with "(CORRECT)"."""
    question = example.question
    if hint is not None:
        head, choices, listed = question.rpartition("\nAnswer Choices:\n")
        marked = [line + HINT if line.startswith(f"({hint}) ") else line for line in listed.split("\n")]
        question = head + choices + "\n".join(marked)
    return f"Q: {question}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """A worked example's completion; " (c)." without the rationale. ValueError where there is none."""
    if direct:
        return f" ({example.answer})."
    if example.rationale is None:
        raise ValueError("commonsense_qa gives no rationales to train on; collect some, or train directly on answers.")
    return f" {example.rationale}"


def extract(text: str) -> str | None:
    """The letter of the last "the answer is ... (c)"; text after a new question does not count."""
    found = ANSWER.findall(text.partition("\nQ:")[0])
    return (found[-1][0] or found[-1][1]).lower() if found else None


def grade(text: str, example: Example) -> str:
    answer = extract(text)
    return UNPARSED if answer is None else CORRECT if answer == example.answer else WRONG


def steps(text: str) -> int:
    """Sentences before the one that gives the answer."""
    sentences = re.findall(r"[^.!?]*\w[^.!?]*", text.partition("\nQ:")[0])
    return sum(not re.search(r"\banswer(?: choice)?(?: is|:)", sentence) for sentence in sentences)


def wrong_line(text: str, example: Example) -> int | None:
    """None: nothing here can tell whether a line is true."""
    return None


def difficulty(example: Example) -> tuple[str, int]:
    return "choices", len(LETTERS)


def _example(row: dict[str, Any], id: int, where: str) -> Example:
    try:
        stem = row["question"]["stem"].strip()
        choices = {choice["label"].lower(): choice["text"].strip().lower() for choice in row["question"]["choices"]}
        answer = row["answerKey"].lower()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: not a row of CommonsenseQA ({type(error).__name__}: {error}).") from None
    if "".join(choices) != LETTERS or answer not in choices:
        raise ValueError(f"{where}: the choices must be A to E and the answer one of them.")
    listed = "\n".join(f"({letter}) {text}" for letter, text in choices.items())
    return Example(id, f"{stem}\nAnswer Choices:\n{listed}", answer)
