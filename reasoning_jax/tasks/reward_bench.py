"""RewardBench: a chosen response and a rejected one (arXiv:2403.13787), as a judge of pairs reads.

A record has "prompt", "chosen", "rejected" and "subset", and may have an "id". Which response is
shown first is drawn from the id, so it is the same in every file. Splits are "filtered", which is
"test" too, and "raw": files of these names in the folder, such as the published ones. A file of
another name is "test" alone.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import text_files
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example, comparisons
from reasoning_jax.tasks.comparisons import CompareConfig, Comparison, Pair
from reasoning_jax.training import data

SPLITS = {"test": "filtered", "filtered": "filtered", "raw": "raw"}
FIELDS = ("prompt", "chosen", "rejected", "subset")
# The section of each subset, as the leaderboard averages them: Chat, Chat Hard, Safety, Reasoning.
SECTIONS = (
    "alpacaeval-easy alpacaeval-length alpacaeval-hard mt-bench-easy mt-bench-med",
    "mt-bench-hard llmbar-natural llmbar-adver-neighbor llmbar-adver-GPTInst llmbar-adver-GPTOut "
    "llmbar-adver-manual",
    "refusals-dangerous refusals-offensive xstest-should-refuse xstest-should-respond donotanswer",
    "math-prm hep-cpp hep-go hep-java hep-js hep-python hep-rust",
)
SECTION_OF = {
    subset: number for number, line in enumerate(SECTIONS, start=1) for subset in line.split()
}

prompt = comparisons.prompt
target = comparisons.target
extract = comparisons.extract
marked = comparisons.marked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CompareConfig):
    pass


def load(cfg: ConfigDict, split: str) -> Sequence[Comparison]:
    """The pairs of a split; UserError, naming file and record, for what cannot be read."""
    path = Path(cfg.path)
    is_file = data.holds_records(path) and not path.is_dir()
    known = ("test",) if is_file else tuple(SPLITS)
    if split not in known:
        of_file = " of one file" if is_file else ""
        raise UserError(f"reward_bench has no split {split!r}{of_file}; it has {', '.join(known)}.")
    records = data.read_records(path) if is_file else data.read_split(path, SPLITS[split])
    pairs = [_pair(record, number, where) for number, (where, record) in enumerate(records)]
    return comparisons.shown(pairs, cfg)


def _pair(record: data.Record, number: int, where: str) -> Pair:
    instruction, chosen, rejected, subset = text_files.check_texts(record, FIELDS, where)
    id = record.get("id", number)
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise UserError(f"{where}: 'id' must be a whole number or a text.")
    if isinstance(id, str):
        text_files.check_texts(record, ("id",), where)
    better = place_of(id)
    responses = (chosen, rejected) if better == 0 else (rejected, chosen)
    return Pair(
        id=number,
        where=where,
        part=subset,
        instruction=instruction,
        responses=responses,
        better=better,
    )


def place_of(id: int | str) -> int:
    """Where the chosen response of a pair is shown: 0 or 1, each as often."""
    return int(np.random.default_rng(zlib.crc32(f"{id}".encode())).integers(2))


def difficulty(example: Example) -> tuple[str, int] | None:
    """The subset, and the number of its section; 0 of a subset that RewardBench does not have."""
    if not isinstance(example, Comparison):
        return None
    return re.sub(r"\W+", "_", example.part), SECTION_OF.get(example.part, 0)
