"""ProsQA's questions in symbols, and generated ones of one or two steps."""

import collections

import numpy as np
import pytest

from reasoning_jax import default, extraction, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import prosqa, prosqa_symbols
from reasoning_jax.tasks.graphs import prosqa_questions, shortcuts
from tests.test_graphs import RECORD, config


def load(cfg, split):
    return prosqa_symbols.load(cfg, split)


def test_a_record_in_symbols(tmp_path):
    cfg = config(tmp_path, [RECORD])
    [example] = load(cfg, "validation")
    [in_sentences] = prosqa.load(cfg, "validation")
    edges = [
        fact.strip().removeprefix("Every ").replace(" is a ", " ")
        for fact in in_sentences.question.partition(" Is ")[0].removesuffix(".").split(".")
    ]
    candidates = in_sentences.question.partition("Tom a ")[2].removesuffix("?").split(" or ")
    asked = f" [Q] {candidates[0]} {candidates[1]} [R] Tom"
    assert prosqa_symbols.prompt(example, cfg) == f" {' | '.join(edges)} |{asked}"
    assert prosqa_symbols.target(example) == " lempus rorpus [A] rorpus"
    assert prosqa_symbols.target(example, direct=True) == " [A] rorpus"
    assert example.answer == "rorpus" and example.graph == in_sentences.graph
    assert prosqa_symbols.difficulty(example) == ("steps", 2)


@pytest.mark.parametrize(
    "text, answer, line",
    [
        (" lempus rorpus [A] rorpus", "rorpus", None),
        (" [A] rorpus", "rorpus", None),
        (" rorpus lempus [A] rorpus", "rorpus", 0),
        (" lempus rorpus [A] zumpus", "zumpus", 0),
        (" lempus rorpus [A] 7", None, 0),
        (" lempus rorpus", None, 0),
    ],
)
def test_symbols_are_judged(tmp_path, text, answer, line):
    [example] = load(config(tmp_path, [RECORD]), "validation")
    assert prosqa_symbols.extract(text) == answer
    assert prosqa_symbols.wrong_line(text, example) == line


@pytest.mark.parametrize("split", ["validation", "test", "given"])
def test_all_questions_are_the_same_in_both_forms(data_dir, split):
    cfg = config(data_dir / "prosqa", num_train=100)
    words = tokenizer.Characters(prosqa_symbols.ALPHABET)
    for symbols, sentences in zip(load(cfg, split), prosqa.load(cfg, split), strict=True):
        assert symbols.id == sentences.id and symbols.graph == sentences.graph
        text = prosqa_symbols.target(symbols)
        assert prosqa_symbols.wrong_line(text, symbols) is None
        assert prosqa_symbols.steps(text) == sentences.graph.num_steps
        assert sentences.answer.endswith(f" {symbols.answer}.")
        whole = prosqa_symbols.prompt(symbols, cfg) + text
        assert words.decode(words.encode(whole)) == whole
        assert len(words.encode(text)) == symbols.graph.num_steps + 2


def test_a_walk_in_symbols_goes_around_a_ring():
    cfg = default.section(tasks, "prosqa_symbols")
    cfg.num_train = 5
    for walk in load(cfg, "walked"):
        listed, _, root = prosqa_symbols.prompt(walk, cfg).partition(" [R]")
        child = dict(tuple(edge.split()) for edge in listed.removesuffix(" |").split("|"))
        nodes = [root.strip(), *prosqa_symbols.target(walk).split()]
        assert nodes[1:] == [child[node] for node in nodes[:-1]]
        assert len(set(nodes)) == len(nodes) == prosqa_questions.RING_CONCEPTS
        assert prosqa_symbols.wrong_line(prosqa_symbols.target(walk), walk) is None
    assert load(cfg, "train")[0].rationale is None


def test_its_data_are_those_of_prosqa(monkeypatch, tmp_path):
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    cfg = default.section(tasks, "prosqa_symbols")
    assert extraction.settle(cfg).path == str(tmp_path / "prosqa")


def test_short_questions_have_one_or_two_steps():
    cfg = default.section(tasks, "prosqa_symbols")
    cfg.update({"num_train": 400, "short": 0.5})
    examples = load(cfg, "given")
    counts = collections.Counter(example.graph.num_steps for example in examples)
    assert counts[1] + counts[2] == pytest.approx(200, abs=4 * 10)
    assert counts[1] == pytest.approx(100, abs=4 * 9)
    short = [example.graph for example in examples if example.graph.num_steps < 3]
    for graph in short:
        own_root = graph.distances[graph.answer]
        assert graph.decoy not in graph.distances
        parents_of_all = {parent for parent, _ in graph.edges}
        assert graph.root in parents_of_all and own_root in (1, 2)
    for rule, accuracy in shortcuts.accuracies(short).items():
        assert accuracy == pytest.approx(0.5, abs=4 * 0.5 / len(short) ** 0.5), rule
    cfg.short = 0.0
    assert min(example.graph.num_steps for example in load(cfg, "given")) >= 3
    first = np.mean([graph.answer == graph.candidates[0] for graph in short])
    assert first == pytest.approx(0.5, abs=4 * 0.5 / len(short) ** 0.5)


def test_short_has_no_effect_on_a_file(tmp_path):
    cfg = config(tmp_path, [RECORD], "train", train="file", num_train=1, short=0.5)
    with pytest.raises(UserError, match=r"config\.task\.short: with config\.task\.train=file"):
        load(cfg, "given")
