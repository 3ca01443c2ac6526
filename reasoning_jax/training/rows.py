"""What a gradient step is trained on: one row a sequence, as arrays of one length.

A row has ``tokens`` [N] int32 and ``weights`` [N] float32, which are 0 on the prompt; what else its
method's loss reads (see ``BATCH`` in the method's file) has the same length. A row of two
completions has ``side`` and ``position`` too, and becomes two segments of a packed sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Row = dict[str, np.ndarray]
TokenIds = Sequence[int] | np.ndarray


def completion_row(prompt_ids: TokenIds, tokens: TokenIds) -> Row:
    """A prompt and its completion; each token of the completion weighs 1."""
    weights = np.zeros(len(prompt_ids) + len(tokens), np.float32)
    weights[len(prompt_ids) :] = 1.0
    return {"tokens": np.asarray([*prompt_ids, *tokens], np.int32), "weights": weights}


def weighted_row(prompt_ids: TokenIds, tokens: TokenIds, weight: float, normaliser: float) -> Row:
    """A row for ``losses.sequence_nll``.

    Its log-likelihood weighs ``weight`` and adds ``normaliser`` to what the update is divided by.
    """
    row = completion_row(prompt_ids, tokens)
    normalisers = np.zeros_like(row["weights"])
    normalisers[-1] = normaliser
    weights = row["weights"] * np.float32(weight)
    return {"tokens": row["tokens"], "weights": weights, "normaliser": normalisers}


def pair_row(prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> Row:
    """Two completions of one prompt, each after the prompt; ValueError where one is empty.

    Keys, all [N]: tokens; weights (1 on the completions); side (0 or 1); position (in its side).
    """
    if any(len(completion) == 0 for completion in completions):
        raise ValueError("A pair needs two completions of at least one token.")
    prompt = list(prompt_ids)
    sides = [[*prompt, *completion] for completion in completions]
    lengths = [len(side) for side in sides]
    weights = [np.arange(n) >= len(prompt) for n in lengths]
    return {
        "tokens": np.concatenate(sides).astype(np.int32),
        "weights": np.concatenate(weights).astype(np.float32),
        "side": np.repeat(np.arange(2, dtype=np.int32), lengths),
        "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
    }


def attach(row: Row, key: str, values: Sequence[float] | np.ndarray) -> Row:
    """The pair with one number a side under ``key``, which the side's last token carries.

    ``losses.side_sums`` reads it again.
    """
    array = np.zeros(len(row["tokens"]), np.float32)
    last_of_first = int(np.count_nonzero(row["side"] == 0)) - 1
    array[[last_of_first, -1]] = values
    return row | {key: array}
