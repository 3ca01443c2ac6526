"""Plans for judging, of an instruction alone, and what comes of carrying them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contrasts, templates, verdicts
from reasoning_jax.answers.judgements import TAG
from reasoning_jax.contrasts import Contrast
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.verdicts import Shown

EXECUTE_FIELDS = (*templates.PAIR_FIELDS, "plan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """A plan that is to be carried out for a pair in one order."""

    number: int  # of the pair
    shown: Shown
    plan: Sample
    prompt: str


def draw_plans(rollout: Rollout, pairs: Sequence[Contrast], cfg: ConfigDict) -> list[list[Sample]]:
    """The plans for each pair, of its instruction alone: no response is in the prompt.

    Without those that are cut off or empty, or give a verdict already; equal ones are one.
    """
    a = cfg.algorithm
    template = templates.read(a.plan_template, contrasts.INSTRUCTION_FIELD, "plan_template")
    written = rollout.write(
        [template.fill(instruction=rollout.task.judged_request(p.example)) for p in pairs],
        num_samples=a.num_plans,
        temperature=a.judge_temperature,
        max_new_tokens=a.plan_tokens,
        purpose="plan",
    )
    return [list({p.text: p for p in own if _is_plan(p)}.values()) for own in written]


def _is_plan(sample: Sample) -> bool:
    return sample.finished and bool(sample.text.strip()) and not TAG.search(sample.text)


def asks(
    rollout: Rollout, pairs: Sequence[Contrast], plans: Sequence[Sequence[Sample]], cfg: ConfigDict
) -> list[Ask]:
    """Each plan of each pair in both orders, which follow one another; without plans too long."""
    a = cfg.algorithm
    template = templates.read(a.execute_template, EXECUTE_FIELDS, "execute_template")
    found = []
    for number, own in enumerate(plans):
        orders = verdicts.both_orders([pairs[number]])
        for plan in own:
            prompts = [one.fill(template, rollout.task, plan=plan.text) for one in orders]
            if not all(contrasts.has_room(rollout, text, a.judge_tokens) for text in prompts):
                continue
            found += [
                Ask(number=number, shown=shown, plan=plan, prompt=prompt)
                for shown, prompt in zip(orders, prompts, strict=True)
            ]
    return found


def execute(rollout: Rollout, asked: Sequence[Ask], cfg: ConfigDict) -> list[list[Sample]]:
    """Judgements that begin with their plans, num_executions of each, as they are trained on."""
    a = cfg.algorithm
    template = templates.read(a.template, templates.PAIR_FIELDS, "template")
    prompts = [ask.prompt for ask in asked]
    groups = verdicts.judge(rollout, prompts, [ask.shown for ask in asked], a.num_executions, a)
    joint = rollout.tokenizer.encode(a.joint)
    whole = []
    for ask, group in zip(asked, groups, strict=True):
        ids = np.asarray(
            contrasts.prompt_ids(rollout, ask.shown.fill(template, rollout.task)), np.int32
        )
        before = np.asarray([*ask.plan.tokens[:-1], *joint], np.int32)  # less its end token
        whole.append([_after(before, ids, ask.plan.text + a.joint, one) for one in group])
    return whole


def _after(before: np.ndarray, prompt_ids: np.ndarray, text: str, sample: Sample) -> Sample:
    """A sample with what comes before it, after another prompt."""
    return dataclasses.replace(
        sample,
        prompt_ids=prompt_ids,
        tokens=np.concatenate([before, sample.tokens]).astype(np.int32),
        logprobs=np.concatenate([np.zeros(len(before)), sample.logprobs]).astype(np.float32),
        text=text + sample.text,
    )
