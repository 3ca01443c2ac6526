"""ProsQA: which of two concepts a person is, by a chain of "every X is a Y" (arXiv:2412.06769).

    Every terpus is a brimpus. Tom is a terpus. ... Is Tom a lempus or scrompus?
     Tom is a terpus.
     Every terpus is a brimpus.
     Every brimpus is a lempus.
    #### Tom is a lempus.

Splits are "train", "given" (the same questions with their rationales), "walked", and the
published "validation" and "test". The published train file is large and often absent: "train" is
made by graphs/prosqa_graphs.py, or is that file. Of "walked" the facts are a ring, in which every
concept is one other, and the answer states them in turn, from one of them on. Whole words are
symbols of the alphabet. The published questions have shortcuts: print what ``graphs/shortcuts.py``
says of them beside any result.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.answers import conventions
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.ranges import between, key, one_of
from reasoning_jax.tasks import IDS, Example, FileTaskConfig, generated
from reasoning_jax.tasks.graphs import (
    WALKED,
    GraphExample,
    children,
    distances,
    prosqa_graphs,
    prosqa_text,
    step_difficulty,
)
from reasoning_jax.training import data

KIND = "the statement"
PUBLISHED = {"train": "train", "given": "train", "validation": "valid", "test": "test"}
SPLITS = (*PUBLISHED, WALKED)
RING_CONCEPTS = 16
FIRST_IDS = {"train": 0, "given": 0, "validation": IDS, "test": 2 * IDS}
WORDS = ("Every", "is", "a", "Is", "or", *prosqa_graphs.PERSONS, *prosqa_graphs.CONCEPTS)
ALPHABET = (*(f" {word}" for word in WORDS), ".", "?", "\n", "####", " ####")
STATEMENT = re.compile(r"\s*([A-Z][a-z]*) is a ([a-z]+)\s*\.?\s*")
FACT = re.compile(r"(\w+) is a (\w+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    # Whether questions to train on are made, or are those of PATH/prosqa_train.json.
    train: str = key("generated", one_of("generated", "file"))
    num_train: int = key(17_886, between(1, IDS))  # of them; the file's first
    seed: int = key(0, between(0, 2**32 - 1))  # of the generated questions


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The questions of a split; UserError, naming file and record, for what cannot be read."""
    if split == WALKED:
        return generated(cfg, "given", _draw_ring)
    if split not in PUBLISHED:
        raise UserError(f"prosqa has no split {split!r}; it has {', '.join(SPLITS)}.")
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
        example = prosqa_text.read(record, id, where)
        if split == "train":
            example = dataclasses.replace(example, rationale=None)
        examples.append(example)
    return examples


def _draw(rng: np.random.Generator) -> GraphExample:
    graph, words = prosqa_graphs.draw(rng)
    sentences = [prosqa_text.sentence(words[parent], words[child]) for parent, child in graph.edges]
    facts = " ".join(sentences[i] for i in rng.permutation(len(sentences)))
    first, second = graph.candidates
    path = graph.path(rng)
    lines = [prosqa_text.sentence(words[a], words[b]) for a, b in zip(path, path[1:], strict=False)]
    return GraphExample(
        id=0,
        question=f"{facts} Is {words[graph.root]} a {words[first]} or {words[second]}?",
        answer=prosqa_text.sentence(words[graph.root], words[graph.answer]),
        rationale=prosqa_text.lines_of(lines),
        graph=graph,
        names=tuple(f" {word}" for word in words),
    )


def _draw_ring(rng: np.random.Generator) -> Example:
    ring = rng.permutation(prosqa_graphs.CONCEPTS)[:RING_CONCEPTS].tolist()
    facts = [prosqa_text.sentence(a, b) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    listed = " ".join(facts[i] for i in rng.permutation(RING_CONCEPTS))
    return Example(id=0, question=listed, answer="", rationale=prosqa_text.lines_of(facts[:-1]))


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The question on a line; the hint is the answer after it, as solutions end with it."""
    hinted = "" if hint is None else f" #### {hint}"
    return f" {example.question.strip()}{hinted}\n"


def target(example: Example, direct: bool = False) -> str:
    if not example.answer:  # of a walk
        return example.rationale
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

    Also the line of the answer, where it is false. The first line may be about any concept that the
    person is: thoughts may have taken the steps before it.
    """
    if not example.answer:  # of a walk
        return None if text == example.rationale else 0
    asked = prosqa_text.ASKED.search(example.question)
    person = asked[1] if asked else ""
    subjects = set(distances(person, children(FACT.findall(example.question))))
    for number, line in enumerate(text.split("\n")):
        if "####" in line:
            return None if extract(line) == example.answer else number
        sentence = line.strip()
        named, _, concept = sentence.removeprefix("Every ").removesuffix(".").partition(" is a ")
        if named not in subjects or f" {sentence}" not in f" {example.question}":
            return number
        subjects = {concept}
    return None


def difficulty(example: Example) -> tuple[str, int]:
    return step_difficulty(example, steps)
