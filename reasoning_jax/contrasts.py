"""Two responses to an instruction of which one is known to be better, without anyone's label.

    x     an instruction                  y     a response to x
    x'    x changed                       y'    a response to x'

For x, y is taken to be better than y' (Wang et al. 2024, arXiv:2408.02666). All of this is written
by the model that the rounds began with: while a judge learns, what it judges stays the same. How
often the label is wrong is measured where the task scores responses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import prng, ranking, templates
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, check_unused, key, one_of
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example, Task

INSTRUCTION_FIELD = ("instruction",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """The keys of a method whose judge learns from such pairs."""

    # y: drawn from the model that the rounds began with, or the task's own answer.
    responses: str = key("sampled", one_of("sampled", "given"))
    # A file with {instruction}, or one of templates, by which that model changes an instruction;
    # "": the task changes it.
    change_template: str = ""
    change_temperature: float = key(0.7, at_least(0))
    change_tokens: int = key(128, at_least(2))  # of a changed instruction, at most
    judge_temperature: float = key(0.7, at_least(0))
    judge_tokens: int = key(256, at_least(2))  # of a judgement, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    example: Example  # x
    changed: str  # x'
    better: str  # y
    worse: str  # y'


@dataclasses.dataclass(frozen=True)
class Contrasts:
    pairs: list[Contrast]
    stats: dict[str, float]


# ---- checks --------------------------------------------------------------------------------------


def check(cfg: ConfigDict) -> None:
    """UserError for keys without effect, and for a template; cfg: a method's section."""
    if cfg.change_template:
        name = "config.algorithm.change_template"
        templates.read(cfg.change_template, INSTRUCTION_FIELD, name)
        return
    names = ("change_temperature", "change_tokens")
    check_unused(ContrastConfig, cfg, names, "config.algorithm", "without change_template")


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> None:
    """UserError where no pair can be made of the examples, or one of them cannot be asked."""
    a = cfg.algorithm
    for example in examples:
        rollout.check_prompt(example)
    asked = instructions(rollout.task, examples)
    if not asked:
        raise UserError(
            f"config.rounds.split: {cfg.rounds.split} has no instruction to be answered."
        )
    if not a.change_template and rollout.task.changed is None:
        raise UserError(
            f"config.algorithm.change_template: the task {rollout.task.name} changes no "
            "instruction: name a template by which the model does, such as change."
        )
    if a.change_template:
        check_room(rollout, asked, "change_template", a.change_template, a.change_tokens)
    if a.responses == "given":
        missing = [x for x in asked if not _given_response(rollout.task, x)]
        if missing:
            raise UserError(
                f"config.algorithm.responses: the split {cfg.rounds.split} has no answer to "
                f"{missing[0].question[:60]!r}: sampled."
            )


def prompt_ids(rollout: Rollout, text: str) -> list[int]:
    """The tokens of a prompt as ``Rollout.write`` asks it."""
    if rollout.chat:
        return rollout.tokenizer.chat([{"role": "user", "content": text}])
    return rollout.tokenizer.prompt(text)


def has_room(rollout: Rollout, text: str, tokens: int) -> bool:
    return len(prompt_ids(rollout, text)) + tokens <= rollout.max_length


def check_room(
    rollout: Rollout, examples: Sequence[Example], name: str, template_name: str, tokens: int
) -> None:
    """UserError where a template with an instruction alone leaves no room for ``tokens``.

    name: of the method's key.
    """
    template = templates.read(template_name, INSTRUCTION_FIELD, f"config.algorithm.{name}")
    for example in examples:
        text = template.fill(instruction=rollout.task.judged_request(example))
        if not has_room(rollout, text, tokens):
            raise UserError(
                f"config.sequence_length: {rollout.max_length} tokens have no room for "
                f"{example.question[:60]!r} in config.algorithm.{name} and {tokens} more."
            )


# ---- making them ---------------------------------------------------------------------------------


def instructions(task: Task, examples: Sequence[Example]) -> list[Example]:
    """Those of the examples that ask for a response."""
    return [example for example in examples if task.role(example) == "answer"]


