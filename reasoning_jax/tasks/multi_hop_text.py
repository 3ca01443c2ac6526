"""Text with computations hidden in it: most tokens are easy, a few need several steps of thought.

A document is made for Quiet-STaR (arXiv:2403.09629): an oracle knows which tokens a thought helps.

    ... X Q B f c h M A Z f h k ... f k b ... T U K ? c -> b R S X          a silent document
    ... T U K ? c -> : c h k b -> b R S X                                   a worked one

Capital letters are easy text: a Markov chain whose entropy is known. "f c h" is a fact:
f(c) = h, where f is a cycle through the symbols of the document, in shuffled order. "? c ->" is
followed by f(f(f(c))), the computed token; in a worked document by the working and "->" first, so
that what is written after "->" is what could be thought there. It begins with c: the token before
each step is what f is applied to.

"train" and "given" are whole documents, without a prompt. "validation" and "test" ask for the last
computed token, after the document up to it (up to ":" in a worked one). "walked" has no easy text:
after all facts it asks for a working that goes once around the cycle, and only that is trained, as
small models hardly learn to look symbols up where most tokens are noise to them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import string
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import Example, GeneratedConfig, generated
from reasoning_jax.tasks.texts.markov import EASY, markov_chain

NODES = string.ascii_lowercase.replace("f", "")  # what facts are about
ALPHABET = tuple(f" {symbol}" for symbol in (*EASY, *NODES, "f", "?", ":", "->"))
WALKED = "walked"
# What the oracle calls a token.
EASY_TOKEN = "easy"
COMPUTED = "computed"
BEFORE_COMPUTED = "before_computed"  # "->", from which the computed token is predicted
WORKING = "working"  # ":" and the steps of a worked document
OTHER = "other"  # facts, questions, and the first token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratedConfig):
    num_facts: int = key(7, between(3, len(NODES)))  # of a document, and so symbols of it
    num_questions: int = key(3, between(1, len(NODES) - 1))  # of a document, each about another
    hops: int = key(3, between(1, len(NODES) - 1))  # how often f is applied
    stretch: int = key(3, between(2, 100))  # easy tokens before each fact and question, and last
    worked: float = key(0.3, between(0, 1))  # the fraction of worked documents


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document(Example):
    """A document: its tokens, and what the oracle calls each."""

    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    is_worked: bool

    @property
    def text(self) -> str:
        return "".join(f" {token}" for token in self.tokens)


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The documents of a split; UserError for an unknown one, and for keys that do not fit."""
    _check(cfg)
    if split == WALKED:
        return generated(cfg, "given", functools.partial(_draw_walk, cfg=cfg))
    documents = generated(cfg, split, functools.partial(_draw, cfg=cfg), others=[WALKED])
    if split not in ("train", "given"):
        return documents
    return [dataclasses.replace(d, question="", rationale=d.text) for d in documents]


def _check(cfg: ConfigDict) -> None:
    if cfg.num_questions >= cfg.num_facts:
        raise UserError(
            f"config.task.num_questions: {cfg.num_questions} must be less than "
            f"config.task.num_facts {cfg.num_facts}."
        )
    # Else f applied so often is no cycle through all symbols: some answers are likelier.
    if math.gcd(cfg.hops, cfg.num_facts) != 1:
        raise UserError(
            f"config.task.hops: {cfg.hops} and config.task.num_facts {cfg.num_facts} must not have "
            "a common divisor."
        )


# ---- documents -----------------------------------------------------------------------------------


