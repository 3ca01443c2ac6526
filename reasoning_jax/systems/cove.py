"""Chain of verification (Dhuliawala et al. 2023, arXiv:2309.11495).

The model drafts an answer (the paper's baseline response), plans verification questions, answers
them, and writes the final answer from the draft and these answers. The variants differ in what the
model sees while it answers a verification question (section 3.3):

    joint          one call plans and answers the questions, and sees the draft
    two_step       one call answers all questions, without the draft
    factored       each question has a call of its own, which sees nothing else
    factor_revise  as factored; then a call for each question compares its answer with the draft

With n questions these are 3, 4, n + 3 and 2 n + 3 calls, the draft's among them. Where no question
is planned, the draft is the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from reasoning_jax.calls import Ask, Caller, Pending, make_caller
from reasoning_jax.ranges import key, one_of
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.systems import prompts
from reasoning_jax.systems.prompts import Fields, lines
from reasoning_jax.tasks import Example

PLAN = Fields(("question", "draft"))
FINAL = Fields(("question", "draft", "checks"), ("instruction",))
CHECK = Fields(("verification", "answer"))
FILES = {
    "joint": {"joint": PLAN, "final": FINAL},
    "two_step": {
        "plan": PLAN,
        "answers": Fields(("verifications",)),
        "check": CHECK,
        "final": FINAL,
    },
    "factored": {
        "plan": PLAN,
        "answer": Fields(("verification",)),
        "check": CHECK,
        "final": FINAL,
    },
    "factor_revise": {
        "plan": PLAN,
        "answer": Fields(("verification",)),
        # In symbols the question alone says what the draft claims of each name.
        "cross": Fields(CHECK.needed, ("question", "draft")),
        "revised": Fields((*CHECK.needed, "verdict")),
        "final": FINAL,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # joint: one call asks and answers, and sees the draft; two_step: one call answers all questions
    # without the draft; factored: one call a question; factor_revise: the same, and then one call a
    # question compares its answer with the draft.
    variant: str = key("factored", one_of(*FILES))
    prompts: str = "words"  # a folder of prompts: of systems/prompts, or a path


def check(cfg: ConfigDict) -> None:
    """UserError for prompt files that will not do."""
    prompts.read(cfg.prompts, "cove", FILES[cfg.variant])


def answer(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict, *, num_samples: int = 1
) -> list[Sample]:
    """Final answers; ``stats["questions"]`` is how many verification questions a draft had."""
    templates = prompts.read(cfg.prompts, "cove", FILES[cfg.variant])
    caller = make_caller(rollout, "cove", templates)
    begun = caller.begin_with_drafts(examples, num_samples)
    if cfg.variant == "joint":
        checks = _checked_jointly(caller, begun)
    else:
        checks = _checked(caller, begun, cfg.variant)
    asked = []
    for one in begun:
        one.stats["questions"] = len(checks[one])
        if checks[one]:
            values = {"checks": "\n".join(checks[one]), "instruction": caller.instruction}
            asked.append(Ask(one, _with_draft(one, values)))
    finals = caller.ask("final", asked)
    answers = {one: _draft(one) for one in begun}  # what remains of drafts without a check
    answers |= {one: final for (one, _), final in zip(asked, finals, strict=True)}
    return caller.finish(answers)


Checks = dict[Pending, list[str]]  # of each draft: what the final call is shown, a text a question


def _with_draft(pending: Pending, values: Mapping[str, str]) -> dict[str, str]:
    return {"question": pending.question, "draft": _draft(pending).text, **values}


def _draft(pending: Pending) -> Sample:
    if pending.draft is None:
        raise ValueError("This sample has no draft.")
    return pending.draft


def _checked_jointly(caller: Caller, begun: Sequence[Pending]) -> Checks:
    """The lines of one call: each is a question with its answer."""
    written = caller.ask("joint", [Ask(one, _with_draft(one, {})) for one in begun])
    return {one: lines(sample.text) for one, sample in zip(begun, written, strict=True)}


def _checked(caller: Caller, begun: Sequence[Pending], variant: str) -> Checks:
    """Questions that one call plans, and the answers of others."""
    plans = caller.ask("plan", [Ask(one, _with_draft(one, {})) for one in begun])
    questions = {}
    for one, plan in zip(begun, plans, strict=True):
        # A question that stands there twice is asked once: the same prompt has the same answer.
        questions[one] = list(dict.fromkeys(lines(plan.text)))
    if variant == "two_step":
        answered = _answered_together(caller, questions)
    else:
        answered = _answered_apart(caller, questions)
    shown_as = "check"
    if variant == "factor_revise":
        shown_as = "revised"
        answered = _cross_checked(caller, answered)
    checks: Checks = {one: [] for one in begun}
    for one, values in answered:
        checks[one].append(caller.templates[shown_as].fill(**values))
    return checks


def _answered_together(caller: Caller, questions: Mapping[Pending, list[str]]) -> list[Ask]:
    """One call a draft answers all its questions: line i is the answer to question i.

    Answers that are missing are "", and lines beyond the last question are left out.
    """
    asked = []
    for one, own in questions.items():
        if own:
            asked.append(Ask(one, {"verifications": "\n".join(own)}))
    answered = []
    for (one, _), sample in zip(asked, caller.ask("answers", asked), strict=True):
        answers = lines(sample.text)
        for i, question in enumerate(questions[one]):
            answer = answers[i] if i < len(answers) else ""
            answered.append(Ask(one, {"verification": question, "answer": answer}))
    return answered


def _answered_apart(caller: Caller, questions: Mapping[Pending, list[str]]) -> list[Ask]:
    """Each answer is a call whose prompt holds its question alone."""
    asked = []
    for one, own in questions.items():
        asked += [Ask(one, {"verification": question}) for question in own]
    answered = []
    for (one, values), sample in zip(asked, caller.ask("answer", asked), strict=True):
        answered.append(Ask(one, {**values, "answer": sample.text}))
    return answered


def _cross_checked(caller: Caller, answered: Sequence[Ask]) -> list[Ask]:
    """The questions and answers, each with what a call says of it and the draft."""
    asked = [Ask(one, _with_draft(one, values)) for one, values in answered]
    verdicts = caller.ask("cross", asked)
    found = []
    for (one, values), verdict in zip(answered, verdicts, strict=True):
        found.append(Ask(one, {**values, "verdict": verdict.text}))
    return found
