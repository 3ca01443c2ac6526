"""Self-instruct's instructions (arXiv:2212.10560): seed tasks, and more for evaluation.

"train" and "given" (with their answers) are the seed tasks but the last 25, which are
"validation"; "test" are the instructions that people had for an assistant. Answers are a judge's
to score. A model can go on with new instructions (``invented``).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import IDS, Example, FolderConfig
from reasoning_jax.training import data

GRADER = "judge"
VALIDATION = 25
SEEDS, USERS = "seed_tasks", "user_oriented_instructions"
SPLITS = {
    "train": (SEEDS, slice(-VALIDATION)),
    "given": (SEEDS, slice(-VALIDATION)),
    "validation": (SEEDS, slice(-VALIDATION, None)),
    "test": (USERS, slice(None)),
}
# What the paper leaves out (section 2.2): too short or too long, or not about text alone.
FEWEST_WORDS, MOST_WORDS = 4, 150
NOT_TEXT = re.compile(r"\b(images?|pictures?|graphs?|photos?|videos?|files?)\b", re.IGNORECASE)
NEXT = re.compile(r"\n\s*Request:")  # of the template "invent": a model that goes on and on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FolderConfig):
    pass


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The instances of a split's tasks; UserError, naming file and line, for what is malformed."""
    if split not in SPLITS:
        raise UserError(f"self_instruct has no split {split!r}; it has {', '.join(SPLITS)}.")
    name, chosen = SPLITS[split]
    tasks: list[list[Example]] = []  # the instances of each: a split has all of a task, or none
    ids = itertools.count(IDS if name == USERS else 0)
    for where, record in data.read_split(Path(cfg.path), name):
        examples = []
        for question, answer in _instances(record, where):
            examples.append(
                Example(
                    id=next(ids),
                    question=question,
                    answer=answer,
                    rationale=None if split == "train" else answer,
                    where=where,
                )
            )
        tasks.append(examples)
    if name == SEEDS and len(tasks) <= VALIDATION:
        raise UserError(
            f"{tasks[0][0].where.rpartition(', ')[0]}: more than {VALIDATION} tasks are needed, as "
            f"the last {VALIDATION} are validation."
        )
    return [example for examples in tasks[chosen] for example in examples]


def _instances(record: data.Record, where: str) -> list[tuple[str, str]]:
    """(question, answer) of each instance of a task: its instruction, and the input if any."""
    [instruction] = text_files.check_texts(record, ("instruction",), where)
    instances = record.get("instances")
    if not isinstance(instances, list) or not instances:
        raise UserError(f"{where}: 'instances' must be a list of objects.")
    found = []
    for instance in instances:
        if not isinstance(instance, dict) or not isinstance(instance.get("input"), str):
            raise UserError(f"{where}: an instance must be an object with a text 'input'.")
        [output] = text_files.check_texts(instance, ("output",), f"{where}, in an instance")
        given = instance["input"]
        problem = text_files.encoding_problem(given)
        if problem is not None:
            raise UserError(f"{where}, in an instance: 'input' {problem}.")
        parts = [text.strip() for text in (instruction, given) if text.strip()]
        found.append(("\n\n".join(parts), output.strip()))
    return found


def invented(text: str, id: int) -> Example | None:
    """The instruction that a model wrote, up to where it begins another; None where it is none.

    That is too short or too long a one, one that does not begin with a letter or a number, and one
    about more than text.
    """
    own = NEXT.split(text)[0].strip()
    num_words = len(own.split())
    if not FEWEST_WORDS <= num_words <= MOST_WORDS:
        return None
    if not own[0].isalnum() or NOT_TEXT.search(own):
        return None
    return Example(id=id, question=own, answer="")


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the answer in parentheses after the question."""
    hinted = "" if hint is None else f" ({hint})"
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    return f" {example.answer}"


def extract(text: str) -> str | None:
    """The whole response."""
    return text.strip() or None
