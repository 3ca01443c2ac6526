"""Sums of any length, which are answered at once (fast) or made one digit shorter (slow).

A sum a + b + k, k being 0 or 1, is k and then the pairs of digits, the lowest first, in a field of
one width, whose empty places are dots. 2938 + 5071 + 1 in a field of 6 places is

    1 8+1 3+7 9+0 2+5 . .                   a pair is one symbol of the alphabet, a dot another
    fast   F1 8+1 3+7 9+0 2+5 . .=  01080   the digits of 08010, the lowest first
    slow   S1 8+1 3+7 9+0 2+5 . .=  01 3+7 9+0 2+5     the lowest digit; the sum that is left
    slow   S1 2+5 . . . . .=        80      no pair is left, only the last carry

Since a + b + k = 10 (a' + b' + c) + d with the digit d and the carry c of the lowest pair, the form
is closed under simplification (Zhang & Parkes 2023, arXiv 2309.08589). In a field of one width a
digit is as far from its answer in a long sum as in a short one. Sums that are trained on begin at a
random one of the first places, and their answers behind as many dots: so the places that the next
lengths are the first to fill are not new.

    F . .1 8+1 3+7=     . .012
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example

FAST, SLOW = "F", "S"
EMPTY = " ."
PAIRS = tuple(f" {a}+{b}" for a in range(10) for b in range(10))
ALPHABET = (*"0123456789=", FAST, SLOW, EMPTY, *PAIRS)
SUM = re.compile(r"([01])((?: [0-9]\+[0-9])*)")
CHAINS = 0.15  # of the sums have a run of pairs that pass a carry on
SHOWN = ("given", "train")  # splits with worked examples
SHIFTS = 3  # places at which a sum that is trained on may begin


class Sum(NamedTuple):
    """a + b + carry, of numbers of any length."""

    carry: int
    pairs: tuple[tuple[int, int], ...]  # the digits of both numbers, the lowest first


def write(problem: Sum) -> str:
    return str(problem.carry) + "".join(f" {a}+{b}" for a, b in problem.pairs)


def read(text: str) -> Sum | None:
    """The sum of this text; None where it is not written as ``write`` does."""
    match = SUM.fullmatch(text)
    if match is None:
        return None
    pairs = tuple((int(pair[0]), int(pair[2])) for pair in match[2].split())
    return Sum(int(match[1]), pairs)


def swapped(problem: Sum) -> Sum:
    """b + a + carry."""
    return Sum(problem.carry, tuple((b, a) for a, b in problem.pairs))


# ---- questions and answers -----------------------------------------------------------------------


def question(mode: str, problem: Sum, max_digits: int, shift: int = 0) -> str:
    """What is asked, ``shift`` places from the beginning of the field."""
    rest = max_digits + SHIFTS - 1 - shift - len(problem.pairs)
    return f"{mode}{EMPTY * shift}{write(problem)}{EMPTY * rest}="


def shifted(answer: str, shift: int) -> str:
    """The answer to a sum so many places from the beginning of the field."""
    return f"{EMPTY * shift}{answer}"


def asked(question: str) -> Sum:
    """The sum that a question of this form asks."""
    problem = read(question[1:-1].replace(EMPTY, ""))
    if problem is None:
        raise ValueError(f"{question!r} asks no sum.")
    return problem


def read_digits(text: str) -> str | None:
    """The digits of a fast answer, the lowest first; None where there is something else."""
    return text if text.isascii() and text.isdigit() else None


def read_simplification(text: str) -> tuple[str, Sum] | None:
    """The digit and the sum that is left, of a slow answer; None where it is not written so."""
    left = read(text[1:])
    if left is None or read_digits(text[0]) is None:
        return None
    return text[0], left


def digits(problem: Sum) -> str:
    """The true digits of the sum, the lowest first; the last is the carry."""
    written, carry = "", problem.carry
    for a, b in problem.pairs:
        carry, digit = divmod(a + b + carry, 10)
        written += str(digit)
    return f"{written}{carry}"


def simplification(problem: Sum) -> str:
    """The true slow answer of a sum with pairs."""
    a, b = problem.pairs[0]
    carry, digit = divmod(a + b + problem.carry, 10)
    return f"{digit}{write(Sum(carry, problem.pairs[1:]))}"


def answer(mode: str, problem: Sum) -> str:
    """The true answer in this mode."""
    return digits(problem) if mode == FAST else simplification(problem)


# ---- examples ------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, num_pairs: int) -> Sum:
    """Two numbers of so many digits, without leading zeros, and a carry."""
    lows = np.zeros(num_pairs, int)
    lows[-1] = num_pairs > 1
    a, b = rng.integers(lows, 10), rng.integers(lows, 10)
    if rng.random() < CHAINS:
        start, end = np.sort(rng.choice(num_pairs + 1, 2, replace=False))
        a[start:end] = rng.integers(lows[start:end], 10 - lows[start:end])
        b[start:end] = 9 - a[start:end]
    return Sum(int(rng.integers(2)), tuple(zip(a.tolist(), b.tolist(), strict=True)))


def tenth(problem: Sum) -> int:
    """0 to 9, the same for a + b and b + a: a problem is in one split."""
    both = min(problem.pairs, swapped(problem).pairs)
    return zlib.crc32(repr(both).encode()) % 10


def sums(rng: np.random.Generator, num_pairs: int, count: int, tenths: Sequence[int]) -> list[Sum]:
    """Sums of these tenths; distinct, and fewer than ``count`` where so few pairs have no more."""
    found: dict[Sum, None] = {}  # a set in the order of its members
    for _ in range(20 * count):
        if len(found) == count:
            break
        problem = draw(rng, num_pairs)
        if tenth(problem) in tenths:
            found[problem] = None
    return list(found)


def load(cfg: ConfigDict, split: str, number: int, first_id: int) -> list[Example]:
    """The problems of a split, whose ids begin at ``first_id``.

    ``given``: given[n - 1] worked sums of n digits; ``train``: num_train sums, spread evenly over
    1 to max_digits, those of the given lengths worked. A worked sum is two examples, one of each
    mode, at a random place. All others, and those of validation and test (num_eval a length), are
    asked fast.
    """
    shown = len(cfg.given)
    counts = {
        "given": cfg.given,
        "train": [-(-cfg.num_train // cfg.max_digits)] * cfg.max_digits,
    }.get(split, [cfg.num_eval] * cfg.max_digits)
    tenths = {"validation": range(2, 3), "test": range(2)}.get(split, range(3, 10))
    if len(counts) > cfg.max_digits:
        raise UserError(
            f"config.task.given names {shown} lengths but config.task.max_digits is "
            f"{cfg.max_digits}."
        )
    rng = np.random.default_rng([cfg.seed, number])
    examples: list[Example] = []
    for num_pairs, count in enumerate(counts, start=1):
        worked = split in SHOWN and num_pairs <= shown
        for problem in sums(rng, num_pairs, count, tenths):
            for mode in (FAST, SLOW) if worked else (FAST,):
                true = answer(mode, problem)
                shift = int(rng.integers(SHIFTS)) if worked else 0
                examples.append(
                    Example(
                        id=first_id + len(examples),
                        question=question(mode, problem, cfg.max_digits, shift),
                        answer=true,
                        rationale=shifted(true, shift) if worked else None,
                    )
                )
    return examples


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    if hint:
        raise UserError("config.task.form: the form simplify has no hints.")
    return example.question


def target(example: Example, direct: bool = False) -> str:
    return example.rationale or example.answer


def extract(text: str) -> str | None:
    """A fast or a slow answer, without the dots before it."""
    text = text[len(text) - len(text.lstrip(EMPTY)) :]
    well = read_digits(text) or read_simplification(text)
    return text if well else None


def difficulty(example: Example) -> tuple[str, int]:
    return "digits", len(asked(example.question).pairs)
