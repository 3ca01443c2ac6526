"""V-STaR: training verifiers for self-taught reasoners (Hosseini et al. 2024, arXiv 2402.06457).

Section 3 and algorithm 1. Rounds 1 ... rounds.count - 1 train a generator as STaR does, without
hints: k = ``num_samples`` solutions of every question, all of them remembered with their verdicts;
then fine-tuning of the *base* model on every distinct correct one of all rounds so far, and on the
worked rationales where there are some. The last round draws nothing. It trains the verifier V, by
DPO from, and against, the base model, on pairs of a correct and an incorrect solution of one
question: at most ``pairs_per_question`` of all there are. The generator never sees an incorrect
solution, and is not what the verifier starts from.

V is saved as DIR/verifier beside the generator. It ranks candidates by log V(y | x): see best-of-k
of evaluate.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import (
    Collected,
    Programs,
    SideModel,
    check_prompts_and_rationales,
    scheduled_updates,
)
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import above, at_least, between, key
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_loss, weighted_nll
from reasoning_jax.training.rows import Row, completion_row, pair_row

BATCH = ("weights",)
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SYSTEMS = True
VERIFIER_BATCH = ("weights", "ref")
check_data = check_prompts_and_rationales
CHARTS = (
    Chart(
        title="Distinct rationales accepted",
        note="so far",
        curves=(Curve("collect", "collect/distinct", "distinct"),),
    ),
    *preferences.CHARTS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig):
    num_samples: int = key(4, between(1, 2**16))  # samples a question and round
    pairs_per_question: int = key(10, between(1, 2**16))  # at most
    verifier_updates: int = key(200, at_least(1))  # of the last round
    verifier_learning_rate: float = key(1e-4, above(0))


class Memory(NamedTuple):
    """Every sample of every round.

    N questions, C = rounds * samples of each, T = sampling.max_new_tokens.
    """

    tokens: np.ndarray  # [N, C, T] int32
    lengths: np.ndarray  # [N, C] int32; 0 = not drawn yet
    correct: np.ndarray  # [N, C] bool


def check(cfg: ConfigDict) -> None:
    rounds = cfg.rounds
    preferences.check_pairs(cfg.algorithm, "vstar")
    if rounds.count < 2:
        _refuse("rounds.count", "the last round is the verifier's: vstar needs 2 or more")
    if rounds.examples != 0:
        _refuse("rounds.examples", "vstar samples every question in every round: 0")
    if not rounds.restart or rounds.online:
        _refuse("rounds.restart, online", "every round starts from the base model: True, False")
    if rounds.patience != 0:
        _refuse("rounds.patience", "a run that stops early has no verifier: 0")
    if cfg.sampling.temperature == 0:
        _refuse("sampling.temperature", "at 0 all samples of a question are alike")


def _refuse(key: str, reason: str) -> None:
    raise UserError(f"config.{key}: {reason}.")


def init_memory(cfg: ConfigDict, num_examples: int) -> Memory:
    drawn = num_examples, (cfg.rounds.count - 1) * cfg.algorithm.num_samples
    return Memory(
        tokens=np.zeros((*drawn, cfg.sampling.max_new_tokens), np.int32),
        lengths=np.zeros(drawn, np.int32),
        correct=np.zeros(drawn, bool),
    )


def solutions(
    memory: Memory, question: int, correct: bool, given: np.ndarray | None = None
) -> list[np.ndarray]:
    """The distinct correct, or incorrect, solutions of a question.

    First the one given, then in the order in which they were drawn.
    """
    wanted = (memory.correct[question] == correct) & (memory.lengths[question] > 0)
    drawn = [
        memory.tokens[question, c, : memory.lengths[question, c]] for c in np.flatnonzero(wanted)
    ]
    all_solutions = drawn if given is None else [given, *drawn]
    return list({tokens.tobytes(): tokens for tokens in all_solutions}.values())


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """The generator's rows; in the last round the verifier's pairs."""
    if round == cfg.rounds.count:
        return _collect_pairs(rollout, examples, memory, cfg)
    k = cfg.algorithm.num_samples
    samples = rollout(examples, num_samples=k)
    memory = Memory(
        tokens=memory.tokens.copy(), lengths=memory.lengths.copy(), correct=memory.correct.copy()
    )
    for n, sample in enumerate(samples):
        at = n // k, (round - 1) * k + n % k
        memory.tokens[at][: len(sample.tokens)] = sample.tokens
        memory.lengths[at] = len(sample.tokens)
        memory.correct[at] = sample.correct
    rows: list[Row] = []
    for i, example in enumerate(examples):
        prompt_ids = rollout.prompt_ids(example)
        correct = solutions(memory, i, True, rollout.worked_tokens(example))
        rows += [completion_row(prompt_ids, tokens) for tokens in correct]
    distinct = np.array([len(solutions(memory, i, True)) for i in range(len(examples))])
    stats = {
        "kept_rows": len(rows),
        "reached": float((distinct > 0).mean()),
        "distinct": float(distinct.mean()),
    }
    kept = {s.key for s in samples if s.correct}
    return Collected(rows=rows, memory=memory, stats=stats, samples=samples, kept=kept)


def _collect_pairs(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, cfg: ConfigDict
) -> Collected:
    """The verifier's pairs: a random choice of each question's, with the base as reference."""
    rng = np.random.default_rng(cfg.seed)
    rows: list[Row] = []
    questions_with_pairs = 0
    too_long = 0
    for i, example in enumerate(examples):
        correct = solutions(memory, i, True, rollout.worked_tokens(example))
        incorrect = solutions(memory, i, False)
        chosen = rng.permutation(len(correct) * len(incorrect))[: cfg.algorithm.pairs_per_question]
        prompt_ids = rollout.prompt_ids(example)
        pairs = []
        for n in chosen:
            winner, loser = divmod(int(n), len(incorrect))
            pairs.append(pair_row(prompt_ids, [correct[winner], incorrect[loser]]))
        fitting = [row for row in pairs if len(row["tokens"]) <= rollout.max_length]
        rows += fitting
        questions_with_pairs += bool(fitting)
        too_long += len(pairs) - len(fitting)
    stats = {
        "kept_rows": len(rows),
        "questions_with_pairs": questions_with_pairs / len(examples),
        "pairs_too_long": too_long,
    }
    return Collected(
        rows=preferences.attach_reference(rows, rollout.base().policy.logprobs(rows)),
        memory=memory,
        stats=stats,
        warnings=preferences.too_long_warnings(too_long),
    )


def side_model(round: int, cfg: ConfigDict) -> SideModel | None:
    """The last round's model is the verifier, with a learning rate of its own."""
    if round < cfg.rounds.count:
        return None
    return SideModel("verifier", cfg.algorithm.verifier_learning_rate)


def num_updates(round: int, num_rows: int, cfg: ConfigDict) -> int:
    if round == cfg.rounds.count:
        return cfg.algorithm.verifier_updates
    return scheduled_updates(round, num_rows, cfg)


def programs(cfg: ConfigDict) -> Programs:
    updates = {"": BATCH, "side model": VERIFIER_BATCH}
    return Programs(updates=updates, logprobs=True, keeps_base=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Of pairs, which have "ref", the preference loss; of solutions their likelihood."""
    if "ref" in batch:
        return pair_loss(logprobs, batch, cfg.algorithm)
    return weighted_nll(logprobs, batch)
