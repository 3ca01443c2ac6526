"""LLMBar: which of two outputs follows an instruction (arXiv:2310.07641), as a judge is asked it.

Its parts are splits: natural, those of the adversarial set (neighbor, gptinst, gptout, manual),
where the worse output is the more attractive one, and mt_bench (pairs of MT-Bench with what people
preferred, which come with it). "adversarial" is the four, and "test" natural and these, which are
LLMBar. "train" and "validation" are mt_bench: a quarter of its instructions is of validation.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, comparisons
from reasoning_jax.tasks.comparisons import CompareConfig, Comparison, Pair
from reasoning_jax.training import data

FILES = {
    "natural": "Natural.json",
    "neighbor": "Adversarial/Neighbor.json",
    "gptinst": "Adversarial/GPTInst.json",
    "gptout": "Adversarial/GPTOut.json",
    "manual": "Adversarial/Manual.json",
    "mt_bench": "Processed_MT-Bench.json",
}
ADVERSARIAL = ("neighbor", "gptinst", "gptout", "manual")
QUARTERS = {"train": (1, 2, 3), "validation": (0,)}  # of the instructions, by their checksum
# The parts of each split.
SPLITS = {part: (part,) for part in FILES} | {
    "adversarial": ADVERSARIAL,
    "test": ("natural", *ADVERSARIAL),
    "train": ("mt_bench",),
    "validation": ("mt_bench",),
}
PART_IDS = 100_000  # the ids of a part begin at so many times its number
OUTPUTS = ("output_1", "output_2")

prompt = comparisons.prompt
target = comparisons.target
extract = comparisons.extract
marked = comparisons.marked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CompareConfig):
    pass


def load(cfg: ConfigDict, split: str) -> Sequence[Comparison]:
    """The pairs of a split; UserError, naming file and record, for what cannot be read."""
    if split not in SPLITS:
        reason = " as it has no judgements" if split == "given" else ""
        raise UserError(f"llmbar has no split {split!r}{reason}; it has {', '.join(SPLITS)}.")
    pairs = [pair for part in SPLITS[split] for pair in _read(cfg, part)]
    if split in QUARTERS:
        pairs = [pair for pair in pairs if _quarter(pair) in QUARTERS[split]]
    if not pairs:
        raise UserError(
            f"{Path(cfg.path) / FILES['mt_bench']}: no pair is of {split}; more instructions are "
            "needed, as a quarter of them is of validation."
        )
    return comparisons.shown(pairs, cfg)


def _quarter(pair: Pair) -> int:
    return zlib.crc32(pair.instruction.encode()) % 4


def _read(cfg: ConfigDict, part: str) -> list[Pair]:
    first_id = list(FILES).index(part) * PART_IDS
    records = data.read_records(Path(cfg.path) / FILES[part])
    return [
        _pair(record, id=first_id + number, where=where, part=part)
        for number, (where, record) in enumerate(records)
    ]


def _pair(record: data.Record, id: int, where: str, part: str) -> Pair:
    instruction, first, second = text_files.check_texts(record, ("input", *OUTPUTS), where)
    label = record.get("label")
    if isinstance(label, bool) or label not in (1, 2):
        raise UserError(f"{where}: 'label' must be 1 or 2, the number of the better output.")
    return Pair(
        id=id,
        where=where,
        part=part,
        instruction=instruction,
        responses=(first, second),
        better=int(label) - 1,
    )


def difficulty(example: Example) -> tuple[str, int] | None:
    """The part, and 1 where it is adversarial, else 0."""
    if not isinstance(example, Comparison):
        return None
    return example.part, int(example.part in ADVERSARIAL)
