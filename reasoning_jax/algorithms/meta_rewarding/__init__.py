"""Meta-rewarding language models (Wu et al. 2024, arXiv:2407.19594).

One model is actor, judge and meta-judge. A round, from the model M_t:

    actor        num_samples responses to each instruction, num_judgements judgements of each; the
                 mean score decides
    actor pair   the shortest of the best tier against the longest of the worst      (section 2.2)
    judge pair   of the response whose scores vary most: its judgements are compared two by two,
                 in both orders, by the meta-judge; a win counts less in the place that wins more
                 often (equation 3); the highest Elo rating against the lowest (equation 4)
    M_t+1        M_t after DPO on both kinds of pairs, with M_t as the reference

Judge pairs are made in the first ``judge_rounds`` rounds: later the meta-judge takes the judgement
with the higher score nearly always, and scores pile up (section 3.4). Equal judgements are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import judged, judged_checks, ranking, self_instruct, templates
from reasoning_jax.algorithms import Collected, Programs
from reasoning_jax.algorithms.meta_rewarding import judgements
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.ranges import at_least, between, check_unused, each, key
from reasoning_jax.rollout import Rollout, groups_of
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_or_replayed_loss
from reasoning_jax.training.rows import Row, attach

BATCH = ("weights", "ref", "replayed")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SELECTS_BEST = False
init_memory = self_instruct.init_memory
check_data = judged_checks.check_data
CHARTS = (
    *judged.CHARTS,
    Chart(
        title="The meta-judge",
        note="of the comparisons of two judgements",
        curves=(
            Curve("collect", "collect/meta_agreed", "the same winner in both orders"),
            Curve("collect", "collect/meta_first", "for the first"),
            Curve("collect", "collect/meta_higher", "for the higher score"),
        ),
        fraction=True,
    ),
    *preferences.CHARTS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig, judged.JudgedConfig):
    num_samples: int = key(7, between(2, 2**16))  # K: responses to an instruction
    # rho of each round, the last for all that follow: of the range of an instruction's scores, how
    # far the best and the worst tier reach.
    tiers: tuple[float, ...] = key((0.0,), each(between(0, 1)))
    # A file with {instruction}, {response}, {first} and {second}, or one of templates.
    meta_template: str = "meta"
    meta_tokens: int = key(256, at_least(2))  # of a comparison, at most
    judge_rounds: int = key(2, at_least(0))  # that train the judge too
    # A chosen judgement of more tokens makes no pair; 0: of any length.
    max_judgement_tokens: int = key(0, at_least(0))
    # Of what an update sees, the fraction of given judgements; 0: none are replayed.
    replayed: float = key(0.0, between(0, 1, below=True))


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    preferences.check_pairs(a, "meta_rewarding")
    judged_checks.check(cfg)
    judge.check_judge(a, "config.algorithm")
    if a.judge_rounds:
        templates.read(a.meta_template, templates.META_FIELDS, "config.algorithm.meta_template")
    else:
        names = ("max_judgement_tokens", "meta_template", "meta_tokens")
        check_unused(Config, a, names, "config.algorithm", "without judge_rounds")
    if a.judge_rounds and a.num_judgements < 2:
        raise UserError("config.algorithm.num_judgements: one judgement has no other to beat.")
    if not a.tiers:
        raise UserError("config.algorithm.tiers: name that of one round at least.")


def tier_of_round(round: int, cfg: ConfigDict) -> float:
    tiers = cfg.algorithm.tiers
    return tiers[min(round, len(tiers)) - 1]


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: np.ndarray, round: int, cfg: ConfigDict
) -> Collected:
    """The round's responses, judged; the pairs of the actor, and those of the judge."""
    a = cfg.algorithm
    by_role = judged.by_role(rollout.task, examples)
    asked, memory, stats = self_instruct.ask(rollout, by_role["answer"], memory, round, cfg)
    samples = rollout(asked, num_samples=a.num_samples)
    scored = judged.score(rollout, rollout, samples, cfg)
    groups = groups_of(samples, a.num_samples)
    stats |= judged.statistics(groups, scored, judged.has_quality(rollout.task, cfg))
    tier = tier_of_round(round, cfg)

    def select(scores: Sequence[float], lengths: Sequence[float]) -> ranking.Preferred | None:
        return ranking.shortest_and_longest(scores, lengths, tier)

    scores = scored.groups(a.num_samples)
    pairs = judged.pairs(rollout, groups, scores, select, a.max_unparsed)
    stats |= {"kept": len(pairs.kept) / len(groups), "unparsed_pairs": pairs.unparsed}
    of_judge: list[Row] = []
    if round <= a.judge_rounds:
        of_judge, of_meta_judge = judgements.pairs(rollout, samples, scored, cfg)
        stats |= of_meta_judge
    fitting = [row for row in [*pairs.rows, *of_judge] if len(row["tokens"]) <= rollout.max_length]
    if not fitting:
        raise UserError(judged.why_no_pairs(round, scored, len(pairs.rows) + len(of_judge)))
    rows = preferences.attach_reference(fitting, rollout.policy.logprobs(fitting))
    rows = [attach(row, "replayed", (0, 0)) for row in rows]
    rows += judged.replayed(rollout, by_role["judge"], len(rows), round, cfg)
    stats |= {"kept_rows": len(rows), "judge_pairs": len(of_judge), "tier": tier}
    too_long = len(pairs.rows) + len(of_judge) - len(fitting)
    return Collected(
        rows=rows,
        memory=memory,
        stats=stats,
        samples=samples,
        kept=pairs.kept,
        warnings=[*preferences.too_long_warnings(too_long), *judged.warnings(scored, stats)],
    )


def programs(cfg: ConfigDict) -> Programs:
    return Programs(updates={"": BATCH}, logprobs=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The preference loss of both kinds of pairs, and the likelihood of what is replayed."""
    return pair_or_replayed_loss(logprobs, batch, cfg.algorithm)
