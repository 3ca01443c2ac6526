"""3SUM: do three of the numbers add up to zero? With filler tokens, or the sums (arXiv:2404.15758).

A number is a few digits, and is added digit by digit, modulo 10, without carries.

    " 38 05 77 32 90 13 . . . . . . . . . . . . . . . =" " True"        a row with fillers
    " 38 05 77 32 90 13" " 3 E ... 4 = True"                          a worked row
    " 38 05 77 32 90 13 =" " True"                                    immediately, num_fillers=0

A worked row has a token for each pair (1, 2), (1, 3), ... (n - 1, n), so that all could be written
at once: the letter of a third number with which the pair adds up to zero, if there is one, else one
digit of the pair's sum, drawn at random. Half of the questions are true. A false one is a true one
of which one to three numbers are changed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import string
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import PATIENCE, Example, fillers
from reasoning_jax.tasks.fillers import prompt as prompt
from reasoning_jax.tasks.fillers import target as target

MAX_NUMBERS = 20
LETTERS = string.ascii_uppercase[:MAX_NUMBERS]  # of the numbers, in their order
DIGITS = string.digits
ANSWERS = ("True", "False")
# A number's first digit has a space before it, and is another symbol than its other digits.
ALPHABET = (*(f" {symbol}" for symbol in (*DIGITS, *LETTERS, *ANSWERS)), *fillers.SYMBOLS, *DIGITS)
CHANGED = 3 / 4  # of the geometric distribution of how many numbers of a triple are changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(fillers.FillerConfig):
    num_numbers: int = key(6, between(3, MAX_NUMBERS))
    dimension: int = key(2, between(1, 6))  # digits of a number
    num_fillers: int = key(15, between(0, 1000))  # before "="; as many as pairs is the paper's way


def load(cfg: ConfigDict, split: str) -> Sequence[fillers.Row]:
    """The questions of a split; as ``fillers.load``."""
    return fillers.load(cfg, split, functools.partial(_draw, cfg=cfg))


def _draw(rng: np.random.Generator, cfg: ConfigDict) -> tuple[str, str, str]:
    truth = bool(rng.random() < 0.5)
    numbers = draw_numbers(rng, cfg.num_numbers, cfg.dimension, truth)
    question = " ".join("".join(map(str, number)) for number in numbers.tolist())
    return question, str(truth), "".join(pair_labels(rng, numbers))


# ---- questions -----------------------------------------------------------------------------------


@functools.cache
def _triples(n: int) -> np.ndarray:
    """All i < j < k < n, [T, 3]."""
    return np.array(list(itertools.combinations(range(n), 3)))


def zero_triples(numbers: np.ndarray) -> np.ndarray:
    """The triples of numbers [n, d] that add up to zero, [T, 3]."""
    triples = _triples(len(numbers))
    sums = numbers[triples].sum(axis=1) % 10
    return triples[~sums.any(axis=1)]


def draw_numbers(rng: np.random.Generator, n: int, dimension: int, truth: bool) -> np.ndarray:
    """Numbers [n, dimension], some three of which add up to zero, or none of which do.

    UserError where none is hardly ever so.
    """
    for _ in range(PATIENCE):
        numbers = rng.integers(10, size=(n, dimension))
        triple = rng.permutation(n)[:3]
        numbers[triple[2]] = -numbers[triple[:2]].sum(axis=0) % 10
        if truth:
            return numbers
        for changed in triple[: min(int(rng.geometric(CHANGED)), 3)]:
            place = int(rng.integers(dimension))
            numbers[changed, place] = (numbers[changed, place] + rng.integers(1, 10)) % 10
        if not len(zero_triples(numbers)):
            return numbers
    raise UserError(
        f"config.task.num_numbers: among {n} numbers of config.task.dimension={dimension} digits, "
        "three that add up to zero can hardly be avoided."
    )


def pair_labels(rng: np.random.Generator, numbers: np.ndarray) -> list[str]:
    """A symbol for each pair (i, j), i < j, of numbers [n, d]: one of those that are true."""
    return [labels[int(rng.integers(len(labels)))] for labels in true_labels(numbers)]


def true_labels(numbers: np.ndarray) -> list[list[str]]:
    """Of each pair, the letters of its third numbers, or else the digits of its sum."""
    triples = {tuple(triple) for triple in zero_triples(numbers).tolist()}
    labels = []
    for first, second in itertools.combinations(range(len(numbers)), 2):
        thirds = []
        for third in range(len(numbers)):
            if tuple(sorted((first, second, third))) in triples:
                thirds.append(f" {LETTERS[third]}")
        total = ((numbers[first] + numbers[second]) % 10).tolist()
        labels.append(thirds or [f" {total[0]}", *map(str, total[1:])])
    return labels


# ---- answers -------------------------------------------------------------------------------------


def extract(text: str) -> str | None:
    """The text after the last "=", or all of it, where that is True or False."""
    return fillers.extract_one_of(text, ANSWERS)


def steps(text: str) -> int:
    """Pairs before the answer."""
    return len(_labels(text))


def _labels(text: str) -> list[str]:
    """The symbols before "=", such as " 3", "3" or " C"; any other character is one too."""
    worked, mark, _ = text.partition(" =")
    labels: list[str] = []
    for character in worked if mark else "":
        if labels and labels[-1] == " ":
            labels[-1] = f" {character}"
        else:
            labels.append(character)
    return labels


def wrong_line(text: str, example: Example) -> int | None:
    """0, the only line, where a pair's symbol or the answer is false; else None."""
    numbers = np.array([[int(digit) for digit in number] for number in example.question.split()])
    if extract(text) != example.answer:
        return 0
    labels = _labels(text)
    allowed = true_labels(numbers)
    if labels and len(labels) != len(allowed):
        return 0
    is_true = all(label in true for label, true in zip(labels, allowed, strict=False))
    return None if is_true else 0


def difficulty(example: Example) -> tuple[str, int]:
    return "true", int(example.answer == "True")
