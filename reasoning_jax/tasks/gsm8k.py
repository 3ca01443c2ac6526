"""GSM8K: grade-school word problems with worked solutions (arXiv:2110.14168), in the prompt format of STaR.

A rationale is the whole worked solution with its last line "#### 72". Splits are "train", "given" (the same examples
with their rationales), "validation" (the last 500 rows of train, which those two leave out) and "test".
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from reasoning_jax import data, grading
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example

VALIDATION = 500
SPLITS = {"train": slice(-VALIDATION), "validation": slice(-VALIDATION, None), "test": slice(None)}
SPLITS["given"] = SPLITS["train"]
TEST_ID = 1_000_000  # the ids of test rows begin here
ANSWER = re.compile(r"####\s*([$€£]?\s*-?\s*[$€£]?(?:\d[\d,]*(?:\.\d+)?|\.\d+))(?![\d,.]*\s*/\s*\d)")
SPAN = re.compile(r"<<([^<>]{,200})>>")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
OPERATORS[ast.FloorDiv] = operator.floordiv


def load(cfg: Any, split: str) -> Sequence[Example]:
    """The examples of a split; with cfg.source "tfds" also of any TFDS split such as "train[:1%]".

    ValueError or FileNotFoundError, naming the line or row, for what cannot be read.
    """
    if split not in SPLITS and cfg.source != "tfds":
        raise ValueError(f"gsm8k has no split {split!r}; it has {', '.join(SPLITS)}.")
    base = ("test" if split == "test" else "train") if split in SPLITS else split
    if cfg.source == "tfds":
        rows, where, unit = data.tfds_source("gsm8k", cfg.path, base), f"{cfg.path} (gsm8k, {base})", "row"
    else:
        where, unit = str(Path(cfg.path) / f"{base}.jsonl"), "line"
        rows = list(enumerate(data.read_jsonl(where, ("question", "answer"))))
    if split in SPLITS and base == "train" and len(rows) <= VALIDATION:
        raise ValueError(f"{where}: {len(rows)} rows are too few, as the last {VALIDATION} are for validation.")
    rows = rows[SPLITS.get(split, slice(None))]
    first_id, examples = TEST_ID * base.startswith("test"), []
    for i, row in rows:
        rationale = row["answer"] if cfg.calculator else SPAN.sub("", row["answer"])
        if (answer := extract(rationale)) is None:
            raise ValueError(f"{where}, {unit} {i + 1}: the answer has no number after '####'.")
        examples.append(Example(first_id + i, row["question"], answer, None if split == "train" else rationale))
    return examples


def prompt(example: Example, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the final number in parentheses after the question."""
    return f"Q: {example.question}{'' if hint is None else f' ({hint})'}\nA:"


def target(example: Example, direct: bool = False) -> str:
    return f" #### {example.answer}" if direct else f" {example.rationale}"


def extract(text: str) -> str | None:
    """The number after the first "####", without commas and currency; text after a new question does not count."""
    match = ANSWER.search(text.partition("\nQ:")[0])
    return None if match is None else re.sub(r"[,$€£\s]", "", match.group(1))


def grade(text: str, example: Example) -> str:
    answer = extract(text)
    return UNPARSED if answer is None else CORRECT if grading.equal(answer, example.answer) else WRONG


def steps(text: str) -> int:
    return sum(bool(line.strip()) for line in text.partition("####")[0].splitlines())


def wrong_line(text: str, example: Example) -> int | None:
    """The first line with a false span <<a op b=c>> (c may be rounded to its decimals); others are not judged."""
    for i, line in enumerate(text.split("\n")):
        for span in SPAN.findall(line):
            left, _, right = span.replace(",", "").rpartition("=")
            decimals = len(right.strip().partition(".")[2])
            try:
                error = abs(_value(left) - _value(right))
            except ZeroDivisionError:
                return i
            except (ValueError, SyntaxError):
                continue
            if error >= Fraction(1, 10**decimals) or (error and not decimals):
                return i
    return None


def difficulty(example: Example) -> tuple[str, int]:
    """Steps of the worked solution; 0 where it is withheld."""
    return "steps", steps(example.rationale or "")


def _value(expression: str) -> Fraction:
    """The exact value of + - * / // and parentheses over decimals; ValueError or SyntaxError for anything else."""
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.strip())  # Python's grammar has no 007
    return _node(ast.parse(plain, mode="eval").body)


def _node(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_node(node.left), _node(node.right))
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            return _node(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    raise ValueError("no arithmetic")
