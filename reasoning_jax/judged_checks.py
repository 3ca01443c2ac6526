"""What is refused of a method whose model judges its own responses, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import contrasts, self_instruct, templates
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.judged import MODELS, by_role
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example


def check(cfg: ConfigDict) -> None:
    """What every method asks for that makes pairs of its own responses."""
    self_instruct.check(cfg.algorithm)
    if cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: a round's reference is the model that its training starts "
            "from: False."
        )
    if cfg.sampling.temperature == 0:
        raise UserError("config.sampling.temperature: at 0 all samples of a question are alike.")


def check_named_judge(cfg: ConfigDict) -> None:
    """``config.algorithm.judge`` and the keys of a judge go together."""
    name = cfg.algorithm.judge
    judge.check_run(cfg.algorithm, "config.algorithm")
    if name in MODELS:
        judge.check_judge(cfg.algorithm, "config.algorithm")
    else:
        judge.check_no_judge(cfg.algorithm, "config.algorithm", f"config.algorithm.judge={name}")


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """UserError where a round could ask, judge or replay nothing; no warnings."""
    a = cfg.algorithm
    for example in examples:
        rollout.check_prompt(example)
    of_role = by_role(rollout.task, examples)
    if not of_role["answer"]:
        raise UserError(f"config.rounds.split: {cfg.rounds.split} has no instruction to be asked.")
    if a.get("replayed") and not of_role["judge"]:
        raise UserError(
            f"config.algorithm.replayed: {cfg.rounds.split} has no judgement; set 0, or "
            "config.rounds.split=given."
        )
    if a.num_invented and rollout.task.invented is None:
        raise UserError(
            f"config.algorithm.num_invented: the task {rollout.task.name} reads no instruction "
            "that a model wrote; set 0."
        )
    if a.get("judge", "policy") in MODELS:
        _check_room(rollout, of_role["answer"], a)
    return []


def _check_room(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> None:
    """UserError where no instruction, with an empty response, leaves room for a judgement."""
    template = templates.read(cfg.template, templates.SCORE_FIELDS, "config.algorithm.template")
    shortest = min(examples, key=lambda example: len(example.question))
    text = template.fill(instruction=rollout.task.judged_request(shortest), response="")
    try:
        has_room = contrasts.has_room(rollout, text, cfg.judge_tokens)
    except UserError as error:
        raise UserError(f"config.algorithm.template: {error}") from None
    if not has_room:
        raise UserError(
            f"config.algorithm.judge_tokens: {cfg.judge_tokens} have no room after the template "
            f"{cfg.template} in config.sequence_length {rollout.max_length}."
        )
