"""Questions and answers from files of your own: JSON lines, compressed ones, JSON lists, Parquet.

``path`` is a folder with a file for each split (train, test and perhaps validation, else the last
records of train), or one file: its last records are validation, those before them test, the rest
train, and the split "all" is all of them. A question is text, or a list of messages whose last user
turn is asked, in a chat.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import string
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import choices, conventions, words
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, key, one_of
from reasoning_jax.tasks import Example, QuestionConfig, Task
from reasoning_jax.training import data
from reasoning_jax.training.data import Located

SPLITS = {"train": 0, "given": 0, "validation": 1, "test": 2, "all": 0}
IDS = 10_000_000  # the ids of a split's file begin at so many times its number
OPTION = re.compile(r"^\(?([A-Za-z])[).:] ?(.*)$", re.MULTILINE)
# What each kind of answer is called, and the second prompt that asks for it (arXiv:2205.11916).
WORDING = {
    "number": ("the number", "Therefore, the answer (arabic numerals) is"),
    "choice": ("the letter of your choice in parentheses", "Therefore, the answer is"),
    "text": ("the answer", "Therefore, the answer is"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(QuestionConfig):
    path: str = ""  # a folder with a file for each split, or one file of all records
    # The key of the question, or several that are joined by spaces: "Body,Question".
    question: str = "question"
    answer: str = "answer"  # the key of the answer, or of a solution with "#### 18" at its end
    rationale: str = ""  # the key of a worked solution without its answer; "" = none
    # What an answer is: how it is read, compared and asked for.
    kind: str = key("number", one_of("number", "choice", "text"))
    # Records at the end that are validation, and of one file as many before them that are test.
    held_out: int = key(500, at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(Example):
    kind: str = "number"


# ---- reading files -------------------------------------------------------------------------------


def load(cfg: ConfigDict, split: str) -> Sequence[Record]:
    """The examples of a split; UserError, naming the place, for what cannot be read.

    "train" withholds the rationales that "given" has.
    """
    if split not in SPLITS:
        raise UserError(f"jsonl has no split {split!r}; it has {', '.join(SPLITS)}.")
    if not cfg.path:
        raise UserError("config.task.path: the task jsonl needs a folder or a file of records.")
    examples = []
    for id, (where, record) in _located(cfg, split):
        example = _example(record, id, where, cfg)
        if split == "train":
            example = dataclasses.replace(example, rationale=None)
        examples.append(example)
    return examples


def _located(cfg: ConfigDict, split: str) -> list[tuple[int, Located]]:
    """(id, (where it is, record)) of a split's records."""
    path = Path(cfg.path)
    if not path.is_dir():
        return _of_one_file(list(enumerate(data.read_records(path))), cfg, split)
    if split == "all":
        raise UserError("config.task.path: the split 'all' is of one file, not of a folder.")
    own_validation = bool(data.split_files(path, "validation"))
    of_train = split in ("train", "given") or (split == "validation" and not own_validation)
    file = "train" if of_train else split
    start = SPLITS[file] * IDS
    records = list(enumerate(data.read_split(path, file), start=start))
    if not of_train or own_validation:
        return records
    if len(records) <= cfg.held_out:
        raise _too_few(records, cfg, needed=cfg.held_out + 1)
    return records[-cfg.held_out :] if split == "validation" else records[: -cfg.held_out]


def _of_one_file(
    records: list[tuple[int, Located]], cfg: ConfigDict, split: str
) -> list[tuple[int, Located]]:
    count = cfg.held_out
    if split != "all" and len(records) <= 2 * count:
        raise _too_few(records, cfg, needed=2 * count + 1)
    parts = {
        "all": slice(None),
        "validation": slice(-count, None),
        "test": slice(-2 * count, -count),
    }
    return records[parts.get(split, slice(-2 * count))]


