"""Writes files for gsm8k_aug: GSM8K's questions again and again, with other numbers where it can.

    python benchmarks/gsm8k_renumbered.py --out=DIR [--count=40000] [--gsm8k=DIR]

The published file of 385,620 questions was written by a large model. Here numbers of a question are
drawn anew, between half of what they were and twice that, and its equations are solved again. Two
questions in three stay as they are, pass after pass: those where it cannot be told from the
equations what each number stands for.

DIR/train.txt has ``count`` questions; DIR/valid.txt 500 of the same with numbers that train.txt
does not have; DIR/test.txt the published test questions. For a run:

    --config.task.train=augmented --config.task.path=DIR
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import side_by_side

from reasoning_jax import extraction, tasks
from reasoning_jax.answers import arithmetic
from reasoning_jax.default import section
from reasoning_jax.tasks import Example, gsm8k_aug

NUMBER = re.compile(r"\d*\.?\d+")
# A whole number that is no part of another, of a clock's time, an ordinal, a fraction or a share.
WHOLE = re.compile(r"(?<![\d.,:/])\d+(?![\d:/%]|[.,]\d|st\b|nd\b|rd\b|th\b| percent)")
# What equations also have for reasons of their own: "half", "a week", "a dozen", "an hour".
COMMON = {*map(str, range(1, 13)), "16", "20", "24", "30", "52", "60", "100", "365"}
NUM_VALIDATION = 500
ATTEMPTS = 20  # to find numbers for which all results are whole
LARGEST = 100_000  # number of a question or result

Equation = tuple[str, str]  # expression, result


def equations_of(example: Example) -> list[Equation] | None:
    """The equations of the rationale; None where they are not true and whole, or end elsewhere."""
    found = []
    for equation in gsm8k_aug.EQUATION.findall(example.rationale or ""):
        expression, _, result = equation.partition("=")
        if not result.isdigit() or arithmetic.is_false_equation(equation):
            return None
        found.append((expression, result))
    if not found or found[-1][1] != example.answer:
        return None
    return found


def changeable(example: Example, equations: Sequence[Equation]) -> list[str]:
    """The numbers of the question to draw anew; none where a number's part cannot be told.

    Each operand must be a number of the question, an earlier result, or a factor or divisor that is
    common. A common number that changes may be an operand once, each result but the last must be
    one, and none may be the same as a number before it.
    """
    asked = Counter(NUMBER.findall(example.question))
    results = [result for _, result in equations]
    operands = Counter(n for expression, _ in equations for n in NUMBER.findall(expression))
    whole = WHOLE.findall(example.question)
    free = [n for n in whole if asked[n] == 1 and operands[n] and 1 < int(n) < LARGEST]
    if any(operands[n] > 1 and n in COMMON for n in [*free, *results]):
        return []
    if not all(operands[result] for result in results[:-1]):
        return []
    known = set(asked)
    for expression, result in equations:
        for operand in re.finditer(NUMBER, expression):
            if operand[0] not in known and not is_constant(operand[0], operand.start(), expression):
                return []
        known.update(NUMBER.findall(expression))
        if result in known:
            return []
        known.add(result)
    return free


def is_constant(number: str, start: int, expression: str) -> bool:
    """Whether an operand is common, and (but for 100) neither added nor subtracted."""
    before = expression[:start].rstrip()[-1:]
    after = expression[start + len(number) :].lstrip()[:1]
    is_term = before in ("+", "-") or after in ("+", "-")
    return number in COMMON and (not is_term or number == "100")


def renumber(example: Example, rng: np.random.Generator) -> str | None:
    """A line of the file with other numbers; None where there is none."""
    equations = equations_of(example)
    free = changeable(example, equations) if equations else []
    if not equations or not free:
        return None
    for _ in range(ATTEMPTS):
        new = {n: str(draw(int(n), rng)) for n in free}
        solution = solve_again(equations, new)
        if solution is not None and any(old != drawn for old, drawn in new.items()):
            return f"{substitute(WHOLE, example.question, new)}||{solution}"
    return None


def draw(number: int, rng: np.random.Generator) -> int:
    """From half of a number, 2 at least, to twice it; as round as it is."""
    unit = 1
    while number % (10 * unit) == 0:
        unit *= 10
    size = number // unit
    least = max(1 if unit > 1 else 2, size // 2)
    return unit * int(rng.integers(least, 2 * size, endpoint=True))


def solve_again(equations: Iterable[Equation], new: Mapping[str, str]) -> str | None:
    """The equations with new numbers; None where a result is no whole number above 0."""
    known = dict(new)
    solved = []
    for expression, result in equations:
        expression = substitute(NUMBER, expression, known)
        try:
            value = arithmetic.value(expression)
        except (ValueError, ZeroDivisionError):
            return None
        if value.denominator != 1 or not 0 < value <= LARGEST:
            return None
        known[result] = str(value)
        solved.append(f"<<{expression}={value}>>")
    return f"{' '.join(solved)} #### {value}"


def substitute(pattern: re.Pattern[str], text: str, new: Mapping[str, str]) -> str:
    return pattern.sub(lambda found: new.get(found[0], found[0]), text)


def as_it_is(example: Example) -> str:
    return f"{example.question}||{' '.join(str(example.rationale).splitlines())}"


def lines_of(examples: Sequence[Example], rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """Lines without end, each question's once a pass; and whether their numbers are new."""
    while True:
        for i in rng.permutation(len(examples)):
            line = renumber(examples[i], rng)
            yield line or as_it_is(examples[i]), line is not None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=side_by_side.at_least(1), default=40_000)
    parser.add_argument("--gsm8k", default="", help="the folder of train.jsonl")
    args = parser.parse_args()
    cfg = section(tasks, "gsm8k_aug")
    cfg.gsm8k_path = args.gsm8k
    cfg = extraction.settle(cfg)
    if args.out.resolve() == Path(cfg.path).resolve():
        sys.exit(f"--out={args.out}: the published files are there.")
    examples = gsm8k_aug.load(cfg, "given")
    lines = lines_of(examples, np.random.default_rng(0))
    train = list(itertools.islice(lines, args.count))
    seen = {line for line, _ in train}
    if not any(is_new for _, is_new in train):
        sys.exit(f"--count={args.count}: none of these questions can have other numbers.")
    unseen: dict[str, None] = {}
    while len(unseen) < NUM_VALIDATION:
        line, is_new = next(lines)
        if is_new and line not in seen:
            unseen[line] = None
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / gsm8k_aug.FILES["train"], (line for line, _ in train))
    write(args.out / gsm8k_aug.FILES["validation"], unseen)
    test = gsm8k_aug.FILES["test"]
    shutil.copyfile(Path(cfg.path) / test, args.out / test)
    print(f"{args.out}: {len(train)} questions, {sum(new for _, new in train)} with other numbers.")


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
