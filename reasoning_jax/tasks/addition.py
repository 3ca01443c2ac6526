"""n-digit addition with the scratchpad of the STaR paper (Zelikman et al. 2022, section 4.1).

For the prompt 29+57 the completion is

    <scratch>
    29+57,C:0         the whole sum, carry 0
    2+5,6C:1          the next pair of digits, the low digits so far, the carry into this pair
    ,86C:0            no digits left, the low digits, the last carry
    086               the last carry in front of the digits
    </scratch>
    86                (a hinted prompt has this line after the question)

The paper sets digits apart ("2 9 + 5 7") for its subword tokenizer; with one symbol a character
there is no need. Both operands have equally many digits and no leading zero. A pair (a, b)
belongs to one split together with (b, a).

The form "simplify" has no scratchpad and no limit of digits: see addition_forms/simplify.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, each, key, one_of
from reasoning_jax.tasks import Example, Task, TaskConfig
from reasoning_jax.tasks.addition_forms import simplify

ALPHABET = (*"0123456789+,C:\n", "<scratch>", "</scratch>")
SPLITS = {"train": 0, "given": 1, "validation": 2, "test": 3}
MAX_DIGITS = 18  # that 64 bits hold, in which the scratchpad's sums are drawn
IDS = 10_000_000  # a split's ids begin at so many times its number: no two splits share an id
# Of one length: there are 81,000 pairs of 3 digits in validation, and 567,000 in given.
MAX_EVAL = 50_000
MAX_GIVEN = 500_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TaskConfig):
    # Of the problems themselves: the same for every config.seed.
    seed: int = key(0, between(0, 2**32 - 1))
    form: str = key("scratchpad", one_of("scratchpad", "simplify"))
    # Operands have 1 to this many digits; of the form scratchpad, 18 at most.
    max_digits: int = key(5, between(1, 1000))
    num_train: int = key(50_000, between(0, IDS))  # problems without a rationale
    # Held-out problems a length, in validation and in test.
    num_eval: int = key(500, between(0, MAX_EVAL))
    # Worked examples of 1, 2, ... digits.
    given: tuple[int, ...] = key((0,), each(between(0, MAX_GIVEN)))


def scratchpad(a: int, b: int) -> str:
    """The lines between <scratch> and </scratch> for two numbers of equally many digits."""
    first, second = str(a), str(b)
    if len(first) != len(second):
        raise ValueError(f"{a} and {b} have different numbers of digits.")
    lines = [f"{first}+{second},C:0"]
    low, carry = "", 0
    for i in range(len(first) - 1, -1, -1):
        carry, digit = divmod(int(first[i]) + int(second[i]) + carry, 10)
        low = f"{digit}{low}"
        pair = f"{first[i - 1]}+{second[i - 1]}" if i else ""
        lines.append(f"{pair},{low}C:{carry}")
    return "\n".join([*lines, f"{carry}{low}"])


def held_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The split of each pair [n], the same for (a, b) and (b, a).

    3 (test) for a fifth of them, 2 (validation) for a tenth, else 0.
    """
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    mixed = (low * np.uint64(0x9E3779B97F4A7C15)) ^ (high * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    bucket = (mixed >> np.uint64(33)) % np.uint64(10)
    return np.select([bucket < 2, bucket == 2], [3, 2], 0)


def _pairs(digits: int, count: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """[n, 2] operands of this length and split.

    In train they may repeat. In validation and test they are distinct, and fewer than ``count``
    where a length has no more; in given they begin again there.
    """
    low, high = 10 ** (digits - 1), 10**digits
    group = SPLITS[split] if split in ("validation", "test") else 0
    if split != "train" and digits <= 2:  # few enough to list
        numbers = np.arange(low, high)
        pairs = np.stack(np.meshgrid(numbers, numbers), -1).reshape(-1, 2)
        pairs = pairs[held_out(pairs[:, 0], pairs[:, 1]) == group]
        size = count if split == "given" else min(count, len(pairs))
        return np.resize(rng.permutation(pairs), (size, 2))
    pairs = np.empty((0, 2), np.int64)
    while len(pairs) < count:
        drawn = rng.integers(low, high, (2 * count + 8, 2))
        pairs = np.concatenate([pairs, drawn[held_out(drawn[:, 0], drawn[:, 1]) == group]])
        if split != "train":
            first_of_each = np.unique(pairs, axis=0, return_index=True)[1]
            pairs = pairs[np.sort(first_of_each)]
    return pairs[:count]


def _counts(cfg: ConfigDict, split: str) -> Sequence[int]:
    """How many problems a split has of 1, 2, ... digits."""
    if split == "given":
        if len(cfg.given) > cfg.max_digits:
            raise UserError(
                f"config.task.given names {len(cfg.given)} lengths but config.task.max_digits is "
                f"{cfg.max_digits}."
            )
        return cfg.given
    if split == "train":
        return [-(-cfg.num_train // cfg.max_digits)] * cfg.max_digits
    return [cfg.num_eval] * cfg.max_digits


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """The problems of a split; UserError for an unknown or an empty one.

    ``train``: num_train sums spread evenly over 1 to max_digits; ``given``: given[d - 1] distinct
    worked examples of d digits from the same pairs; ``validation`` and ``test``: num_eval held-out
    sums a length (all there are, if fewer).
    """
    if split not in SPLITS:
        raise UserError(f"addition has no split {split!r}; it has {', '.join(SPLITS)}.")
    if cfg.form == "simplify":
        return simplify.load(cfg, split, SPLITS[split], SPLITS[split] * IDS)
    if cfg.max_digits > MAX_DIGITS:
        raise UserError(
            f"config.task.max_digits: {cfg.max_digits}, but the form scratchpad has at most "
            f"{MAX_DIGITS} digits."
        )
    rng = np.random.default_rng([cfg.seed, SPLITS[split]])
    counts = enumerate(_counts(cfg, split), start=1)
    pairs = [_pairs(digits, count, split, rng) for digits, count in counts if count]
    if not pairs:
        raise UserError(f"The {split} split of addition is empty: config.task asks for no sums.")
    examples = []
    for id, (a, b) in enumerate(np.concatenate(pairs).tolist(), start=SPLITS[split] * IDS):
        rationale = scratchpad(a, b) if split == "given" else None
        examples.append(Example(id=id, question=f"{a}+{b}", answer=str(a + b), rationale=rationale))
    return examples


def configured(task: Task, cfg: ConfigDict) -> Task:
    """The task of the form that the config names."""
    if cfg.form == "scratchpad":
        return task
    return dataclasses.replace(
        task,
        ALPHABET=simplify.ALPHABET,
        prompt=simplify.prompt,
        target=simplify.target,
        extract=simplify.extract,
        difficulty=simplify.difficulty,
        steps=lambda text: 0,
        wrong_line=lambda text, example: None,
    )


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    return f"{example.question}\n{hint}\n" if hint else f"{example.question}\n"


def target(example: Example, direct: bool = False) -> str:
    if direct:
        return example.answer
    return f"<scratch>\n{example.rationale}\n</scratch>\n{example.answer}"


def extract(text: str) -> str | None:
    """The digits after </scratch>, or of the whole text where there is none, as a number."""
    answer = text.rpartition("</scratch>")[2].strip()
    if not answer.isascii() or not answer.isdigit():
        return None
    return answer.lstrip("0") or "0"


def steps(text: str) -> int:
    return text.count("C:")


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that differs from the only true scratchpad and answer."""
    a, b = example.question.split("+")
    worked = dataclasses.replace(example, rationale=scratchpad(int(a), int(b)))
    truth = target(worked, direct="<scratch>" not in text).split("\n")
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if i >= len(truth) or line != truth[i]:
            return i
    return None if len(lines) == len(truth) else len(lines) - 1


def difficulty(example: Example) -> tuple[str, int]:
    return "digits", len(example.question) // 2
