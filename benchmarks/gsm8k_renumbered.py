"""Writes files for gsm8k_aug: GSM8K's questions again and again, each time with other numbers.

    python benchmarks/gsm8k_renumbered.py --out=DIR [--count=40000] [--gsm8k=DIR] [--seed=0]

The published file of 385,620 questions, which a large model wrote, is seldom at hand. Here numbers
are drawn anew, between half of what they were and twice that: those that stand once in a question
and are operands of its equations. What follows from them is worked out again. A question stays as
it is where a result would no longer be a whole number above 0.

DIR/train.txt has ``count`` of them, DIR/valid.txt 500 with numbers that train.txt does not have,
DIR/test.txt the published test questions. For a run:

    --config.task.train=augmented --config.task.path=DIR
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import side_by_side

from reasoning_jax import extraction, tasks
from reasoning_jax.answers import arithmetic
from reasoning_jax.default import section
from reasoning_jax.tasks import Example, gsm8k_aug

NUMBER = re.compile(r"\d+(?:\.\d+)?")
NUM_VALIDATION = 500
ATTEMPTS = 20  # to find numbers that go through all equations
LARGEST = 100_000  # number of a question or result


def equations_of(example: Example) -> list[tuple[str, str]] | None:
    """(expression, result) of each equation; None where they do not lead to the answer.

    Also where it cannot be told what a number stands for: a result that is in the question too, or
    in an equation up to its own.
    """
    known = set(NUMBER.findall(example.question))
    found = []
    for equation in gsm8k_aug.EQUATION.findall(example.rationale or ""):
        expression, sign, result = equation.partition("=")
        if not sign or arithmetic.is_false_equation(equation):
            return None
        if not NUMBER.fullmatch(result):
            return None
        known.update(NUMBER.findall(expression))
        if result in known:
            return None
        known.add(result)
        found.append((expression, result))
    if not found or found[-1][1] != example.answer:
        return None
    return found


def renumber(example: Example, rng: np.random.Generator) -> str | None:
    """A line of the file with other numbers; None where there is none."""
    equations = equations_of(example)
    if equations is None:
        return None
    asked = NUMBER.findall(example.question)
    operands = [n for expression, _ in equations for n in NUMBER.findall(expression)]
    free = [n for n in operands if asked.count(n) == 1 and is_plain(n)]
    if not free:
        return None
    for _ in range(ATTEMPTS):
        new = {n: str(draw(int(n), rng)) for n in dict.fromkeys(free)}
        solution = worked_again(equations, new)
        if solution is not None:
            return f"{exchange(example.question, new)}||{solution}"
    return None


def is_plain(number: str) -> bool:
    return "." not in number and 1 < int(number) < LARGEST


def draw(number: int, rng: np.random.Generator) -> int:
    """Between half of a number and twice it, and as round as it is."""
    unit = 1
    while number % (10 * unit) == 0:
        unit *= 10
    size = number // unit
    return unit * int(rng.integers(max(1, size // 2), 2 * size + 2))


def exchange(text: str, new: Mapping[str, str]) -> str:
    return NUMBER.sub(lambda found: new.get(found[0], found[0]), text)


def worked_again(equations: list[tuple[str, str]], new: Mapping[str, str]) -> str | None:
    """The equations with the new numbers; None where a result is of another kind."""
    known = dict(new)
    lines = []
    for expression, result in equations:
        expression = exchange(expression, known)
        try:
            value = arithmetic.value(expression)
        except (ValueError, ZeroDivisionError):
            return None
        if not is_of_kind(value, result):
            return None
        known[result] = str(value)
        lines.append(f"<<{expression}={value}>>")
    return f"{' '.join(lines)} #### {known[equations[-1][1]]}"


def is_of_kind(value: Fraction, result: str) -> bool:
    """Whether a value can stand where ``result`` stood: a whole number above 0 for such a one."""
    return "." not in result and value.denominator == 1 and 0 < value <= LARGEST


def lines_of(examples: Sequence[Example], rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """Lines without end, each question's once a pass; and whether their numbers are new."""
    while True:
        for i in rng.permutation(len(examples)):
            line = renumber(examples[i], rng)
            yield line or as_it_is(examples[i]), line is not None


def as_it_is(example: Example) -> str:
    return f"{example.question}||{' '.join(str(example.rationale).splitlines())}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=side_by_side.at_least(1), default=40_000)
    parser.add_argument("--gsm8k", default="", help="the folder of train.jsonl")
    parser.add_argument("--seed", type=side_by_side.at_least(0), default=0)
    args = parser.parse_args()
    cfg = section(tasks, "gsm8k_aug")
    cfg.gsm8k_path = args.gsm8k
    cfg = extraction.settle(cfg)
    examples = gsm8k_aug.load(cfg, "given")
    lines = lines_of(examples, np.random.default_rng(args.seed))
    train = list(itertools.islice(lines, args.count))
    seen = {line for line, _ in train}
    unseen = (line for line, is_new in lines if is_new and line not in seen)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / gsm8k_aug.FILES["train"], (line for line, _ in train))
    write(args.out / gsm8k_aug.FILES["validation"], itertools.islice(unseen, NUM_VALIDATION))
    test = gsm8k_aug.FILES["test"]
    shutil.copyfile(Path(cfg.path) / test, args.out / test)
    print(f"{args.out}: {len(train)} questions, {sum(new for _, new in train)} with other numbers.")


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
