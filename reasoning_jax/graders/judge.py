"""A language model as a grader: LLM-as-a-judge (Zheng et al. 2023, arXiv:2306.05685).

A judge gets a template filled with an instruction and a response, and ends its judgement with
"Score: N" (Yuan et al. 2024, arXiv:2401.10020, figure 2); or filled with two responses, and ends it
with [[A]], [[B]], or [[C]] for a tie. A response is judged several times: its score is the mean of
those that can be read. Two responses are shown in both orders, as judges favour a place: different
verdicts are a tie, and with one that cannot be read there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from reasoning_jax import multihost, templates
from reasoning_jax.answers.judgements import SWAPPED, TIE, read_score, read_verdict
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Answered, Grade, Model
from reasoning_jax.ranges import at_least, between, check_unused, key, one_of
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Task
from reasoning_jax.templates import META_FIELDS, PAIR_FIELDS, SCORE_FIELDS

OTHERS = ("base", "run")  # judges whose parameters lie beside those of the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The keys of every section that has a judge score responses."""

    # A file with {instruction} and {response}, or one of templates.
    template: str = "additive"
    scale: int = key(5, between(1, 100))  # the highest score; one above it, or below 0, is not read
    num_judgements: int = key(3, between(1, 1000))  # of each response
    judge_temperature: float = key(1.0, at_least(0))
    judge_tokens: int = key(256, at_least(2))  # of a judgement, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenJudgeConfig(JudgeConfig):
    """The same, for sections whose key ``judge`` says who judges."""

    # With judge=run: a run of the same shape, whose best round judges; or its DIR/base.
    judge_run: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ChosenJudgeConfig):
    # policy: the model judges its own responses; base: the one that its rounds began with does;
    # run: that of another run.
    judge: str = key("policy", one_of("policy", "base", "run"))


def check(cfg: ConfigDict) -> None:
    check_judge(cfg.grader, "config.grader")
    check_run(cfg.grader, "config.grader")


def check_run(cfg: ConfigDict, section: str) -> None:
    """UserError where another run is to judge and is not named, or the other way round."""
    if cfg.judge == "run" and not cfg.judge_run:
        raise UserError(f"{section}.judge_run: judge=run needs a run's work directory.")
    if cfg.judge != "run" and cfg.judge_run:
        raise UserError(f"{section}.judge_run: without judge=run it has no effect.")


def chosen(model: Model, cfg: ConfigDict) -> Model:
    """Who judges by ``cfg.judge``: the model itself, its base model, or another run's."""
    if cfg.judge == "run":
        return model.of_run(cfg.judge_run)
    return model.base() if cfg.judge == "base" else model


def check_judge(cfg: ConfigDict, section: str) -> None:
    """UserError for values of these keys that do not go together; ``section`` names them."""
    templates.read(cfg.template, SCORE_FIELDS, f"{section}.template")
    if cfg.judge_temperature == 0 and cfg.num_judgements > 1:
        raise UserError(
            f"{section}.num_judgements: at judge_temperature=0 all {cfg.num_judgements} are "
            "alike; set 1."
        )


def check_no_judge(cfg: ConfigDict, section: str, setting: str) -> None:
    """UserError for a judge's key that is not its default, where by ``setting`` no model judges."""
    names = [field.name for field in dataclasses.fields(JudgeConfig)]
    check_unused(JudgeConfig, cfg, names, section, f"with {setting}")


# ---- reading judgements --------------------------------------------------------------------------


class Judgement(NamedTuple):
    """A judgement of one response: the score is None where it cannot be read."""

    written: Answered
    score: float | None


class Verdicts(NamedTuple):
    """What a judge says of two responses in both orders; None where that cannot be read."""

    shown: str | None  # the responses were shown in the given order
    swapped: str | None  # in the other one; FIRST is still the first of the given order

    @property
    def agreed(self) -> str | None:
        """The verdict of both orders; a tie where they differ, None where either is None."""
        if self.shown is None or self.swapped is None:
            return None
        return self.shown if self.shown == self.swapped else TIE


# ---- asking --------------------------------------------------------------------------------------


def score(
    model: Model, asked: Sequence[tuple[str, str]], cfg: ConfigDict, purpose: str
) -> list[list[Judgement]]:
    """``num_judgements`` judgements of each (instruction, response).

    [] where the prompt leaves no room for ``judge_tokens``. cfg: a section with the keys of
    JudgeConfig. purpose: names the random stream.
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
    """``score`` of each sample's part that is judged; [] for a sample without one."""
    shown = [request_and_part(task, sample) for sample in samples]
    asked = [one for one in shown if one is not None]
    judgements = iter(score(model, asked, cfg, "judge"))
    return [[] if one is None else next(judgements) for one in shown]


def request_and_part(task: Task, sample: Answered) -> tuple[str, str] | None:
    """What a judge sees: the request, and the response without its thought.

    None where there is no response, or nothing in it.
    """
    part = task.judged_part(sample.text)
    if part is None or not part.strip():
        return None
    return task.judged_request(sample.example), part


def _score_of(written: Answered, scale: float) -> float | None:
    return read_score(written.text, scale) if written.finished else None


def mean_score(judgements: Sequence[Judgement]) -> float | None:
    """The mean of the scores that can be read, in whatever order; None where there are none."""
    scores = [one.score for one in judgements if one.score is not None]
    return math.fsum(scores) / len(scores) if scores else None


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
    """As ``compare``, of two judgements: (instruction, response, first and second judgement)."""
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
    read = [read_verdict(g[0].text) if g and g[0].finished else None for g in written]
    verdicts = []
    for shown, swapped in zip(read[::2], read[1::2], strict=True):
        verdicts.append(Verdicts(shown, None if swapped is None else SWAPPED[swapped]))
    return verdicts


# ---- grading -------------------------------------------------------------------------------------


def grade(
    samples: Sequence[Answered], model: Model | None, task: Task, cfg: ConfigDict
) -> list[Grade]:
    """Each sample's mean score as a fraction of the scale; 1 alone counts as correct.

    ``answer`` is the mean on the judge's own scale. What was cut off is truncated and scores 0; a
    sample is unparsed where it has no part to be judged, or no score that can be read. UserError
    with several processes, of which each would ask about other samples.
    """
    if model is None:
        raise ValueError("A judge is a model.")
    if multihost.is_distributed():
        raise UserError("config.grader.name: judge goes with one process only.")
    judged = score_parts(chosen(model, cfg.grader), samples, task, cfg.grader)
    return [
        _grade(sample, mean_score(judgements), cfg.grader.scale)
        for sample, judgements in zip(samples, judged, strict=True)
    ]


def _grade(sample: Answered, mean: float | None, scale: float) -> Grade:
    if not sample.finished:
        verdict = TRUNCATED
    elif mean is None:
        verdict = UNPARSED
    else:
        verdict = CORRECT if mean == scale else WRONG
    return Grade(
        score=mean / scale if sample.finished and mean is not None else 0.0,
        verdict=verdict,
        answer=None if mean is None else f"{mean:g}",
        wrong_line=None,
    )
