"""Questions about reachability in a directed acyclic graph: which of two nodes follows the root.

The tasks prosqa and graph_search ask them. ``Graph`` also says what a search would know after each
of its steps, for probing what a model's thoughts hold (arXiv:2505.12514).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from reasoning_jax.tasks import Example

Edge = tuple[int, int]  # (parent, child)
N = TypeVar("N", bound=Hashable)  # a node: its number, or its name
WALKED = "walked"  # the split of rings, whose answers are all nodes in turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A directed graph, a root, and two candidates of which the root reaches one."""

    edges: tuple[Edge, ...]
    root: int
    candidates: tuple[int, int]  # in the order in which the question names them

    @functools.cached_property
    def distances(self) -> Mapping[int, int]:
        """The number of edges from the root to each node that it reaches."""
        return distances(self.root, children(self.edges))

    @functools.cached_property
    def answer(self) -> int:
        """The candidate that the root reaches; ValueError where that is not exactly one."""
        reached = [node for node in self.candidates if node in self.distances]
        if len(reached) != 1:
            raise ValueError(f"The root reaches {len(reached)} of the two candidates, not one.")
        return reached[0]

    @property
    def decoy(self) -> int:
        """The candidate that the root does not reach."""
        first, second = self.candidates
        return second if self.answer == first else first

    @property
    def num_steps(self) -> int:
        """The number of edges of a shortest path from the root to the answer."""
        return self.distances[self.answer]

    @functools.cached_property
    def frontiers(self) -> list[frozenset[int]]:
        """The nodes at distance 0, 1, ... num_steps from the root."""
        found: list[set[int]] = [set() for _ in range(self.num_steps + 1)]
        for node, distance in self.distances.items():
            if distance <= self.num_steps:
                found[distance].add(node)
        return [frozenset(nodes) for nodes in found]

    @functools.cached_property
    def on_paths(self) -> list[frozenset[int]]:
        """Of each frontier, the nodes on a shortest path to the answer."""
        parents_of = parents(self.edges)
        found = [frozenset([self.answer])]
        for frontier in reversed(self.frontiers[:-1]):
            before = {parent for node in found[0] for parent in parents_of.get(node, ())}
            found.insert(0, frontier & before)
        return found

    def groups(self, step: int) -> dict[str, frozenset[int]]:
        """The nodes by what a breadth-first search knows of them after ``step`` steps, from 1.

        on_path: at this distance, on a shortest path to the answer; frontier: at this distance, on
        none; reached: nearer to the root; later: farther; unreachable: not after the root at all.
        """
        if step < 1 or step > self.num_steps:
            raise ValueError(f"Step {step} is not one of 1 to {self.num_steps}.")
        nodes = {node for edge in self.edges for node in edge}
        nearer = {node for node, distance in self.distances.items() if distance < step}
        farther = {node for node, distance in self.distances.items() if distance > step}
        return {
            "on_path": self.on_paths[step],
            "frontier": self.frontiers[step] - self.on_paths[step],
            "reached": frozenset(nearer),
            "later": frozenset(farther),
            "unreachable": frozenset(nodes - self.distances.keys()),
        }

    def path(self, rng: np.random.Generator) -> list[int]:
        """The nodes of a random shortest path from the root to the answer, both included."""
        children_of = children(self.edges)
        nodes = [self.root]
        for on_path in self.on_paths[1:]:
            following = [node for node in children_of[nodes[-1]] if node in on_path]
            nodes.append(following[int(rng.integers(len(following)))])
        return nodes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphExample(Example):
    """A question with its graph; ``names[node]`` is the token that the text has for a node."""

    graph: Graph
    names: tuple[str, ...]


def step_difficulty(example: Example, steps: Callable[[str], int]) -> tuple[str, int]:
    """Steps from the root to the answer; without a graph, what ``steps`` counts in the rationale.

    0 where an example has neither.
    """
    if isinstance(example, GraphExample):
        return "steps", example.graph.num_steps
    return "steps", steps(example.rationale or "")


# ---- walking through edges -----------------------------------------------------------------------


def children(edges: Iterable[tuple[N, N]]) -> dict[N, list[N]]:
    """The children of each node that has any."""
    found: dict[N, list[N]] = {}
    for parent, child in edges:
        found.setdefault(parent, []).append(child)
    return found


def parents(edges: Sequence[Edge]) -> dict[int, list[int]]:
    """The parents of each node that has any."""
    return children([(child, parent) for parent, child in edges])


def distances(start: N, following: Mapping[N, Sequence[N]]) -> dict[N, int]:
    """The number of edges from ``start`` to each node that it reaches, by breadth-first search."""
    found = {start: 0}
    queue = [start]
    for node in queue:
        for neighbour in following.get(node, ()):
            if neighbour not in found:
                found[neighbour] = found[node] + 1
                queue.append(neighbour)
    return found
