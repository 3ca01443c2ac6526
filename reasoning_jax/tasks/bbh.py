"""BIG-Bench Hard (arXiv:2210.09261): 27 forms of question; an experiment has one, config.task.form.

For some, bbh_forms makes questions: "train" (without rationales), "given" (worked examples) and "validation", of which no
two share a question, whatever their sizes, and none has a published one; those are "test". Of another form's rows, "train"
is the first 60 % (150 of 250, as in TRICE's notebook), "validation" the last fifth of these, so not held out, and "test"
the rest. For short sequences there is no "Let's think step by step", and whole words are symbols of the alphabet.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

from reasoning_jax import bbh_forms, grading
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example

FOREIGN = "²ÁÄÉÖÜßáâäæçèéëíîïóôöøúüČčğİıńŌōŞşŠšūą–—’“„\xa0"  # what the published rows have besides ASCII
SYMBOLS = [*map(chr, range(32, 127)), "\n", *FOREIGN, "Q:", "\nA:", " So the answer is"]
ALPHABET = tuple(dict.fromkeys(SYMBOLS + bbh_forms.words()))
SPLITS = {"train": 0, "given": 1, "validation": 2, "test": 3}
TENTHS = {"train": range(5, 10), "given": range(1, 5), "validation": range(1)}  # of all questions, by their checksum
CHOICE = re.compile(r"\(([a-z])\)(?:\s.*)?|([a-z])[).:]?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Row(Example):
    form: str = ""


def load(cfg: Any, split: str) -> Sequence[Row]:
    """``train``: num_train questions, ``validation``: num_eval, both spread evenly over the form's LEVELS; ``given``:
    given[i] worked examples of LEVELS[i]. A level with too few questions repeats them, but in validation has fewer."""
    if cfg.form not in bbh_forms.NAMES:
        raise ValueError(f"config.task.form: there is no form {cfg.form!r}; the forms are {', '.join(bbh_forms.NAMES)}.")
    if split not in SPLITS:
        raise ValueError(f"bbh has no split {split!r}; it has {', '.join(SPLITS)}.")
    form, first_id = bbh_forms.get(cfg.form), SPLITS[split] * 10_000_000  # ids never meet across splits
    if form is None or split == "test":
        rows = bbh_forms.published(cfg.path, cfg.form)
        cut = len(rows) * 6 // 10
        parts = {"train": rows[:cut], "validation": rows[cut - cut // 5 : cut], "test": rows if form else rows[cut:]}
        if split not in parts:
            raise ValueError(f"{cfg.form} has no worked examples ('given'), only {', '.join(parts)}.")
        return [Row(i, question, answer, form=cfg.form) for i, (question, answer) in enumerate(parts[split], first_id)]
    levels, n = len(form.LEVELS), cfg.num_train if split == "train" else cfg.num_eval
    counts = list(cfg.given) if split == "given" else [(n + i) // levels for i in range(levels)]
    if len(counts) > levels:
        raise ValueError(f"config.task.given names {len(counts)} levels, but those of {cfg.form} are {form.LEVELS}.")
    try:
        taken = {" ".join(question.split()) for question, _ in bbh_forms.published(cfg.path, cfg.form)}
    except FileNotFoundError:  # questions can be made without the files
        taken = set()
    rows = []
    for level, count in zip(form.LEVELS, counts, strict=False):
        seed = (cfg.seed, SPLITS[split], level)
        for question in bbh_forms.draw(form, level, count, seed, TENTHS[split], taken, repeat=split != "validation"):
            answer, rationale = form.solve(question)
            rows.append(Row(first_id + len(rows), question, answer, rationale if split == "given" else None, cfg.form))
    if not rows:
        raise ValueError(f"The {split} split of {cfg.form} is empty: config.task asks for no questions.")
    return rows


def prompt(example: Example, hint: str | None = None) -> str:
    return f"Q: {example.question}\n({hint})\nA:" if hint else f"Q: {example.question}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """A worked example's completion; ValueError where there is no rationale to write."""
    if not direct and example.rationale is None:
        raise ValueError("This form of bbh has no worked examples to train on; collect some, or train directly on answers.")
    return f"{'' if direct else f' {example.rationale}'} So the answer is {example.answer}."


def extract(text: str) -> str | None:
    """What stands between the last "the answer is" and the full stop; text after a new question does not count."""
    found = re.split(r"\bthe answer is\b:?", text.partition("\nQ:")[0], flags=re.IGNORECASE)[1:]
    return re.split(r"\.(?=\s|$)|\n", found[-1].strip())[0].strip() or None if found else None


def grade(text: str, example: Example) -> str:
    answer = extract(text)
    return UNPARSED if answer is None else CORRECT if _same(answer.strip('*`"$ '), example.answer) else WRONG


def steps(text: str) -> int:
    """Lines with text before the answer."""
    return sum(bool(line.strip()) for line in text.rpartition("So the answer is")[0].splitlines())


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that differs from the only rationale and answer of the form; None where it has no generator."""
    form = bbh_forms.get(getattr(example, "form", ""))
    if form is None:
        return None
    worked = Example(0, "", *form.solve(example.question))
    truth, lines = target(worked, direct=text.lstrip().startswith("So the answer is")).split("\n"), text.split("\n")
    pairs = enumerate(itertools.zip_longest(lines, truth))
    return next((min(i, len(lines) - 1) for i, (line, true) in pairs if line != true), None)


def difficulty(example: Example) -> tuple[str, int]:
    form = bbh_forms.get(getattr(example, "form", ""))
    return form.difficulty(example.question) if form else ("characters", len(example.question) // 200 * 200)


def _same(answer: str, gold: str) -> bool:
    """Equal letters of a choice, closing brackets, numbers, or words in order, as the kind of ``gold`` asks."""
    if re.fullmatch(r"\([A-Z]\)", gold):
        choice = CHOICE.fullmatch(answer)
        return choice is not None and (choice[1] or choice[2]).upper() == gold[1]
    if not re.sub(r"[][(){}<>\s]", "", gold):
        return "".join(answer.split()) == "".join(gold.split())
    if re.fullmatch(r"-?\d+", gold):
        return grading.normalize(answer) == grading.normalize(gold)
    answer = {"plausible": "yes", "implausible": "no"}.get(answer.lower(), answer)
    return re.findall(r"[^\s,]+", answer.casefold()) == re.findall(r"[^\s,]+", gold.casefold())
