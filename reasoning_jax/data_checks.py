"""Whether all that a run will ask, evaluate and train on can be: said before anything is trained.

Each source is tokenised once: 50,000 sums take about a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax import multihost, systems
from reasoning_jax.algorithms import Algorithm
from reasoning_jax.errors import UserError
from reasoning_jax.experiment import Experiment
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example


def check_shots(exp: Experiment) -> None:
    """UserError naming the line of a worked example of the few-shot prompt without tokens."""
    for shot in exp.shots:
        text = exp.task.prompt(shot, exp.task_cfg) + exp.task.target(shot)
        try:
            exp.tokenizer.encode(text)
        except UserError as error:
            raise UserError(f"config.task.shots, {shot.where}: {error}") from None


def check_evaluations(exp: Experiment) -> None:
    """UserError naming the question of an evaluation that cannot be asked."""
    for split in dict.fromkeys((exp.cfg.eval.split, "test")):
        rollout = _rollout(exp, split, _longest_prompts(exp))
        for example in exp.load_eval(split):
            rollout.check_prompt(example)


def check_method(
    exp: Experiment,
    algorithm: Algorithm,
    source: Sequence[Example],
    cfg: ConfigDict,
    round: int = 0,
) -> None:
    """UserError for what the method cannot ask or train on; prints what it warns of.

    cfg: the experiment's, with this method in the section ``algorithm``. round: the last one that
    is the method's.
    """
    rounds = cfg.rounds
    if rounds.examples > len(source):
        raise UserError(
            f"config.rounds.examples: {rounds.examples} are more than the {len(source)} examples "
            f"of the split {rounds.split}."
        )
    if exp.cfg.system.name != systems.PLAIN and not algorithm.SYSTEMS:
        raise UserError(
            f"config.system.name: {exp.cfg.system.name} does not go with the method "
            f"{algorithm.name}, which trains on how likely its own samples are."
        )
    exp.forward.check_words(exp.tokenizer.encode, exp.forward_cfg)
    if exp.forward.training_suffix is not None:
        _check_stages(exp, source)
        _check_rows(exp, source, min(1, round))
    for sentence in algorithm.check_data(_rollout(exp, rounds.split, round), source, cfg):
        multihost.print_once(f"WARNING: {algorithm.name}: {sentence}", file=sys.stderr)


def _check_stages(exp: Experiment, source: Sequence[Example]) -> None:
    """UserError where the curriculum has more stages than any rationale has steps."""
    texts = [exp.task.target(example) for example in source if example.rationale is not None]
    most = max((len(exp.task.step_ends(text)) for text in texts), default=None)
    stages = exp.cfg.forward.stages
    if most is not None and stages > most:
        raise UserError(
            f"config.forward.stages: {stages}, but no rationale has more than {most} steps."
        )


def _check_rows(exp: Experiment, source: Sequence[Example], round: int) -> None:
    """UserError where the forward has no room for a worked row; round 1 replaces the fewest steps.

    Rows of samples are checked when they are there.
    """
    rollout = _rollout(exp, exp.cfg.rounds.split, round)
    for example in source:
        row = rollout.worked_row(example) if example.rationale is not None else None
        if row is not None:
            exp.forward.check_rows(exp.forward_cfg, exp.prompts.first_id, [row])


def _longest_prompts(exp: Experiment) -> int:
    """The round, of the first and the last, whose prompts are longer."""
    return max((0, exp.cfg.rounds.count), key=lambda round: len(exp.prompts.suffix(round)))


def _rollout(exp: Experiment, split: str, round: int) -> Rollout:
    """A rollout that writes prompts of a split; it has no model to draw from."""
    return exp.rollout({}, f"{split} split", round)
