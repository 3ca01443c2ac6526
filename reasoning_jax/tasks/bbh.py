"""BIG-Bench Hard (arXiv:2210.09261): 27 forms of question; an experiment has one, config.task.form.

For some forms, bbh_forms makes questions: "train" (without rationales), "given" (worked examples)
and "validation", of which no two share a question, whatever their sizes, and none has a published
one; the published ones are "test". Of another form's records, "train" is the first 60 % (150 of
250, as in TRICE's notebook), "validation" the last fifth of these, so not held out, and "test" the
rest. For short sequences there is no "Let's think step by step", and whole words are symbols of
the alphabet.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax.answers import choices, markup, quantities, statements, words
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.ranges import between, each, key, one_of
from reasoning_jax.tasks import Example, FileTaskConfig, Task, bbh_forms

# What the published records have besides ASCII.
FOREIGN = "²ÁÄÉÖÜßáâäæçèéëíîïóôöøúüČčğİıńŌōŞşŠšūą–—’“„\xa0"
SYMBOLS = [*map(chr, range(32, 127)), "\n", *FOREIGN, "Q:", "\nA:", " So the answer is"]
ALPHABET = tuple(dict.fromkeys(SYMBOLS + bbh_forms.words()))
SPLITS = {"train": 0, "given": 1, "validation": 2, "test": 3}
IDS = 10_000_000  # a split's ids begin at so many times its number: no two splits share an id
MAX_GIVEN = 500_000  # of one level
# Tenths of all questions, by their checksum.
TENTHS = {"train": range(5, 10), "given": range(1, 5), "validation": range(1)}
BRACKETS = re.compile(r"[][(){}<>\s]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FileTaskConfig):
    # Of the made questions: the same for every config.seed.
    seed: int = key(0, between(0, 2**32 - 1))
    form: str = key("boolean_expressions", one_of(*bbh_forms.NAMES))  # which of the 27 tasks
    num_train: int = key(50_000, between(0, IDS))  # made questions without a rationale
    num_eval: int = key(500, between(0, IDS))  # made questions in validation
    # Worked examples of the form's levels, easiest first.
    given: tuple[int, ...] = key((0,), each(between(0, MAX_GIVEN)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormExample(Example):
    form: str = ""


def load(cfg: ConfigDict, split: str) -> Sequence[FormExample]:
    """The questions of a split; UserError for an unknown split, or an empty one.

    ``train``: num_train questions, ``validation``: num_eval, both spread evenly over the form's
    LEVELS; ``given``: given[i] worked examples of LEVELS[i]. A level with too few questions
    repeats them, but in validation has fewer.
    """
    if split not in SPLITS:
        raise UserError(f"bbh has no split {split!r}; it has {', '.join(SPLITS)}.")
    form = bbh_forms.get(cfg.form)
    if form is None or split == "test":
        return _published(cfg, split, form)
    examples: list[FormExample] = []
    for question in _made(cfg, split, form):
        answer, rationale = form.solve(question)
        id = SPLITS[split] * IDS + len(examples)
        given = rationale if split == "given" else None
        examples.append(
            FormExample(id=id, question=question, answer=answer, rationale=given, form=cfg.form)
        )
    if not examples:
        raise UserError(
            f"The {split} split of {cfg.form} is empty: config.task asks for no questions."
        )
    return examples


def _published(cfg: ConfigDict, split: str, form: bbh_forms.Form | None) -> list[FormExample]:
    """The published records of a split; ``form``: None where there is no generator."""
    path = bbh_forms.published_file(cfg.path, cfg.form)
    records = list(enumerate(bbh_forms.published(cfg.path, cfg.form), start=1))
    cut = len(records) * 6 // 10
    splits = {
        "train": records[:cut],
        "validation": records[cut - cut // 5 : cut],
        "test": records if form else records[cut:],
    }
    if split not in splits:
        known = ", ".join(splits)
        raise UserError(f"{cfg.form} has no worked examples ('given'), only {known}.")
    examples = []
    for id, (number, (question, answer)) in enumerate(splits[split], start=SPLITS[split] * IDS):
        where = f"{path}, record {number}"
        if form:
            bbh_forms.check_is_read(form, question, where)
        examples.append(
            FormExample(id=id, question=question, answer=answer, form=cfg.form, where=where)
        )
    return examples


def _made(cfg: ConfigDict, split: str, form: bbh_forms.Form) -> list[str]:
    """The made questions of a split, level by level."""
    levels = len(form.LEVELS)
    if split == "given":
        counts = list(cfg.given)
    else:
        total = cfg.num_train if split == "train" else cfg.num_eval
        counts = [(total + i) // levels for i in range(levels)]
    if len(counts) > levels:
        raise UserError(
            f"config.task.given names {len(counts)} levels, but those of {cfg.form} are "
            f"{form.LEVELS}."
        )
    try:
        taken = {" ".join(q.split()) for q, _ in bbh_forms.published(cfg.path, cfg.form)}
    except MissingFileError:  # questions can be made without the files
        taken = set()
    questions = []
    for level, count in zip(form.LEVELS, counts, strict=False):
        questions += bbh_forms.draw(
            form,
            level,
            count,
            seed=(cfg.seed, SPLITS[split], level),
            tenths=TENTHS[split],
            taken=taken,
            repeat=split != "validation",
        )
    return questions


def configured(task: Task, cfg: ConfigDict) -> Task:
    """Lines are compared with those of the form, which marks answers in one way."""
    if cfg.extraction:
        task = dataclasses.replace(task, wrong_line=lambda text, example: None)
    return task


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    return f"Q: {example.question}\n({hint})\nA:" if hint else f"Q: {example.question}\nA:"


def target(example: Example, direct: bool = False) -> str:
    """A worked example's completion; UserError where there is no rationale to write."""
    if direct:
        return f" So the answer is {example.answer}."
    if example.rationale is None:
        raise UserError(
            "This form of bbh has no worked examples to train on; collect some, or train directly "
            "on answers."
        )
    return f" {example.rationale} So the answer is {example.answer}."


