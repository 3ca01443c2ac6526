"""ProsQA's questions in symbols, a word a node, as in arXiv:2505.12514.

    " Tom terpus | terpus brimpus | ... [Q] lempus scrompus [R] Tom"
    " terpus brimpus lempus [A] lempus"

Graphs, words, splits and the order of the facts are those of the task prosqa, whose sentences have
four times as many tokens. A step is a node, where it is a sentence there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax.tasks import Example
from reasoning_jax.tasks.graphs import edge_list, prosqa_questions, prosqa_text, step_difficulty
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
    """The examples of a split; UserError, naming file and record, for what cannot be read."""
    return [_in_symbols(example) for example in prosqa_questions.load(cfg, split)]


def _in_symbols(example: Example) -> Example:
    edges = prosqa_text.FACT.findall(example.question)
    asked = prosqa_text.ASKED.search(example.question)
    path = prosqa_text.FACT.findall(example.rationale or "")
    candidates: list[str] = []
    if asked is None:  # of a walk: from where it begins
        root = path[0][0]
    else:
        root, *candidates = asked.groups()
    return dataclasses.replace(
        example,
        question=edge_list.question(edges, candidates, root),
        answer=example.answer.removesuffix(".").rpartition(" ")[2],
        rationale=None if example.rationale is None else edge_list.path(node for _, node in path),
    )


def extract(text: str) -> str | None:
    """The word after the last [A], where nothing else follows it."""
    return edge_list.extract(text, WORDS)


def difficulty(example: Example) -> tuple[str, int]:
    return step_difficulty(example, steps)
