"""A language model as a grader: LLM-as-a-judge (Zheng et al. 2023, arXiv:2306.05685).

A judge reads an instruction and a response in a template and writes a judgement that ends with
"Score: N" (Yuan et al. 2024, arXiv:2401.10020, figure 2); or an instruction and two responses, and
it ends with [[A]] or [[B]]. It is asked several times: the score of a response is the mean over the
judgements that can be read; those that cannot are left out and counted. Two responses are shown
in both orders, and a verdict stands where it is the same in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import multihost, templates
from reasoning_jax.answers.judgements import SWAPPED, TIE, read_score, read_verdict
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.ranges import at_least, between, key, one_of
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Task
from reasoning_jax.templates import META_FIELDS, PAIR_FIELDS, SCORE_FIELDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The keys of whatever asks a judge for scores."""

    # A file with {instruction} and {response}, or one of templates.
    template: str = "additive"
    scale: int = key(5, between(1, 100))  # the highest score; others are not read
    num_judgements: int = key(3, between(1, 1000))  # of each response
    judge_temperature: float = key(1.0, at_least(0))
    judge_tokens: int = key(256, at_least(2))  # of a judgement, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(JudgeConfig):
    # Who judges: the model that is judged, or, while it trains, the one its rounds began with.
    judge: str = key("policy", one_of("policy", "base"))


def check(cfg: ConfigDict) -> None:
    check_judge(cfg.grader, "config.grader")


def check_judge(cfg: ConfigDict, section: str) -> None:
    """UserError for values of these keys that do not go together; ``section`` names them."""
    templates.read(cfg.template, SCORE_FIELDS, f"{section}.template")
    if cfg.judge_temperature == 0 and cfg.num_judgements > 1:
        raise UserError(
            f"{section}.num_judgements: at judge_temperature=0 all {cfg.num_judgements} are "
            "alike; set 1."
        )


def check_no_judge(cfg: ConfigDict, section: str, reason: str) -> None:
    """UserError for a key of a judge that is set where no model judges."""
    for field in dataclasses.fields(JudgeConfig):
        if cfg[field.name] != field.default:
            raise UserError(f"{section}.{field.name}: with {reason} it has no effect.")


# ---- reading judgements --------------------------------------------------------------------------


class Judgement(NamedTuple):
    """A judgement of one response: the score is None where it cannot be read."""

    written: Answered
    score: float | None


class Verdicts(NamedTuple):
    """What a judge says of two responses, once in each order; None where it cannot be read."""

    shown: str | None  # in the order in which they were given
    swapped: str | None  # in the other one, said of the given order

    @property
    def agreed(self) -> str | None:
        """The verdict where it is the same in both orders, else a tie.

        None where either cannot be read.
        """
        if self.shown is None or self.swapped is None:
            return None
        return self.shown if self.shown == self.swapped else TIE


# ---- asking --------------------------------------------------------------------------------------


def score(
    model: Model, asked: Sequence[tuple[str, str]], cfg: ConfigDict, purpose: str
) -> list[list[Judgement]]:
    """``num_judgements`` judgements of each (instruction, response).

    cfg: a section with the keys of JudgeConfig. purpose: names the random stream.
    """
    template = templates.read(cfg.template, SCORE_FIELDS, "template")
    written = model.write(
        [template.fill(instruction=text, response=response) for text, response in asked],
        num_samples=cfg.num_judgements,
        temperature=cfg.judge_temperature,
        max_new_tokens=cfg.judge_tokens,
        purpose=purpose,
    )
    return [[Judgement(one, _score_of(one, cfg.scale)) for one in group] for group in written]


def score_parts(
    model: Model, samples: Sequence[Answered], task: Task, cfg: ConfigDict
) -> list[list[Judgement]]:
    """``score`` of the part of each sample that the task says; [] for a sample without one."""
    asked = {}
    for i, sample in enumerate(samples):
        part = task.judged_part(sample.text)
        if part is not None:
            asked[i] = (task.judged_request(sample.example), part)
    found = dict(zip(asked, score(model, list(asked.values()), cfg, "judge"), strict=True))
    return [found.get(i, []) for i in range(len(samples))]


def _score_of(written: Answered, scale: float) -> float | None:
    return read_score(written.text, scale) if written.finished else None


def mean_score(judgements: Sequence[Judgement]) -> float | None:
    """The mean of the scores that can be read; None where there are none."""
    scores = [one.score for one in judgements if one.score is not None]
    return float(np.mean(scores)) if scores else None


def compare(
    model: Model,
    asked: Sequence[tuple[str, str, str]],
    template_name: str,
    *,
    max_new_tokens: int,
    purpose: str,
) -> list[Verdicts]:
    """The verdicts on each (instruction, first, second), greedy, in both orders."""
    template = templates.read(template_name, PAIR_FIELDS, "template")
    prompts = []
    for text, first, second in asked:
        prompts.append(template.fill(instruction=text, first=first, second=second))
        prompts.append(template.fill(instruction=text, first=second, second=first))
    return _verdicts(model, prompts, max_new_tokens, purpose)


def compare_judgements(
    model: Model,
    asked: Sequence[tuple[str, str, str, str]],
    template_name: str,
    *,
    max_new_tokens: int,
    purpose: str,
) -> list[Verdicts]:
    """The same for each (instruction, response, first judgement, second judgement)."""
    template = templates.read(template_name, META_FIELDS, "template")
    prompts = []
    for text, response, first, second in asked:
        shown = {"instruction": text, "response": response}
        prompts.append(template.fill(**shown, first=first, second=second))
        prompts.append(template.fill(**shown, first=second, second=first))
    return _verdicts(model, prompts, max_new_tokens, purpose)


def _verdicts(
    model: Model, prompts: Sequence[str], max_new_tokens: int, purpose: str
) -> list[Verdicts]:
    """Greedy verdicts; each comparison has two prompts, in this order and in the other."""
    written = model.write(
        prompts, num_samples=1, temperature=0.0, max_new_tokens=max_new_tokens, purpose=purpose
    )
    read = [read_verdict(one.text) if one.finished else None for [one] in written]
    verdicts = []
    for shown, swapped in zip(read[::2], read[1::2], strict=True):
        verdicts.append(Verdicts(shown, None if swapped is None else SWAPPED[swapped]))
    return verdicts


# ---- grading -------------------------------------------------------------------------------------


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    """The mean score of each sample as a fraction of the scale, which is correct at 1.

    Its answer is the score. A sample is unparsed where it has no part to be judged, or no judgement
    that can be read. UserError with several processes, of which each would ask about its own.
    """
    if model is None:
        raise ValueError("A judge is a model.")
    if multihost.is_distributed():
        raise UserError("config.grader.name: judge goes with one process only.")
    judge = model.base() if cfg.grader.judge == "base" else model
    judged = score_parts(judge, samples, task, cfg.grader)
    return [
        _grade(sample, mean_score(judgements), cfg.grader.scale)
        for sample, judgements in zip(samples, judged, strict=True)
    ]


def _grade(sample: Answered, mean: float | None, scale: float) -> Grade:
    verdict = CORRECT if mean == scale else WRONG
    if mean is None:
        verdict = UNPARSED
    if not sample.finished:
        verdict = TRUNCATED
    read = verdict in (CORRECT, WRONG) and mean is not None
    return Grade(
        score=mean / scale if read and mean is not None else 0.0,
        verdict=verdict,
        answer=None if mean is None else f"{mean:g}",
        wrong_line=None,
    )
