"""A rollout on rule cards without a model: what it answers and writes is scripted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import scripted

from reasoning_jax import default, graders, tasks
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example, cards
from reasoning_jax.tasks.cards.seeds import CardExample
from reasoning_jax.tokenizer import Characters

TASK = tasks.get("rule_cards")
TOK = Characters(TASK.ALPHABET)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cards(Rollout):
    """``answers[question]`` are an example's completions; ``say(prompt, index)`` what is written.

    A text that ends with "..." is cut off; None is of a prompt that leaves no room.
    """

    answers: dict
    say: Callable = lambda prompt, index: ""
    prompts: list = dataclasses.field(default_factory=list)  # that were written after
    writers: list = dataclasses.field(default_factory=list)  # whose parameters wrote

    def __call__(self, examples, *, hint=False, num_samples=1, temperature=None):
        drawn = [
            self.sample(e, self.prompt_ids(e), i, self.answers[e.question][i])
            for e in examples
            for i in range(num_samples)
        ]
        return self._grade(drawn)

    def write(self, prompts, *, num_samples, temperature, max_new_tokens, purpose):
        self.prompts.extend(prompts)
        self.writers.append(self.policy.params)
        groups = []
        for n, prompt in enumerate(prompts):
            example = Example(id=n, question=prompt, answer="")
            ids = np.asarray(TOK.prompt(prompt), np.int32)
            texts = [self.say(prompt, i) for i in range(num_samples)]
            written = [
                self.sample(example, ids, i, t) for i, t in enumerate(texts) if t is not None
            ]
            groups.append(written)
        return groups

    def sample(self, example, prompt_ids, index, text):
        finished = not text.endswith("...")
        text = text.removesuffix("...")
        tokens = [*TOK.encode(text), *([TOK.eos_id] if finished else [])]
        return Sample(
            example=example,
            index=index,
            hinted=False,
            prompt_ids=prompt_ids,
            tokens=np.asarray(tokens, np.int32),
            logprobs=np.zeros(len(tokens), np.float32),
            finished=finished,
            text=text,
        )


def config(algorithm, **changes):
    """A method's config on rule cards; changes: of its section."""
    cfg = default.get_config(algorithm=algorithm, task="rule_cards")
    cfg.rounds.restart = False
    cfg.rounds.count = 2
    cfg.sampling.temperature = 1.0
    cfg.algorithm.update({"template": "cards_score", "judge_tokens": 10} | changes)
    return cfg


def rollout(cfg, answers, say=None, max_length=96):
    policy = scripted.ScriptedPolicy(
        params="new",
        model_cfg=None,
        mesh=None,
        batch_size=8,
        max_length=max_length,
        token_logprobs=lambda row: np.full(len(row["tokens"]), -0.5, np.float32),
    )
    return Cards(
        policy=policy,
        tokenizer=TOK,
        task=TASK,
        task_cfg=cfg.task,
        grader=graders.make(cfg, TASK),
        shots=(),
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=26,
        key=jax.random.key(0),
        quiet=True,
        base_params=lambda: "base",
        params_of_run=lambda folder: f"that of {folder}",
        answers=answers,
        say=say or (lambda prompt, index: ""),
    )


def card(question, id=0):
    return CardExample(id=id, question=question, answer="", card=cards.read_card(question))


def judgement(score):
    """A seed's judgement: a worked example."""
    marks = "+" if score else "-"
    question = "[J] EVEN [W] 1 2 3 4 [V]"
    return Example(id=9, question=question, answer=f"Score: {score}", rationale=f" {marks}")


def sides(row):
    """The completions of a pair."""
    found = []
    for side in (0, 1):
        own = (row["side"] == side) & (row["weights"] > 0)
        found.append(TOK.decode(row["tokens"][own].tolist()))
    return tuple(found)
