"""Two-step sums with a sentence that has no bearing on them (GSM-IC, arXiv:2302.00093).

    " p3 has 12 apples . p3 gets 7 . p3 gives 4 . left ?" " 12 + 7 = 19 . 19 - 4 = 15"
    " p3 has 12 apples . p3 friend has 9 apples . p3 gets 7 . p3 gives 4 . left ?"
    the same with " rewrite" after it                       the first question, without its answer

A distractor is in the topic of the problem (the same things) or not (somebody's age); its role
overlaps with the person of the problem (a friend of theirs) or is another person; and its number is
in the range of the problem's numbers or ten times as large and more. That makes eight.

Documents of "train" and "given" are worked problems, and problems that are written anew without
their distractor. "validation" and "test" ask each of other problems nine times: clean, and with
each of the eight.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.ranges import between, check_unused, key
from reasoning_jax.tasks import Example, GeneratedConfig, generated
from reasoning_jax.tasks.facts import PEOPLE
from reasoning_jax.tasks.facts import prompt as prompt

T = TypeVar("T")
MOST = 20  # of a number in a problem
NAMES = PEOPLE[:20]
THINGS = ("apples", "coins", "eggs", "figs", "nuts", "pens")
GETS, GIVES = "gets", "gives"
LARGE = range(30 * MOST + 1, 31 * MOST + 1)  # out of range: no result is a tenth of it
WORDS = ("has", GETS, GIVES, "friend", "is", "years", "left", "?", ".", "+", "-", "=", "rewrite")
NUMBERS = (*(str(n) for n in range(3 * MOST + 1)), *(str(n) for n in LARGE))
ALPHABET = tuple(f" {symbol}" for symbol in (*NAMES, *THINGS, *WORDS, *NUMBERS))
STATED = re.compile(r"= (\d+)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratedConfig):
    num_held_out: int = key(100, between(1, 10**6))  # problems of validation, and of test
    # Fractions of the documents: problems that are written anew, and, of the worked problems,
    # those with a distractor. 0 of the latter: a model that has never met one.
    rewrites: float = key(0.3, between(0, 1))
    distracted: float = key(0.0, between(0, 1))


class Distractor(NamedTuple):
    in_topic: bool
    role_overlap: bool
    in_range: bool


DISTRACTORS = tuple(Distractor(*kind) for kind in itertools.product((True, False), repeat=3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem(Example):
    """A problem; all with one ``plain`` are the same but for their distractor."""

    plain: str
    distractor: Distractor | None = None  # None = clean


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The documents or questions of a split; UserError for an unknown one."""
    if cfg.rewrites == 1:
        check_unused(Config, cfg, ("distracted",), "config.task", "with rewrites=1")
    problems = generated(cfg, split if split != "train" else "given", _draw)
    rng = np.random.default_rng([cfg.seed, 3])
    if split in ("train", "given"):
        return [_document(rng, problem, cfg) for problem in problems]
    questions: list[Problem] = []
    first_id = problems[0].id
    for problem in problems:
        for kind in (None, *DISTRACTORS):
            distracted = _distracted(rng, problem, kind)
            id = first_id + len(questions)
            questions.append(dataclasses.replace(distracted, id=id, rationale=None))
    return questions


def _one_of(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _draw(rng: np.random.Generator) -> Problem:
    """A clean problem with its working."""
    name, thing = _one_of(rng, NAMES), _one_of(rng, THINGS)
    have = int(rng.integers(1, MOST + 1))
    sentences = [f"{name} has {have} {thing}"]
    steps = []
    for _ in range(2):
        gives = have > 0 and rng.random() < 0.5
        count = int(rng.integers(1, min(MOST, have if gives else MOST) + 1))
        left = have - count if gives else have + count
        sentences.append(f"{name} {GIVES if gives else GETS} {count}")
        steps.append(f"{have} {'-' if gives else '+'} {count} = {left}")
        have = left
    question = f"{' . '.join(sentences)} . left ?"
    return Problem(
        id=0,
        question=question,
        answer=str(have),
        rationale=f" {' . '.join(steps)}",
        plain=question,
    )


def _distracted(rng: np.random.Generator, problem: Problem, kind: Distractor | None) -> Problem:
    """The problem with a distractor of this kind after one of its sentences."""
    if kind is None:
        return problem
    *sentences, asked = problem.plain.split(" . ")
    name, _, _, thing = sentences[0].split()
    role = f"{name} friend"
    if not kind.role_overlap:
        role = _one_of(rng, [other for other in NAMES if other != name])
    number = _one_of(rng, range(1, MOST + 1) if kind.in_range else LARGE)
    sentence = f"{role} has {number} {thing}" if kind.in_topic else f"{role} is {number} years"
    sentences.insert(int(rng.integers(1, len(sentences) + 1)), sentence)
    return dataclasses.replace(problem, question=" . ".join([*sentences, asked]), distractor=kind)


def _document(rng: np.random.Generator, problem: Problem, cfg: ConfigDict) -> Problem:
    kind = _one_of(rng, DISTRACTORS)
    if rng.random() < cfg.rewrites:
        # Some have nothing to leave out: what is clean stays as it is.
        distracted = _distracted(rng, problem, kind if rng.random() < 0.8 else None)
        asked = f"{distracted.question} rewrite"
        return dataclasses.replace(
            distracted, question=asked, answer="", rationale=f" {problem.plain}"
        )
    return _distracted(rng, problem, kind if rng.random() < cfg.distracted else None)


# ---- answers -------------------------------------------------------------------------------------


def target(example: Example, direct: bool = False) -> str:
    """The working, or the result alone; of a problem that is written anew, the new text."""
    is_stated = direct and example.answer
    return f" = {example.answer}" if is_stated else example.rationale or ""


def extract(text: str) -> str | None:
    """The number that a working ends with."""
    stated = STATED.search(text)
    return None if stated is None else stated[1]


def steps(text: str) -> int:
    return text.count("=")


def difficulty(example: Example) -> tuple[str, int]:
    return "distractors", int(isinstance(example, Problem) and example.distractor is not None)
