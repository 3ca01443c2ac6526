"""GSM8K with equations for rationales: iCoT's and Coconut's GSM8k-Aug (arXiv:2311.01460).

    <<16-3-4=9>>
    <<9*2=18>>
    #### 18

A published file has a line "QUESTION||EQUATIONS #### ANSWER" for each question. Here each equation
is a line of its own. "validation" and "test" are valid.txt and test.txt; the former is a part of
GSM8K's own train split. "train" and "given" (the same with rationales) are GSM8K's train split
without that part, or the augmented questions of train.txt, which are published as a large file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import arithmetic, conventions
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, key, one_of
from reasoning_jax.tasks import IDS, Example, FileTaskConfig
from reasoning_jax.training import data

GRADER = "math"
KIND = "the number"
FILES = {"train": "train.txt", "given": "train.txt", "validation": "valid.txt", "test": "test.txt"}
FIRST_IDS = {"train": 0, "given": 0, "validation": IDS, "test": 2 * IDS}
EQUATION = re.compile(r"<<([^<>\n]{,200})>>")
MAX_EQUATIONS = 500  # of a completion: what comes after so many is not judged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    # What is trained on: GSM8K's own questions, of GSM8K_PATH, or the augmented ones of PATH.
    train: str = key("gsm8k", one_of("gsm8k", "augmented"))
    gsm8k_path: str = ""  # the folder of train.jsonl; "" = $REASONING_DATA/gsm8k, as path
    num_train: int = key(0, at_least(0))  # the first of "train" and "given"; 0 = all


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The examples of a split; UserError, naming file and line, for what cannot be read."""
    if split not in FILES:
        raise UserError(f"gsm8k_aug has no split {split!r}; it has {', '.join(FILES)}.")
    if cfg.train == "augmented" and cfg.gsm8k_path:
        raise UserError(
            "config.task.gsm8k_path: with config.task.train=augmented it has no effect."
        )
    training = split in ("train", "given")
    if training and cfg.train == "gsm8k":
        lines = _gsm8k(cfg)
    else:
        lines = _lines(Path(cfg.path) / FILES[split], "train=augmented" if training else "path")
    if training and cfg.num_train:
        if cfg.num_train > len(lines):
            raise UserError(
                f"config.task.num_train: {cfg.num_train} are more than the {len(lines)} examples."
            )
        lines = lines[: cfg.num_train]
    examples = []
    for id, (where, question, solution) in enumerate(lines, start=FIRST_IDS[split]):
        example = _example(cfg, question, solution, where)
        withheld = None if split == "train" else example.rationale
        examples.append(dataclasses.replace(example, id=id, rationale=withheld))
    return examples


# ---- reading files -------------------------------------------------------------------------------

Line = tuple[str, str, str]  # (where it is, question, solution)


def _lines(path: Path, key: str) -> list[Line]:
    """The lines of a file; ``key`` is the one that asks for it."""
    found = []
    text = text_files.read_text(path, f"config.task.{key}: {path}")
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        question, separator, solution = line.partition("||")
        if not separator or not question.strip():
            raise UserError(f"{where}: this is no 'QUESTION||EQUATIONS #### ANSWER'.")
        found.append((where, question.strip(), solution))
    return found


def _gsm8k(cfg: ConfigDict) -> list[Line]:
    """GSM8K's train split, without what is validation here."""
    validation = _lines(Path(cfg.path) / FILES["validation"], "path")
    held_out = {_spaced(question) for _, question, _ in validation}
    found = []
    for where, record in data.read_split(cfg.gsm8k_path or data.folder("gsm8k"), "train"):
        question, solution = text_files.check_texts(record, ("question", "answer"), where)
        if _spaced(question) not in held_out:
            found.append((where, question.strip(), solution))
    return found


def _spaced(text: str) -> str:
    """The text with one space between words."""
    return " ".join(text.split())


def _example(cfg: ConfigDict, question: str, solution: str, where: str) -> Example:
    answer = extract(solution)
    if answer is None:
        raise UserError(f"{where}: the answer has no number after '####'.")
    equations = [f"<<{equation}>>" for equation in EQUATION.findall(solution.partition("####")[0])]
    rationale = "\n".join([*equations, f"#### {answer}"])
    return Example(
        id=0,
        question=question,
        answer=answer,
        rationale=conventions.restate(rationale, answer, cfg.extraction),
        where=where,
    )


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the number in parentheses after the question."""
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


def convention(cfg: ConfigDict) -> str:
    return "hashes"


def trigger(cfg: ConfigDict) -> str:
    return "Therefore, the answer (arabic numerals) is"


def steps(text: str) -> int:
    """Equations before the answer."""
    return len(EQUATION.findall(text.partition("####")[0]))


def wrong_line(text: str, example: Example) -> int | None:
    """The first line with a false equation <<a op b=c>>; what is outside of them is not judged."""
    for number, equation in enumerate(EQUATION.finditer(text)):
        if number == MAX_EQUATIONS:
            break
        if arithmetic.is_false_equation(equation[1]):
            return text.count("\n", 0, equation.start())
    return None


def difficulty(example: Example) -> tuple[str, int]:
    """Equations of the rationale; 0 where it is withheld."""
    return "steps", steps(example.rationale or "")
