"""Reachability: what a search knows, the shortcuts of ProsQA, and graphs that have none."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest

from reasoning_jax import default, tasks, tokenizer
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import graph_search, prosqa
from reasoning_jax.tasks.graphs import Graph, prosqa_graphs, prosqa_questions, shortcuts

#   0 -> 1 -> 3 -> 5     1 and 2 are both on a path to 5, and 4 is on none
#   0 -> 2 -> 3          7 -> 6 and 8 -> 7 cannot be reached
#   2 -> 4
EDGES = ((0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (7, 6), (8, 7))
GRAPH = Graph(edges=EDGES, root=0, candidates=(6, 5))
RECORD = {
    "question": "Every lempus is a rorpus. Tom is a lempus. Max is a yumpus. "
    "Is Tom a yumpus or rorpus?",
    "answer": "Tom is a rorpus.",
    "steps": ["Tom is a lempus.", "Every lempus is a rorpus."],
    "idx_to_symbol": ["Tom", "Max", "lempus", "yumpus", "rorpus"],
    "edges": [[0, 2], [1, 3], [2, 4]],
    "root": 0,
    "target": 4,
    "neg_target": 3,
}


# ---- what a search knows -------------------------------------------------------------------------


def test_answer_distances_and_frontiers():
    assert (GRAPH.answer, GRAPH.decoy, GRAPH.num_steps) == (5, 6, 3)
    assert GRAPH.distances == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    assert GRAPH.frontiers == [{0}, {1, 2}, {3, 4}, {5}]
    assert GRAPH.on_paths == [{0}, {1, 2}, {3}, {5}]


def test_groups_are_what_a_search_knows_after_each_step():
    assert GRAPH.groups(2) == {
        "on_path": {3},
        "frontier": {4},
        "reached": {0, 1, 2},
        "later": {5},
        "unreachable": {6, 7, 8},
    }
    for step in (1, 2, 3):
        nodes = [node for group in GRAPH.groups(step).values() for node in group]
        assert sorted(nodes) == list(range(9))
    for step in (0, 4):
        with pytest.raises(ValueError, match=f"Step {step} is not one of 1 to 3"):
            GRAPH.groups(step)


def test_a_longer_way_is_no_shortest_path():
    graph = Graph(edges=((0, 1), (1, 2), (0, 2), (2, 3), (4, 5)), root=0, candidates=(3, 5))
    assert graph.on_paths == [{0}, {2}, {3}]
    assert graph.groups(1)["frontier"] == {1}


def test_every_shortest_path_is_drawn():
    rng = np.random.default_rng(0)
    drawn = {tuple(GRAPH.path(rng)) for _ in range(100)}
    assert drawn == {(0, 1, 3, 5), (0, 2, 3, 5)}


@pytest.mark.parametrize("candidates, count", [((6, 7), 0), ((4, 5), 2)])
def test_a_question_without_one_answer_has_none(candidates, count):
    graph = Graph(edges=EDGES, root=0, candidates=candidates)
    with pytest.raises(ValueError, match=f"reaches {count} of the two"):
        _ = graph.answer


# ---- shortcuts -----------------------------------------------------------------------------------


def test_each_rule_by_hand():
    edges = EDGES
    assert [shortcuts.depth(node, edges) for node in (0, 5, 6)] == [0, 3, 2]
    assert [shortcuts.num_ancestors(node, edges) for node in (0, 5, 6)] == [0, 4, 2]
    assert [shortcuts.fewness_of_parents(node, edges) for node in (0, 3, 5)] == [0, -2, -1]
    found = shortcuts.accuracies([GRAPH])
    assert found == {"deeper": 1, "more_ancestors": 1, "fewer_parents": 0.5, "larger_id": 0}


PUBLISHED = {  # % that each rule gets right: of all questions, of those with 3 or 4 steps
    "validation": {
        "deeper": (91.3, 89.9),
        "more_ancestors": (69.8, 68.5),
        "fewer_parents": (66.7, 64.6),
        "larger_id": (60.3, 59.1),
    },
    "test": {
        "deeper": (90.2, 88.5),
        "more_ancestors": (71.2, 68.0),
        "fewer_parents": (66.2, 65.2),
        "larger_id": (59.8, 58.5),
    },
}


def published(data_dir, split):
    cfg = default.section(tasks, "prosqa")
    cfg.path = str(data_dir / "prosqa")
    return prosqa.load(cfg, split)


@pytest.mark.parametrize("split, counts", [("validation", (300, 257)), ("test", (500, 419))])
def test_the_shortcuts_of_the_published_questions(data_dir, split, counts):
    graphs = [e.graph for e in published(data_dir, split)]
    short = [graph for graph in graphs if graph.num_steps <= 4]
    assert (len(graphs), len(short)) == counts
    for rule, (of_all, of_short) in PUBLISHED[split].items():
        assert round(100 * shortcuts.accuracy(rule, graphs), 1) == of_all
        assert round(100 * shortcuts.accuracy(rule, short), 1) == of_short


def test_no_shortcut_in_graph_search():
    """Each of the four rules is right on half of 20,000 questions, within four standard errors."""
    rng = np.random.default_rng(0)
    graphs = [graph_search.draw_graph(rng, num_steps=3, width=2) for _ in range(20_000)]
    for rule, accuracy in shortcuts.accuracies(graphs).items():
        assert accuracy == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5), rule
    first = np.mean([graph.answer == graph.candidates[0] for graph in graphs])
    assert first == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)


def test_a_walk_goes_around_a_ring():
    """Each node is the only child of the one before it, and all are named once."""
    cfg = default.section(tasks, "graph_search")
    cfg.num_train = 20
    for walk in graph_search.load(cfg, "walked"):
        listed, _, root = graph_search.prompt(walk, cfg).partition(" [R]")
        edges = [tuple(edge.split()) for edge in listed.removesuffix(" |").split("|")]
        child = dict(edges)
        assert len(child) == len(edges) == len(set(child.values())) == graph_search.RING_NODES
        nodes = [root.strip(), *graph_search.target(walk).split()]
        assert nodes[1:] == [child[node] for node in nodes[:-1]]
        assert set(nodes) == set(child)
        assert graph_search.wrong_line(graph_search.target(walk), walk) is None
        assert graph_search.wrong_line(" 1 2", walk) == 0
        assert edges != list(zip(nodes, [*nodes[1:], nodes[0]], strict=True))


@pytest.mark.parametrize("num_steps, width", [(1, 2), (2, 2), (3, 3), (4, 3), (2, 7)])
def test_the_two_halves_of_graph_search_are_alike(num_steps, width):
    rng = np.random.default_rng(1)
    edges = 0
    for _ in range(200):
        graph = graph_search.draw_graph(rng, num_steps, width)
        assert graph.num_steps == num_steps
        assert [len(nodes) for nodes in graph.frontiers] == [1] + [width] * num_steps
        assert len(set(graph.edges)) == len(graph.edges)
        nodes = {node for edge in graph.edges for node in edge}
        assert len(nodes) == 2 * (1 + width * num_steps) <= graph_search.NUM_IDS
        values = [shortcuts.depth(node, graph.edges) for node in graph.candidates]
        assert values == [num_steps, num_steps]
        for rule in (shortcuts.depth, shortcuts.fewness_of_parents):
            assert len({rule(node, graph.edges) for node in graph.candidates}) == 1
        edges += len(graph.edges)
    # The root's, and one and a half a node in the layers after the first; in both halves.
    expected = 2 * (width + 1.5 * width * (num_steps - 1))
    assert edges / 200 == pytest.approx(expected, rel=0.03)


def test_graph_search_asks_in_all_its_lengths():
    cfg = default.section(tasks, "graph_search")
    cfg.update({"num_steps": (1, 2, 3), "num_train": 300})
    counts = collections.Counter(
        graph_search.difficulty(e) for e in graph_search.load(cfg, "train")
    )
    assert set(counts) == {("steps", 1), ("steps", 2), ("steps", 3)} and min(counts.values()) > 60


# ---- graph_search's answers ----------------------------------------------------------------------

QUESTION = tasks.Example(id=0, question="3 17 | 4 5 | 17 9 | 5 8 | [Q] 8 9 [R] 3", answer="9")


def test_a_walk_of_prosqa_goes_around_a_ring():
    cfg = default.section(tasks, "prosqa")
    cfg.num_train = 5
    for walk in prosqa.load(cfg, "walked"):
        facts = walk.question.removesuffix(".").split(". ")
        said = [line.strip().removesuffix(".") for line in prosqa.target(walk).splitlines()]
        assert len(said) + 1 in prosqa_questions.RING_WORDS
        assert len(set(facts)) == len(facts) == len(said) + 1 and set(said) < set(facts)
        assert facts[: len(said)] != said
        assert prosqa.wrong_line(prosqa.target(walk), walk) is None
        assert prosqa.wrong_line(f" {said[1]}.", walk) == 0
        for line, following in zip(said, said[1:], strict=False):
            word = line.rpartition(" ")[2]
            subject = word if word in prosqa_graphs.PERSONS else f"Every {word}"
            assert following.startswith(f"{subject} is a ")
        tokenizer.Characters(prosqa.ALPHABET).encode(prosqa.prompt(walk, cfg) + prosqa.target(walk))


@pytest.mark.parametrize(
    "text, answer",
    [
        (" 17 9 [A] 9", "9"),
        (" [A] 9", "9"),
        (" [A] 8 [A] 29", "29"),
        (" 17 9", None),
        (" [A]", None),
        (" [A] 9 8", None),
        (" [A] 30", None),
        (" [A] 9 |", None),
    ],
)
def test_graph_search_reads_the_id_after_its_mark(text, answer):
    assert graph_search.extract(text) == answer


@pytest.mark.parametrize(
    "text, line",
    [
        (" 17 9 [A] 9", None),
        (" 17 9 [A] 8", 0),
        (" 17 9", 0),
        (" 17 5 [A] 9", 0),
        (" 9 [A] 9", None),
        (" 17 [A] 9", 0),
        (" 5 8 [A] 9", 0),
        (" 5 8 [A] 8", 0),
        (" 17 17 [A] 9", 0),
        (" | 17 9 [A] 9", 0),
        (" [A] 9", None),
    ],
)
def test_graph_search_finds_a_false_step(text, line):
    assert graph_search.wrong_line(text, QUESTION) == line
    assert graph_search.steps(" 17 9 [A] 9") == 2


def test_a_path_from_where_the_root_does_not_lead_is_false():
    question = "3 17 | 6 9 | 17 9 | [Q] 8 9 [R] 3"
    example = tasks.Example(id=0, question=question, answer="9")
    assert graph_search.wrong_line(" 17 9 [A] 9", example) is None
    assert graph_search.wrong_line(" 6 9 [A] 9", example) == 0


def test_graph_search_ends_a_prompt_with_the_root():
    cfg = default.section(tasks, "graph_search")
    assert graph_search.prompt(QUESTION, cfg) == f" {QUESTION.question}"
    hinted = " 3 17 | 4 5 | 17 9 | 5 8 | [Q] 8 9 [A] 9 [R] 3"
    assert graph_search.prompt(QUESTION, cfg, hint="9") == hinted


# ---- prosqa --------------------------------------------------------------------------------------


def config(folder, records=None, name="valid", **changes):
    """The task's section, for a folder with a file of these records."""
    if records is not None:
        (folder / f"prosqa_{name}.json").write_text(json.dumps(records))
    cfg = default.section(tasks, "prosqa")
    cfg.update({"path": str(folder)} | changes)
    return cfg


