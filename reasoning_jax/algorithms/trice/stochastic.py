"""Stochastic answers: p(y | x, z) is the model's own likelihood of the answer y after rationale z.

A state is then a rationale followed by the right answer, whatever answer was sampled with it, and a
proposal z~ is accepted with the probability min(1, p(y | x, z~) / p(y | x, z)), both under the
current model. The gradient of a chain is that of log p(z', y | x); the control variate is the score
vector of the sample as it was drawn, its own answer included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, Example
from reasoning_jax.training.rows import completion_row


def answer_tokens(rollout: Rollout, example: Example, answer: str) -> list[int]:
    """The tokens of an answer, the end token included: how task.target ends a completion."""
    answered = dataclasses.replace(example, answer=answer)
    text = rollout.task.target(answered, direct=True)
    return [*rollout.tokenizer.encode(text), rollout.tokenizer.eos_id]


def with_right_answer(rollout: Rollout, sample: Sample) -> Sample:
    """The sample with the right answer after its rationale, as correct.

    As it is, and unparsed, where it ends in no answer or has no room for the right one.
    """
    unparsed = dataclasses.replace(sample, verdict=UNPARSED)
    if sample.answer is None or sample.verdict in (TRUNCATED, UNPARSED):
        return unparsed
    own = answer_tokens(rollout, sample.example, sample.answer)
    right = answer_tokens(rollout, sample.example, sample.example.answer)
    rationale = sample.tokens[: -len(own)]
    if sample.tokens[-len(own) : -1].tolist() != own[:-1]:  # a model may have several end tokens
        return unparsed
    if len(rationale) + len(right) > rollout.max_new_tokens:
        return unparsed
    tokens = np.concatenate([rationale, np.asarray(right, np.int32)])
    return dataclasses.replace(sample, tokens=tokens, verdict=CORRECT)


def propose(
    rollout: Rollout,
    drawn: Sequence[Sample],
    states: Sequence[np.ndarray],
    state_exists: np.ndarray,
    u: np.ndarray,
) -> tuple[list[Sample], np.ndarray]:
    """One step of Metropolis-Hastings for M chains.

    states: the tokens of the chains' states; state_exists [M] bool; u [M] uniforms. Returns the
    proposals, with right answers, and which of them are accepted, [M] bool.
    """
    proposals = [with_right_answer(rollout, sample) for sample in drawn]
    possible = np.array([s.correct for s in proposals])
    answer_lengths = [len(answer_tokens(rollout, s.example, s.example.answer)) for s in drawn]

    def log_likelihoods(completions: Sequence[np.ndarray], exists: np.ndarray) -> np.ndarray:
        """Of the answers at the completions' ends; -inf where there is none."""
        rows = [
            completion_row(sample.prompt_ids, tokens)
            for sample, tokens in zip(drawn, completions, strict=True)
        ]
        logprobs = rollout.policy.completion_logprobs(rows)
        sums = [p[len(p) - n :].sum() for p, n in zip(logprobs, answer_lengths, strict=True)]
        return np.where(exists, sums, -np.inf)

    new = log_likelihoods([s.tokens for s in proposals], possible)
    old = log_likelihoods(states, state_exists)
    return proposals, accepts(new, old, u)


def accepts(new: np.ndarray, old: np.ndarray, u: np.ndarray) -> np.ndarray:
    """u < p_new / p_old, over log-likelihoods [M].

    What is impossible is never accepted, and gives way to all else.
    """
    old_is_possible = old > -np.inf
    log_ratio = np.where(old_is_possible, new - np.where(old_is_possible, old, 0.0), np.inf)
    return (new > -np.inf) & (np.log(u) < log_ratio)
