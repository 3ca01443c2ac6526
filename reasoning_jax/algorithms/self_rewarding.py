"""Self-rewarding language models (Yuan et al. 2024, arXiv:2401.10020).

The base stage makes M_1 of worked examples of two kinds: answers, and judgements (section 2.1).
A round t, from M_t:

    x         instructions, which M_t writes itself (self_instruct.py), or the task's
    y_1..N    num_samples responses of M_t to each
    r(y)      the mean of the scores that the judge gives y in num_judgements judgements
    pair      the best against the worst; none where they score the same            (section 2.3)
    M_t+1     M_t after DPO on this round's pairs, with M_t as the reference

The judge is M_t itself; for comparison the model before round 1 (``base``), the task's own grader
(``grader``: the ceiling where that is an oracle), or chance (``random``: the null). A fraction
``replayed`` of what an update sees are given judgements, to be fine-tuned on, so that the model
does not forget how to judge. ``dpo_weight=0, alpha=1`` is fine-tuning on the best responses alone.

Where the task scores responses, statistics compare with that score, which the method never sees:
``agreement`` of the judge on pairs of responses (beside it that of length, .5 is chance), and
``gap``, the mean score of the responses that the judge likes best less that of all: what there is
left to learn from it (Song et al. 2024, arXiv:2412.02674).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import judged, judged_checks, ranking, self_instruct
from reasoning_jax.algorithms import Collected, Programs
from reasoning_jax.errors import UserError
from reasoning_jax.graders.judge import OTHERS, ChosenJudgeConfig
from reasoning_jax.ranges import at_least, between, key, one_of
from reasoning_jax.rollout import Rollout, groups_of
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_or_replayed_loss
from reasoning_jax.training.rows import attach

BATCH = ("weights", "ref", "replayed")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SELECTS_BEST = False
init_memory = self_instruct.init_memory
check_data = judged_checks.check_data
CHARTS = (*judged.CHARTS, *preferences.CHARTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig, judged.JudgedConfig, ChosenJudgeConfig):
    num_samples: int = key(4, between(2, 2**16))  # N: responses to an instruction
    judge: str = key("policy", one_of(*judged.MODELS, "grader", "random"))
    # Of what an update sees, the fraction of given judgements; 0: none are replayed.
    replayed: float = key(0.2, between(0, 1, below=True))
    # Of z(length), which is taken off z(score) (arXiv:2410.10630); 0: lengths do not matter.
    length_weight: float = key(0.0, at_least(0))


def check(cfg: ConfigDict) -> None:
    preferences.check_pairs(cfg.algorithm, "self_rewarding")
    judged_checks.check(cfg)
    judged_checks.check_named_judge(cfg)


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: np.ndarray, round: int, cfg: ConfigDict
) -> Collected:
    """The round's responses, judged, and the pairs that they make."""
    a = cfg.algorithm
    by_role = judged.by_role(rollout.task, examples)
    asked, memory, stats = self_instruct.ask(rollout, by_role["answer"], memory, round, cfg)
    samples = rollout(asked, num_samples=a.num_samples)
    scored = judged.score_by_name(rollout, samples, round, cfg)
    groups = groups_of(samples, a.num_samples)
    stats |= judged.statistics(groups, scored, judged.has_quality(rollout.task, cfg))

    def select(scores: Sequence[float], lengths: Sequence[float]) -> ranking.Preferred | None:
        return ranking.best_and_worst(scores, lengths, a.length_weight)

    scores = scored.groups(a.num_samples)
    pairs = judged.pairs(rollout, groups, scores, select, a.max_unparsed)
    fitting = [row for row in pairs.rows if len(row["tokens"]) <= rollout.max_length]
    if not fitting:
        raise UserError(judged.why_no_pairs(round, scored, len(pairs.rows)))
    stats |= {"kept": len(pairs.kept) / len(groups), "unparsed_pairs": pairs.unparsed}
    rows = preferences.attach_reference(fitting, rollout.policy.logprobs(fitting))
    rows = [attach(row, "replayed", (0, 0)) for row in rows]
    rows += judged.replayed(rollout, by_role["judge"], len(rows), round, cfg)
    stats["kept_rows"] = len(rows)
    return Collected(
        rows=rows,
        memory=memory,
        stats=stats,
        samples=samples,
        kept=pairs.kept,
        warnings=[
            *preferences.too_long_warnings(len(pairs.rows) - len(fitting)),
            *judged.warnings(scored, stats),
        ],
    )


def programs(cfg: ConfigDict) -> Programs:
    keeps_base = cfg.algorithm.judge in OTHERS
    return Programs(updates={"": BATCH}, logprobs=True, keeps_base=keeps_base)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The preference loss of the pairs, and the likelihood of what is replayed."""
    return pair_or_replayed_loss(logprobs, batch, cfg.algorithm)
