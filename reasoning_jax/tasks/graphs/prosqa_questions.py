"""ProsQA's questions: the published ones, and others of their shape (arXiv:2412.06769).

Splits are "train", "given" (the same questions with their rationales), "walked", and the
published "validation" and "test". The published train file is large and often absent: "train" is
made by prosqa_graphs.py, or is that file. The facts of "walked" are a ring, in which every word, be
it a concept or a person, is one other; the rationale states all but the last in turn, and there is
no answer. The published questions have shortcuts: print what ``shortcuts.py`` says of them beside
any result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.ranges import between, key, one_of
from reasoning_jax.tasks import IDS, Example, FileTaskConfig, generated
from reasoning_jax.tasks.graphs import WALKED, GraphExample, prosqa_graphs, prosqa_text
from reasoning_jax.training import data

PUBLISHED = {"train": "train", "given": "train", "validation": "valid", "test": "test"}
SPLITS = (*PUBLISHED, WALKED)
# A question has about 36 facts. These rings were learned in 190 to 225 updates, rings of 8 to 36
# words not in 330.
RING_WORDS = (16, 16, 16, 36)
FIRST_IDS = {"train": 0, "given": 0, "validation": IDS, "test": 2 * IDS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    # Whether questions to train on are made, or are those of PATH/prosqa_train.json.
    train: str = key("generated", one_of("generated", "file"))
    num_train: int = key(17_886, between(1, IDS))  # of them; the file's first
    seed: int = key(0, between(0, 2**32 - 1))  # of the generated questions
    # The fraction of the generated questions that have one or two steps; the published ones have
    # three to six.
    short: float = key(0.0, between(0, 1))


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The questions of a split; UserError, naming file and record, for what cannot be read."""
    if split not in SPLITS:
        raise UserError(f"{cfg.name} has no split {split!r}; it has {', '.join(SPLITS)}.")
    for name in ("seed", "short"):
        if cfg.train == "file" and cfg[name]:
            raise UserError(f"config.task.{name}: with config.task.train=file it has no effect.")
    if split == WALKED:
        return generated(cfg, "given", _draw_ring)
    if split in ("train", "given") and cfg.train == "generated":
        return generated(cfg, split, functools.partial(_draw, short=cfg.short))
    records = _records(cfg, split)
    examples = []
    for id, (where, record) in enumerate(records, start=FIRST_IDS[split]):
        example = prosqa_text.read(record, id, where)
        if split == "train":
            example = dataclasses.replace(example, rationale=None)
        examples.append(example)
    return examples


def _records(cfg: ConfigDict, split: str) -> Sequence[tuple[str, data.Record]]:
    """What is published of a split, each with its place."""
    name = f"prosqa_{PUBLISHED[split]}"
    if split not in ("train", "given"):
        return data.read_split(cfg.path, name)
    if not data.split_files(cfg.path, name):
        raise MissingFileError(
            f"config.task.train=file: {cfg.path}/{name}.json: there is no such file."
        )
    records = data.read_split(cfg.path, name)
    if cfg.num_train > len(records):
        raise UserError(
            f"config.task.num_train: {cfg.num_train} are more than the {len(records)} questions of "
            "the file."
        )
    return records[: cfg.num_train]


def _draw(rng: np.random.Generator, short: float) -> GraphExample:
    graph, words = prosqa_graphs.draw(rng, is_short=short > 0 and rng.random() < short)
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
    # Without persons in the rings, a path's first step, which starts at one, is hardly learned.
    ring = rng.permutation(prosqa_graphs.WORDS)[: int(rng.choice(RING_WORDS))].tolist()
    facts = [prosqa_text.sentence(a, b) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    listed = " ".join(facts[i] for i in rng.permutation(len(facts)))
    return Example(id=0, question=listed, answer="", rationale=prosqa_text.lines_of(facts[:-1]))