def _draw(rng: np.random.Generator, cfg: ConfigDict) -> Document:
    cycle = [NODES[i] for i in rng.permutation(len(NODES))[: cfg.num_facts]]
    following = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    is_worked = bool(rng.random() < cfg.worked)
    parts = []  # (tokens, their kinds)
    for i in rng.permutation(cfg.num_facts):
        parts.append((["f", cycle[i], following[cycle[i]]], [OTHER] * 3))
    for i in rng.permutation(cfg.num_facts)[: cfg.num_questions]:
        parts.append(_question(cycle[i], following, cfg.hops, is_worked))
    easy = markov_chain(rng, cfg.stretch * (len(parts) + 1))
    tokens: list[str] = []
    kinds: list[str] = []
    for number, (own_tokens, own_kinds) in enumerate([*parts, ([], [])]):
        stretch = easy[number * cfg.stretch : (number + 1) * cfg.stretch]
        tokens += stretch + own_tokens
        kinds += [EASY_TOKEN] * len(stretch) + own_kinds
    kinds[0] = OTHER  # no easy token is before it
    last = max(i for i, kind in enumerate(kinds) if kind == COMPUTED)
    asked = last - cfg.hops - 2 if is_worked else last
    return Document(
        id=0,
        question=" ".join(tokens[:asked]),
        answer=tokens[last],
        rationale="".join(f" {token}" for token in tokens[asked:]),
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        is_worked=is_worked,
    )


def _draw_walk(rng: np.random.Generator, cfg: ConfigDict) -> Example:
    cycle = [NODES[i] for i in rng.permutation(len(NODES))[: cfg.num_facts]]
    following = cycle[1:] + cycle[:1]
    facts = "".join(f"f {cycle[i]} {following[i]} " for i in rng.permutation(cfg.num_facts))
    walk = "".join(f" {node}" for node in cycle)
    return Example(id=0, question=f"{facts}? {cycle[0]} -> :", answer="", rationale=walk)


def _question(
    node: str, following: dict[str, str], hops: int, is_worked: bool
) -> tuple[list[str], list[str]]:
    """The tokens of a question and its answer, and their kinds."""
    steps = [node]
    for _ in range(hops):
        steps.append(following[steps[-1]])
    working = ["->", ":", *steps] if is_worked else []
    kinds = [OTHER] * 2 + [OTHER, *[WORKING] * (hops + 2)][: len(working)]
    return ["?", node, *working, "->", steps[-1]], [*kinds, BEFORE_COMPUTED, COMPUTED]


# ---- the oracle ----------------------------------------------------------------------------------


def computed_entropy(cfg: ConfigDict, number: int) -> float:
    """Of the computed token of a silent document's question ``number`` (from 0); nats.

    To a reader who knows the symbols and the answers before, but not what f maps to what. After
    the working, or to a reader who computes, it is 0. f applied ``hops`` times is a random cycle,
    too. Earlier answers are no answer again, nor is the symbol that would close a shorter cycle.
    """
    return math.log(cfg.num_facts - 1 - number)


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The document up to where it is to go on: "" in training. UserError for a hint."""
    if hint is not None:
        raise UserError(
            "multi_hop_text has no place for a hint; where the base model is trained, set "
            "config.base.algorithm.hinted=0."
        )
    return f" {example.question}" if example.question else ""


def target(example: Example, direct: bool = False) -> str:
    answers = direct and example.answer  # a walk has none
    return f" {example.answer}" if answers else example.rationale or ""


def extract(text: str) -> str | None:
    """The token after the first "->", or of the whole text where there is none."""
    _, mark, answer = text.partition("->")
    first = (answer if mark else text).split()[:1]
    return first[0] if first and first[0] in NODES else None


def steps(text: str) -> int:
    """How often f is applied before the first "->"."""
    return max(0, len(_working(text)) - 1)


def _working(text: str) -> list[str]:
    working, mark, _ = text.partition("->")
    return working.replace(":", "").split() if mark else []


def wrong_line(text: str, example: Example) -> int | None:
    """0, the only line, where a step of the working or the answer is false; else None."""
    if not example.answer:  # of a walk
        return None if text == example.rationale else 0
    if extract(text) != example.answer:
        return 0
    tokens = example.question.split()
    facts = [i for i, token in enumerate(tokens) if token == "f"]
    following = {tokens[i + 1]: tokens[i + 2] for i in facts}
    asked = example.question.rpartition("?")[2].split()[:1]
    symbols = _working(text)
    is_true = all(following.get(x) == step for x, step in zip(symbols, symbols[1:], strict=False))
    return None if is_true and symbols[:1] in ([], asked) else 0


def difficulty(example: Example) -> tuple[str, int]:
    return "worked", int(isinstance(example, Document) and example.is_worked)
