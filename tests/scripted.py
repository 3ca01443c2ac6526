"""A rollout without a model: each sample is what a script says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from reasoning_jax import default, graders, tasks
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, addition
from reasoning_jax.tokenizer import Characters

TOK = Characters(addition.ALPHABET)
TASK = tasks.get("addition")
CFG = default.get_config(task="addition")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScriptedPolicy(Policy):
    """A policy whose numbers are those of two functions of a row."""

    token_logprobs: Callable | None = None  # row -> [N]
    vector: Callable | None = None  # row -> [D]
    calls: list = dataclasses.field(default_factory=list)  # (method, rows)

    def logprobs(self, rows):
        self.calls.append(("logprobs", rows))
        return [self.token_logprobs(row) for row in rows]

    def score_vectors(self, rows):
        self.calls.append(("score_vectors", rows))
        return np.array([self.vector(row) for row in rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted(Rollout):
    """``script[example id]`` is the verdict of the plain and of the hinted attempt.

    "correct by luck" is a correct one with a wrong line.
    """

    script: dict
    calls: list = dataclasses.field(default_factory=list)  # (hint, example ids, num_samples)

    def __call__(self, examples, *, hint=False, num_samples=1, temperature=None):
        self.calls.append((hint, [e.id for e in examples], num_samples))
        return [self.attempt(e, i, hint) for e in examples for i in range(num_samples)]

    def attempt(self, e: Example, index: int, hint: bool) -> Sample:
        return sample(e, self.script[e.id][hint], index=index, hinted=hint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups(Scripted):
    """``script[example id]`` lists the verdicts of an example's samples."""

    def attempt(self, e: Example, index: int, hint: bool) -> Sample:
        return sample(e, self.script[e.id][index], index=index, hinted=hint)


def sample(e: Example, outcome: str, *, index: int = 0, hinted: bool = False) -> Sample:
    """A sample with this outcome: a verdict, or "correct by luck"."""
    verdict = outcome.split()[0]
    right = addition.target(worked(e))
    # A truncated one reads as if it were right; an unparsed one ends before the answer.
    texts = {CORRECT: right, TRUNCATED: right, WRONG: f"{right}1", UNPARSED: "<scratch>"}
    text = texts[verdict]
    finished = verdict != TRUNCATED
    end = [TOK.eos_id] if finished else []
    tokens = np.asarray([*TOK.encode(text), *end], np.int32)
    return Sample(
        example=e,
        index=index,
        hinted=hinted,
        prompt_ids=np.asarray([TOK.bos_id, *TOK.encode(prompt(e))], np.int32),
        tokens=tokens,
        logprobs=-np.ones(len(tokens), np.float32),
        finished=finished,
        text=text,
        answer=addition.extract(text),
        verdict=verdict,
        wrong_line=1 if outcome.endswith("by luck") else None,
        score=1.0 if verdict == CORRECT else 0.0,
    )


def rollout(script: dict, *, kind: type[Scripted] = Scripted, max_length: int = 256, **changes):
    """A rollout of this script.

    changes: fields of ``kind``, or of its policy (token_logprobs, vector, params).
    """
    own = {field.name for field in dataclasses.fields(ScriptedPolicy)}
    of_policy = {name: value for name, value in changes.items() if name in own - {"calls"}}
    rest = {name: value for name, value in changes.items() if name not in of_policy}
    fields = {"params": None, "model_cfg": None, "mesh": None, "batch_size": 8}
    policy = ScriptedPolicy(**fields | of_policy, max_length=max_length)
    fields = {
        "policy": policy,
        "tokenizer": TOK,
        "task": TASK,
        "task_cfg": CFG.task,
        "grader": graders.make(CFG, TASK),
        "shots": (),
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 64,
        "key": jax.random.key(0),
    }
    return kind(**fields | rest, script=script)


def example(id: int, a: int = 17, b: int = 26, *, given: bool = False) -> Example:
    """A sum; with its rationale where it is ``given``."""
    rationale = addition.scratchpad(a, b) if given else None
    return Example(id=id, question=f"{a}+{b}", answer=str(a + b), rationale=rationale)


def worked(e: Example) -> Example:
    """The example with its rationale."""
    a, b = e.question.split("+")
    return dataclasses.replace(e, rationale=addition.scratchpad(int(a), int(b)))


def prompt(e: Example, hint: str | None = None) -> str:
    return addition.prompt(e, CFG.task, hint)


def config(algorithm: str, *, rounds: dict | None = None, **changes):
    """The default config of a method, with these keys of its ``algorithm`` and ``rounds``."""
    cfg = default.get_config(algorithm=algorithm, task="addition")
    cfg.algorithm.update(changes)
    cfg.rounds.update(rounds or {})
    return cfg