def extract(text: str) -> str | None:
    """What follows the last "the answer is", to the end of that sentence."""
    return statements.final(statements.own_words(text))


def reading(answer: str, example: Example) -> str | None:
    """The answer as what the published answer is: a choice, brackets, a number, or words.

    None where it is of another kind.
    """
    gold = example.answer
    if re.fullmatch(r"\([A-Z]\)", gold):
        letter = choices.read(answer, _options(example))
        return None if letter is None else f"({letter.upper()})"
    if not BRACKETS.sub("", gold):
        brackets = "".join(markup.clean(answer).split())
        return None if BRACKETS.sub("", brackets) else brackets
    if re.fullmatch(r"-?\d+", gold):
        quantity = quantities.read_answer(answer)
        return None if quantity is None else quantities.canonical(quantity)
    if gold.lower() in words.VERDICTS:
        return words.verdict(answer)
    return words.in_order(answer, gold)


def _options(example: Example) -> dict[str, str]:
    """The texts of the options by letter, in lower case."""
    listed = re.findall(r"^\(([A-Z])\) (.*)$", example.question, re.MULTILINE)
    return {letter.lower(): text for letter, text in listed}


def steps(text: str) -> int:
    """Lines with text before the answer."""
    return len(re.findall(r"\S.*", text.rpartition("So the answer is")[0]))


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that differs from the only rationale and answer of the form.

    None where it has no generator.
    """
    form = bbh_forms.get(getattr(example, "form", ""))
    if form is None:
        return None
    answer, rationale = form.solve(example.question)
    worked = Example(id=0, question="", answer=answer, rationale=rationale)
    direct = text.lstrip().startswith("So the answer is")
    truth = target(worked, direct).split("\n")
    lines = text.split("\n")
    for i, (line, true) in enumerate(itertools.zip_longest(lines, truth)):
        if line != true:
            return min(i, len(lines) - 1)
    return None


def difficulty(example: Example) -> tuple[str, int]:
    form = bbh_forms.get(getattr(example, "form", ""))
    if form is None:
        return "characters", len(example.question) // 200 * 200
    return form.difficulty(example.question)
