"""ProsQA's sentences, and the records of its published files (arXiv:2412.06769)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks.graphs import Graph, GraphExample
from reasoning_jax.training import data

ASKED = re.compile(r"Is (\w+) a (\w+) or (\w+)\?$")
FACT = re.compile(r"(\w+) is a (\w+)")


def sentence(parent: str, child: str) -> str:
    return f"{parent} is a {child}." if parent[0].isupper() else f"Every {parent} is a {child}."


def lines_of(sentences: Sequence[str]) -> str:
    """A sentence a line, each after the space that its first word's symbol has."""
    return "\n".join(f" {sentence}" for sentence in sentences)


def read(record: data.Record, id: int, where: str) -> GraphExample:
    """The question of a published record; UserError, naming ``where``, for what does not fit."""
    question, answer = text_files.check_texts(record, ("question", "answer"), where)
    steps = _texts(record, "steps", where)
    words = _texts(record, "idx_to_symbol", where)
    asked = ASKED.search(question)
    if asked is None:
        raise UserError(f"{where}: 'question' does not end with 'Is X a Y or Z?'.")
    for word in asked.groups():
        if word not in words:
            raise UserError(f"{where}: {word[:40]!r} is asked for and not in 'idx_to_symbol'.")
    root, first, second = (words.index(word) for word in asked.groups())
    edges = _edges(record.get("edges"), len(words), where)
    graph = Graph(edges=edges, root=root, candidates=(first, second))
    try:
        expected = sentence(words[root], words[graph.answer])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if answer.strip() != expected:
        raise UserError(f"{where}: 'answer' is {answer[:40]!r}, but by 'edges' {expected!r}.")
    return GraphExample(
        id=id,
        question=question,
        answer=expected,
        rationale=lines_of(steps),
        where=where,
        graph=graph,
        names=tuple(f" {word}" for word in words),
    )


def _texts(record: data.Record, name: str, where: str) -> list[str]:
    values = record.get(name)
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {name!r} must be a list of texts.")
    for value in values:
        problem = text_files.text_problem(value)
        if problem is not None:
            raise UserError(f"{where}: a text in {name!r} {problem}.")
    return [value.strip() for value in values]


def _edges(values: object, num_nodes: int, where: str) -> tuple[tuple[int, int], ...]:
    pairs = values if isinstance(values, list) else [None]
    for pair in pairs:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(n) is int and 0 <= n < num_nodes for n in pair):
            raise UserError(f"{where}: 'edges' must be a list of pairs of numbers of nodes.")
    return tuple((parent, child) for parent, child in pairs)
