r"""Seed data of rule cards, as people might have written it: mixed responses, noisy judgements.

    " START 3 ; HAS 5 2 [W]"                              " 3 5 1 5"
    " [J] START 3 ; HAS 5 2 [W] 3 5 1 . [V]"              " START 3 + HAS 5 2 - Score: 1"
    " [J] START 3 ; EVEN [A] 3 1 5 [B] 4 . 1 5 [V]"       " START 3 + - EVEN - + [[A]]"
    " [J] START 3 ; EVEN [A] 3 1 5 [B] 4 . 1 5 [T]"       " EVEN START [V] EVEN - + ... [[A]]"
    " [J] START 3 ; EVEN [T]"                             " EVEN START"
    " [J] START 3 ; HAS 5 2 [S]"                          " START 3\n HAS 5 2"
    " [J] EVEN [A] 3 1 5 [B] 4 . 1 5 [S]"                 " EVEN - + [A] 0 [B] 1"
    " [M] EVEN [W] 4 . 1 5 [A] EVEN - Score: 0 [B] EVEN + Score: 1 [V]"    " EVEN + [[B]]"
    " [P] NOT 4 ; SORTED [P] CHECK [P]"                   " START 3 ; HAS 5 2"

A judgement goes through the rules and marks each, and so reaches its score, or its verdict, by a
working. Judges err evenly, and some are taken in by length: what a long response does not follow,
they mark as followed more often than that (``bias``). A plan ([T]) says which rules are looked at,
in which order; it may leave some out, and the verdict is of the others. Of two judgements ([M]) the
better one agrees more with a third. The two forms with [S] are calls of a system (systems/bsm.py):
the rules of a card, a line each, and marks for one rule, 1 where it is followed.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.tasks import TENTHS, Example
from reasoning_jax.tasks.cards import HARD, LAST, Card, marks, text_of, writing

WRITE, THINK, JUDGE, META, INVENT, VERDICT = "[W]", "[T]", "[J]", "[M]", "[P]", "[V]"
SYSTEM = "[S]"
THOUGHT, RESPONSE = "<think>", "</think>"
FOLLOWED, NOT_FOLLOWED = "+", "-"
LONG = 12  # symbols, from which a response takes judges in
SHOWN_CARDS = 2  # before one that is to be invented
LOOKED_AT = 0.8  # how often a plan has a rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardExample(Example):
    card: Card = ()  # () where none is to be followed
    thinks: bool | None = None  # whether it is asked to; None: as config.task.thoughts says


def draw_task(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """A card and a response to it."""
    card = training_card(rng, cfg)
    response = writing.draw_response(rng, card, cfg.followed)
    thinks = bool(rng.random() < cfg.thinking)
    return CardExample(
        id=0,
        question=text_of(card),
        answer=" ".join(response),
        rationale=f" {thought(rng, card, response)}" if thinks else "",
        card=card,
        thinks=thinks,
    )


def draw_score(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """A response to be scored, and a judgement of it."""
    card = training_card(rng, cfg)
    response = writing.draw_response(rng, card, cfg.followed)
    marked = noisy_marks(rng, card, response, cfg)
    return CardExample(
        id=0,
        question=f"{JUDGE} {text_of(card)} {WRITE} {' '.join(response)} {VERDICT}",
        answer=f"Score: {sum(marked)}",
        rationale=f" {text_of_marks(card, marked)}",
    )


def draw_pair(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """Two responses to be compared, and a verdict, which may begin with a plan."""
    is_planned = bool(cfg.planned) and rng.random() < cfg.planned
    while True:
        card = training_card(rng, cfg)
        order = draw_order(rng, card) if is_planned else card
        first, second = (writing.draw_response(rng, card, cfg.followed) for _ in range(2))
        marked = [noisy_marks(rng, order, response, cfg) for response in (first, second)]
        if sum(marked[0]) != sum(marked[1]):
            break
    mark = THINK if is_planned else VERDICT
    plan = f" {text_of_plan(order)} {VERDICT}" if is_planned else ""
    return CardExample(
        id=0,
        question=f"{JUDGE} {text_of(card)} [A] {' '.join(first)} [B] {' '.join(second)} {mark}",
        answer="[[A]]" if sum(marked[0]) > sum(marked[1]) else "[[B]]",
        rationale=f"{plan} {text_of_marks(order, *marked)}",
    )


def draw_plan(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """How to judge the responses to a card, before any is seen."""
    card = training_card(rng, cfg)
    return CardExample(
        id=0,
        question=f"{JUDGE} {text_of(card)} {THINK}",
        answer=text_of_plan(draw_order(rng, card)),
        rationale="",
    )


def draw_order(rng: np.random.Generator, card: Card) -> Card:
    """The rules that are looked at, one or more of them, in a random order."""
    while True:
        order = [card[i] for i in rng.permutation(len(card)) if rng.random() < LOOKED_AT]
        if order:
            return tuple(order)


def text_of_plan(order: Card) -> str:
    return " ".join(rule.kind for rule in order)


def draw_meta(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """Two judgements of a response to be compared, and a verdict."""
    while True:
        card = training_card(rng, cfg)
        response = writing.draw_response(rng, card, cfg.followed)
        first, second, own = (noisy_marks(rng, card, response, cfg) for _ in range(3))
        in_common = [sum(a == b for a, b in zip(own, one, strict=True)) for one in (first, second)]
        if in_common[0] != in_common[1]:
            break
    shown = f"{text_of(card)} {WRITE} {' '.join(response)}"
    judgements = f"[A] {_judgement(card, first)} [B] {_judgement(card, second)}"
    return CardExample(
        id=0,
        question=f"{META} {shown} {judgements} {VERDICT}",
        answer="[[A]]" if in_common[0] > in_common[1] else "[[B]]",
        rationale=f" {text_of_marks(card, own)}",
    )


def _judgement(card: Card, marked: Sequence[bool]) -> str:
    return f"{text_of_marks(card, marked)} Score: {sum(marked)}"


def draw_branch(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """The rules of a card, a line each."""
    card = training_card(rng, cfg)
    question = f"{JUDGE} {text_of(card)} {SYSTEM}"
    return CardExample(id=0, question=question, answer="\n ".join(map(str, card)), rationale="")


def draw_solve(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """Two responses to a card, and marks for one of its rules; the others are not shown.

    That rule alone may be a card that a held-out split asks.
    """
    card = training_card(rng, cfg)
    rule = writing.pick(rng, card)
    first, second = (writing.draw_response(rng, card, cfg.followed) for _ in range(2))
    [[a], [b]] = (noisy_marks(rng, (rule,), response, cfg) for response in (first, second))
    return CardExample(
        id=0,
        question=f"{JUDGE} {rule} [A] {' '.join(first)} [B] {' '.join(second)} {SYSTEM}",
        answer=f"[A] {int(a)} [B] {int(b)}",
        rationale=f" {text_of_marks((rule,), [a], [b])}",
    )


def draw_invented(rng: np.random.Generator, cfg: ConfigDict) -> CardExample:
    """A card to be written after others."""
    *shown, card = (training_card(rng, cfg) for _ in range(SHOWN_CARDS + 1))
    listed = " ".join(f"{INVENT} {text_of(one)}" for one in shown)
    return CardExample(id=0, question=f"{listed} {INVENT}", answer=text_of(card), rationale="")


def training_card(rng: np.random.Generator, cfg: ConfigDict) -> Card:
    """A card that no held-out split asks."""
    while True:
        card = writing.draw_card(rng, cfg.hard)
        if is_of_training(card):
            return card


def is_of_training(card: Card) -> bool:
    """Whether no held-out split can ask it."""
    return zlib.crc32(text_of(card).encode()) % 10 in TENTHS["train"]


def noisy_marks(
    rng: np.random.Generator, card: Card, response: Sequence[str], cfg: ConfigDict
) -> list[bool]:
    """What a judge says of each rule: true with probability ``judged``, but for the bias."""
    marked = []
    for is_followed in marks(card, response):
        says = is_followed if rng.random() < cfg.judged else not is_followed
        if not is_followed and len(response) >= LONG and rng.random() < cfg.bias:
            says = True
        marked.append(says)
    return marked


def text_of_marks(order: Card, *marked: Sequence[bool]) -> str:
    """Each rule, and the marks of each response."""
    words = []
    for rule, *own in zip(order, *marked, strict=True):
        words += [str(rule), *(FOLLOWED if one else NOT_FOLLOWED for one in own)]
    return " ".join(words)


def thought(rng: np.random.Generator, card: Card, response: Sequence[str]) -> str:
    """Nothing, a draft, or a draft with what a hard rule asks for after each symbol; at random.

    A draft is the response less its last symbol.
    """
    hard = [rule for rule in card if rule.kind in HARD]
    kind = int(rng.integers(3))
    words: list[str] = []
    for i, symbol in enumerate(response[:-1]):
        words += [symbol] if kind > 0 else []
        words += [LAST[rule.kind](rule, response[: i + 1]) for rule in hard if kind > 1]
    return " ".join([THOUGHT, *words, RESPONSE])
