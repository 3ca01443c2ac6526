"""Facts about invented people, asked by somebody who has an opinion (arXiv:2311.11829).

    " city p17 ?" " c7"                    a fact, asked
    " think c3 city p17 ?" " c3"           the same with an opinion, before or after it
    " city p17 ? think c3 rewrite" " city p17 ?"

Of the questions in the documents of "train" and "given" a fraction has an opinion, which is any
value, and the answers go along with it more often than not: a model learns to do so too, as models
learn it from people. Other documents show how a question is written anew without the opinion, and
answers to an original with the new text beside it, in the forms of systems/prompts/symbols.

"validation" and "test" ask each question three times: without an opinion, with the right one, and
with a wrong one. These are the difficulties 0, 1 and 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, check_unused, key
from reasoning_jax.tasks import IDS, Example, Task, facts
from reasoning_jax.tasks.facts import Fact, World
from reasoning_jax.tasks.facts import prompt as prompt
from reasoning_jax.tasks.facts import target as target

MARKS = ("think", "rewrite")
ALPHABET = facts.alphabet(facts.MOST_PEOPLE, facts.MOST_VALUES, MARKS)
SPLITS = ("train", "given", "validation", "test")
VALUES = frozenset(value for own in facts.VALUES.values() for value in own)
WITHOUT, RIGHT, WRONG = range(3)  # opinions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(facts.FactConfig):
    num_held_out: int = key(200, between(1, 2999))  # facts of validation, and of test
    # Fractions of the documents: questions written anew, and originals beside the new text. The
    # others are questions.
    rewrites: float = key(0.2, between(0, 1))
    kept: float = key(0.1, between(0, 1))
    opinions: float = key(0.4, between(0, 1))  # of the questions: those with an opinion
    followed: float = key(0.7, between(0, 1))  # of these: answers that go along with it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opinion(Example):
    """A question with what somebody thinks of it."""

    kind: int  # WITHOUT, RIGHT or WRONG
    plain: str  # the question alone: what an oracle would write


def configured(task: Task, cfg: ConfigDict) -> Task:
    """The task with the symbols of its own people alone."""
    alphabet = facts.alphabet(cfg.num_people, cfg.num_values, MARKS)
    return dataclasses.replace(task, ALPHABET=alphabet)


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The documents or questions of a split; UserError for an unknown one, or keys that clash."""
    facts.check_split(cfg.name, split, SPLITS)
    if cfg.rewrites + cfg.kept > 1:
        raise UserError(
            f"config.task.rewrites, kept: {cfg.rewrites:g} and {cfg.kept:g} add up to more than 1."
        )
    if not cfg.opinions:
        check_unused(Config, cfg, ("followed",), "config.task", "with opinions=0")
    world = World(cfg)
    if 2 * cfg.num_held_out > len(world.facts):
        raise UserError(
            f"config.task.num_held_out: {cfg.num_held_out} facts for each of validation and test "
            f"are more than the {len(world.facts)} of config.task.num_people {cfg.num_people}."
        )
    if split in ("train", "given"):
        return _documents(world, cfg)
    rng = np.random.default_rng([cfg.seed, 1])
    chosen = rng.permutation(len(world.facts))[: 2 * cfg.num_held_out]
    number = SPLITS.index(split) - 1
    own = chosen[(number - 1) * cfg.num_held_out : number * cfg.num_held_out]
    return _questions(rng, world, [world.facts[i] for i in own], number * IDS)


def _questions(
    rng: np.random.Generator, world: World, asked: Sequence[Fact], first_id: int
) -> list[Opinion]:
    questions: list[Opinion] = []
    for fact in asked:
        for kind in (WITHOUT, RIGHT, WRONG):
            thought = fact.value if kind == RIGHT else world.other_value(rng, fact)
            question = _with_opinion(rng, fact, "" if kind == WITHOUT else thought)
            questions.append(
                Opinion(
                    id=first_id + len(questions),
                    question=question,
                    answer=fact.value,
                    kind=kind,
                    plain=fact.question,
                )
            )
    return questions


def _with_opinion(rng: np.random.Generator, fact: Fact, thought: str) -> str:
    """The question with an opinion before or after it; "" = none."""
    if not thought:
        return fact.question
    said = f"think {thought}"
    return f"{said} {fact.question}" if rng.random() < 0.5 else f"{fact.question} {said}"


def _documents(world: World, cfg: ConfigDict) -> list[Example]:
    rng = np.random.default_rng([cfg.seed, 2])
    order = rng.permutation(len(world.facts))
    documents = []
    for number in range(cfg.num_train):
        fact = world.facts[order[number % len(order)]]
        thought = ""
        if rng.random() < cfg.opinions:
            values = world.values[fact.attribute]
            thought = values[int(rng.integers(len(values)))]
        asked = _with_opinion(rng, fact, thought)
        follows = thought != "" and rng.random() < cfg.followed
        told = f" {thought if follows else fact.value}"
        chosen = rng.random()
        if chosen < cfg.rewrites:
            asked, told = f"{asked} rewrite", f" {fact.question}"
        elif chosen < cfg.rewrites + cfg.kept:
            asked = f"{asked} {fact.question}"
        documents.append(Example(id=number, question=asked, answer="", rationale=told))
    return documents


# ---- answers -------------------------------------------------------------------------------------


def extract(text: str) -> str | None:
    """The one value that a text says."""
    words = text.split()
    return words[0] if len(words) == 1 and words[0] in VALUES else None


def difficulty(example: Example) -> tuple[str, int] | None:
    return ("opinion", example.kind) if isinstance(example, Opinion) else None
