"""DPO and its kin on given preferences (Rafailov et al. 2023, arXiv 2305.18290): IPO, KTO, and DPO with an NLL term.

``algorithm.pairs`` names a JSONL file, or "tfds:FOLDER:NAME:SPLIT", with the keys prompt, chosen and rejected; for KTO
prompt, completion and label (true or false). The prompt is taken as it is, without the task's; with ``whole_text`` the
sides repeat it. Prompt and completion are tokenised apart, so that no token spans the boundary, and the end token is scored.

The reference is the model before round 1. Its log-likelihoods are computed once, and are the memory of the run: a round is
``start_updates`` updates on all pairs. The losses are those of preferences.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import data, preferences
from reasoning_jax.algorithms import Report
from reasoning_jax.tasks import Example

PAIRED, SINGLE = ("prompt", "chosen", "rejected"), ("prompt", "completion", "label")


class Preference(NamedTuple):
    """A prompt with its chosen and its rejected completion; or, of a verdict, with its own and a mismatched one."""

    where: str  # "FILE, line 3"
    prompt: str
    sides: tuple[str, str]
    desirable: bool = True


def _records(source: str, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it is, row); ValueError where the source has no such keys."""
    if not source.startswith("tfds:"):
        yield from ((f"{source}, line {n}", row) for n, row in enumerate(data.read_jsonl(source, keys), 1))
        return
    if source.count(":") < 3:
        raise ValueError(f"config.algorithm.pairs: {source!r} is not tfds:FOLDER:NAME:SPLIT.")
    _, folder, name, split = source.split(":", 3)
    for number, row in data.tfds_source(name, folder, split):
        if missing := [key for key in keys if key not in row]:
            raise ValueError(f"{source}, row {number}: the key {missing[0]!r} is missing.")
        yield f"{source}, row {number}", row


def _problem(row: dict[str, Any], keys: Sequence[str], whole_text: bool) -> str | None:
    """What is wrong with a row, in words that can be counted."""
    texts = [row[key] for key in keys if key != "label"]
    if not all(isinstance(text, str) for text in texts):
        return "a value is not text"
    if "label" in keys and row["label"] not in (True, False):
        return "the label is neither true nor false"
    prompt, *sides = texts
    if whole_text and not all(side.startswith(prompt) for side in sides):
        return "the prompt is no prefix"
    if any(not side[len(prompt) if whole_text else 0 :].strip() for side in sides):
        return "a side is empty"
    return "the sides are equal" if len(set(sides)) < len(sides) else None


def load(cfg: ConfigDict) -> tuple[list[Preference], dict[str, list[str]]]:
    """The usable preferences of ``algorithm.pairs``, and what is left out: where it is, by reason.

    ValueError naming the line of the first row that is not usable, unless ``skip_bad``; or where none is.
    """
    a = cfg.algorithm
    if not a.pairs:
        raise ValueError("config.algorithm.pairs: dpo needs a JSONL file of preferences.")
    keys, found, bad = SINGLE if a.preference == "kto" else PAIRED, [], {}
    for where, row in _records(a.pairs, keys):
        if problem := _problem(row, keys, a.whole_text):
            _leave_out(bad, problem, where, cfg)
            continue
        prompt, *sides = (row[key] for key in keys if key != "label")
        sides = [side[len(prompt) if a.whole_text else 0 :] for side in sides]
        found.append(Preference(where, prompt, (sides[0], sides[-1]), bool(row.get("label", True))))
    if a.preference == "kto" and found:
        found = _mismatched(found)
    if not found:
        raise ValueError(f"{a.pairs}: no row is a preference that can be trained on.")
    return found, bad


def _leave_out(bad: dict[str, list[str]], problem: str, where: str, cfg: ConfigDict) -> None:
    if not cfg.algorithm.skip_bad:
        raise ValueError(f"{where}: {problem} (config.algorithm.skip_bad=True leaves such rows out).")
    bad.setdefault(problem, []).append(where)


def _mismatched(found: list[Preference]) -> list[Preference]:
    """Each verdict with the completion of the next one that has another prompt, for KTO's z0."""
    if len({p.prompt for p in found}) == 1:
        raise ValueError("config.algorithm.pairs: KTO's z0 needs completions of more than one prompt.")
    n, out = len(found), []
    for i, p in enumerate(found):
        other = next(q for j in range(i + 1, i + n) if (q := found[j % n]).prompt != p.prompt)
        out.append(p._replace(sides=(p.sides[0], other.sides[0])))
    return out


def init_memory(cfg: ConfigDict, num_examples: int) -> np.ndarray:
    """Room for the reference's log-likelihood of each half, [N, 2]; and the errors of the data, before anything is trained."""
    preferences.check(cfg)
    return np.zeros((len(load(cfg)[0]), 2), np.float32)


def collect(rollout, examples: Sequence[Example], memory: np.ndarray, round: int, cfg: ConfigDict):
    """All pairs that fit into a sequence; the reference reads them in round 1."""
    (found, bad), tok = load(cfg), rollout.tokenizer
    rows, fitting, total = [], [], len(found) + sum(map(len, bad.values()))
    for i, p in enumerate(found):
        try:
            sides = [[*tok.encode(text), tok.eos_id] for text in p.sides]
            row = preferences.pair([tok.bos_id, *tok.encode(p.prompt)], sides)
        except ValueError as error:
            raise ValueError(f"{p.where}: {error}") from None
        if len(row["tokens"]) > rollout.max_length:
            _leave_out(bad, "it is longer than config.sequence_length", p.where, cfg)
            continue
        fitting.append(i)
        rows.append(preferences.mark(row, "desirable", (p.desirable, 0)) if cfg.algorithm.preference == "kto" else row)
    if round == 1:
        memory = memory.copy()
        memory[fitting] = preferences.reference(rollout, rows)
    rows = [preferences.mark(row, "ref", memory[i]) for i, row in zip(fitting, rows, strict=True)]
    warnings = [f"{len(at)} rows are left out, as {problem}: {'; '.join(at[:3])}{' ...' * (len(at) > 3)}."
                for problem, at in bad.items()]  # fmt: skip
    return rows, memory, Report({"kept_rows": float(len(rows)), "kept": len(rows) / total}, warnings=warnings)


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return cfg.algorithm.start_updates


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """The loss that ``algorithm.preference`` names, summed over the pairs (KTO: the completions)."""
    of = preferences.verdict_loss if cfg.algorithm.preference == "kto" else preferences.pair_loss
    return of(logprobs, batch, cfg)
