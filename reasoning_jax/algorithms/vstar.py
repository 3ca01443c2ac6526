"""V-STaR: training verifiers for self-taught reasoners (Hosseini, Yuan, Malkin, Courville, Sordoni, Agarwal 2024,
arXiv 2402.06457, section 3 and algorithm 1).

Rounds 1 ... num_rounds - 1 train a generator as STaR does, without hints: k = ``num_samples`` solutions of every question, all
of them remembered with their verdicts; then fine-tuning of the *base* model on every distinct correct one of all rounds so far,
and on the worked rationales where there are some. The last round draws nothing. It trains the verifier V, by DPO from, and
against, the base model, on pairs of a correct and an incorrect solution of one question: at most ``pairs_per_question`` of all
there are. The generator never sees an incorrect solution, and is not what the verifier starts from.

V is saved as DIR/verifier beside the generator. It ranks candidates by log V(y | x): evaluate.py's best-of-k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import preferences
from reasoning_jax.algorithms import Report, scheduled_updates
from reasoning_jax.masked import weighted_nll
from reasoning_jax.tasks import Example


class Memory(NamedTuple):
    """Every sample of every round; N questions, C = rounds * samples, L = sampling.max_new_tokens."""

    tokens: np.ndarray  # [N, C, L] int32
    lengths: np.ndarray  # [N, C] int32; 0 = not drawn yet
    correct: np.ndarray  # [N, C] bool


def init_memory(cfg: ConfigDict, num_examples: int) -> Memory:
    a = cfg.algorithm
    preferences.check(cfg)
    for fine, key, wrong in (
        (a.num_rounds > 1, "algorithm.num_rounds", "the last round is the verifier's: vstar needs 2 or more"),
        (a.examples_per_round == 0, "algorithm.examples_per_round", "vstar samples every question in every round: 0"),
        (a.restart and not a.online, "algorithm.restart, online", "every round starts from the base model: True, False"),
        (a.patience == 0, "algorithm.patience", "a run that stops early has no verifier: 0"),
        (a.preference != "kto", "algorithm.preference", "vstar makes pairs, which need dpo, ipo or ipo_mean"),
        (cfg.sampling.temperature > 0 < a.num_samples, "sampling.temperature, algorithm.num_samples", "must be above 0"),
    ):
        if not fine:
            raise ValueError(f"config.{key}: {wrong}.")
    drawn = num_examples, (a.num_rounds - 1) * a.num_samples
    return Memory(np.zeros((*drawn, cfg.sampling.max_new_tokens), np.int32), np.zeros(drawn, np.int32), np.zeros(drawn, bool))


def solutions(memory: Memory, question: int, correct: bool, given: np.ndarray | None = None) -> list[np.ndarray]:
    """The distinct correct, or incorrect, solutions of a question: the one given, then in the order that they were found."""
    here = (memory.correct[question] == correct) & (memory.lengths[question] > 0)
    found = [memory.tokens[question, c, : memory.lengths[question, c]] for c in np.flatnonzero(here)]
    return list({tokens.tobytes(): tokens for tokens in ([] if given is None else [given]) + found}.values())


def collect(rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict):
    if round == cfg.algorithm.num_rounds:
        return _pairs(rollout, examples, memory, cfg)
    k = cfg.algorithm.num_samples
    samples = rollout(examples, num_samples=k)
    memory = Memory(*(array.copy() for array in memory))
    for n, sample in enumerate(samples):
        at = n // k, (round - 1) * k + n % k
        memory.tokens[at][: len(sample.tokens)] = sample.tokens
        memory.lengths[at], memory.correct[at] = len(sample.tokens), sample.correct
    rows = [rollout.row(e, z) for i, e in enumerate(examples) for z in solutions(memory, i, True, rollout.worked_tokens(e))]
    found = np.array([len(solutions(memory, i, True)) for i in range(len(examples))])
    values = {"kept_rows": len(rows), "reached": (found > 0).mean(), "distinct": found.mean()}
    return rows, memory, Report(values, samples, {(s.example.id, s.index, s.hinted) for s in samples if s.correct})


def _pairs(rollout, examples: Sequence[Example], memory: Memory, cfg: ConfigDict):
    """The verifier's: of each question's pairs of a correct and an incorrect solution at most so many, drawn at random."""
    most, rng, rows, used, too_long = cfg.algorithm.pairs_per_question, np.random.default_rng(cfg.seed), [], 0, 0
    for i, example in enumerate(examples):
        good, bad = solutions(memory, i, True, rollout.worked_tokens(example)), solutions(memory, i, False)
        chosen = rng.permutation(len(good) * len(bad))[:most]
        prompt = rollout.prompt_ids(example)
        pairs = [preferences.pair(prompt, [good[n // len(bad)], bad[n % len(bad)]]) for n in chosen]
        fitting = [row for row in pairs if len(row["tokens"]) <= rollout.max_length]
        rows += fitting
        used, too_long = used + bool(fitting), too_long + len(pairs) - len(fitting)
    base = dataclasses.replace(rollout, params=rollout.reference())
    rows = preferences.with_reference(base, rows)
    values = {"kept_rows": len(rows), "questions_with_pairs": used / len(examples), "pairs_too_long": too_long}
    warnings = [f"{too_long} pairs are longer than config.sequence_length and left out."] if too_long else []
    return rows, memory, Report(values, warnings=warnings)


def side_model(round: int, cfg: ConfigDict) -> tuple[str, float] | None:
    """The last round's model is the verifier, with a learning rate of its own."""
    return ("verifier", cfg.algorithm.verifier_learning_rate) if round == cfg.algorithm.num_rounds else None


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    return cfg.algorithm.verifier_updates if round == cfg.algorithm.num_rounds else scheduled_updates(round, cfg)


def loss(logprobs: jax.Array, batch: dict[str, jax.Array], cfg: ConfigDict):
    """Of pairs (with "ref", the base model's log-likelihoods) the preference loss; of solutions their likelihood."""
    return preferences.pair_loss(logprobs, batch, cfg) if "ref" in batch else weighted_nll(logprobs, batch)
