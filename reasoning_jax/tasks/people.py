"""Lists of invented people, whose drafts hold people who do not belong (arXiv:2309.11495).

    " who city c7 :" " p5 p88 p17 p3 p900"       a list, asked: anyone who lives in c7
    " city p17 ?" " c7"                          a fact: seen often, and only in this direction

Documents of "train" and "given" have each fact often and few lists, and whoever has learned that
c7 is p17's city does not know by it who lives in c7. The others show what each call of the chain of
verification goes on with, in the forms of systems/prompts/symbols (facts/verification.py).

"validation" and "test" ask for lists. A list is right where all its people belong, and scores the
fraction that does: its precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, check_unused, key
from reasoning_jax.tasks import IDS, Example, Task, facts
from reasoning_jax.tasks.facts import World, verification
from reasoning_jax.tasks.facts import prompt as prompt
from reasoning_jax.tasks.facts import target as target
from reasoning_jax.tasks.facts.verification import MARKS, NO, NONE, YES

GRADER = "scored"
ALPHABET = facts.alphabet(facts.MOST_PEOPLE, facts.MOST_VALUES, MARKS)
SPLITS = ("train", "given", "validation", "test")
NAMES = frozenset(facts.PEOPLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(facts.FactConfig):
    num_names: int = key(5, between(1, 20))  # of a list
    # Fractions of the documents: lists, and what calls go on with. The others are facts.
    lists: float = key(0.003, between(0, 1))
    calls: float = key(0.3, between(0, 1))
    # Of texts with questions and answers: those whose answers repeat what the list claims. Where it
    # is less than half, the likelier answer is the true one.
    consistent: float = key(0.5, between(0, 1))


def configured(task: Task, cfg: ConfigDict) -> Task:
    """The task with the symbols of its own people alone."""
    alphabet = facts.alphabet(cfg.num_people, cfg.num_values, MARKS)
    return dataclasses.replace(task, ALPHABET=alphabet)


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The documents or questions of a split; UserError for an unknown one, or keys that clash."""
    facts.check_split(cfg.name, split, SPLITS)
    if cfg.lists + cfg.calls > 1:
        raise UserError(
            f"config.task.lists, calls: {cfg.lists:g} and {cfg.calls:g} add up to more than 1."
        )
    if cfg.num_people < cfg.num_values * cfg.num_names:
        raise UserError(
            f"config.task.num_people: {cfg.num_people} people of config.task.num_values "
            f"{cfg.num_values} leave no {cfg.num_names} (config.task.num_names) for each."
        )
    if not cfg.calls:
        check_unused(Config, cfg, ("consistent",), "config.task", "with calls=0")
    world = World(cfg)
    if split in ("train", "given"):
        return verification.documents(world, cfg)
    questions = _questions(world, cfg)
    held_out = len(questions) // 3  # of validation
    return questions[:held_out] if split == "validation" else questions[held_out:]


def _questions(world: World, cfg: ConfigDict) -> list[Example]:
    """All questions for lists, those of validation first; an answer has all who belong."""
    asked = [(name, value) for name in facts.ATTRIBUTES for value in world.values[name]]
    order = np.random.default_rng([cfg.seed, 1]).permutation(len(asked))
    questions = []
    for number, (name, value) in enumerate(asked[i] for i in order):
        question = verification.question_of(name, value)
        answer = " ".join(world.members(name, value))
        questions.append(Example(id=IDS + number, question=question, answer=answer))
    return questions


# ---- the oracle ----------------------------------------------------------------------------------


def extract(text: str) -> str | None:
    """The people that a text names, each once; "none" where it names nobody in this word.

    A name before "no" is not named: so final lists say what they take back.
    """
    words = text.split()
    if words in ([], [NONE]):
        return NONE if words else None
    names = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in NAMES:
            names += [word] if after != NO else []
        elif word not in (YES, NO):
            return None
    return " ".join(dict.fromkeys(names)) or NONE


def right_and_wrong(answer: str, example: Example) -> tuple[int, int]:
    """How many people of a list belong, and how many do not."""
    named = [] if answer == NONE else answer.split()
    right = len(set(named) & set(example.answer.split()))
    return right, len(named) - right


def score(answer: str, example: Example) -> float:
    """The precision of a list; 0 of one without people."""
    right, wrong = right_and_wrong(answer, example)
    return right / max(right + wrong, 1)


def steps(text: str) -> int:
    """People named, also those that are taken back."""
    return len(NAMES.intersection(text.split()))
