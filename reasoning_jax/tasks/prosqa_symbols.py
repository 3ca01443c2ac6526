"""ProsQA's questions in symbols, a word a node, as in arXiv:2505.12514.

    " Tom terpus | terpus brimpus | ... [Q] lempus scrompus [R] Tom"
    " terpus brimpus lempus [A] lempus"

Graphs, words, splits and the order of the facts are those of the task prosqa, whose sentences have
twice as many tokens, and its solutions five times as many. A step is a node, where it is a sentence
there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example
from reasoning_jax.tasks.graphs import (
    GraphExample,
    edge_list,
    prosqa_questions,
    prosqa_text,
    step_difficulty,
)
from reasoning_jax.tasks.graphs.edge_list import prompt as prompt
from reasoning_jax.tasks.graphs.edge_list import step_ends as step_ends
from reasoning_jax.tasks.graphs.edge_list import steps as steps
from reasoning_jax.tasks.graphs.edge_list import target as target
from reasoning_jax.tasks.graphs.edge_list import wrong_line as wrong_line
from reasoning_jax.tasks.graphs.prosqa_graphs import WORDS
from reasoning_jax.tasks.graphs.prosqa_questions import Config as Config

FOLDER = "prosqa"
ALPHABET = (*(f" {word}" for word in WORDS), *edge_list.MARKS)


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; UserError, naming file and record, for what cannot be read.

    Also for keys that ask for an answer in words.
    """
    for name, default in (("extraction", ""), ("prompting", "few_shot")):
        if cfg[name] != default:
            raise UserError(
                f"config.task.{name}: {cfg[name]} does not go with symbols; prosqa has words."
            )
    return [_in_symbols(example) for example in prosqa_questions.load(cfg, split)]


def _in_symbols(example: Example) -> Example:
    edges = prosqa_text.FACT.findall(example.question)
    asked = prosqa_text.ASKED.search(example.question)
    path = prosqa_text.FACT.findall(example.rationale or "")
    if example.rationale and len(path) != len(example.rationale.split("\n")):
        raise UserError(f"{example.where}: a step is not of the form 'Every X is a Y.'.")
    if isinstance(example, GraphExample) and not _are_edges(edges, example):
        raise UserError(f"{example.where}: the facts of 'question' are not those of 'edges'.")
    candidates: list[str] = []
    if asked is None:  # of a walk: from where it begins
        root = path[0][0]
    else:
        root, *candidates = asked.groups()
    return dataclasses.replace(
        example,
        question=edge_list.question_of(edges, candidates, root),
        answer=example.answer.removesuffix(".").rpartition(" ")[2],
        rationale=None
        if example.rationale is None
        else edge_list.path_of(node for _, node in path),
    )


def _are_edges(facts: Sequence[tuple[str, str]], example: GraphExample) -> bool:
    names = [name.strip() for name in example.names]
    edges = [(names[parent], names[child]) for parent, child in example.graph.edges]
    return sorted(facts) == sorted(edges)


def extract(text: str) -> str | None:
    """The word after the last [A], where nothing else follows it."""
    return edge_list.extract(text, WORDS)


def difficulty(example: Example) -> tuple[str, int]:
    return step_difficulty(example, steps)
