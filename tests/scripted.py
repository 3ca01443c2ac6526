"""A rollout without a model: each sample is what a script says."""

from __future__ import annotations

import numpy as np

from configs import default
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import CORRECT, Example, TRUNCATED, UNPARSED, WRONG, addition
from reasoning_jax.tokenizer import Characters

TOK = Characters(addition.ALPHABET)


class Scripted(Rollout):
    """``script[example id]`` is the verdict of the plain and of the hinted attempt, and their wrong lines."""

    script: dict = {}
    calls: list = []

    def __call__(self, examples, *, hint=False, num_samples=1):
        self.calls.append((hint, [e.id for e in examples], num_samples))
        return [self.attempt(e, i, hint) for e in examples for i in range(num_samples)]

    def attempt(self, e: Example, index: int, hint: bool) -> Sample:
        verdict = self.script[e.id][hint]
        worked = addition.target(
            Example(
                e.id, e.question, e.answer, addition.scratchpad(*map(int, e.question.split("+")))
            )
        )
        # A truncated one reads as if it were right; an unparsed one ends before the answer.
        text = {CORRECT: worked, TRUNCATED: worked, WRONG: f"{worked}1", UNPARSED: "<scratch>"}[
            verdict.split()[0]
        ]
        tokens = np.asarray(
            [*TOK.encode(text), *([] if verdict == TRUNCATED else [TOK.eos_id])], np.int32
        )
        line = 1 if verdict.endswith("by luck") else None
        return Sample(
            e,
            index,
            hint,
            tokens,
            -np.ones(len(tokens), np.float32),
            text,
            addition.extract(text),
            verdict.split()[0],
            line,
        )


def rollout(script: dict, max_length: int = 256) -> Scripted:
    kind = type("Script", (Scripted,), {"script": script, "calls": []})
    return kind(None, None, TOK, addition, (), None, 8, 64, max_length, None, None)


def example(id: int, a: int = 17, b: int = 26, worked: bool = False) -> Example:
    return Example(id, f"{a}+{b}", str(a + b), addition.scratchpad(a, b) if worked else None)


def config(**changes):
    """The default with these keys of its ``algorithm`` section."""
    cfg = default.get_config()
    cfg.algorithm.update(changes)
    return cfg
