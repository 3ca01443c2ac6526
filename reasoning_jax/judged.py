"""Responses that a model has judged: their scores, the pairs they make, what the judge is worth.

What the methods share whose model judges its own responses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import ranking
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Model, judge
from reasoning_jax.graders.judge import JudgeConfig, Judgement
from reasoning_jax.ranges import between, key
from reasoning_jax.ranking import Preferred
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.samples import groups_of
from reasoning_jax.self_instruct import InstructConfig
from reasoning_jax.tasks import Example, Task
from reasoning_jax.training.rows import Row, attach, pair_row

CHARTS = (
    Chart(
        title="What the judge gives, and what it is worth",
        note="means of a round's responses: the judge's of its scale, the task's of its own",
        curves=(
            Curve("collect", "collect/judge_score", "the judge's score"),
            Curve("collect", "collect/quality", "the task's"),
            Curve("collect", "collect/best_quality", "the task's, of the judge's best"),
        ),
        fraction=True,
    ),
    Chart(
        title="Agreement with the task's score",
        note="pairs of responses to one instruction; chance is a half",
        curves=(
            Curve("collect", "collect/agreement", "the judge"),
            Curve("collect", "collect/agreement_of_length", "length"),
        ),
        fraction=True,
    ),
)
MODELS = ("policy", "base", "run")  # judges that are models
MANY = 0.2  # of the judgements: more that cannot be read are told of
MOST = 0.8  # of the instructions: more without a preference are told of


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedConfig(JudgeConfig, InstructConfig):
    """The keys of a method whose model judges its own responses."""

    # Of a round's pairs, those whose rejected response was cut off or cannot be read.
    max_unparsed: float = key(0.1, between(0, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of samples, as fractions of the highest; None where no judgement can be read."""

    scores: Sequence[float | None]
    judgements: Sequence[Sequence[Judgement]]  # of each sample; () where no model was asked
    unread: float  # the fraction of judgements that cannot be read

    def groups(self, size: int) -> list[list[float | None]]:
        return groups_of(self.scores, size)


