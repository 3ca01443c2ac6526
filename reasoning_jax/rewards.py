"""What a sample earns: 1 for the right answer, and what the config adds for its form and its length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORM = re.compile(r"\s*<think>.*\S.*</think>\s*<answer>.*\S.*</answer>\s*", re.DOTALL)


def well_formed(text: str) -> bool:
    """Whether a completion is <think>...</think><answer>...</answer>, each tag once, neither part empty, nothing around them
    (DeepSeek-R1, arXiv 2501.12948, section 2.2.2)."""
    return all(text.count(tag) == 1 for tag in TAGS) and FORM.fullmatch(text) is not None


def overlong(length: int, limit: int, cache: int) -> float:
    """0 up to limit - cache tokens, then falling evenly to -1 at the limit (DAPO, Yu et al. 2025, arXiv 2503.14476, eq. 13)."""
    return -min(max(length - (limit - cache), 0) / cache, 1.0) if cache else -float(length > limit)


def of_sample(sample: Any, cfg: ConfigDict) -> float:
    """Its verdict, 1 where it is correct and else 0; the weighted form and length.

    ValueError naming the example where the sum is no finite number.
    """
    a, limit = cfg.algorithm, cfg.sampling.max_new_tokens
    reward = float(sample.correct) + a.format_reward * well_formed(sample.text)
    reward += a.overlong * overlong(len(sample.tokens), limit, a.overlong_tokens)
    if not math.isfinite(reward):
        raise ValueError(f"Example {sample.example.id}, sample {sample.index}: its reward {reward} is not a number.")
    return reward


def of_groups(groups: Sequence[Sequence[Any]], cfg: ConfigDict) -> np.ndarray:
    """[Q, G] float64."""
    return np.array([[of_sample(s, cfg) for s in group] for group in groups]).reshape(len(groups), cfg.algorithm.num_samples)
