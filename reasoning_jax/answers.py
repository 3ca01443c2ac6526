"""Stochastic answers: p(y | x, z) is the model's own likelihood of the answer y after the rationale z.

A state is then a rationale followed by the right answer, whatever answer was sampled with it, and a proposal z~ is accepted
with the probability min(1, p(y | x, z~) / p(y | x, z)), both under the current model. The gradient of a chain is that of
log p(z', y | x); the control variate is the score of the sample as it was drawn, its own answer included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, Example


def ending(rollout: Any, example: Example, answer: str) -> list[int]:
    """The tokens of an answer, the end token included: how task.target ends a completion."""
    text = rollout.task.target(dataclasses.replace(example, answer=answer), direct=True)
    return [*rollout.tokenizer.encode(text), rollout.tokenizer.eos_id]


def complete(rollout: Any, sample: Any) -> Any:
    """The sample with the right answer after its rationale, as correct; as it is, and not correct, where it has none."""
    if sample.answer is not None and sample.verdict not in (TRUNCATED, UNPARSED):
        own, right = (ending(rollout, sample.example, answer) for answer in (sample.answer, sample.example.answer))
        if sample.tokens[-len(own) :].tolist() == own and len(sample.tokens) - len(own) + len(right) <= rollout.max_new_tokens:
            tokens = np.concatenate([sample.tokens[: -len(own)], np.asarray(right, np.int32)])
            return dataclasses.replace(sample, tokens=tokens, verdict=CORRECT)
    return dataclasses.replace(sample, verdict=UNPARSED)


def step(rollout: Any, drawn: Sequence[Any], states: Sequence[np.ndarray], there: np.ndarray, u: np.ndarray):
    """One step of Metropolis-Hastings for M chains with the states ``states``, where they are ``there``; u [M] uniforms.

    Returns (the proposals as completed samples, which of them are accepted).
    """
    examples, proposals = [s.example for s in drawn], [complete(rollout, s) for s in drawn]
    size, possible = [len(ending(rollout, e, e.answer)) for e in examples], np.array([s.correct for s in proposals])

    def log_likelihood(tokens: Sequence[np.ndarray], exists: np.ndarray) -> np.ndarray:
        found = rollout.logprobs(examples, tokens)
        return np.where(exists, [p[len(p) - n :].sum() for p, n in zip(found, size, strict=True)], -np.inf)

    new = log_likelihood([s.tokens for s in proposals], possible)
    return proposals, accepts(new, log_likelihood(states, there), u)


def accepts(new: np.ndarray, old: np.ndarray, u: np.ndarray) -> np.ndarray:
    """u < p_new / p_old, over log-likelihoods [M]: what is impossible is never accepted, and gives way to all else."""
    ratio = np.where(old > -np.inf, new - np.where(old > -np.inf, old, 0.0), np.inf)
    return (new > -np.inf) & (np.log(u) < ratio)
