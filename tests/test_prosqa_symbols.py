"""ProsQA's questions in symbols, and generated ones of one or two steps."""

import collections

import numpy as np
import pytest
from test_graphs import RECORD, config

from reasoning_jax import default, extraction, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import prosqa, prosqa_symbols
from reasoning_jax.tasks.graphs import (
    children,
    distances,
    prosqa_graphs,
    prosqa_questions,
    shortcuts,
)


def test_a_record_in_symbols(tmp_path):
    cfg = config(tmp_path, [RECORD])
    [example] = prosqa_symbols.load(cfg, "validation")
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
    [example] = prosqa_symbols.load(config(tmp_path, [RECORD]), "validation")
    assert prosqa_symbols.extract(text) == answer
    assert prosqa_symbols.wrong_line(text, example) == line


@pytest.mark.parametrize("split", ["validation", "test", "given"])
def test_all_questions_are_the_same_in_both_forms(data_dir, split):
    cfg = config(data_dir / "prosqa", num_train=100)
    words = tokenizer.Characters(prosqa_symbols.ALPHABET)
    for symbols, sentences in zip(
        prosqa_symbols.load(cfg, split), prosqa.load(cfg, split), strict=True
    ):
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
    words: set[str] = set()
    sizes: set[int] = set()
    for walk in prosqa_symbols.load(cfg, "walked"):
        listed, _, root = prosqa_symbols.prompt(walk, cfg).partition(" [R]")
        child = dict(tuple(edge.split()) for edge in listed.removesuffix(" |").split("|"))
        nodes = [root.strip(), *prosqa_symbols.target(walk).split()]
        assert nodes[1:] == [child[node] for node in nodes[:-1]]
        assert len(set(nodes)) == len(nodes) == len(child)
        words.update(nodes)
        sizes.add(len(nodes))
        assert prosqa_symbols.wrong_line(prosqa_symbols.target(walk), walk) is None
    assert sizes == set(prosqa_questions.RING_WORDS)
    assert words & set(prosqa_graphs.PERSONS) and words & set(prosqa_graphs.CONCEPTS)
    assert prosqa_symbols.load(cfg, "train")[0].rationale is None


def test_its_data_are_those_of_prosqa(monkeypatch, tmp_path):
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    cfg = default.section(tasks, "prosqa_symbols")
    assert extraction.settle(cfg).path == str(tmp_path / "prosqa")


def test_short_questions_have_one_or_two_steps():
    cfg = default.section(tasks, "prosqa_symbols")
    cfg.update({"num_train": 400, "short": 0.5})
    examples = prosqa_symbols.load(cfg, "given")
    counts = collections.Counter(example.graph.num_steps for example in examples)
    assert counts[1] + counts[2] == pytest.approx(200, abs=4 * 10)
    assert counts[1] == pytest.approx(100, abs=4 * 9)
    short = [example.graph for example in examples if example.graph.num_steps < 3]
    for graph in short:  # the decoy is as far from a root of its own
        assert graph.decoy not in graph.distances
        following = children(graph.edges)
        roots = following.keys() - {child for _, child in graph.edges} - {graph.root}
        away = [distances(root, following).get(graph.decoy) for root in roots]
        assert graph.num_steps in away
    for rule, accuracy in shortcuts.accuracies(short).items():
        assert accuracy == pytest.approx(0.5, abs=4 * 0.5 / len(short) ** 0.5), rule
    cfg.short = 0.0
    assert min(example.graph.num_steps for example in prosqa_symbols.load(cfg, "given")) >= 3
    first = np.mean([graph.answer == graph.candidates[0] for graph in short])
    assert first == pytest.approx(0.5, abs=4 * 0.5 / len(short) ** 0.5)


def test_short_has_no_effect_on_a_file(tmp_path):
    cfg = config(tmp_path, [RECORD], "train", train="file", num_train=1, short=0.5)
    with pytest.raises(UserError, match=r"config\.task\.short: with config\.task\.train=file"):
        prosqa_symbols.load(cfg, "given")


@pytest.mark.parametrize("split", ["given", "walked"])
def test_a_seed_has_no_effect_on_a_file(tmp_path, split):
    cfg = config(tmp_path, [RECORD], "train", train="file", num_train=1, seed=5)
    with pytest.raises(UserError, match=r"config\.task\.seed: with config\.task\.train=file"):
        prosqa_symbols.load(cfg, split)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"steps": ["Tom is a lempus.", "Nonsense."]}, "a step is not of the form"),
        ({"edges": [[0, 2], [1, 3], [2, 4], [3, 1]]}, "the facts of 'question' are not those"),
    ],
)
def test_what_has_no_form_in_symbols_is_refused(tmp_path, changes, sentence):
    cfg = config(tmp_path, [RECORD | changes])
    with pytest.raises(UserError, match=rf"prosqa_valid\.json, record 1: {sentence}"):
        prosqa_symbols.load(cfg, "validation")


@pytest.mark.parametrize("key, value", [("extraction", "hashes"), ("prompting", "zero_shot")])
def test_answers_in_words_are_refused(tmp_path, key, value):
    cfg = config(tmp_path, [RECORD], **{key: value})
    with pytest.raises(UserError, match=rf"config\.task\.{key}: {value} does not go with symbols"):
        prosqa_symbols.load(cfg, "validation")


def test_an_unknown_split_names_the_task():
    cfg = default.section(tasks, "prosqa_symbols")
    with pytest.raises(UserError, match=r"prosqa_symbols has no split 'dev'; it has train, given"):
        prosqa_symbols.load(cfg, "dev")


@pytest.mark.parametrize("argument", ["", "prosqa_symbols"])
def test_the_rooms_of_the_config_hold_its_questions(data_dir, argument):
    """Those of training, and all that are asked."""
    import reasoning_jax as rj

    cfg = rj.load_config(f"configs/coconut_graphs.py:{argument}", **{"task.num_train": 500})
    if argument:
        cfg.task.path = str(data_dir / "prosqa")
    task = tasks.get(cfg.task.name)
    words = tokenizer.Characters(task.ALPHABET)
    for split in ("given", "validation", "test"):
        for example in task.load(cfg.task, split):
            question = len(words.encode(task.prompt(example, cfg.task))) + 1
            answer = len(words.encode(task.target(example))) + 1
            assert question <= cfg.forward.question_length
            assert answer <= min(cfg.forward.answer_length, cfg.sampling.max_new_tokens)
            assert question + answer + cfg.forward.stages <= cfg.sequence_length
