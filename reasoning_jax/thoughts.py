"""What continuous thoughts say of the next token, for the report (arXiv:2412.06769, 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reasoning_jax import multihost, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.training.rows import completion_row

NUM_SAMPLES = 8  # of an evaluation, whose thoughts are written down
NUM_TOKENS = 5  # of a thought: the likeliest


def write(directory: Path, round: int, rollout: Rollout, samples: Sequence[Sample]) -> None:
    """Writes rounds/*/thoughts.jsonl of the first samples, a line each, where their prompts think.

    A line's rationale has a line for each thought: its likeliest tokens with their probabilities.
    """
    policy = rollout.policy
    thought_id = policy.thought_id
    if policy.forward.thought_distributions is None or thought_id is None:
        return
    chosen = [sample for sample in samples if _fits(policy, sample)]
    chosen = chosen[: min(NUM_SAMPLES, policy.batch_size)]
    counts = [int(np.sum(sample.prompt_ids == thought_id)) for sample in chosen]
    if not any(counts):
        return
    rows = [completion_row(sample.prompt_ids, []) for sample in chosen]
    found = policy.likeliest_of_thoughts(rows, min(NUM_TOKENS, policy.model_cfg.vocab_size))
    lines = []
    for sample, count, likeliest in zip(chosen, counts, found, strict=True):
        example = sample.example
        said = [_said(rollout, number, *likeliest[number]) for number in range(count)]
        lines.append(
            {
                "id": example.id,
                "question": example.question,
                "gold": example.answer,
                "rationale": "\n".join(said),
                "correct": sample.correct,
                "difficulty": rollout.task.difficulty(example),
            }
        )
    if multihost.is_process_0():
        folder = directory / "rounds" / f"{round:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_lines(folder / "thoughts.jsonl", lines)


def _fits(policy: Policy, sample: Sample) -> bool:
    """Whether the forward has room for the sample's prompt."""
    first = decoder.first_id(policy.params, "thought_markers", policy.model_cfg)
    try:
        row = completion_row(sample.prompt_ids, [])
        policy.forward.check_rows(policy.forward_cfg, first, [row])
    except UserError:
        return False
    return True


def _said(rollout: Rollout, number: int, probabilities: np.ndarray, ids: np.ndarray) -> str:
    parts = []
    for probability, id in zip(probabilities, ids, strict=True):
        text = rollout.tokenizer.decode([int(id)])
        name = repr(text) if text else f"token {int(id)}"  # a special one has no text
        parts.append(f"{name} {100 * probability:.0f} %")
    return f"thought {number + 1}: {', '.join(parts)}"
