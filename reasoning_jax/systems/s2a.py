"""System 2 attention (Weston and Sukhbaatar 2023, arXiv:2311.11829).

The model writes what it is asked anew, with only what bears on the answer, and then answers what it
has written. What it was asked is shown to it no more: a model attends to opinions and distractors
wherever they stand, so asking it to ignore them does not help. The variant that keeps the original
beside the new text is the paper's ablation.

Two calls an answer. A text that is written empty leaves nothing to answer: the original is then
answered, and ``stats`` counts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax.calls import Ask, make_caller
from reasoning_jax.ranges import key, one_of
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.systems import prompts
from reasoning_jax.systems.prompts import Fields
from reasoning_jax.tasks import Example

REWRITE = Fields(("question",))
FILES = {
    "discard": {"rewrite": REWRITE, "answer": Fields(("context",), ("instruction",))},
    "keep": {"rewrite": REWRITE, "keep": Fields(("question", "context"), ("instruction",))},
}
ANSWER = {"discard": "answer", "keep": "keep"}  # the stage that answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # What becomes of the original once it is written anew: nothing, or it is shown too.
    variant: str = key("discard", one_of(*FILES))
    prompts: str = "words"  # a folder of prompts: of systems/prompts, or a path


def check(cfg: ConfigDict) -> None:
    """UserError for prompt files that will not do."""
    prompts.read(cfg.prompts, "s2a", FILES[cfg.variant])


def answer(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict, *, num_samples: int = 1
) -> list[Sample]:
    """Answers to what the model has written of each question."""
    templates = prompts.read(cfg.prompts, "s2a", FILES[cfg.variant])
    caller = make_caller(rollout, "s2a", templates)
    begun = caller.begin(examples, num_samples)
    written = caller.ask("rewrite", [Ask(one, {"question": one.question}) for one in begun])
    asked = []
    for one, sample in zip(begun, written, strict=True):
        context = sample.text.strip()
        one.stats["empty_rewrites"] = float(not context)
        values = {"question": one.question, "context": context or one.question}
        asked.append(Ask(one, values | {"instruction": caller.instruction}))
    answers = caller.ask(ANSWER[cfg.variant], asked)
    return caller.finish(dict(zip(begun, answers, strict=True)))
