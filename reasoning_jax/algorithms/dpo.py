"""DPO and its kin on given preferences (Rafailov et al. 2023, arXiv 2305.18290).

IPO, KTO, and DPO with a likelihood term: the losses are in training/losses.py. ``pairs`` names a
JSONL file, or "tfds:FOLDER:NAME:SPLIT", with the keys prompt, chosen and rejected; for KTO prompt,
completion and label (true or false). The prompt is taken as it is, without the task's; with
``whole_text`` the sides repeat it. They may be lists of messages (training/conversations.py), which
the model's chat template writes. Prompt and completion are tokenised apart, so that no token
spans the boundary, and the end token is scored.

The reference is the model before round 1. Its log-likelihoods are computed once, and are the memory
of the run. A round is ``rounds.updates`` updates on all pairs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, Programs
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, key
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.training import preference_files, preferences
from reasoning_jax.training.losses import Loss, pair_loss, verdict_loss
from reasoning_jax.training.preference_files import LeftOut, Preference
from reasoning_jax.training.rows import Row, attach, pair_row

BATCH = ("weights", "ref")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SYSTEMS = True
CHARTS = preferences.CHARTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig):
    pairs: str = ""  # a JSONL file with prompt, chosen, rejected (see above), or tfds:...
    whole_text: bool = False  # chosen and rejected begin with the prompt
    skip_bad: bool = False  # leave unusable pairs out and count them, instead of an error
    desirable_weight: float = key(1.0, at_least(0))  # kto: lambda of desirable completions
    undesirable_weight: float = key(1.0, at_least(0))  # kto: lambda of undesirable ones


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    preferences.check(a)
    if a.preference != "kto" and (a.desirable_weight, a.undesirable_weight) != (1, 1):
        raise UserError(
            f"config.algorithm.desirable_weight, undesirable_weight: {a.preference} has none; "
            "kto has."
        )
    if a.desirable_weight == 0 and a.undesirable_weight == 0:
        raise UserError(
            "config.algorithm.desirable_weight, undesirable_weight: both are 0: there is no loss."
        )
    if cfg.rounds.examples:
        raise UserError("config.rounds.examples: dpo trains on all pairs in every round: 0.")


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """Every pair can be written, and some of them fit into a sequence."""
    usable, left_out = preference_files.read(cfg.algorithm)
    if not any(row is not None for row in _pairs(rollout, usable, left_out, cfg)):
        raise UserError(
            f"config.sequence_length: {rollout.max_length} tokens have no room for any of the "
            f"{len(usable)} pairs of {cfg.algorithm.pairs}."
        )
    return [*left_out.warnings(), *preference_files.warnings(usable, cfg.algorithm)]


def init_memory(cfg: ConfigDict, num_examples: int) -> np.ndarray:
    """Room for the reference's log-likelihood of each side, [N, 2]."""
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
    pairs = _pairs(rollout, usable, left_out, cfg)
    fitting = [i for i, row in enumerate(pairs) if row is not None]
    rows = [row for row in pairs if row is not None]
    if round == 1:
        likelihoods = likelihoods.copy()
        logprobs = rollout.policy.logprobs(rows)
        likelihoods[fitting] = preferences.side_log_likelihoods(rows, logprobs)
    rows = [attach(row, "ref", likelihoods[i]) for i, row in zip(fitting, rows, strict=True)]
    stats = {"kept_rows": len(rows), "kept": len(rows) / total}
    return Collected(rows=rows, memory=likelihoods, stats=stats)


def _pairs(
    rollout: Rollout, usable: Sequence[Preference], left_out: LeftOut, cfg: ConfigDict
) -> list[Row | None]:
    """The preferences as rows; None for what is too long, which is left out too."""
    rows: list[Row | None] = []
    for preference in usable:
        row = _pair(rollout, preference)
        if len(row["tokens"]) > rollout.max_length:
            left_out.add("it is longer than config.sequence_length", preference.where)
            rows.append(None)
        elif cfg.algorithm.preference == "kto":
            rows.append(attach(row, "desirable", (preference.desirable, 0)))
        else:
            rows.append(row)
    return rows


def _pair(rollout: Rollout, preference: Preference) -> Row:
    tokenizer = rollout.tokenizer
    own = preference.where
    other = preference.mismatched_where or own
    with _naming(own):
        if isinstance(preference.prompt, str):
            end = tokenizer.eos_id
            prompt_ids = tokenizer.prompt(preference.prompt)
        else:
            end = tokenizer.turn_end_id
            prompt_ids = tokenizer.chat([turn._asdict() for turn in preference.prompt])
    sides = []
    for text, where in zip(preference.sides, (own, other), strict=True):
        with _naming(where):
            sides.append([*tokenizer.encode(text), end])
    return pair_row(prompt_ids, sides)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Puts the place of a preference in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def programs(cfg: ConfigDict) -> Programs:
    arrays = (*BATCH, "desirable") if cfg.algorithm.preference == "kto" else BATCH
    return Programs(updates={"": arrays}, logprobs=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """The loss that ``preference`` names, summed over the pairs (KTO: the completions)."""
    if cfg.algorithm.preference == "kto":
        return verdict_loss(logprobs, batch, cfg.algorithm)
    return pair_loss(logprobs, batch, cfg.algorithm)
