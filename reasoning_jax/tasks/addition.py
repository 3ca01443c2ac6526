"""n-digit addition with the scratchpad of the STaR paper (Zelikman et al. 2022, section 4.1). For the prompt 29+57:

    <scratch>
    29+57,C:0         the whole sum, carry 0
    2+5,6C:1          the next pair of digits, the low digits so far, the carry into this pair
    ,86C:0            no digits left, the low digits, the last carry
    086               the last carry in front of the digits
    </scratch>
    86                (a hinted prompt has this line after the question)

The paper sets digits apart ("2 9 + 5 7") for its subword tokenizer; with one symbol a character there is no need. Both
operands have equally many digits and no leading zero. A pair (a, b) belongs to one split together with (b, a).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example

ALPHABET = (*"0123456789+,C:\n", "<scratch>", "</scratch>")
_SPLITS = {"train": 0, "given": 1, "validation": 2, "test": 3}


def scratchpad(a: int, b: int) -> str:
    """The lines between <scratch> and </scratch> for two numbers of equally many digits."""
    first, second = str(a), str(b)
    if len(first) != len(second):
        raise ValueError(f"{a} and {b} have different numbers of digits.")
    lines, low, carry = [f"{first}+{second},C:0"], "", 0
    for i in range(len(first) - 1, -1, -1):
        carry, digit = divmod(int(first[i]) + int(second[i]) + carry, 10)
        low = f"{digit}{low}"
        pair = f"{first[i - 1]}+{second[i - 1]}" if i else ""
        lines.append(f"{pair},{low}C:{carry}")
    return "\n".join([*lines, f"{carry}{low}"])


def held_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The split of each pair, the same for (a, b) and (b, a): 3 (test) for a fifth, 2 (validation) for a tenth, else 0."""
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    mixed = (low * np.uint64(0x9E3779B97F4A7C15)) ^ (high * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    bucket = (mixed >> np.uint64(33)) % np.uint64(10)
    return np.select([bucket < 2, bucket == 2], [3, 2], 0)


def _pairs(digits: int, count: int, split: int, rng: np.random.Generator, distinct: bool) -> np.ndarray:
    """[n, 2] operands of this length and split; distinct pairs may be fewer than ``count`` where a length has no more."""
    low, high, wanted = 10 ** (digits - 1), 10**digits, split if split >= 2 else 0
    if distinct and digits <= 2:  # few enough to list
        pairs = np.stack(np.meshgrid(np.arange(low, high), np.arange(low, high)), -1).reshape(-1, 2)
        pairs = pairs[held_out(pairs[:, 0], pairs[:, 1]) == wanted]
        return np.resize(rng.permutation(pairs), (count if split == 1 else min(count, len(pairs)), 2))
    found = np.empty((0, 2), np.int64)
    while len(found) < count:
        drawn = rng.integers(low, high, (2 * count + 8, 2))
        found = np.concatenate([found, drawn[held_out(drawn[:, 0], drawn[:, 1]) == wanted]])
        if distinct:
            found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
    return found[:count]


def load(cfg: ConfigDict, split: str) -> Sequence[Example]:
    """``train``: num_train sums spread evenly over 1 to max_digits; ``given``: given[d - 1] distinct worked examples of d
    digits from the same pairs; ``validation`` and ``test``: num_eval held-out sums a length (all there are, if fewer)."""
    if split not in _SPLITS:
        raise ValueError(f"addition has no split {split!r}; it has {', '.join(_SPLITS)}.")
    rng = np.random.default_rng([cfg.seed, _SPLITS[split]])
    lengths = range(1, cfg.max_digits + 1)
    even = {"train": -(-cfg.num_train // cfg.max_digits)}.get(split, cfg.num_eval)
    counts = list(cfg.given) if split == "given" else [even] * cfg.max_digits
    if len(counts) > cfg.max_digits:
        raise ValueError(f"config.task.given names {len(counts)} lengths but config.task.max_digits is {cfg.max_digits}.")
    pairs = [_pairs(d, n, _SPLITS[split], rng, split != "train") for d, n in zip(lengths, counts, strict=False) if n]
    if not pairs:
        raise ValueError(f"The {split} split of addition is empty: config.task asks for no sums.")
    first_id, worked = _SPLITS[split] * 10_000_000, split == "given"  # ids never meet across splits
    operands = enumerate(np.concatenate(pairs).tolist(), first_id)
    return [Example(i, f"{a}+{b}", str(a + b), scratchpad(a, b) if worked else None) for i, (a, b) in operands]


def prompt(example: Example, hint: str | None = None) -> str:
    return f"{example.question}\n{hint}\n" if hint else f"{example.question}\n"


def target(example: Example, direct: bool = False) -> str:
    return example.answer if direct else f"<scratch>\n{example.rationale}\n</scratch>\n{example.answer}"


def extract(text: str) -> str | None:
    """The digits after </scratch> (all of the text, where there is no scratchpad), without leading zeros."""
    answer = text.rpartition("</scratch>")[2].strip()
    return str(int(answer)) if answer.isascii() and answer.isdigit() else None


def grade(text: str, example: Example) -> str:
    answer = extract(text)
    return UNPARSED if answer is None else CORRECT if answer == example.answer else WRONG


def steps(text: str) -> int:
    return text.count("C:")


def wrong_line(text: str, example: Example) -> int | None:
    """The first line that differs from the only true scratchpad and answer."""
    worked = Example(0, "", example.answer, scratchpad(*map(int, example.question.split("+"))))
    truth = target(worked, direct="<scratch>" not in text).split("\n")
    lines = text.split("\n")
    differing = (i for i, line in enumerate(lines) if i >= len(truth) or line != truth[i])
    return next(differing, None if len(lines) == len(truth) else len(lines) - 1)


def difficulty(example: Example) -> tuple[str, int]:
    return "digits", len(example.question) // 2
