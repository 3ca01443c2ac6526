"""A rollout whose model says what a function answers to a prompt's text, and then ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from reasoning_jax import default, extraction, graders, systems
from reasoning_jax.policy import Generated, Policy
from reasoning_jax.rollout import Rollout
from reasoning_jax.systems import bsm, cove, s2a
from reasoning_jax.tasks import Example
from reasoning_jax.tokenizer import Bytes, Tokenizer

TOK = Bytes()
LIMIT = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaking(Policy):
    """``speak`` of a prompt's text, and, where it ``hears``, of the number of its stream too."""

    speak: Callable[..., str]
    tokenizer: Tokenizer = TOK
    hears: bool = False
    asked: list[str] = dataclasses.field(default_factory=list)  # all prompts so far

    def generate(self, requests, **options):
        texts = [self.tokenizer.decode(request.prompt_ids.tolist()) for request in requests]
        self.asked.extend(texts)
        order = list(reversed(range(len(requests))))
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            said = []
            for n in numbers:
                more = [(requests[n].example_id, requests[n].sample_index)] if self.hears else []
                said.append(self.speak(texts[n], *more))
            yield self._batch(numbers, said, options["max_new_tokens"])

    def _batch(self, numbers, said, limit):
        tokens = np.zeros((len(numbers), limit), np.int32)
        lengths = np.zeros(len(numbers), np.int32)
        finished = np.zeros(len(numbers), bool)
        for row, text in enumerate(said):
            ids = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
            finished[row] = len(ids) <= limit
            lengths[row] = min(len(ids), limit)
            tokens[row, : lengths[row]] = ids[:limit]
        return Generated(
            requests=numbers,
            tokens=tokens,
            logprobs=-np.ones(tokens.shape, np.float32),
            lengths=lengths,
            finished=finished,
            is_local=np.ones(len(numbers), bool),
        )


def rollout(
    speak: Callable[..., str],
    *,
    task: str = "gsm8k",
    keys: dict | None = None,
    tokenizer: Tokenizer = TOK,
    max_length: int = 2048,
    hears: bool = False,
    **fields,
) -> Rollout:
    """keys: of the task. fields: of the rollout."""
    cfg = default.get_config(task=task)
    cfg.task.update(keys or {})
    settled = extraction.settle(cfg.task)
    made = extraction.make(settled)
    policy = Speaking(
        params=None,
        model_cfg=None,
        mesh=None,
        batch_size=2,
        max_length=max_length,
        speak=speak,
        tokenizer=tokenizer,
        hears=hears,
    )
    own = {
        "policy": policy,
        "tokenizer": tokenizer,
        "task": made,
        "task_cfg": settled,
        "grader": graders.make(cfg, made),
        "shots": (),
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": LIMIT,
        "key": jax.random.key(0),
    }
    return Rollout(**own | fields)


def problem(id: int, question: str, answer: str = "42", **fields) -> Example:
    return Example(id=id, question=question, answer=answer, **fields)


def section(name, **keys):
    cfg = default.section(systems, name)
    cfg.update(keys)
    return cfg


def write_short(folder):
    """Writes a short template for each call: its name, and its fields one a line."""
    files = {"cove": cove.FILES, "s2a": s2a.FILES, "bsm": bsm.FILES}
    for system, variants in files.items():
        for stage, fields in {k: v for own in variants.values() for k, v in own.items()}.items():
            names = [*fields.needed, *fields.optional]
            text = "\n".join([stage.upper(), *(f"<{name}> {{{name}}}" for name in names)])
            (folder / f"{system}_{stage}.txt").write_text(text + "\n")
    (folder / "cove_check.txt").write_text("{verification} -> {answer}\n")
    (folder / "cove_revised.txt").write_text("{verification} -> {answer} ({verdict})\n")
    (folder / "bsm_verdict.txt").write_text("#### {verdict}\n")
