"""Parity: is the number of ones odd? With filler tokens, or the bits in order (arXiv:2505.21024).

    " 0 1 1 0 1 . . . . . =" " odd"        a row with fillers
    " 0 1 1 0 1" " 1 1 1 0 0 = odd"        a worked row
    " 0 1 1 0 1 =" " odd"                  immediately, num_fillers=0

Symbol i of a worked row says whether there are i ones, which each position can find out by itself;
the parity is then their sum with alternating signs. So two layers can represent it where there are
as many positions as bits to compute in. Elsewhere it is a step function of the count, with as many
steps as bits, or takes more layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import Example, fillers
from reasoning_jax.tasks.fillers import prompt as prompt
from reasoning_jax.tasks.fillers import target as target

BITS = ("0", "1")
ANSWERS = ("even", "odd")
ALPHABET = (*(f" {symbol}" for symbol in (*BITS, *ANSWERS)), *fillers.SYMBOLS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(fillers.FillerConfig):
    num_bits: int = key(20, between(2, 1000))


def load(cfg: ConfigDict, split: str) -> Sequence[fillers.Row]:
    """The questions of a split; as ``fillers.load``."""
    return fillers.load(cfg, split, functools.partial(_draw, num_bits=cfg.num_bits))


def _draw(rng: np.random.Generator, num_bits: int) -> tuple[str, str, str]:
    bits = rng.integers(2, size=num_bits).tolist()
    question = " ".join(map(str, bits))
    return question, ANSWERS[sum(bits) % 2], in_order(question)


def in_order(question: str) -> str:
    """The ones of a question, and then its zeros, each after a space."""
    return "".join(f" {bit}" for bit in sorted(question.split(), reverse=True))


def extract(text: str) -> str | None:
    """The text after the last "=", or all of it, where that is even or odd."""
    return fillers.extract_one_of(text, ANSWERS)


def steps(text: str) -> int:
    """Bits before the answer."""
    working, mark, _ = text.partition("=")
    return len(working.split()) if mark else 0


def wrong_line(text: str, example: Example) -> int | None:
    """0, the only line, where the answer or a symbol before it is false; else None."""
    working, mark, _ = text.partition(" =")
    is_true = not mark or working in ("", in_order(example.question))
    return None if is_true and extract(text) == example.answer else 0


def difficulty(example: Example) -> tuple[str, int]:
    return "odd", int(example.answer == "odd")
