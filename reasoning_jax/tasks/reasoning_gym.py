"""Questions of reasoning-gym's generators (arXiv:2505.24760), scored by the generator itself.

"train", "validation" and "test" are drawn with other seeds, and no question of one is in another.
An answer is right where the generator's own score is 1; less is a part of the reward. Questions are
made, and answers scored, in processes of their own: a generator that hangs is killed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.answers import conventions
from reasoning_jax.answers.killable import Pool
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key
from reasoning_jax.tasks import Example, QuestionConfig

GRADER = "scored"
SPLITS = {"test": 0, "validation": 1, "train": 2}  # a question belongs to the first that has it
IDS = 10_000_000  # a split's ids, and its seeds, begin at so many times its number
MAX_SEED = 99  # NumPy's seeds, which some generators use, end at 2^32
CHUNK = 50  # entries that a process makes at a time
CHUNK_SECONDS = 600.0
SCORE_SECONDS = 3.0
# Not offered: the score of a wrong answer is 1, or the generator needs others.
REFUSED = {
    "composite": "it mixes other generators: name one of them",
    "coin_flip": "its score takes 0 for any small number",
    "game_of_life_halting": "its score takes any text for right",
    "puzzle24": "its score does not ask for the numbers of the question",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(QuestionConfig):
    generator: str = "basic_arithmetic"
    options: str = "{}"  # the generator's own parameters, as a JSON object: '{"max_terms": 3}'
    seed: int = key(0, between(0, MAX_SEED))  # of the questions
    num_train: int = key(
        2000, between(0, IDS)
    )  # entries that are drawn; repeated ones are left out
    num_eval: int = key(200, between(0, IDS))  # entries of validation, and of test


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry(Example):
    """An entry is made again to score an answer: nothing else of it is known here."""

    generator: str
    options: str
    seed: int
    index: int


def load(cfg: ConfigDict, split: str) -> Sequence[Entry]:
    """The entries of a split, each question once; UserError for what no generator makes."""
    if split not in SPLITS:
        reason = " as it has no rationales" if split == "given" else ""
        raise UserError(
            f"reasoning_gym has no split {split!r}{reason}; it has {', '.join(SPLITS)}."
        )
    options = _checked(cfg)
    taken: set[str] = set()
    examples: list[Entry] = []
    for name in SPLITS:
        count = cfg.num_train if name == "train" else cfg.num_eval
        seed = (cfg.seed * len(SPLITS) + SPLITS[name]) * IDS
        examples = []
        for index, (question, answer) in enumerate(_drawn(cfg.generator, options, seed, count)):
            if question in taken:
                continue
            taken.add(question)
            examples.append(
                Entry(
                    id=SPLITS[name] * IDS + index,
                    question=question,
                    answer=answer or "",
                    where=f"{cfg.generator}, seed {seed}, entry {index}",
                    generator=cfg.generator,
                    options=options,
                    seed=seed,
                    index=index,
                )
            )
        if name == split:
            break
    return examples


def _checked(cfg: ConfigDict) -> str:
    """The options in one spelling; UserError for them, the generator, or a missing package."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("The task reasoning_gym needs a package: pip install reasoning-gym.")
    if cfg.generator in REFUSED:
        raise UserError(
            f"config.task.generator: {cfg.generator} is not offered: {REFUSED[cfg.generator]}."
        )
    options = text_files.parse_json(cfg.options, "config.task.options")
    if not isinstance(options, dict) or {"seed", "size"} & options.keys():
        raise UserError(
            "config.task.options: this must be a JSON object of the generator's parameters, "
            "without seed and size."
        )
    return json.dumps(options, sort_keys=True)


@functools.lru_cache(maxsize=6)
def _drawn(name: str, options: str, seed: int, count: int) -> list[tuple[str, str | None]]:
    """(question, answer) of the first entries of a seed."""
    drawn: list[tuple[str, str | None]] = []
    for start in range(0, count, CHUNK):
        made = _pool().ask("entries", name, options, seed, start, min(start + CHUNK, count))
        if not isinstance(made, list):
            reason = " ".join(str(made or "it was too slow, or died").split())
            raise UserError(f"config.task.generator: {name} makes no entries ({reason[:300]}).")
        drawn += [(question, answer) for question, answer in made]
    return drawn


@functools.cache
def _pool() -> Pool:
    checker = "reasoning_jax.answers.generators:serve"
    return Pool(checker, size=1, seconds=CHUNK_SECONDS, warm_up=("import",))


# ---- prompts and answers -------------------------------------------------------------------------


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """ "Q: ...\nA:"; the hint is the answer, in parentheses on a line of its own."""
    if hint is None:
        return f"Q: {example.question}\nA:"
    if not hint:
        raise UserError("this generator gives no answer that could be a hint.")
    return f"Q: {example.question}\n({hint})\nA:"


def target(example: Example, direct: bool = False) -> str:
    """The answer in its tags; UserError where there is none, or where a rationale is asked for."""
    if not direct or not example.answer:
        missing = "answers" if direct else "rationales"
        raise UserError(f"reasoning_gym gives no {missing} here to train on; collect some.")
    return f" <answer>{example.answer}</answer>"


def convention(cfg: ConfigDict) -> str:
    return "tags"


def extract(text: str) -> str | None:
    """What stands between the last <answer> and </answer>."""
    return conventions.tags(text, conventions.any_text)


def score(answer: str, example: Example) -> float:
    """The generator's own score, from 0 to 1; 0 where it fails or takes too long."""
    if not isinstance(example, Entry):
        return 0.0
    which = (example.generator, example.options, example.seed, example.index)
    _pool().ask("score", *which, None)  # makes the entry, which may take longer
    found = _pool().ask("score", *which, answer, seconds=SCORE_SECONDS)
    return found if isinstance(found, float) else 0.0
