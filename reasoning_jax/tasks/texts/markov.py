"""Easy text: capital letters in a Markov chain, whose entropy is known."""

from __future__ import annotations

import functools
import math
import string

import numpy as np

EASY = string.ascii_uppercase
# Of the successors of an easy token, which are others for every one.
SUCCESSORS = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
LANGUAGE = 20240314  # the seed of the Markov chain: one language, whatever config.task.seed


@functools.cache
def _successors() -> list[list[int]]:
    """The successors of each easy token, likeliest first: 26 x 4."""
    symbols = np.tile(np.arange(len(EASY)), (len(EASY), 1))
    shuffled = np.random.default_rng(LANGUAGE).permuted(symbols, axis=-1)
    return shuffled[:, : len(SUCCESSORS)].tolist()


def markov_chain(rng: np.random.Generator, length: int) -> list[str]:
    """Easy tokens; the first is any."""
    found = [int(rng.integers(len(EASY)))]
    successors = _successors()
    for choice in rng.choice(len(SUCCESSORS), size=length - 1, p=SUCCESSORS).tolist():
        found.append(successors[found[-1]][choice])
    return [EASY[i] for i in found]


def easy_entropy() -> float:
    """Of an easy token, given all before it; nats."""
    return -sum(p * math.log(p) for p in SUCCESSORS)
