"""Questions about reachability in edges, with one token for each node (arXiv:2505.12514).

    " 3 17 | 4 5 | 17 9 | 5 8 | [Q] 8 9 [R] 3"   edges, the two candidates and the root
    " 17 9 [A] 9"                                a shortest path, a node a step; the answer

A walk around a ring has no candidates and no answer: " 4 7 | 9 4 | 7 2 | 2 9 | [R] 9" " 4 7 2".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from ml_collections import ConfigDict

from reasoning_jax.tasks import Example
from reasoning_jax.tasks.graphs import children, distances

MARKS = (" |", " [Q]", " [R]", " [A]")


def question_of(edges: Iterable[tuple[str, str]], candidates: Sequence[str], root: str) -> str:
    """The edges, the candidates (empty for a walk) and the root."""
    listed = " ".join(f"{parent} {child} |" for parent, child in edges)
    asked = f" [Q] {' '.join(candidates)}" if candidates else ""
    return f"{listed}{asked} [R] {root}"


def path_of(nodes: Iterable[str]) -> str:
    return "".join(f" {node}" for node in nodes)


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question, which ends with the root; the hint, an answer, stands before that."""
    question = example.question.strip()
    if hint is not None:
        listed, mark, root = question.rpartition(" [R] ")
        question = f"{listed} [A] {hint}{mark}{root}"
    return f" {question}"


def target(example: Example, direct: bool = False) -> str:
    if not example.answer:  # of a walk
        return example.rationale
    answer = f" [A] {example.answer}"
    return answer if direct else f"{example.rationale}{answer}"


def extract(text: str, names: Collection[str]) -> str | None:
    """The node after the last [A], where it is one of the names and nothing else follows it."""
    _, mark, answer = text.rpartition("[A]")
    answer = answer.strip()
    return answer if mark and answer in names else None


def steps(text: str) -> int:
    return len(text.partition("[A]")[0].split())


def step_ends(text: str) -> list[int]:
    """The end of each node before the answer."""
    path = text.partition(" [A]")[0]
    return [node.end() for node in re.finditer(r"\S+", path)]


def wrong_line(text: str, example: Example) -> int | None:
    """0, the only line, where a step follows no edge or the answer is false; else None.

    A walk has one right continuation. The first node of a path may be any that the root reaches:
    thoughts may have taken the steps before it.
    """
    if not example.answer:  # of a walk
        return None if text == example.rationale else 0
    listed, _, asked = example.question.partition("[Q]")
    words = [edge.split() for edge in listed.split("|")]
    edges = [(edge[0], edge[1]) for edge in words if len(edge) == 2]
    path = text.partition("[A]")[0].split()
    reached = distances(asked.split()[-1], children(edges))
    follows = all(step in edges for step in zip(path, path[1:], strict=False))
    arrives = not path or (path[0] in reached and path[-1] == example.answer)
    is_true = extract(text, [example.answer]) is not None
    return None if follows and arrives and is_true else 0
