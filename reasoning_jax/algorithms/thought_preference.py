"""Thought preference optimisation, TPO (Wu et al. 2024, arXiv:2410.10630).

The model writes a thought and then a response; a judge sees the response alone, so that thoughts
are learned by what they lead to. A round, from the model M_t:

    z_k, y_k   num_samples thoughts and responses to each instruction
    s_k        z(score of y_k) - length_weight z(length of y_k)                    (section 2.3)
    pair       thought and response of the best s against those of the worst
    M_t+1      M_t after DPO on whole texts, with M_t as the reference

A completion that cannot be split into thought and response is the rejected side of a pair where
there is one, in at most ``max_unparsed`` of a round's pairs. The task says what is thought and what
is response (``judged_part``), and its prompts ask for thoughts; without them this is the paper's
direct baseline, trained in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from reasoning_jax import judged, judged_checks, ranking, self_instruct
from reasoning_jax.algorithms import Collected, Programs
from reasoning_jax.errors import UserError
from reasoning_jax.graders.judge import OTHERS, ChosenJudgeConfig
from reasoning_jax.ranges import at_least, between, key, one_of
from reasoning_jax.rollout import Rollout, groups_of
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_loss

BATCH = ("weights", "ref")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SELECTS_BEST = False
init_memory = self_instruct.init_memory
check_data = judged_checks.check_data
CHARTS = (*judged.CHARTS, *preferences.CHARTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig, judged.JudgedConfig, ChosenJudgeConfig):
    num_samples: int = key(8, between(2, 2**16))  # K
    # Who judges responses; the paper has a reward model, which no round trains.
    judge: str = key("base", one_of(*judged.MODELS, "grader", "random"))
    length_weight: float = key(0.0, at_least(0))  # rho; lengths are of responses, not of thoughts


def check(cfg: ConfigDict) -> None:
    preferences.check_pairs(cfg.algorithm, "thought_preference")
    judged_checks.check(cfg)
    judged_checks.check_named_judge(cfg)


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: object, round: int, cfg: ConfigDict
) -> Collected:
    """The round's thoughts and responses, judged, and the pairs that they make."""
    a = cfg.algorithm
    given = judged.by_role(rollout.task, examples)["answer"]
    asked, memory, stats = self_instruct.ask(rollout, given, memory, round, cfg)
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
    read = rollout.task.judged_part
    thought_lengths = [len(s.text) - len(read(s.text) or s.text) for s in samples]
    stats |= {
        "kept": len(pairs.kept) / len(groups),
        "kept_rows": len(fitting),
        "unparsed_pairs": pairs.unparsed,
        "thought_characters": sum(thought_lengths) / len(samples),
    }
    too_long = len(pairs.rows) - len(fitting)
    return Collected(
        rows=preferences.attach_reference(fitting, rollout.policy.logprobs(fitting)),
        memory=memory,
        stats=stats,
        samples=samples,
        kept=pairs.kept,
        warnings=[*preferences.too_long_warnings(too_long), *judged.warnings(scored, stats)],
    )


def programs(cfg: ConfigDict) -> Programs:
    keeps_base = cfg.algorithm.judge in OTHERS
    return Programs(updates={"": BATCH}, logprobs=True, keeps_base=keeps_base)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The preference loss, summed over pairs."""
    return pair_loss(logprobs, batch, cfg.algorithm)