def test_a_record_is_read(tmp_path):
    [example] = prosqa.load(config(tmp_path, [RECORD]), "validation")
    assert prosqa.prompt(example, None) == f" {RECORD['question']}\n"
    hinted = prosqa.prompt(example, None, hint=example.answer)
    assert hinted == f" {RECORD['question']} #### Tom is a rorpus.\n"
    worked = " Tom is a lempus.\n Every lempus is a rorpus.\n#### Tom is a rorpus."
    assert prosqa.target(example) == worked
    assert prosqa.target(example, direct=True) == "#### Tom is a rorpus."
    assert example.graph.candidates == (3, 4) and example.graph.answer == 4
    assert example.names[4] == " rorpus"
    assert prosqa.difficulty(example) == ("steps", 2) == ("steps", prosqa.steps(worked))
    words = tokenizer.Characters(prosqa.ALPHABET)
    assert words.decode(words.encode(hinted + worked)) == hinted + worked
    assert len(words.encode(" Every lempus is a rorpus.\n")) == 7


@pytest.mark.parametrize("split", ["validation", "test"])
def test_published_solutions_are_right_and_in_words(data_dir, split):
    words = tokenizer.Characters(prosqa.ALPHABET)
    for example in published(data_dir, split):
        text = prosqa.target(example)
        assert prosqa.extract(text) == example.answer
        assert prosqa.wrong_line(text, example) is None
        assert prosqa.steps(text) == example.graph.num_steps
        whole = prosqa.prompt(example, None) + text
        assert words.decode(words.encode(whole)) == whole


