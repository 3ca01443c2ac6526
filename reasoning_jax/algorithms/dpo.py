"""DPO and its kin on given preferences (Rafailov et al. 2023, arXiv 2305.18290).

IPO, KTO, and DPO with a likelihood term: the losses are in training/losses.py. ``pairs`` names a
JSONL file, or "tfds:FOLDER:NAME:SPLIT", with the keys prompt, chosen and rejected; for KTO prompt,
completion and label (true or false). The prompt is taken as it is, without the task's; with
``whole_text`` the sides repeat it. Prompt and completion are tokenised apart, so that no token
spans the boundary, and the end token is scored.

The reference is the model before round 1. Its log-likelihoods are computed once, and are the memory
of the run. A round is ``rounds.updates`` updates on all pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, Programs
from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.training import preference_files, preferences
from reasoning_jax.training.losses import Loss, pair_loss, verdict_loss
from reasoning_jax.training.preference_files import Preference
from reasoning_jax.training.rows import Row, attach, pair_row

BATCH = ("weights", "ref")
CHARTS = preferences.CHARTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig):
    pairs: str = ""  # a JSONL file with prompt, chosen, rejected (see above), or tfds:...
    whole_text: bool = False  # chosen and rejected begin with the prompt
    skip_bad: bool = False  # leave unusable pairs out and count them, instead of an error
    desirable_weight: float = 1.0  # kto: lambda of desirable completions
    undesirable_weight: float = 1.0  # kto: lambda of undesirable ones


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    preferences.check(a)
    if a.preference != "kto" and (a.desirable_weight, a.undesirable_weight) != (1, 1):
        raise UserError(
            f"config.algorithm.desirable_weight, undesirable_weight: {a.preference} has none; "
            "kto has."
        )
    if cfg.rounds.examples:
        raise UserError("config.rounds.examples: dpo trains on all pairs in every round: 0.")


def init_memory(cfg: ConfigDict, num_examples: int) -> np.ndarray:
    """Room for the reference's log-likelihood of each side, [N, 2].

    Reads the preferences: their errors come before anything is trained.
    """
    usable, _ = preference_files.read(cfg.algorithm)
    return np.zeros((len(usable), 2), np.float32)


def data(cfg: ConfigDict) -> dict[str, list[tuple]]:
    """The preferences that the reference's log-likelihoods are of, wherever they are."""
    usable, _ = preference_files.read(cfg.algorithm)
    return {"algorithm.pairs": [(p.prompt, *p.sides, p.desirable) for p in usable]}


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """All pairs that fit into a sequence; the reference reads them in round 1."""
    likelihoods = np.asarray(memory)
    usable, left_out = preference_files.read(cfg.algorithm)
    total = len(usable) + len(left_out)
    rows: list[Row] = []
    fitting: list[int] = []
    for i, preference in enumerate(usable):
        row = _pair(rollout, preference)
        if len(row["tokens"]) > rollout.max_length:
            left_out.add("it is longer than config.sequence_length", preference.where)
            continue
        if cfg.algorithm.preference == "kto":
            row = attach(row, "desirable", (preference.desirable, 0))
        fitting.append(i)
        rows.append(row)
    if round == 1:
        likelihoods = likelihoods.copy()
        logprobs = rollout.policy.logprobs(rows)
        likelihoods[fitting] = preferences.side_log_likelihoods(rows, logprobs)
    rows = [attach(row, "ref", likelihoods[i]) for i, row in zip(fitting, rows, strict=True)]
    stats = {"kept_rows": len(rows), "kept": len(rows) / total}
    return Collected(rows=rows, memory=likelihoods, stats=stats, warnings=left_out.warnings())


def _pair(rollout: Rollout, preference: Preference) -> Row:
    tokenizer = rollout.tokenizer
    try:
        prompt_ids = [tokenizer.bos_id, *tokenizer.encode(preference.prompt)]
        sides = [[*tokenizer.encode(text), tokenizer.eos_id] for text in preference.sides]
    except ValueError as error:
        raise UserError(f"{preference.where}: {error}") from None
    return pair_row(prompt_ids, sides)


def programs(cfg: ConfigDict) -> Programs:
    arrays = (*BATCH, "desirable") if cfg.algorithm.preference == "kto" else BATCH
    return Programs(updates={"": arrays}, logprobs=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The loss that ``preference`` names, summed over the pairs (KTO: the completions)."""
    if cfg.algorithm.preference == "kto":
        return verdict_loss(logprobs, batch, cfg.algorithm)
    return pair_loss(logprobs, batch, cfg.algorithm)
