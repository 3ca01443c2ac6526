"""ProsQA: which of two concepts a person is, by a chain of "every X is a Y" (arXiv:2412.06769).

    Every terpus is a brimpus. Tom is a terpus. ... Is Tom a lempus or scrompus?
     Tom is a terpus.
     Every terpus is a brimpus.
     Every brimpus is a lempus.
    #### Tom is a lempus.

Splits are "train", "given" (the same questions with their rationales), and the published
"validation" and "test". The published train file is large and often absent: "train" is made by
graphs/prosqa_graphs.py, or is that file. Whole words are symbols of the alphabet. The published
questions have shortcuts: print what ``graphs/shortcuts.py`` says of them beside any result.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import conventions
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.ranges import between, key, one_of
from reasoning_jax.tasks import IDS, Example, FileTaskConfig, generated
from reasoning_jax.tasks.graphs import Graph, GraphExample, prosqa_graphs
from reasoning_jax.training import data

KIND = "the statement"
PUBLISHED = {"train": "train", "given": "train", "validation": "valid", "test": "test"}
FIRST_IDS = {"train": 0, "given": 0, "validation": IDS, "test": 2 * IDS}
WORDS = ("Every", "is", "a", "Is", "or", *prosqa_graphs.PERSONS, *prosqa_graphs.CONCEPTS)
ALPHABET = (*(f" {word}" for word in WORDS), ".", "?", "\n", "####", " ####")
STATEMENT = re.compile(r"\s*([A-Z][a-z]*) is a ([a-z]+)\s*\.?\s*")
ASKED = re.compile(r"Is (\w+) a (\w+) or (\w+)\?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    # Whether questions to train on are made, or are those of PATH/prosqa_train.json.
    train: str = key("generated", one_of("generated", "file"))
    num_train: int = key(17_886, between(1, IDS))  # of them; the file's first
    seed: int = key(0, between(0, 2**32 - 1))  # of the generated questions


def load(cfg: ConfigDict, split: str) -> Sequence[GraphExample]:
    """The questions of a split; UserError, naming file and record, for what cannot be read."""
    if split not in PUBLISHED:
        raise UserError(f"prosqa has no split {split!r}; it has {', '.join(PUBLISHED)}.")
    training = split in ("train", "given")
    if training and cfg.train == "generated":
        return generated(cfg, split, _draw)
    if cfg.train == "file" and cfg.seed:
        raise UserError("config.task.seed: with config.task.train=file it has no effect.")
    name = f"prosqa_{PUBLISHED[split]}"
    if training and not data.split_files(cfg.path, name):
        raise MissingFileError(
            f"config.task.train=file: {cfg.path}/{name}.json: there is no such file."
        )
    records = data.read_split(cfg.path, name)
    if training:
        if cfg.num_train > len(records):
            raise UserError(
                f"config.task.num_train: {cfg.num_train} are more than the {len(records)} "
                "questions of the file."
            )
        records = records[: cfg.num_train]
    examples = []
    for id, (where, record) in enumerate(records, start=FIRST_IDS[split]):
        example = _read(record, id, where)
        if split == "train":
            example = dataclasses.replace(example, rationale=None)
        examples.append(example)
    return examples


def _draw(rng: np.random.Generator) -> GraphExample:
    graph, words = prosqa_graphs.draw(rng)
    sentences = [_sentence(words[parent], words[child]) for parent, child in graph.edges]
    facts = " ".join(sentences[i] for i in rng.permutation(len(sentences)))
    first, second = graph.candidates
    path = graph.path(rng)
    lines = [_sentence(words[a], words[b]) for a, b in zip(path, path[1:], strict=False)]
    return GraphExample(
        id=0,
        question=f"{facts} Is {words[graph.root]} a {words[first]} or {words[second]}?",
        answer=_sentence(words[graph.root], words[graph.answer]),
        rationale=_lines(lines),
        graph=graph,
        names=tuple(f" {word}" for word in words),
    )


def _sentence(parent: str, child: str) -> str:
    return f"{parent} is a {child}." if parent[0].isupper() else f"Every {parent} is a {child}."


def _lines(sentences: Sequence[str]) -> str:
    """A sentence a line, each after the space that its first word's symbol has."""
    return "\n".join(f" {sentence}" for sentence in sentences)


# ---- reading files -------------------------------------------------------------------------------


def _read(record: data.Record, id: int, where: str) -> GraphExample:
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
        expected = _sentence(words[root], words[graph.answer])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if answer.strip() != expected:
        raise UserError(f"{where}: 'answer' is {answer[:40]!r}, but by 'edges' {expected!r}.")
    return GraphExample(
        id=id,
        question=question,
        answer=expected,
        rationale=_lines(steps),
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


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question on a line; the hint is the answer after it, as solutions end with it."""
    hinted = "" if hint is None else f" #### {hint}"
    return f" {example.question.strip()}{hinted}\n"


def target(example: Example, direct: bool = False) -> str:
    answer = f"#### {example.answer}"
    return answer if direct else f"{example.rationale}\n{answer}"


def parse(answer: str) -> str | None:
    """ "Tom is a lempus.", where an answer is such a statement and nothing else."""
    stated = STATEMENT.fullmatch(answer)
    return None if stated is None else f"{stated[1]} is a {stated[2]}."


def extract(text: str) -> str | None:
    """The statement after "####"."""
    return conventions.hashes(text, parse)


def convention(cfg: ConfigDict) -> str:
    return "hashes"


def steps(text: str) -> int:
    """Lines before the answer."""
    return len([line for line in text.partition("####")[0].split("\n") if line.strip()])


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that the question does not say, or that begins elsewhere than the last ended.

    Also the line of the answer, where it is false.
    """
    asked = ASKED.search(example.question)
    subject = asked[1] if asked else ""
    for number, line in enumerate(text.split("\n")):
        if "####" in line:
            return None if extract(line) == example.answer else number
        sentence = line.strip()
        named, _, concept = sentence.removeprefix("Every ").removesuffix(".").partition(" is a ")
        if named != subject or f" {sentence}" not in f" {example.question}":
            return number
        subject = concept
    return None


def difficulty(example: Example) -> tuple[str, int]:
    """Steps from the person to the answer; 0 where an example has neither graph nor rationale."""
    if isinstance(example, GraphExample):
        return "steps", example.graph.num_steps
    return "steps", steps(example.rationale or "")