def test_generated_graphs_have_the_shape_of_the_published_ones(data_dir):
    cfg = config(data_dir / "prosqa", num_train=600)
    made = prosqa.load(cfg, "given")
    real = published(data_dir, "test")

    def shape(examples):
        graphs = [e.graph for e in examples]
        steps = [graph.num_steps for graph in graphs]
        return [
            np.mean([len(e.names) for e in examples]) / 25,
            np.mean([len(graph.edges) for graph in graphs]) / 40,
            np.mean([sum(name[1].isupper() for name in e.names) for e in examples]) / 3,
            *(np.mean([count == n for count in steps]) for n in (3, 4, 5, 6)),
            *shortcuts.accuracies(graphs).values(),
        ]

    # Three standard errors of a fraction of 600 less one of 500.
    assert shape(made) == pytest.approx(shape(real), abs=0.09)
    assert not {e.question for e in made} & {e.question for e in real}
    for example in made:
        text = prosqa.target(example)
        assert prosqa.extract(text) == example.answer
        assert prosqa.wrong_line(text, example) is None
        assert prosqa.steps(text) == example.graph.num_steps in prosqa_graphs.NUM_STEPS
        facts = example.question.partition(" Is ")[0].split(". ")
        assert len(facts) == len(example.graph.edges) == len(set(facts))
    again = prosqa.load(cfg, "train")
    assert [e.question for e in again] == [e.question for e in made]
    assert {e.rationale for e in again} == {None}
    assert (
        made[0].question != prosqa.load(config(data_dir, num_train=1, seed=1), "given")[0].question
    )


