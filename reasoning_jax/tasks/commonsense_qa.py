"""CommonsenseQA: five choices a question (arXiv:1811.00937), as STaR prompts them.

No rationales are given. The question's text holds the choices; the answer is the letter. Splits
are "train", "validation" (the last 1000 records of the published train split, which "train" leaves
out) and "test" (the published development set, as the test set has no answers).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import choices, statements
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, FileTaskConfig
from reasoning_jax.training import data

SHOTS = {"star": ("star_prompts/commonsenseqa/prompts.txt", "")}
KIND = "the letter of your choice in parentheses"
VALIDATION = 1000
SPLITS = {
    "train": slice(-VALIDATION),
    "validation": slice(-VALIDATION, None),
    "test": slice(None),
}
TEST_ID = 1_000_000  # the ids of test examples begin here
LETTERS = "abcde"
HINT = " (CORRECT)"
DIRECT = re.compile(r"\s*(\([a-e]\))[.\s]*", re.IGNORECASE)  # an answer without a rationale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    pass


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; UserError, naming file and line, for what cannot be read."""
    if split not in SPLITS:
        reason = " as it has no rationales" if split == "given" else ""
        known = ", ".join(SPLITS)
        raise UserError(f"commonsense_qa has no split {split!r}{reason}; it has {known}.")
    published, first_id = ("dev", TEST_ID) if split == "test" else ("train", 0)
    records = list(enumerate(data.read_split(cfg.path, f"{published}_rand_split")))
    if split != "test" and len(records) <= VALIDATION:
        raise UserError(
            f"{records[0][1][0].rpartition(', ')[0]}: more than {VALIDATION} examples are needed, "
            f"as the last {VALIDATION} are validation."
        )
    return [
        _example(record, id=first_id + number, where=where)
        for number, (where, record) in records[SPLITS[split]]
    ]


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nAnswer Choices:\n(a) ...\nA:"; the hint marks the right choice with "(CORRECT)"."""
    question = example.question
    if hint is not None:
        stem, title, choices = question.rpartition("\nAnswer Choices:\n")
        lines = choices.split("\n")
        hinted = [line + HINT if line.startswith(f"({hint}) ") else line for line in lines]
        question = stem + title + "\n".join(hinted)
    return f"Q: {question}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """A worked example's completion, or " (c)." alone; UserError where there is no rationale."""
    if direct:
        return f" ({example.answer})."
    if example.rationale is None:
        raise UserError(
            "commonsense_qa gives no rationales to train on; collect some, or train directly on "
            "answers."
        )
    return f" {example.rationale}"


def extract(text: str) -> str | None:
    """What follows the last "the answer is"; where that is not said, a bare "(c)."."""
    own = statements.own_words(text)
    direct = DIRECT.fullmatch(own)
    return direct[1] if direct else statements.final(own)


def marked(answer: str) -> str:
    return f"({answer})"


def trigger(cfg: ConfigDict) -> str:
    return "Therefore, among A through E, the answer is"


def reading(answer: str, example: Example) -> str | None:
    """The letter of the one choice that an answer names."""
    return choices.read(answer, _options(example))


def _options(example: Example) -> dict[str, str]:
    """The texts of the choices by letter."""
    _, _, listed = example.question.rpartition("\nAnswer Choices:\n")
    lines = [line.removesuffix(HINT) for line in listed.split("\n") if line.startswith("(")]
    return {line[1:2]: line[4:] for line in lines}


def steps(text: str) -> int:
    """Sentences before the one that gives the answer."""
    own = statements.own_words(text)
    starts = [match.start() for match in statements.STATED.finditer(own)]
    if starts:
        last_end = max(own.rfind(end, 0, starts[-1]) for end in ".!?")
        own = own[: last_end + 1]
    return len(re.findall(r"\w[^.!?]*", own))


def difficulty(example: Example) -> tuple[str, int]:
    return "choices", len(LETTERS)


def _example(record: data.Record, id: int, where: str) -> Example:
    [answer] = text_files.check_texts(record, ("answerKey",), where)
    question = record.get("question")
    if not isinstance(question, dict) or not isinstance(question.get("choices"), list):
        raise UserError(f"{where}: 'question' must be an object with 'stem' and a list 'choices'.")
    [stem] = text_files.check_texts(question, ("stem",), f"{where}, in 'question'")
    labels = []
    lines = []
    for choice in question["choices"]:
        if not isinstance(choice, dict):
            raise UserError(f"{where}: a choice must be an object with 'label' and 'text'.")
        label, text = text_files.check_texts(choice, ("label", "text"), f"{where}, in a choice")
        labels.append(label.lower())
        lines.append(f"({label.lower()}) {text.strip().lower()}")
    if labels != list(LETTERS) or answer.lower() not in labels:
        raise UserError(f"{where}: the choices must be A to E and the answer one of them.")
    listed = "\n".join([stem.strip(), "Answer Choices:", *lines])
    return Example(id=id, question=listed, answer=answer.lower(), where=where)
