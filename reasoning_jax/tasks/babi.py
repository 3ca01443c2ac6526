"""bAbI: twenty kinds of questions about short stories, made in small worlds (arXiv:1502.05698).

    Q: Ben walked to the barn. Ada took the map. Ada went to the garden. Where is the map?
    A: Ada took the map.
     Ada went to the garden.
     The answer is garden.

The rationale is the statements that answer the question, and in some forms what follows from them.
Stories and words are our own. A level says how many statements a story has, how many of them
matter, or both: ``stories/`` has the numbers. Whole words are symbols of the alphabet.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.answers import conventions
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, each, key, one_of
from reasoning_jax.tasks import Example, GeneratedConfig, QuestionConfig, Task, generated, stories
from reasoning_jax.tasks.stories import (
    moves,
    oracle_relations,
    oracle_worlds,
    orders,
    pronouns,
    relations,
    rules,
    things,
)

FAMILIES = (moves, pronouns, things, relations, orders, rules)
FORMS = {name: form for family in FAMILIES for name, form in family.FORMS.items()}
ORACLES = {**oracle_worlds.ORACLES, **oracle_relations.ORACLES}
COUNTED = {str(number): word for number, word in enumerate(things.NUMBERS)}  # in digits
ANSWER = "The answer is"
SIGNS = (".", "?", "\n", "Q:", "\nA:", f" {ANSWER}")
SYMBOLS = [*SIGNS, *stories.WORDS]
SYMBOLS += [word for family in FAMILIES for word in family.WORDS]
SYMBOLS += [f" {word}" for form in FORMS.values() for sort in form.answers for word in sort]
ALPHABET = tuple(dict.fromkeys(SYMBOLS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratedConfig, QuestionConfig):
    form: str = key("one_fact", one_of(*FORMS))  # which of the twenty kinds of questions
    # Easy to hard; where there are several, each question has one of them.
    levels: tuple[int, ...] = key((1, 2, 3, 4, 5), each(between(1, stories.LEVELS)))
    # Those of "given"; where they are the same, "given" has the questions of "train".
    given_levels: tuple[int, ...] = key((1, 2, 3, 4, 5), each(between(1, stories.LEVELS)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoryExample(Example):
    form: str
    level: int


def load(cfg: ConfigDict, split: str) -> Sequence[StoryExample]:
    """The questions of a split; UserError for an unknown one, and where there is no level."""
    name = "given_levels" if split == "given" else "levels"
    if not cfg[name]:
        raise UserError(f"config.task.{name}: () names no level.")
    return generated(cfg, split, functools.partial(_draw, form=cfg.form, levels=cfg[name]))


def _draw(rng: np.random.Generator, form: str, levels: Sequence[int]) -> StoryExample:
    level = stories.one(rng, levels)
    story = FORMS[form].draw(rng, level)
    return StoryExample(
        id=0,
        question=story.question,
        answer=story.answer,
        rationale="\n".join(f" {line}" for line in story.lines),
        form=form,
        level=level,
    )


# ---- prompts and answers -------------------------------------------------------------------------


def configured(task: Task, cfg: ConfigDict) -> Task:
    """Lines are compared with those of the story, after which answers are marked in one way."""
    if cfg.extraction:
        task = dataclasses.replace(task, wrong_line=lambda text, example: None)
    return task


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the answer, stated after the question."""
    hinted = "" if hint is None else f" {ANSWER} {hint}."
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    answer = f" {ANSWER} {example.answer}."
    return answer if direct else f"{example.rationale}\n{answer}"


def extract(text: str) -> str | None:
    """What follows the last "the answer is", to the end of that sentence."""
    return conventions.answer_is(text, conventions.any_text)


def reading(answer: str, example: Example) -> str | None:
    """The words of an answer, in lower case, without articles; a number as a word.

    Things that a person has are put in alphabetical order, as a list says nothing of it.
    """
    listed = re.split(r",\s*(?:and\s+)?|\s+and\s+", answer.strip().lower())
    items = [re.sub(r"^(?:in )?(?:the|an?) ", "", item.strip()) for item in listed]
    items = [COUNTED.get(item, item) for item in items if item]
    if getattr(example, "form", "") == "lists":
        items.sort()
    return ", ".join(items) or None


def steps(text: str) -> int:
    """Lines before the one that states the answer."""
    return len([line for line in text.partition(ANSWER)[0].split("\n") if line.strip()])


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that the story does not say, and that does not follow from it.

    Also that of the answer, where it is false, and the last one where there is no answer.
    """
    oracle = ORACLES.get(getattr(example, "form", ""))
    if oracle is None:
        return None
    statements, asked = stories.sentences(example.question)
    supported = {*statements, *oracle(statements, asked).conclusions}
    lines = [line.strip() for line in text.split("\n")]
    for number, line in enumerate(lines):
        if line.startswith(ANSWER):
            answer = reading(extract(line) or "", example)
            return None if answer == reading(example.answer, example) else number
        if line not in supported:
            return number
    return len(lines) - 1


def difficulty(example: Example) -> tuple[str, int]:
    """The level; of a story that was not made here, 0."""
    return "level", getattr(example, "level", 0)