def test_training_on_the_file(tmp_path):
    other = RECORD | {"question": RECORD["question"].replace("Max", "Bob")}
    other["idx_to_symbol"] = ["Tom", "Bob", *RECORD["idx_to_symbol"][2:]]
    cfg = config(tmp_path, [RECORD, other], "train", train="file", num_train=1)
    [example] = prosqa.load(cfg, "given")
    assert example.question == RECORD["question"] and prosqa.steps(example.rationale) == 2
    [example] = prosqa.load(cfg, "train")
    assert example.rationale is None
    cfg.num_train = 3
    with pytest.raises(UserError, match=r"config\.task\.num_train: 3 are more than the 2"):
        prosqa.load(cfg, "train")
    cfg.update({"num_train": 1, "seed": 5})
    with pytest.raises(UserError, match=r"config\.task\.seed: with config\.task\.train=file"):
        prosqa.load(cfg, "train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"train=file: .*prosqa_train\.json: there is no"):
        prosqa.load(config(tmp_path, train="file"), "given")
    with pytest.raises(MissingFileError, match=r"prosqa_test\.json"):
        prosqa.load(config(tmp_path), "test")
    with pytest.raises(UserError, match=r"prosqa has no split 'dev'"):
        prosqa.load(config(tmp_path), "dev")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"question": "Is Tom a yumpus?"}, r"'question' does not end with 'Is X a Y or Z\?'"),
        ({"question": "Is Tom a yumpus or wumpus?"}, r"'wumpus' is asked for and not in"),
        ({"answer": "Tom is a yumpus."}, r"'answer' is 'Tom is a yumpus.', but by 'edges'"),
        ({"edges": [[1, 3], [2, 4]]}, r"The root reaches 0 of the two candidates"),
        ({"edges": [[0, 5]]}, r"'edges' must be a list of pairs of numbers of nodes"),
        ({"edges": [[0, True]]}, r"'edges' must be a list of pairs of numbers of nodes"),
        ({"edges": None}, r"'edges' must be a list of pairs of numbers of nodes"),
        ({"steps": []}, r"'steps' must be a list of texts"),
        ({"steps": [3]}, r"a text in 'steps' is a number, not text"),
        ({"idx_to_symbol": "Tom"}, r"'idx_to_symbol' must be a list of texts"),
    ],
)
def test_a_bad_record_is_one_sentence_with_its_place(tmp_path, change, sentence):
    cfg = config(tmp_path, [RECORD, RECORD | change])
    with pytest.raises(UserError, match=rf"prosqa_valid\.json, record 2: {sentence}"):
        prosqa.load(cfg, "validation")


@pytest.mark.parametrize(
    "text, answer, line",
    [
        (" Tom is a lempus.\n Every lempus is a rorpus.\n#### Tom is a rorpus.", True, None),
        ("#### Tom is a rorpus", True, None),
        # Thoughts took the first step.
        (" Every lempus is a rorpus.\n#### Tom is a rorpus.", True, None),
        (" Tom is a yumpus.\n#### Tom is a rorpus.", True, 0),
        (" Max is a yumpus.\n#### Tom is a rorpus.", True, 0),
        (" Tom is a lempus.\n Tom is a lempus.\n#### Tom is a rorpus.", True, 1),
        (" Tom is a lempus.\n Every lempus is a rorpus.\n#### Tom is a yumpus.", False, 2),
        ("#### rorpus", None, 0),
        (" Tom is a rorpus.", None, 0),
        ("#### Tom is a rorpus. Tom is a yumpus.", None, 0),
    ],
)
def test_prosqa_reads_and_judges(tmp_path, text, answer, line):
    [example] = prosqa.load(config(tmp_path, [RECORD]), "validation")
    expected = {True: "Tom is a rorpus.", False: "Tom is a yumpus."}.get(answer)
    assert prosqa.extract(text) == expected
    assert prosqa.wrong_line(text, example) == line
