"""The two functions that tell RLOO, GRPO, Dr. GRPO and DAPO apart.

Q questions with G samples each; the table of the methods is in the package's docstring.
"""

from __future__ import annotations

import numpy as np

KINDS = ("rloo", "grpo", "dr_grpo", "dapo")


def advantages(rewards: np.ndarray, kind: str) -> np.ndarray:
    """[Q, G] from rewards [Q, G]."""
    centred = rewards - rewards.mean(1, keepdims=True)
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return centred * (rewards.shape[1] / (rewards.shape[1] - 1))
    spread = rewards.std(1, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-8)


def token_weights(lengths: np.ndarray, kind: str, max_length: int) -> np.ndarray:
    """[Q, G]: the weight of each token of a sample.

    lengths: [Q, G] tokens of the samples, which are at most ``max_length``.
    """
    group = lengths.shape[1]
    if kind == "grpo":
        return 1 / (group * lengths)
    if kind == "dapo":
        return np.broadcast_to(1 / lengths.sum(1, keepdims=True), lengths.shape)
    tokens = max_length if kind == "dr_grpo" else 1
    return np.full(lengths.shape, 1 / (group * tokens))
