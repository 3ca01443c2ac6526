"""GSM8K: grade-school word problems with worked solutions (arXiv:2110.14168), as STaR prompts them.

A rationale is the whole worked solution with its last line "#### 72". Splits are "train", "given"
(the same examples with their rationales), "validation" (the last 500 examples of the published
train split, which those two leave out) and "test".
"""

from __future__ import annotations

import ast
import dataclasses
import operator
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, FileTaskConfig
from reasoning_jax.training import data

GRADER = "math"
VALIDATION = 500
SPLITS = {
    "train": slice(-VALIDATION),
    "validation": slice(-VALIDATION, None),
    "test": slice(None),
    "given": slice(-VALIDATION),
}
TEST_ID = 1_000_000  # the ids of test examples begin here
ANSWER = re.compile(
    r"####\s*([$€£]?\s*-?\s*[$€£]?(?:\d[\d,]*(?:\.\d+)?|\.\d+))(?![\d,.]*\s*/\s*\d)"
)
SPAN = re.compile(r"<<([^<>]{,200})>>")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    source: str = "jsonl"  # jsonl or tfds
    calculator: bool = True  # keep the <<48/2=24>> spans


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; with cfg.source "tfds" also of any TFDS split such as "train[:1%]".

    UserError, naming the line or record, for what cannot be read.
    """
    if split not in SPLITS and cfg.source != "tfds":
        raise UserError(f"gsm8k has no split {split!r}; it has {', '.join(SPLITS)}.")
    published = split
    if split in ("given", "validation"):
        published = "train"
    records = _read(cfg, published)
    if split in SPLITS and published == "train" and len(records) <= VALIDATION:
        source = records[0][0].rpartition(", ")[0]
        raise UserError(
            f"{source}: {len(records)} examples are too few, as the last {VALIDATION} are for "
            "validation."
        )
    first_id = TEST_ID if published.startswith("test") else 0
    examples = []
    for where, number, record in records[SPLITS.get(split, slice(None))]:
        question, solution = text_files.check_texts(record, ("question", "answer"), where)
        rationale = solution if cfg.calculator else SPAN.sub("", solution)
        answer = extract(rationale)
        if answer is None:
            raise UserError(f"{where}: the answer has no number after '####'.")
        examples.append(
            Example(
                id=first_id + number,
                question=question,
                answer=answer,
                rationale=None if split == "train" else rationale,
                where=where,
            )
        )
    return examples


def _read(cfg: ConfigDict, split: str) -> list[tuple[str, int, data.Record]]:
    """(where it is, number, record) of every record of a published split."""
    if cfg.source == "tfds":
        source = f"{cfg.path} (gsm8k, {split})"
        rows = data.tfds_source("gsm8k", cfg.path, split)
        return [(f"{source}, record {number + 1}", number, record) for number, record in rows]
    lines = data.read_jsonl(Path(cfg.path) / f"{split}.jsonl")
    return [(where, number, record) for number, (where, record) in enumerate(lines)]


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the final number in parentheses after the question."""
    hinted = "" if hint is None else f" ({hint})"
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    return f" #### {example.answer}" if direct else f" {example.rationale}"


def extract(text: str) -> str | None:
    """The number after the first "####", without commas and currency.

    Text after a new question does not count.
    """
    match = ANSWER.search(text.partition("\nQ:")[0])
    return None if match is None else re.sub(r"[,$€£\s]", "", match.group(1))


def steps(text: str) -> int:
    return sum(bool(line.strip()) for line in text.partition("####")[0].splitlines())


def wrong_line(text: str, example: Example) -> int | None:
    """The first line with a false span <<a op b=c>>; what is outside spans is not judged."""
    for i, line in enumerate(text.split("\n")):
        if any(_is_false(span) for span in SPAN.findall(line)):
            return i
    return None


def difficulty(example: Example) -> tuple[str, int]:
    """Steps of the worked solution; 0 where it is withheld."""
    return "steps", steps(example.rationale or "")


def _is_false(span: str) -> bool:
    """Whether "a op b=c" is false; c may be rounded or cut to its decimals."""
    left, _, right = span.replace(",", "").rpartition("=")
    decimals = len(right.strip().partition(".")[2])
    try:
        error = abs(_value(left) - _value(right))
    except ZeroDivisionError:
        return True
    except (ValueError, SyntaxError):  # no arithmetic: not judged
        return False
    if decimals == 0:
        return error != 0
    return error >= Fraction(1, 10**decimals)


def _value(expression: str) -> Fraction:
    """The exact value of + - * / // and parentheses over decimals.

    ValueError or SyntaxError for anything else.
    """
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.strip())  # Python's grammar has no 007
    return _node(ast.parse(plain, mode="eval").body)


def _node(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_node(node.left), _node(node.right))
        case ast.UnaryOp(op=ast.UAdd()):
            return _node(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            return -_node(node.operand)
    raise ValueError("no arithmetic")
