"""Rejection sampling: draw n samples a question, keep the correct ones, train on them.

Several methods are settings of it:

four particles  (Phan et al. 2023, arXiv 2312.02179, the baseline of TRICE) online, n = 4,
                per_question: the gradient's mean is (1 - (1 - pi)^n) grad log p(y | x), where
                pi = p(correct)
RFT             (Yuan et al. 2023, arXiv 2308.01825, section 3.3) one round from the base model,
                n = 100 at temperature 0.7, ``distinct``: no false line, one sample for each list of
                equations
ReST-EM         (Singh et al. 2023, arXiv 2312.06585, section 3) rounds from the base model
                (``rounds.restart``), n = 32, at most max_kept = 10 a question, so that the easy
                ones do not crowd out the rest
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, between, key
from reasoning_jax.rollout import Rollout, Sample, groups_of
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, sequence_nll
from reasoning_jax.training.rows import weighted_row

BATCH = ("weights", "normaliser")
SYSTEMS = True
NUMBER = r"[-($]*\d[\d.,]*\)*"
EQUATION = re.compile(rf"{NUMBER}(?: *[-+*/] *{NUMBER})+ *= *[-$]*\d[\d.,]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    num_samples: int = key(4, between(1, 2**16))  # samples a question
    max_kept: int = key(0, at_least(0))  # of a question's correct samples; 0 = all
    distinct: bool = False  # one sample of each path, without false lines
    per_question: bool = False  # a question weighs 1 however many samples it keeps


def check(cfg: ConfigDict) -> None:
    if cfg.algorithm.num_samples > 1 and cfg.sampling.temperature == 0:
        raise UserError(
            "config.sampling.temperature: at 0 all samples of a question are alike; "
            "set it above 0, or config.algorithm.num_samples=1."
        )


def equations(text: str) -> tuple[str, ...]:
    """What makes two rationales one path: their equations in order, without blanks.

    The whole text where there is no equation.
    """
    stripped = [re.sub(r"[\s$]", "", equation) for equation in EQUATION.findall(text)]
    path = tuple(equation.rstrip(".,") for equation in stripped)
    return path or (" ".join(text.split()),)


def choose(samples: Sequence[Sample], distinct: bool, max_kept: int) -> list[Sample]:
    """The samples of one question that are kept, in the order they were drawn."""
    correct = [s for s in samples if s.correct]
    if distinct:
        correct = _one_of_each_path(correct)
    return correct[: max_kept or None]


def _one_of_each_path(samples: Sequence[Sample]) -> list[Sample]:
    """Of each path, without false lines, the sample that is least like those of other paths."""
    paths: dict[tuple[str, ...], list[Sample]] = {}
    for s in samples:
        if s.wrong_line is None:
            paths.setdefault(equations(s.text), []).append(s)
    chosen = []
    for path, members in paths.items():
        others = [s for other, found in paths.items() if other != path for s in found]
        chosen.append(max(members, key=lambda s: _total_distance(s, others)))  # noqa: B023
    return chosen


def _total_distance(sample: Sample, others: Sequence[Sample]) -> float:
    return sum(_distance(sample.text, other.text) for other in others)


def _distance(a: str, b: str) -> float:
    return 1.0 - SequenceMatcher(None, a, b, autojunk=False).ratio()


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """num_samples attempts at every example; the correct ones, or a choice of them, are kept."""
    a = cfg.algorithm
    samples = rollout(examples, num_samples=a.num_samples)
    groups = groups_of(samples, a.num_samples)
    chosen = [choose(group, a.distinct, a.max_kept) for group in groups]
    rows = []
    for kept in chosen:
        weight = 1 / len(kept) if kept and a.per_question else 1.0
        rows += [weighted_row(s.prompt_ids, s.tokens, weight, weight) for s in kept]
    paths = [len({equations(s.text) for s in group if s.correct}) for group in groups]
    stats = {
        "kept_rows": len(rows),
        "kept": len(rows) / len(samples),
        "reached": sum(bool(kept) for kept in chosen) / len(examples),
        "distinct_paths": sum(paths) / len(examples),
    }
    all_kept = {s.key for kept in chosen for s in kept}
    return Collected(rows=rows, memory=memory, stats=stats, samples=samples, kept=all_kept)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of whole samples, each with its weight."""
    return sequence_nll(logprobs, batch)