def _too_few(records: list[tuple[int, Located]], cfg: ConfigDict, needed: int) -> UserError:
    return UserError(
        f"{cfg.path}: {len(records)} records are too few: with config.task.held_out="
        f"{cfg.held_out}, {needed} are needed."
    )


# ---- reading records -----------------------------------------------------------------------------


def _example(record: data.Record, id: int, where: str, cfg: ConfigDict) -> Record:
    question, turns = _question(record, where, cfg)
    solution = _text(record, cfg.answer, where)
    rationale = _text(record, cfg.rationale, where) if cfg.rationale else None
    answer = solution
    if "####" in solution:
        rationale, _, answer = solution.rpartition("####")
    example = Record(
        id=id, question=question, answer=answer.strip(), where=where, turns=turns, kind=cfg.kind
    )
    read = reading(example.answer, example)
    if read is None:
        raise UserError(f"{where}: {cfg.answer!r} is no {cfg.kind}: {answer.strip()[:40]!r}.")
    if cfg.kind != "text":
        example = dataclasses.replace(example, answer=read)
    if rationale is None:
        return example
    mark = conventions.CONVENTIONS[cfg.extraction or "answer_is"].mark
    worked = f"{rationale.rstrip()}\n{mark.format(_marked(example.answer, cfg.kind))}".lstrip()
    return dataclasses.replace(example, rationale=worked)


def _question(record: data.Record, where: str, cfg: ConfigDict) -> tuple[str, data.Turns]:
    """The question's text, and the turns of a conversation before it."""
    keys = cfg.question.split(",")
    if len(keys) == 1 and isinstance(record.get(keys[0]), list):
        return data.last_user_turn(record[keys[0]], f"{where}, in {keys[0]!r}")
    return " ".join(text.strip() for text in text_files.check_texts(record, keys, where)), ()


def _text(record: data.Record, name: str, where: str) -> str:
    """A text, or the text of a number."""
    value = record.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return repr(value)
    [text] = text_files.check_texts(record, (name,), where)
    return text


# ---- prompts and answers -------------------------------------------------------------------------


def configured(task: Task, cfg: ConfigDict) -> Task:
    """The task whose answers are of the kind that ``cfg`` says."""
    kind, trigger = WORDING[cfg.kind]
    parse = conventions.number if cfg.kind == "number" else conventions.any_text
    return dataclasses.replace(
        task,
        KIND=kind,
        parse=parse,
        extract=functools.partial(conventions.answer_is, read=parse),
        marked=functools.partial(_marked, kind=cfg.kind),
        trigger=lambda cfg: trigger,
    )


def _marked(answer: str, kind: str) -> str:
    return f"({answer})" if kind == "choice" else answer


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the answer in parentheses after the question."""
    hinted = "" if hint is None else f" ({hint})"
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """A worked example's completion; UserError where there is no rationale to write."""
    if direct:
        return f" The answer is {_marked(example.answer, getattr(example, 'kind', ''))}."
    if example.rationale is None:
        raise UserError("there is no rationale to train on; name its key in config.task.rationale.")
    return f" {example.rationale}"


def extract(text: str) -> str | None:
    return conventions.answer_is(text, conventions.any_text)


def reading(answer: str, example: Example) -> str | None:
    """The answer as what its kind is: a number's value, a choice's letter, yes or no, words."""
    kind = getattr(example, "kind", "text")
    if kind == "number":
        return conventions.number(answer)
    if kind == "choice":
        return choices.read(answer, _options(example.question))
    if example.answer.lower() in words.VERDICTS:
        return words.verdict(answer)
    return words.in_order(answer, example.answer)


def _options(question: str) -> dict[str, str]:
    """The texts of the options "(a) ...", "B. ..." by letter; {} where they are not a, b, c ..."""
    options = {letter.lower(): text for letter, text in OPTION.findall(question)}
    expected = string.ascii_lowercase[: len(options)]
    return options if len(options) > 1 and "".join(options) == expected else {}
