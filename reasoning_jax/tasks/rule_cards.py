"""Rule cards: a world in which the quality of a response is known, for models that judge.

    " START 3 ; HAS 5 2 [W]" " 3 5 1 5"

A response is right where it follows all rules of its card, and scores the fraction of them
otherwise (cards/__init__.py). The split "given" has seed data of several kinds, as cards/seeds.py
draws them: responses of mixed quality, noisy judgements of single ones and of two, cards, and what
the calls of a judge in parts go on with, in the forms of systems/prompts/symbols.
Held-out splits ask for responses to cards that none of these has. With ``thoughts`` a response may
begin with "<think> ... </think>", which is no part of what is judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, check_unused, key
from reasoning_jax.tasks import Example, GeneratedConfig, Task, cards, generated
from reasoning_jax.tasks.cards import seeds

GRADER = "scored"
MARKS = (
    " ;",
    *(f" {mark}" for mark in (seeds.WRITE, seeds.THINK, seeds.JUDGE, seeds.META)),
    *(f" {mark}" for mark in (seeds.INVENT, seeds.VERDICT)),
    *(f" {mark}" for mark in (seeds.THOUGHT, seeds.RESPONSE, "[A]", "[B]")),
    *(f" {mark}" for mark in (seeds.FOLLOWED, seeds.NOT_FOLLOWED)),
    *(f" {mark}" for mark in ("Score:", "[[A]]", "[[B]]")),
)
OF_SYSTEMS = (f" {seeds.SYSTEM}", " [[C]]", "\n")  # what only calls of systems have
ALPHABET = (
    *(f" {symbol}" for symbol in cards.SYMBOLS),
    *(f" {kind}" for kind in cards.KINDS),
    *MARKS,
    *OF_SYSTEMS,
)
CHANGED = 2  # rules of a changed card


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratedConfig):
    hard: float = key(0.3, between(0, 1))  # the fraction of cards that have one hard rule
    thoughts: bool = False  # prompts ask for a thought before the response
    # Of the split "given": the fractions of scored responses, of compared responses, of compared
    # judgements, of invented cards, of plans, of cards split into rules and of responses marked for
    # one rule. The others are responses, of which the fraction ``thinking`` has a thought. Of what
    # compares responses, the fraction ``planned`` has a plan.
    scores: float = key(0.4, between(0, 1))
    pairs: float = key(0.0, between(0, 1))
    metas: float = key(0.0, between(0, 1))
    invented: float = key(0.1, between(0, 1))
    plans: float = key(0.0, between(0, 1))
    branches: float = key(0.0, between(0, 1))
    solved: float = key(0.0, between(0, 1))
    planned: float = key(0.0, between(0, 1))
    thinking: float = key(0.0, between(0, 1))
    followed: float = key(0.6, between(0.2, 1))  # how often a response follows a rule
    judged: float = key(0.85, between(0, 1))  # how often a judgement marks a rule rightly
    bias: float = key(0.25, between(0, 1))  # how often length hides that a rule is not followed


def configured(task: Task, cfg: ConfigDict) -> Task:
    """The task without the symbols of systems where no seed has them: as it was before them."""
    if cfg.branches or cfg.solved:
        return task
    return dataclasses.replace(task, ALPHABET=ALPHABET[: -len(OF_SYSTEMS)])


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; UserError for an unknown one, and for fractions beyond 1."""
    draws = {
        seeds.draw_score: cfg.scores,
        seeds.draw_pair: cfg.pairs,
        seeds.draw_meta: cfg.metas,
        seeds.draw_invented: cfg.invented,
        seeds.draw_plan: cfg.plans,
        seeds.draw_branch: cfg.branches,
        seeds.draw_solve: cfg.solved,
    }
    if sum(draws.values()) > 1:
        raise UserError(
            "config.task.scores, pairs, metas, invented, plans, branches, solved: "
            f"{', '.join(f'{fraction:g}' for fraction in draws.values())} add up to more than 1."
        )

    if not cfg.pairs:
        check_unused(Config, cfg, ("planned",), "config.task", "with pairs=0")
    if not cfg.scores + cfg.pairs + cfg.metas + cfg.solved:
        check_unused(Config, cfg, ("judged", "bias"), "config.task", "without judgements")

    def draw(rng: np.random.Generator) -> seeds.CardExample:
        if split != "given":
            return _asked(rng, cfg)
        left = rng.random()
        for kind, fraction in draws.items():
            left -= fraction
            if left < 0:
                return kind(rng, cfg)
        return seeds.draw_task(rng, cfg)

    return generated(cfg, split, draw)


def _asked(rng: np.random.Generator, cfg: ConfigDict) -> seeds.CardExample:
    card = cards.writing.draw_card(rng, cfg.hard)
    return seeds.CardExample(id=0, question=cards.text_of(card), answer="", card=card)


def invented(text: str, id: int) -> seeds.CardExample | None:
    """The question that a model wrote.

    None where it is no card, contradicts itself, or may be a question of a held-out split.
    """
    card = cards.read_card(text)
    if card is None or cards.contradicts(card) or not seeds.is_of_training(card):
        return None
    return seeds.CardExample(id=id, question=cards.text_of(card), answer="", card=card)


def changed(example: Example, rng: np.random.Generator) -> seeds.CardExample:
    """The same with two rules of its card changed; with its only one, where it has no more."""
    card = cards.read_card(example.question)
    if card is None:
        raise ValueError(f"{example.question!r} is no card.")
    other = cards.writing.change_card(rng, card, CHANGED)
    while not seeds.is_of_training(other):
        other = cards.writing.change_card(rng, card, CHANGED)
    thinks = example.thinks if isinstance(example, seeds.CardExample) else None
    question = cards.text_of(other)
    return seeds.CardExample(id=example.id, question=question, answer="", card=other, thinks=thinks)


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """A card and a mark; what is to be judged, or continued with a card, has its own."""
    if role(example) != "answer":
        return f" {example.question}"
    thinks = example.thinks if isinstance(example, seeds.CardExample) else None
    if thinks is None:
        thinks = cfg.thoughts
    mark = seeds.THINK if thinks else seeds.WRITE
    return f" {example.question} {mark}"


def target(example: Example, direct: bool = False) -> str:
    rationale = "" if direct else example.rationale or ""
    return f"{rationale} {example.answer}"


def role(example: Example) -> str:
    if example.question.startswith((seeds.JUDGE, seeds.META)):
        return "judge"
    return "invent" if example.question.startswith(seeds.INVENT) else "answer"


def judged_part(text: str) -> str | None:
    """What follows the thought; the text where there is none, None where there are several."""
    thought, mark, response = text.partition(seeds.RESPONSE)
    if seeds.RESPONSE in response or seeds.THOUGHT in response:
        return None
    if not mark:
        return None if seeds.THOUGHT in text else text
    return response if thought.strip().startswith(seeds.THOUGHT) else None


def extract(text: str) -> str | None:
    """The response, its symbols one space apart; None where it is none."""
    response = judged_part(text)
    symbols = None if response is None else cards.read_response(response)
    return None if symbols is None else " ".join(symbols)


def score(answer: str, example: Example) -> float:
    """The fraction of the card's rules that the response follows."""
    card = cards.read_card(example.question)
    if card is None:
        raise ValueError(f"{example.question!r} is no card.")
    return cards.quality(card, answer.split()) / len(card)


def difficulty(example: Example) -> tuple[str, int]:
    return "rules", example.question.count(";") + 1