def by_role(task: Task, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples by what they teach: "answer", "judge", "invent"."""
    found: dict[str, list[Example]] = {"answer": [], "judge": [], "invent": []}
    for example in examples:
        found[task.role(example)].append(example)
    return found


def score_by_name(
    rollout: Rollout, samples: Sequence[Sample], round: int, cfg: ConfigDict
) -> Scored:
    """What the judge that ``cfg.algorithm.judge`` names gives each sample.

    policy: the rollout's model; base: the one before round 1; run: another run's; grader: the
    task's; random: chance.
    """
    name = cfg.algorithm.judge
    if name in MODELS:
        return score(rollout, judge.chosen(rollout, cfg.algorithm), samples, cfg)
    parts = [judge.request_and_part(rollout.task, sample) for sample in samples]
    own = [sample.score for sample in samples]
    if name == "random":
        own = np.random.default_rng([cfg.seed, round]).random(len(samples)).tolist()
    scores = [None if part is None else x for part, x in zip(parts, own, strict=True)]
    return Scored(scores=scores, judgements=[()] * len(samples), unread=0.0)


def score(rollout: Rollout, model: Model, samples: Sequence[Sample], cfg: ConfigDict) -> Scored:
    """What a model as the judge gives each sample.

    It sees the part of a completion that the task says; a sample without one has no score.
    """
    judgements = judge.score_parts(model, samples, rollout.task, cfg.algorithm)
    means = [judge.mean_score(group) for group in judgements]
    read = []
    for sample, own in zip(samples, judgements, strict=True):
        if judge.request_and_part(rollout.task, sample) is not None:
            # What left no room for a judgement has none that can be read.
            nothing = [False] * cfg.algorithm.num_judgements
            read += [one.score is not None for one in own] or nothing
    return Scored(
        scores=[None if mean is None else mean / cfg.algorithm.scale for mean in means],
        judgements=judgements,
        unread=1 - float(np.mean(read)) if read else 1.0,
    )


Select = Callable[[Sequence[float], Sequence[float]], Preferred | None]  # of scores and lengths


class Pairs(NamedTuple):
    rows: list[Row]
    kept: set[tuple[int, int, bool]]  # the keys of what is chosen by its score
    unparsed: float  # the fraction whose rejected response was cut off, or cannot be read


def pairs(
    rollout: Rollout,
    groups: Sequence[Sequence[Sample]],
    scores: Sequence[Sequence[float | None]],
    select: Select,
    max_unparsed: float,
) -> Pairs:
    """A pair of each instruction of which ``select`` prefers a response, and some with what fails.

    A response that was cut off, or has no part to be judged, is never chosen. Against the best of
    its instruction it is rejected, in at most the fraction ``max_unparsed`` of all pairs: without
    these, a model ends its responses ever more rarely. A length is that of what the judge sees, in
    characters.
    """
    rows, failed = [], []
    kept = set()
    for group, own in zip(groups, scores, strict=True):
        known = [(s, x) for s, x in zip(group, own, strict=True) if x is not None and s.finished]
        if not known:
            continue
        values = [x for _, x in known]
        read = rollout.task.judged_part
        bad = [s for s in group if not s.finished or not (read(s.text) or "").strip()]
        if bad:
            best, _ = known[int(np.argmax(values))]
            failed.append(pair_row(best.prompt_ids, [best.tokens, bad[0].tokens]))
        lengths = [len(read(s.text) or "") for s, _ in known]
        pair = select(values, lengths) if len(known) > 1 else None
        if pair is not None:
            chosen, rejected = known[pair.chosen][0], known[pair.rejected][0]
            rows.append(pair_row(chosen.prompt_ids, [chosen.tokens, rejected.tokens]))
            kept.add(chosen.key)
    if max_unparsed < 1:
        failed = failed[: int(max_unparsed * len(rows) / (1 - max_unparsed))]
    unparsed = len(failed) / max(len(rows + failed), 1)
    return Pairs(rows=rows + failed, kept=kept, unparsed=unparsed)


def replayed(
    rollout: Rollout, judgements: Sequence[Example], num_pairs: int, round: int, cfg: ConfigDict
) -> list[Row]:
    """Given judgements, so many that they are the fraction ``replayed`` of all rows.

    Each is a pair whose second side, an end token, has no part in the loss.
    """
    fraction = cfg.algorithm.replayed
    if not fraction:
        return []
    if not judgements:
        raise UserError(
            "config.algorithm.replayed: none of the round's examples is a judgement; set 0, or "
            "config.rounds.split=given."
        )
    count = int(num_pairs * fraction / (1 - fraction))
    rng = np.random.default_rng([cfg.seed, round])
    rows = []
    for i in rng.integers(len(judgements), size=count):
        example = judgements[int(i)]
        tokens = rollout.worked_tokens(example)
        if tokens is not None:
            row = pair_row(rollout.prompt_ids(example), [tokens, [rollout.tokenizer.eos_id]])
            if len(row["tokens"]) <= rollout.max_length:
                rows.append(attach(attach(row, "ref", (0, 0)), "replayed", (1, 0)))
    return rows


# ---- what the judge is worth ---------------------------------------------------------------------


def has_quality(task: Task, cfg: ConfigDict) -> bool:
    """Whether samples have the task's own score: not with a grader of another kind."""
    return task.score is not None and cfg.grader.name == "scored"


def statistics(
    groups: Sequence[Sequence[Sample]], scored: Scored, with_quality: bool
) -> dict[str, float]:
    """Of a round's responses; ``with_quality``: whether they have the task's score.

    judge_score, length: means; unread: judgements without a score. And of the task's scores:
    quality, their mean; best_quality, of the response that the judge likes best of each
    instruction; gap, the latter less the former; agreement of the judge, and of length alone, with
    them.
    """
    values = [score for score in scored.scores if score is not None]
    lengths = [len(sample.tokens) for group in groups for sample in group]
    stats = {
        "judge_score": float(np.mean(values)) if values else 0.0,
        "unread": scored.unread,
        "length": float(np.mean(lengths)),
    }
    if not with_quality:
        return stats
    mean, best, best_mean = [], [], []
    by_judge, by_length = [], []
    for group, own in zip(groups, scored.groups(len(groups[0])), strict=True):
        mean.append(float(np.mean([sample.score for sample in group])))
        known = [(s, x) for s, x in zip(group, own, strict=True) if s.finished and x is not None]
        if not known:
            continue
        quality = [sample.score for sample, _ in known]
        scores = [score for _, score in known]
        liked = [q for q, x in zip(quality, scores, strict=True) if x == max(scores)]
        best.append(float(np.mean(liked)))
        best_mean.append(mean[-1])
        by_judge.append(ranking.agreement(quality, scores))
        by_length.append(ranking.agreement(quality, [len(s.tokens) for s, _ in known]))
    return stats | {
        "quality": float(np.mean(mean)),
        "best_quality": float(np.mean(best)) if best else 0.0,
        "gap": float(np.mean(best) - np.mean(best_mean)) if best else 0.0,
        "agreement": ranking.together(by_judge).fraction,
        "agreement_of_length": ranking.together(by_length).fraction,
    }


def warnings(scored: Scored, stats: dict[str, float]) -> list[str]:
    """Sentences about judgements that cannot be read, and about instructions without a pair."""
    found = []
    if scored.unread > MANY:
        found.append(f"{scored.unread:.0%} of the judgements have no score that can be read.")
    if 1 - stats["kept"] > MOST:
        found.append(f"{1 - stats['kept']:.0%} of the instructions have no preference.")
    return found


def why_no_pairs(round: int, scored: Scored, num_pairs: int) -> str:
    """What to change where a round has nothing to train on."""
    if num_pairs:
        return (
            f"round {round}: none of the {num_pairs} pairs fits into config.sequence_length; raise "
            "it, or lower config.sampling.max_new_tokens."
        )
    if scored.unread == 1:
        return (
            f"round {round}: no judgement has a score that can be read: see "
            "config.algorithm.template, scale and judge_tokens."
        )
    if not any(score is not None for score in scored.scores):
        return (
            f"round {round}: no response has a part that can be judged; see "
            "config.sampling.max_new_tokens and what the task's prompts ask for."
        )
    return (
        f"round {round}: all responses to an instruction score the same, for every instruction; "
        "raise config.algorithm.num_judgements, num_samples or config.sampling.temperature, or "
        "config.sampling.max_new_tokens, where many were cut off."
    )
