"""Preferences from a file: JSONL, or a TFDS data set in ArrayRecord; texts or conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.training import conversations, data
from reasoning_jax.training.conversations import Conversation

PAIR_KEYS = ("prompt", "chosen", "rejected")
VERDICT_KEYS = ("prompt", "completion", "label")


class Preference(NamedTuple):
    """A prompt with its chosen and rejected completion; of a verdict, its own and a mismatched."""

    where: str  # "FILE, line 3"
    prompt: str | Conversation
    sides: tuple[str, str]
    desirable: bool = True
    mismatched_where: str = ""  # of a verdict's mismatched side, which is another's own


class LeftOut:
    """Unusable preferences: an error, or, with ``skip_bad``, counted by reason."""

    def __init__(self, skip_bad: bool):
        self.skip_bad = skip_bad
        self.by_reason: dict[str, list[str]] = {}

    def add(self, reason: str, where: str) -> None:
        """UserError naming the place, unless ``skip_bad``."""
        if not self.skip_bad:
            raise UserError(
                f"{where}: {reason} (config.algorithm.skip_bad=True leaves such rows out)."
            )
        self.by_reason.setdefault(reason, []).append(where)

    def __len__(self) -> int:
        return sum(len(places) for places in self.by_reason.values())

    def warnings(self) -> list[str]:
        """A sentence for each reason, with the first three places."""
        sentences = []
        for reason, places in self.by_reason.items():
            listed = "; ".join(places[:3])
            if len(places) > 3:
                listed += " ..."
            sentences.append(f"{len(places)} rows are left out, as {reason}: {listed}.")
        return sentences


def read(cfg: ConfigDict) -> tuple[list[Preference], LeftOut]:
    """The usable preferences of ``pairs``, and those that are left out.

    UserError naming the line of the first that is not usable, unless ``skip_bad``; or where none
    is.
    """
    if not cfg.pairs:
        raise UserError("config.algorithm.pairs: dpo needs a JSONL file of preferences.")
    keys = VERDICT_KEYS if cfg.preference == "kto" else PAIR_KEYS
    usable: list[Preference] = []
    left_out = LeftOut(cfg.skip_bad)
    for where, record in _records(cfg.pairs):
        record, problem = _texts(record, keys, where)
        problem = problem or _problem(record, keys, cfg.whole_text)
        if problem:
            left_out.add(problem, where)
        else:
            usable.append(_preference(where, record, keys, cfg.whole_text))
    if cfg.preference == "kto" and usable:
        usable = _with_mismatched_sides(usable, cfg.pairs)
    if not usable:
        raise UserError(f"{cfg.pairs}: no row is a preference that can be trained on.")
    return usable, left_out


def warnings(preferences: Sequence[Preference], cfg: ConfigDict) -> list[str]:
    """What looks like a mistake in a file that can be trained on."""
    sentences = []
    count = len(preferences)
    if cfg.preference == "kto":
        num_desirable = sum(p.desirable for p in preferences)
        if num_desirable in (0, count):
            label = "true" if num_desirable else "false"
            sentences.append(
                f"{cfg.pairs}: all {count} labels are {label}; KTO compares desirable completions "
                "with undesirable ones."
            )
    own_sides = 1 if cfg.preference == "kto" else 2  # the other one is another prompt's
    repeated = 0
    for p in preferences:
        if isinstance(p.prompt, str):
            repeated += all(side.startswith(p.prompt) for side in p.sides[:own_sides])
    if repeated:
        sentences.append(
            f"{cfg.pairs}: {repeated} of {count} completions repeat their prompt, which is then "
            "there twice; config.algorithm.whole_text=True takes it off."
        )
    return sentences


def _records(source: str) -> Iterator[tuple[str, data.Record]]:
    """(where it is, record) of every record."""
    if not source.startswith("tfds:"):
        yield from data.read_jsonl(source)
        return
    if source.count(":") < 3:
        raise UserError(f"config.algorithm.pairs: {source!r} is not tfds:FOLDER:NAME:SPLIT.")
    _, folder, name, split = source.split(":", 3)
    for number, record in data.tfds_source(name, folder, split):
        yield f"{source}, row {number}", record


def _texts(record: data.Record, keys: Sequence[str], where: str) -> tuple[data.Record, str | None]:
    """The record with its sides as texts, and what is wrong where it cannot be read so.

    UserError for a record of another format than pairs, or verdicts.
    """
    texts = [key for key in keys if key != "label"]
    is_conversation = conversations.has_conversation(record, texts)
    missing = [key for key in keys if key not in record]
    if is_conversation and missing in ([], ["prompt"]):
        read = conversations.as_prompt(record, texts)
        return (record, read) if isinstance(read, str) else (read, None)
    if missing == ["prompt"]:
        raise UserError(
            f"{where}: the key 'prompt' is missing: write what the sides begin with as 'prompt' "
            "too, and set config.algorithm.whole_text=True."
        )
    if missing:
        raise UserError(f"{where}: the key {missing[0]!r} is missing; needed: {', '.join(keys)}.")
    return record, None


def _problem(record: data.Record, keys: Sequence[str], whole_text: bool) -> str | None:
    """What is wrong with a record, in words that can be counted."""
    prompt, *sides = (record[key] for key in keys if key != "label")
    for key in keys:
        is_text = key != "label" and not isinstance(record[key], tuple)  # of turns
        problem = text_files.text_problem(record[key]) if is_text else None
        if problem is not None:
            return f"{key!r} {problem}"
    label = record["label"] if "label" in keys else True
    if not isinstance(label, int) or label not in (0, 1):
        return "the label is neither true nor false"
    whole_text = whole_text and isinstance(prompt, str)
    if whole_text and not all(side.startswith(prompt) for side in sides):
        return "the prompt is no prefix"
    completions = _completions(prompt, sides, whole_text)
    if any(not completion.strip() for completion in completions):
        return "a side is empty"
    if len(set(sides)) < len(sides):
        return "the sides are equal"
    return None


def _completions(prompt: str, sides: Sequence[str], whole_text: bool) -> list[str]:
    """The sides without the prompt that they may repeat."""
    return [side[len(prompt) :] for side in sides] if whole_text else list(sides)


def _preference(
    where: str, record: data.Record, keys: Sequence[str], whole_text: bool
) -> Preference:
    prompt, *sides = (record[key] for key in keys if key != "label")
    completions = _completions(prompt, sides, whole_text and isinstance(prompt, str))
    return Preference(
        where=where,
        prompt=prompt,
        sides=(completions[0], completions[-1]),
        desirable=bool(record["label"]) if "label" in keys else True,
    )


def _with_mismatched_sides(verdicts: list[Preference], source: str) -> list[Preference]:
    """Each verdict with the completion of the next one that has another prompt, for KTO's z0."""
    if len({verdict.prompt for verdict in verdicts}) == 1:
        raise UserError(
            f"config.algorithm.pairs={source}: KTO's z0 needs completions of more than one prompt."
        )
    pairs = []
    count = len(verdicts)
    for i, verdict in enumerate(verdicts):
        following = (verdicts[(i + step) % count] for step in range(1, count))
        mismatched = next(other for other in following if other.prompt != verdict.prompt)
        sides = verdict.sides[0], mismatched.sides[0]
        pairs.append(verdict._replace(sides=sides, mismatched_where=mismatched.where))
    return pairs
