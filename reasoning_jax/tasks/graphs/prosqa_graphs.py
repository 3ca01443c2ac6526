"""Graphs of the shape that ProsQA's published ones have (arXiv:2412.06769, appendix A).

Of 2,000 of them, and of the 500 published test questions: 23.1 and 22.8 nodes, 36.4 and 35.8 edges;
3, 4, 5 and 6 steps in 45, 39, 13, 3 and in 40, 43, 14, 2 %. The rules of shortcuts.py are as often
right: 90, 69, 67, 58 and 90, 71, 66, 60 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reasoning_jax.tasks.graphs import Edge, Graph, children, distances, parents

PERSONS = (
    "Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom Wren"
).split()
CONCEPTS = (
    "bompus boompus brimpus chorpus dumpus felpus fompus gerpus gorpus grimpus gwompus hilpus "
    "impus jelpus jompus kerpus lempus lorpus numpus quimpus rempus rompus rorpus scrompus "
    "shumpus sterpus storpus terpus timpus tumpus vumpus worpus wumpus yerpus yimpus yumpus "
    "zhorpus zumpus"
).split()
WORDS = (*PERSONS, *CONCEPTS)
NUM_NODES = range(27, 30)  # that are drawn; those without an edge are then left out
NUM_STEPS = range(3, 7)  # of the published questions
FEW_STEPS = range(1, 3)
MEAN_PARENTS = 1.5
# Which of the two roots a node descends from: the sum of these bits.
FIRST, SECOND = 1, 2
ONE_SIDE = 0.35  # how often a node's parents descend from the first root alone; as often, the other


def draw(rng: np.random.Generator, is_short: bool = False) -> tuple[Graph, list[str]]:
    """A graph, and the word of each of its nodes; is_short: asked in one or two steps."""
    ask = _ask_in_few_steps if is_short else _ask
    graph = None
    while graph is None:
        graph = ask(rng, *_draw_edges(rng))
    numbers = {node: i for i, node in enumerate(sorted({n for edge in graph.edges for n in edge}))}
    graph = Graph(
        edges=tuple((numbers[parent], numbers[child]) for parent, child in graph.edges),
        root=numbers[graph.root],
        candidates=(numbers[graph.candidates[0]], numbers[graph.candidates[1]]),
    )
    return graph, _words(rng, graph.edges, len(numbers))


def _draw_edges(rng: np.random.Generator) -> tuple[list[Edge], list[int]]:
    """The edges, and from which of the roots 0 and 1 each node descends.

    Each new node takes its parents among earlier nodes, deeper ones more often.
    """
    sides, depths = [FIRST, SECOND], [0, 0]
    edges: list[Edge] = []
    for node in range(2, int(rng.choice(NUM_NODES))):
        chance = rng.random()
        allowed = range(4)
        if chance < ONE_SIDE:
            allowed = range(FIRST, FIRST + 1)
        elif chance < 2 * ONE_SIDE:
            allowed = range(SECOND, SECOND + 1)
        possible = [n for n in range(node) if sides[n] in allowed]
        weights = [1.5 * depths[n] + 1 for n in possible]
        chosen = _weighted(rng, possible, weights, int(rng.poisson(MEAN_PARENTS)))
        edges += [(parent, node) for parent in chosen]
        side = 0
        for parent in chosen:
            side |= sides[parent]
        sides.append(side)
        depths.append(1 + min(depths[parent] for parent in chosen) if chosen else 0)
    return edges, sides


def _weighted(
    rng: np.random.Generator, items: Sequence[int], weights: Sequence[float], count: int
) -> list[int]:
    """``count`` distinct items (all, if fewer), drawn one after the other by their weights."""
    # The first arrivals of Poisson processes with these rates are such a sample.
    waits = rng.exponential(size=len(items)).tolist()
    arrivals = [wait / weight for wait, weight in zip(waits, weights, strict=True)]
    first = sorted(range(len(items)), key=arrivals.__getitem__)[:count]
    return [items[i] for i in first]


def _ask(rng: np.random.Generator, edges: list[Edge], sides: list[int]) -> Graph | None:
    """The question about a graph; None where there is none of the published lengths.

    The answer is a leaf that is as far from its root as any, the root being the one whose leaves
    are farther. The decoy is any leaf of the other root.
    """
    children_of = children(edges)
    leaves: list[list[int]] = []
    farthest: list[int] = []
    from_roots = [distances(root, children_of) for root in (0, 1)]
    for root, side in ((0, FIRST), (1, SECOND)):
        own = [n for n in range(2, len(sides)) if n not in children_of and sides[n] == side]
        leaves.append(own)
        farthest.append(max((from_roots[root][n] for n in own), default=0))
    root = int(np.argmax(farthest))
    if farthest[0] == farthest[1]:
        root = int(rng.integers(2))
    if farthest[root] not in NUM_STEPS or not leaves[1 - root]:
        return None
    answers = [n for n in leaves[root] if from_roots[root][n] == farthest[root]]
    candidates = [int(rng.choice(answers)), int(rng.choice(leaves[1 - root]))]
    rng.shuffle(candidates)
    return Graph(edges=tuple(edges), root=root, candidates=(candidates[0], candidates[1]))


def _ask_in_few_steps(
    rng: np.random.Generator, edges: list[Edge], sides: list[int]
) -> Graph | None:
    """A question of one or two steps, whose decoy is as far from the other root.

    Neither candidate need be a leaf. None where there is no such question.
    """
    children_of = children(edges)
    root = int(rng.integers(2))
    num_steps = int(rng.choice(FEW_STEPS))
    found: list[list[int]] = []
    for start, side in ((0, FIRST), (1, SECOND)):
        from_root = distances(start, children_of)
        at = [n for n, distance in from_root.items() if distance == num_steps]
        found.append([n for n in at if sides[n] == side])
    if not all(found):
        return None
    candidates = [int(rng.choice(found[root])), int(rng.choice(found[1 - root]))]
    rng.shuffle(candidates)
    return Graph(edges=tuple(edges), root=root, candidates=(candidates[0], candidates[1]))


def _words(rng: np.random.Generator, edges: Sequence[Edge], num_nodes: int) -> list[str]:
    """A person's name for a node without parents, a concept for every other."""
    parents_of = parents(edges)
    persons = rng.permutation(PERSONS).tolist()
    concepts = rng.permutation(CONCEPTS).tolist()
    return [(concepts if node in parents_of else persons).pop() for node in range(num_nodes)]
