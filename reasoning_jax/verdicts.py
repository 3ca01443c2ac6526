"""Judgements of two responses of which one is known to be better: which of them are right.

P pairs are judged in both orders, pair p as number 2 p (y is shown first) and 2 p + 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contrasts
from reasoning_jax.answers.judgements import FIRST, SECOND, read_letter
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.contrasts import Contrast
from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.samples import Call
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Task
from reasoning_jax.templates import Template

LETTERS = {FIRST: "A", SECOND: "B"}
CHARTS = (
    Chart(
        title="Judgements of pairs of which one is better",
        note="of a round, by the judge that it began with",
        curves=(
            Curve("collect", "collect/correct", "right"),
            Curve("collect", "collect/right_in_both", "right in both orders"),
            Curve("collect", "collect/consistent", "the same in both orders"),
            Curve("collect", "collect/said_first", "for the first"),
        ),
        fraction=True,
    ),
    Chart(
        title="Labels that are wrong",
        note="by the task's score",
        curves=(
            Curve("collect", "collect/labels_wrong", "the other is better"),
            Curve("collect", "collect/labels_tied", "both are as good"),
        ),
        fraction=True,
    ),
)
MANY = 0.2  # of the judgements: more that cannot be read are told of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A pair in one of its two orders."""

    pair: Contrast
    first: str
    second: str
    right: str  # FIRST or SECOND

    def fill(self, template: Template, task: Task, **values: str) -> str:
        request = task.judged_request(self.pair.example)
        return template.fill(instruction=request, first=self.first, second=self.second, **values)


def check_alike(cfg: ConfigDict, *names: str) -> None:
    """UserError where judgements without chance are asked for more than once."""
    for name in names:
        if cfg.judge_temperature == 0 and cfg[name] > 1:
            raise UserError(
                f"config.algorithm.{name}: at judge_temperature=0 all {cfg[name]} are alike; set 1."
            )


def both_orders(pairs: Sequence[Contrast]) -> list[Shown]:
    """Each pair with y first, and then with y' first."""
    shown = []
    for pair in pairs:
        shown.append(Shown(pair=pair, first=pair.better, second=pair.worse, right=FIRST))
        shown.append(Shown(pair=pair, first=pair.worse, second=pair.better, right=SECOND))
    return shown


def fitting(
    rollout: Rollout, pairs: Sequence[Contrast], template: Template, tokens: int
) -> list[Contrast]:
    """The pairs that a template shows in both orders and leaves room for so many tokens."""
    return [
        pair
        for pair in pairs
        if all(
            contrasts.has_room(rollout, shown.fill(template, rollout.task), tokens)
            for shown in both_orders([pair])
        )
    ]


def judge(
    rollout: Rollout,
    prompts: Sequence[str],
    shown: Sequence[Shown],
    num_samples: int,
    cfg: ConfigDict,
) -> list[list[Sample]]:
    """``num_samples`` judgements of each prompt, which shows ``shown``; each knows if it is right.

    A sample's example is x with the number of its prompt as the id, and with the letter of the
    response that is better as the answer. cfg: a method's section.
    """
    written = rollout.write(
        prompts,
        num_samples=num_samples,
        temperature=cfg.judge_temperature,
        max_new_tokens=cfg.judge_tokens,
        purpose="judge",
    )
    return [
        [_graded(sample, number, prompt, one) for sample in group]
        for number, (group, prompt, one) in enumerate(zip(written, prompts, shown, strict=True))
    ]


def _graded(sample: Sample, number: int, prompt: str, shown: Shown) -> Sample:
    right = LETTERS[shown.right]
    said = read_letter(sample.text) if sample.finished else None
    verdict = CORRECT if said == right else WRONG
    if said is None:
        verdict = UNPARSED if sample.finished else TRUNCATED
    call = Call(stage="judge", prompt=prompt, text=sample.text, num_tokens=len(sample.tokens))
    return dataclasses.replace(
        sample,
        example=dataclasses.replace(shown.pair.example, id=number, answer=right),
        answer=said,
        verdict=verdict,
        score=float(verdict == CORRECT),
        calls=(call,),
    )


def one_right(judgements: Sequence[Sample], rng: np.random.Generator) -> Sample | None:
    """One of those that are right, at random; None where none is."""
    right = [sample for sample in judgements if sample.correct]
    return right[int(rng.integers(len(right)))] if right else None


def statistics(groups: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """Of judgements, [2 P][N]: P pairs in both orders, N judgements each.

    reached: the fraction of orders that have a right one; said_first: for the first response, of
    those that name one; consistent: n-th judgements that name the same response in both orders;
    right_in_both: those that name the better one.
    """
    named = [s.answer for group in groups for s in group if s.answer in ("A", "B")]
    consistent, right = [], []
    for one, other in zip(groups[::2], groups[1::2], strict=True):
        for a, b in zip(one, other, strict=True):
            consistent.append({a.answer, b.answer} == {"A", "B"})
            right.append(a.correct and b.correct)
    return {
        "reached": float(np.mean([any(s.correct for s in group) for group in groups])),
        "said_first": named.count("A") / len(named) if named else 0.0,
        "consistent": float(np.mean(consistent)),
        "right_in_both": float(np.mean(right)),
    }


def warnings(groups: Sequence[Sequence[Sample]]) -> list[str]:
    """A sentence about judgements that cannot be read, where they are many."""
    unread = float(np.mean([s.answer is None for group in groups for s in group]))
    if unread <= MANY:
        return []
    return [f"{unread:.0%} of the judgements have no verdict that can be read."]


def why_no_room(round: int, num_pairs: int) -> str:
    return (
        f"round {round}: none of the {num_pairs} pairs leaves room for a judgement in "
        "config.sequence_length; raise it, or lower config.sampling.max_new_tokens."
    )


def why_none_right(round: int, groups: Sequence[Sequence[Sample]], name: str) -> str:
    """What to change where nothing is kept; name: the key of how many judgements there are."""
    said = [s.answer for group in groups for s in group]
    if not any(said):
        return (
            f"round {round}: none of {len(said)} judgements has a verdict that can be read: see "
            "config.algorithm.template and judge_tokens."
        )
    return (
        f"round {round}: of {len(said)} judgements {said.count('A')} say [[A]] and "
        f"{said.count('B')} say [[B]], and no balanced choice of right ones is left; raise {name} "
        "or config.algorithm.judge_temperature."
    )
