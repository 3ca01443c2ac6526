"""GSM8K: grade-school word problems with worked solutions (arXiv:2110.14168), as STaR prompts them.

A rationale is the whole worked solution with its last line "#### 72". Splits are "train", "given"
(the same examples with their rationales), "validation" (the last 500 examples of the published
train split, which those two leave out) and "test".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import arithmetic, conventions
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, key, one_of
from reasoning_jax.tasks import Example, FileTaskConfig
from reasoning_jax.training import data

GRADER = "math"
# Of Wei et al. 2022 (arXiv:2201.11903, table 20) and of STaR.
SHOTS = {
    "wei": ("cot_exemplars/gsm8k_8shot_wei.jsonl", "answer_is"),
    "star": ("star_prompts/gsm/prompts.txt", ""),
}
KIND = "the number"
VALIDATION = 500
SPLITS = {
    "train": slice(-VALIDATION),
    "validation": slice(-VALIDATION, None),
    "test": slice(None),
    "given": slice(-VALIDATION),
}
TEST_ID = 1_000_000  # the ids of test examples begin here
SPAN = re.compile(r"<<([^<>\n]{,200})>>")
LINE = re.compile(r"\S.*")  # with text
MAX_SPANS = 500  # of a completion: what comes after so many is not judged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    source: str = key("jsonl", one_of("jsonl", "tfds"))
    calculator: bool = True  # keep the <<48/2=24>> spans
    num_train: int = key(0, at_least(0))  # the first of "train" and "given"; 0 = all


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; with cfg.source "tfds" also of any TFDS split such as "train[:1%]".

    UserError, naming the line or record, for what cannot be read.
    """
    if split not in SPLITS and cfg.source != "tfds":
        raise UserError(f"gsm8k has no split {split!r}; it has {', '.join(SPLITS)}.")
    published = split
    if split in ("given", "validation"):
        published = "train"
    records = _read(cfg, published)
    if split in SPLITS and published == "train" and len(records) <= VALIDATION:
        source = records[0][0].rpartition(", ")[0]
        raise UserError(
            f"{source}: {len(records)} examples are too few, as the last {VALIDATION} are for "
            "validation."
        )
    first_id = TEST_ID if published.startswith("test") else 0
    chosen = records[SPLITS.get(split, slice(None))]
    if split in ("train", "given") and cfg.num_train:
        if cfg.num_train > len(chosen):
            raise UserError(
                f"config.task.num_train: {cfg.num_train} are more than the {len(chosen)} examples."
            )
        chosen = chosen[: cfg.num_train]
    examples = []
    for where, number, record in chosen:
        question, solution = text_files.check_texts(record, ("question", "answer"), where)
        solution = solution if cfg.calculator else SPAN.sub("", solution)
        answer = extract(solution)
        if answer is None:
            raise UserError(f"{where}: the answer has no number after '####'.")
        rationale = conventions.restate(solution, answer, cfg.extraction)
        examples.append(
            Example(
                id=first_id + number,
                question=question,
                answer=answer,
                rationale=None if split == "train" else rationale,
                where=where,
            )
        )
    return examples


def _read(cfg: ConfigDict, split: str) -> list[tuple[str, int, data.Record]]:
    """(where it is, number, record) of every record of a published split."""
    if cfg.source == "tfds":
        source = f"{cfg.path} (gsm8k, {split})"
        rows = data.tfds_source("gsm8k", cfg.path, split)
        return [(f"{source}, record {number + 1}", number, record) for number, record in rows]
    found = data.read_split(cfg.path, split)
    return [(where, number, record) for number, (where, record) in enumerate(found)]


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the final number in parentheses after the question."""
    hinted = "" if hint is None else f" ({hint})"
    return f"Q: {example.question}{hinted}\nA:"


def target(example: Example, direct: bool = False) -> str:
    return f" #### {example.answer}" if direct else f" {example.rationale}"


def parse(answer: str) -> str | None:
    """The number, in decimals and without its unit."""
    return conventions.number(answer)


def extract(text: str) -> str | None:
    """The number after "####", in decimals and without its unit."""
    return conventions.hashes(text, parse)


def steps(text: str) -> int:
    return len(LINE.findall(text.partition("####")[0]))


def wrong_line(text: str, example: Example) -> int | None:
    """The first line with a false span <<a op b=c>>; what is outside spans is not judged."""
    for number, span in enumerate(SPAN.finditer(text)):
        if number == MAX_SPANS:
            break
        if arithmetic.is_false_equation(span[1]):
            return text.count("\n", 0, span.start())
    return None


def convention(cfg: ConfigDict) -> str:
    return "hashes"


def trigger(cfg: ConfigDict) -> str:
    return "Therefore, the answer (arabic numerals) is"


def difficulty(example: Example) -> tuple[str, int]:
    """Steps of the worked solution; 0 where it is withheld."""
    return "steps", steps(example.rationale or "")
