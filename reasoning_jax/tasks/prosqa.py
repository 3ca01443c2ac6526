"""ProsQA: which of two concepts a person is, by a chain of "every X is a Y" (arXiv:2412.06769).

    Every terpus is a brimpus. Tom is a terpus. ... Is Tom a lempus or scrompus?
     Tom is a terpus.
     Every terpus is a brimpus.
     Every brimpus is a lempus.
    #### Tom is a lempus.

Whole words are symbols of the alphabet. The splits are those of ``graphs/prosqa_questions.py``.
"""

from __future__ import annotations

import re

from ml_collections import ConfigDict

from reasoning_jax.answers import conventions
from reasoning_jax.tasks import Example
from reasoning_jax.tasks.graphs import children, distances, prosqa_text, step_difficulty
from reasoning_jax.tasks.graphs.prosqa_graphs import WORDS as NAMES
from reasoning_jax.tasks.graphs.prosqa_questions import Config as Config
from reasoning_jax.tasks.graphs.prosqa_questions import load as load

KIND = "the statement"
WORDS = ("Every", "is", "a", "Is", "or", *NAMES)
ALPHABET = (*(f" {word}" for word in WORDS), ".", "?", "\n", "####", " ####")
STATEMENT = re.compile(r"\s*([A-Z][a-z]*) is a ([a-z]+)\s*\.?\s*")


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question on a line; the hint is the answer after it, as solutions end with it."""
    hinted = "" if hint is None else f" #### {hint}"
    return f" {example.question.strip()}{hinted}\n"


def target(example: Example, direct: bool = False) -> str:
    if not example.answer:  # of a walk
        return example.rationale
    answer = f"#### {example.answer}"
    return answer if direct else f"{example.rationale}\n{answer}"


def parse(answer: str) -> str | None:
    """ "Tom is a lempus.", where an answer is such a statement and nothing else."""
    stated = STATEMENT.fullmatch(answer)
    return None if stated is None else f"{stated[1]} is a {stated[2]}."


def extract(text: str) -> str | None:
    """The statement after "####"."""
    return conventions.hashes(text, parse)


def convention(cfg: ConfigDict) -> str:
    return "hashes"


def steps(text: str) -> int:
    """Lines before the answer."""
    return len([line for line in text.partition("####")[0].split("\n") if line.strip()])


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that the question does not say, or that begins elsewhere than the last ended.

    Also the line of the answer, where it is false. The first line may be about any concept that the
    person is: thoughts may have taken the steps before it.
    """
    if not example.answer:  # of a walk
        return None if text == example.rationale else 0
    asked = prosqa_text.ASKED.search(example.question)
    person = asked[1] if asked else ""
    subjects = set(distances(person, children(prosqa_text.FACT.findall(example.question))))
    for number, line in enumerate(text.split("\n")):
        if "####" in line:
            return None if extract(line) == example.answer else number
        sentence = line.strip()
        named, _, concept = sentence.removeprefix("Every ").removesuffix(".").partition(" is a ")
        if named not in subjects or f" {sentence}" not in f" {example.question}":
            return number
        subjects = {concept}
    return None


def difficulty(example: Example) -> tuple[str, int]:
    return step_difficulty(example, steps)
