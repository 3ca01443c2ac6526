"""Instructions that a model writes for itself: self-instruct (Wang et al. 2023, arXiv:2212.10560).

A prompt shows instructions, of which most are given and some were written before (six and two of
eight in arXiv:2401.10020, section 3.1), and the model writes the next one. One that the task cannot
read, or that is too much like another (ROUGE-L), is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import ranking, templates
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import above, at_least, between, check_unused, key
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import IDS, Example

OWN = 0.25  # of the instructions that are shown, where there are as many
REMEMBERED = 8  # rounds whose instructions are shown again, and not written again
FIRST_ID = 100 * IDS  # of what is invented: no split's


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructConfig:
    """The keys of a method that writes its own instructions."""

    num_invented: int = key(0, at_least(0))  # to be written in a round; 0: the task's are asked
    invent_template: str = "invent"  # a file with {example_1} ... {example_n}, or one of templates
    invent_temperature: float = key(0.6, above(0))
    invent_tokens: int = key(128, at_least(2))  # of an instruction, at most
    # ROUGE-L from which an instruction is too much like another.
    max_similarity: float = key(0.7, between(0, 1))


@dataclasses.dataclass(frozen=True)
class Invented:
    examples: list[Example]
    num_unread: int  # those that the task could not read, or that were cut off
    num_alike: int


def check(cfg: ConfigDict) -> None:
    """UserError for a template that cannot be filled; cfg: a method's section."""
    if cfg.num_invented:
        templates.read_numbered(cfg.invent_template, "example", "config.algorithm.invent_template")
        return
    names = [field.name for field in dataclasses.fields(InstructConfig)]
    check_unused(InstructConfig, cfg, names, "config.algorithm", "with num_invented=0")


def init_memory(cfg: ConfigDict, num_examples: int) -> np.ndarray:
    """Room for the instructions of the last rounds, [REMEMBERED * num_invented, tokens] int32.

    Its size does not depend on the number of rounds, which a run may be given more of.
    """
    a = cfg.algorithm
    size = max(REMEMBERED * a.num_invented, 1)  # an empty array cannot be saved
    return np.full((size, a.invent_tokens), -1, np.int32)


def ask(
    rollout: Rollout, given: Sequence[Example], memory: np.ndarray, round: int, cfg: ConfigDict
) -> tuple[Sequence[Example], np.ndarray, dict[str, float]]:
    """What the round asks; the memory with what was written for it; statistics."""
    a = cfg.algorithm
    if not given:
        raise UserError(
            f"config.rounds.split: none of the examples of {cfg.rounds.split} that the round takes "
            "is an instruction."
        )
    if not a.num_invented:
        return given, memory, {}
    # A round's place, where the round was that is remembered no longer.
    start = (round - 1) % REMEMBERED * a.num_invented
    memory = memory.copy()
    memory[start : start + a.num_invented] = -1
    earlier = [rollout.tokenizer.decode(ids[ids >= 0]).strip() for ids in memory]
    written = invent(rollout, given, [t for t in earlier if t], round, cfg.seed, a)
    if not written.examples:
        raise UserError(
            f"round {round}: none of the {a.num_invented} instructions that the model wrote can be "
            f"used ({written.num_unread} cannot be read, {written.num_alike} are alike): see "
            "config.algorithm.max_similarity and invent_temperature."
        )
    for i, example in enumerate(written.examples, start=start):
        ids = rollout.tokenizer.encode(f" {example.question}")[: a.invent_tokens]
        memory[i, : len(ids)] = ids
    stats = {
        "invented": len(written.examples),
        "invented_unread": written.num_unread / a.num_invented,
        "invented_alike": written.num_alike / a.num_invented,
    }
    return written.examples, memory, stats


def invent(
    rollout: Rollout,
    given: Sequence[Example],
    earlier: Sequence[str],
    round: int,
    seed: int,
    cfg: ConfigDict,
) -> Invented:
    """At most ``num_invented`` instructions, unlike each other, those of earlier rounds and given.

    given: examples to show; earlier: instructions that were written before. cfg: a method's
    section with the keys of InstructConfig. UserError for a task that reads none.
    """
    read = rollout.task.invented
    if read is None:
        raise UserError(
            f"config.algorithm.num_invented: the task {rollout.task.name} reads no instruction "
            "that a model wrote; set 0."
        )
    template, count = templates.read_numbered(cfg.invent_template, "example", "invent_template")
    rng = np.random.default_rng([seed, round])
    prompts = []
    for _ in range(cfg.num_invented):
        num_own = min(int(OWN * count), len(earlier))
        own = rng.permutation(len(earlier))[:num_own]
        num_given = count - num_own
        others = rng.choice(len(given), size=num_given, replace=len(given) < num_given)
        shown = [*(earlier[i] for i in own), *(given[i].question for i in others)]
        prompts.append(template.fill(**{f"example_{i}": t for i, t in enumerate(shown, start=1)}))
    written = rollout.write(
        prompts,
        num_samples=1,
        temperature=cfg.invent_temperature,
        max_new_tokens=cfg.invent_tokens,
        purpose="invent",
    )
    texts = [own[0].text.strip() if own and own[0].finished else "" for own in written]
    first_id = FIRST_ID + round * cfg.num_invented
    examples = [read(text, first_id + i) for i, text in enumerate(texts)]
    readable = [example for example in examples if example is not None]
    known = [*earlier, *(example.question for example in given)]
    kept = _unlike(readable, known, cfg.max_similarity)
    return Invented(kept, len(examples) - len(readable), len(readable) - len(kept))


def _unlike(
    examples: Sequence[Example], others: Sequence[str], max_similarity: float
) -> list[Example]:
    """The examples that are like none of these, nor like one before them."""
    known = [text.split() for text in others]
    exact = set(others)
    kept = []
    for example in examples:
        words = example.question.split()
        if example.question in exact:
            continue
        if any(_is_alike(words, one, max_similarity) for one in known):
            continue
        kept.append(example)
        known.append(words)
        exact.add(example.question)
    return kept


def _is_alike(first: Sequence[str], second: Sequence[str], max_similarity: float) -> bool:
    longest = 2 * min(len(first), len(second))  # of a common subsequence, doubled
    if longest <= max_similarity * (len(first) + len(second)):
        return False
    return ranking.rouge_l(first, second) > max_similarity
