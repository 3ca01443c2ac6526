"""Rejection sampling: draw n samples a question, keep the correct ones, train on them. It is several methods:

four particles  (Phan et al. 2023, arXiv 2312.02179, the baseline of TRICE) online, n = 4, per_question: the gradient's
                mean is (1 - (1 - pi)^n) grad log p(y | x), where pi = p(correct)
RFT             (Yuan et al. 2023, arXiv 2308.01825, section 3.3) one round from the base model, n = 100 at temperature
                0.7, ``distinct``: no false line, one sample for each list of equations
ReST-EM         (Singh et al. 2023, arXiv 2312.06585, section 3) rounds from the base model (``restart``), n = 32, at most
                max_kept = 10 a question, so that the easy ones do not crowd out the rest
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import jax
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.masked import sequence_nll
from reasoning_jax.tasks import Example

NUMBER = r"[-($]*\d[\d.,]*\)*"
EQUATION = re.compile(rf"{NUMBER}(?: *[-+*/] *{NUMBER})+ *= *[-$]*\d[\d.,]*")


def init_memory(cfg: ConfigDict, num_examples: int) -> tuple:
    if cfg.algorithm.num_samples < 1:
        raise ValueError(f"config.algorithm.num_samples: {cfg.algorithm.num_samples} samples a question are too few.")
    return ()


def equations(text: str) -> tuple[str, ...]:
    """What makes two rationales one path: their equations in order, without blanks; the whole text where there is none."""
    found = [re.sub(r"[\s$]", "", equation).rstrip(".,") for equation in EQUATION.findall(text)]
    return tuple(found) or (" ".join(text.split()),)


def choose(samples: Sequence, distinct: bool, max_kept: int) -> list:
    """The samples of one question that are kept, in the order they were drawn."""
    right = [s for s in samples if s.correct]
    if distinct:
        paths: dict[tuple[str, ...], list] = {}
        for s in right:
            if s.wrong_line is None:
                paths.setdefault(equations(s.text), []).append(s)
        # Of each path the sample that is least like the other paths' ones.
        right = [max(same, key=lambda s: sum(_distance(s.text, o.text) for other in paths.values() if other is not same
                                             for o in other)) for same in paths.values()]  # fmt: skip
    return right[: max_kept or None]


def _distance(a: str, b: str) -> float:
    return 1.0 - SequenceMatcher(None, a, b, autojunk=False).ratio()


def collect(rollout, examples: Sequence[Example], memory: tuple, round: int, cfg: ConfigDict):
    a = cfg.algorithm
    samples = rollout(examples, num_samples=a.num_samples)
    groups = [samples[i : i + a.num_samples] for i in range(0, len(samples), a.num_samples)]
    chosen = [choose(group, a.distinct, a.max_kept) for group in groups]
    rows = []
    for kept in chosen:
        weight = 1 / len(kept) if kept and a.per_question else 1.0
        rows += [rollout.weighted_row(s.example, s.tokens, weight, weight) for s in kept]
    paths = [len({equations(s.text) for s in group if s.correct}) for group in groups]
    values = {"kept_rows": len(rows), "kept": len(rows) / len(samples), "reached": sum(map(bool, chosen)) / len(examples),
              "distinct_paths": sum(paths) / len(examples)}  # fmt: skip
    return rows, memory, Report(values, samples, {(s.example.id, s.index, s.hinted) for kept in chosen for s in kept})


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return 1 if cfg.algorithm.online else scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Negative log-likelihood of whole samples, each with its weight."""
    return sequence_nll(logprobs, batch)
