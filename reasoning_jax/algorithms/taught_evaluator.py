"""Self-taught evaluators (Wang et al. 2024, arXiv:2408.02666).

A judge learns to compare two responses without anyone's labels. A round, from the judge J_t:

    x, y, y'   instructions, a response to each, and a response to a changed instruction, which is
               worse for x (contrasts.py)
    j_1..N     num_judgements judgements of (x, y, y') by J_t, and as many of (x, y', y)
    kept       those whose verdict is y; of them one of each order, at random, and as many [[A]]
               as [[B]]
    J_t+1      fine-tuned on what is kept: the model that the rounds began with
               (``rounds.restart``), not J_t

``verdict_only`` is the baseline without judgements: fine-tuning on [[A]] or [[B]] alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contrasts, templates, verdicts
from reasoning_jax.algorithms import Collected, Memory, Programs, left_out_warnings
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, check_unused, key
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example
from reasoning_jax.training.losses import Loss, weighted_nll
from reasoning_jax.training.rows import Row, completion_row
from reasoning_jax.verdicts import LETTERS, Shown

BATCH = ("weights",)
SELECTS_BEST = False  # an evaluation asks for responses, not for judgements
CHARTS = verdicts.CHARTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(contrasts.ContrastConfig):
    # A file with {instruction}, {first} and {second}, or one of templates.
    template: str = "pairwise"
    num_judgements: int = key(15, between(1, 1000))  # N: of a pair in each order
    verdict_only: bool = False  # the known verdict is trained on, and nothing is judged


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    contrasts.check(a)
    templates.read(a.template, templates.PAIR_FIELDS, "config.algorithm.template")
    if not a.verdict_only:
        verdicts.check_alike(a, "num_judgements")
        return
    names = ("num_judgements", "judge_temperature", "judge_tokens")
    check_unused(Config, a, names, "config.algorithm", "with verdict_only")


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """The instructions can be asked and changed."""
    contrasts.check_data(rollout, examples, cfg)
    return []


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """The round's pairs, judged in both orders; the right judgements are kept."""
    a = cfg.algorithm
    found = contrasts.make(rollout, examples, round, cfg)
    template = templates.read(a.template, templates.PAIR_FIELDS, "template")
    room = a.judge_tokens
    if a.verdict_only:
        room = max(len(_verdict_tokens(rollout, letter)) for letter in LETTERS.values())
    pairs = verdicts.fitting(rollout, found.pairs, template, room)
    shown = verdicts.both_orders(pairs)
    prompts = [one.fill(template, rollout.task) for one in shown]
    if not shown:
        raise UserError(verdicts.why_no_room(round, len(found.pairs)))
    too_long = left_out_warnings(len(found.pairs) - len(pairs), len(found.pairs), "pairs")
    if a.verdict_only:
        rows = _rows_of_verdicts(rollout, shown, prompts)
        stats = found.stats | {"kept_rows": len(rows)}
        return Collected(rows=rows, memory=memory, stats=stats, warnings=too_long)
    groups = verdicts.judge(rollout, prompts, shown, a.num_judgements, a)
    rng = np.random.default_rng([cfg.seed, round])
    right = [verdicts.one_right(group, rng) for group in groups]
    kept = balanced([sample for sample in right if sample is not None], rng)
    if not kept:
        raise UserError(verdicts.why_none_right(round, groups, "config.algorithm.num_judgements"))
    stats = {"kept_rows": len(kept), "kept": len(kept) / len(groups)}
    return Collected(
        rows=[completion_row(sample.prompt_ids, sample.tokens) for sample in kept],
        memory=memory,
        stats=found.stats | verdicts.statistics(groups) | stats,
        samples=[sample for group in groups for sample in group],
        kept={sample.key for sample in kept},
        warnings=[*verdicts.warnings(groups), *too_long],
    )


def balanced(judgements: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
    """As many with the verdict [[A]] as with [[B]]; of the more frequent ones a random choice."""
    by_letter = [[s for s in judgements if s.answer == letter] for letter in ("A", "B")]
    count = min(len(group) for group in by_letter)
    kept = []
    for group in by_letter:
        kept += [group[int(i)] for i in np.sort(rng.permutation(len(group))[:count])]
    return kept


def _rows_of_verdicts(
    rollout: Rollout, shown: Sequence[Shown], prompts: Sequence[str]
) -> list[Row]:
    """Known verdicts without a judgement: as many [[A]] as [[B]]."""
    rows = []
    for one, prompt in zip(shown, prompts, strict=True):
        tokens = _verdict_tokens(rollout, LETTERS[one.right])
        rows.append(completion_row(contrasts.prompt_ids(rollout, prompt), tokens))
    return rows


def _verdict_tokens(rollout: Rollout, letter: str) -> list[int]:
    text = f"[[{letter}]]" if rollout.chat else f" [[{letter}]]"
    return [*rollout.tokenizer.encode(text), rollout.tokenizer.eos_id]


def programs(cfg: ConfigDict) -> Programs:
    return Programs(updates={"": BATCH}, keeps_base=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of the judgement and its verdict, the end token included."""
    return weighted_nll(logprobs, batch)
