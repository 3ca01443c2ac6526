"""Which of two nodes does the root reach? Graphs in which no shortcut tells (arXiv:2505.12514).

Two graphs with as many layers of the same width stand side by side, each with its own root. The two
candidates are in their last layers, with as many parents. Only then one of the roots is chosen, so
that a rule that does not look at the root is right on half of the questions. How they are written,
``graphs/edge_list.py`` shows.

The split "walked" has rings instead, in which each node has one child, and asks for all of them in
turn. To name them is to look nodes up, which small models learn only where each token that counts
can be known and there are many of them. In a walk and in a path the token before a child is its
parent, and so is a thought without a marker after it: what is learned of one goes over to the
others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, each, key
from reasoning_jax.tasks import Example, GeneratedConfig, generated
from reasoning_jax.tasks.graphs import (
    WALKED,
    Edge,
    Graph,
    GraphExample,
    edge_list,
    parents,
    step_difficulty,
)
from reasoning_jax.tasks.graphs.edge_list import prompt as prompt
from reasoning_jax.tasks.graphs.edge_list import step_ends as step_ends
from reasoning_jax.tasks.graphs.edge_list import steps as steps
from reasoning_jax.tasks.graphs.edge_list import target as target
from reasoning_jax.tasks.graphs.edge_list import wrong_line as wrong_line

NUM_IDS = 30  # a question's nodes have ids from range(NUM_IDS)
NAMES = tuple(f" {id}" for id in range(NUM_IDS))
ALPHABET = (*NAMES, *edge_list.MARKS)
SECOND_PARENT = 0.5  # the probability that a node has two
RING_NODES = 16
MAX_STEPS = (NUM_IDS - 2) // 4  # with two nodes a layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratedConfig):
    # Steps from the root to its candidate; where there are several, each question has one of them.
    num_steps: tuple[int, ...] = key((3,), each(between(1, MAX_STEPS)))
    width: int = key(3, between(2, NUM_IDS // 2))  # nodes of a layer, in each of the two graphs


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The questions of a split; UserError for an unknown one, and for too many nodes."""
    if not cfg.num_steps:
        raise UserError("config.task.num_steps: () names no number of steps.")
    nodes = 2 * (1 + cfg.width * max(cfg.num_steps))
    if nodes > NUM_IDS:
        raise UserError(
            f"config.task.width: {cfg.width} with config.task.num_steps {max(cfg.num_steps)} "
            f"makes {nodes} nodes, and there are {NUM_IDS} ids."
        )
    if split == WALKED:
        return generated(cfg, "given", _draw_ring)
    return generated(cfg, split, functools.partial(_draw, cfg=cfg), others=[WALKED])


def _draw(rng: np.random.Generator, cfg: ConfigDict) -> GraphExample:
    graph = draw_graph(rng, cfg.num_steps[int(rng.integers(len(cfg.num_steps)))], cfg.width)
    order = rng.permutation(len(graph.edges)).tolist()
    edges = [(str(graph.edges[i][0]), str(graph.edges[i][1])) for i in order]
    candidates = [str(node) for node in graph.candidates]
    return GraphExample(
        id=0,
        question=edge_list.question_of(edges, candidates, str(graph.root)),
        answer=str(graph.answer),
        rationale=edge_list.path_of(str(node) for node in graph.path(rng)[1:]),
        graph=graph,
        names=NAMES,
    )


def _draw_ring(rng: np.random.Generator) -> Example:
    ring = [str(node) for node in rng.permutation(NUM_IDS)[:RING_NODES].tolist()]
    edges = list(zip(ring, ring[1:] + ring[:1], strict=True))
    listed = [edges[i] for i in rng.permutation(RING_NODES)]
    return Example(
        id=0,
        question=edge_list.question_of(listed, [], ring[0]),
        answer="",
        rationale=edge_list.path_of(ring[1:]),
    )


def draw_graph(rng: np.random.Generator, num_steps: int, width: int) -> Graph:
    """Two graphs of ``num_steps`` layers of ``width`` nodes; ids are drawn afresh."""
    ids = rng.permutation(NUM_IDS)[: 2 * (1 + width * num_steps)].tolist()
    halves = [ids[: len(ids) // 2], ids[len(ids) // 2 :]]
    pairs: list[tuple[int, int]] = []
    while not pairs:
        edges = [edge for half in halves for edge in _layers(rng, half, width)]
        parents_of = parents(edges)
        for pair in itertools.product(halves[0][-width:], halves[1][-width:]):
            if len(parents_of[pair[0]]) == len(parents_of[pair[1]]):
                pairs.append(pair)
    candidates = list(pairs[int(rng.integers(len(pairs)))])
    rng.shuffle(candidates)
    return Graph(
        edges=tuple(edges),
        root=halves[int(rng.integers(2))][0],
        candidates=(candidates[0], candidates[1]),
    )


def _layers(rng: np.random.Generator, ids: Sequence[int], width: int) -> list[Edge]:
    """Edges from the first node, the root, to a layer of ``width`` nodes, and on to the next.

    The nodes of a layer take the nodes before them as parents in turn, so that all but the last
    layer have children. After the first layer, a node has a second parent with probability
    SECOND_PARENT.
    """
    edges = [(ids[0], node) for node in ids[1 : 1 + width]]
    for start in range(1, len(ids) - width, width):
        before = ids[start : start + width]
        order = rng.permutation(width).tolist()
        for i in range(width):
            node = ids[start + width + i]
            edges.append((before[order[i]], node))
            if rng.random() < SECOND_PARENT:
                other = order[(i + 1 + int(rng.integers(width - 1))) % width]
                edges.append((before[other], node))
    return edges


# ---- answers -------------------------------------------------------------------------------------


def extract(text: str) -> str | None:
    """The id after the last [A], where nothing else follows it."""
    return edge_list.extract(text, [name.strip() for name in NAMES])


def difficulty(example: Example) -> tuple[str, int]:
    return step_difficulty(example, steps)