def make(rollout: Rollout, examples: Sequence[Example], round: int, cfg: ConfigDict) -> Contrasts:
    """A pair of each instruction that can be changed and answered in both forms; statistics.

    Without those whose responses are cut off, empty or the same. UserError where none is left.

    changed, contrasts: the fractions of instructions that were changed, and that have a pair.
    similarity: ROUGE-L of x and x', a mean.
    """
    model = rollout.base()
    task = rollout.task
    asked = instructions(task, examples)
    others = zip(asked, _changed(model, asked, round, cfg), strict=True)
    changed = [(x, other) for x, other in others if other is not None and _is_new(model, x, other)]
    if cfg.algorithm.responses == "given":
        better = [_given_response(task, x) for x, _ in changed]
    else:
        better = [_response(task, sample) for sample in model([x for x, _ in changed])]
    elsewhere = dataclasses.replace(model, key=prng.for_purpose(model.key, "changed"))
    worse = [_response(task, sample) for sample in elsewhere([other for _, other in changed])]
    pairs = []
    for (x, other), y, other_y in zip(changed, better, worse, strict=True):
        if y and other_y and y != other_y:
            pairs.append(Contrast(example=x, changed=other.question, better=y, worse=other_y))
    if not pairs:
        raise UserError(
            f"round {round}: of {len(asked)} instructions {len(changed)} could be changed, and "
            "none has two responses that differ and end: see config.algorithm.change_template and "
            "config.sampling.max_new_tokens."
        )
    similar = [ranking.rouge_l(p.example.question.split(), p.changed.split()) for p in pairs]
    stats = {
        "changed": len(changed) / len(asked),
        "contrasts": len(pairs) / len(asked),
        "similarity": float(np.mean(similar)),
    }
    return Contrasts(pairs, stats | label_noise(task, pairs))


def _changed(
    model: Rollout, examples: Sequence[Example], round: int, cfg: ConfigDict
) -> list[Example | None]:
    """x' of each x, with the same id; None where the model wrote none."""
    a = cfg.algorithm
    change = model.task.changed
    if change is not None and not a.change_template:
        rng = np.random.default_rng([cfg.seed, round])
        return [change(example, rng) for example in examples]
    template = templates.read(a.change_template, INSTRUCTION_FIELD, "change_template")
    written = model.write(
        [template.fill(instruction=model.task.judged_request(x)) for x in examples],
        num_samples=1,
        temperature=a.change_temperature,
        max_new_tokens=a.change_tokens,
        purpose="change",
    )
    found: list[Example | None] = []
    for example, [one] in zip(examples, written, strict=True):
        text = one.text.strip() if one.finished else ""
        other: Example | None = dataclasses.replace(
            example, question=text, answer="", rationale=None
        )
        if model.task.invented is not None:
            other = model.task.invented(text, example.id)
        found.append(other if text else None)
    return found


def _is_new(model: Rollout, example: Example, other: Example) -> bool:
    """Whether x' is not x, and can be asked: what a model wrote may be too long."""
    if other.question.split() == example.question.split():
        return False
    try:
        model.check_prompt(other)
    except UserError:
        return False
    return True


def _response(task: Task, sample: Sample) -> str:
    """What a judge is shown of a sample; "" where it is cut off, or nothing is to be shown."""
    part = task.judged_part(sample.text) if sample.finished else None
    return (part or "").strip()


def _given_response(task: Task, example: Example) -> str:
    if not example.answer:
        return ""
    return (task.judged_part(task.target(example)) or "").strip()


def label_noise(task: Task, pairs: Sequence[Contrast]) -> dict[str, float]:
    """The fractions of pairs whose y' is better for x, and as good; {} without a score."""
    score = task.score
    if score is None:
        return {}

    def quality(text: str, example: Example) -> float:
        answer = task.extract(text)
        return 0.0 if answer is None else score(answer, example)

    margins = [quality(p.better, p.example) - quality(p.worse, p.example) for p in pairs]
    return {
        "labels_wrong": float(np.mean([margin < 0 for margin in margins])),
        "labels_tied": float(np.mean([margin == 0 for margin in margins])),
    }
