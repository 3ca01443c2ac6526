"""SECToR: self-education via chain-of-thought reasoning (Zhang & Parkes 2023, arXiv 2309.08589).

A model that was shown sums of a few digits, answered at once ("fast") and made one digit shorter
("slow"), labels sums that are one digit longer by simplify-then-guess, trains on its own labels in
both modes, and goes on to the next length:

    d_1, p_1 = slow(p_0);  d_2, p_2 = slow(p_1);  ...  d_K, p_K = slow(p_{K-1})
    guess_i  = d_1 ... d_i fast(p_i)                the digits, the lowest first
    label    = what most of guess_1 ... guess_K say, at least two of them (self-consistency)
    kept     where the labels of a + b and of b + a are equal (commutativity)

Each call sees the problem that is left, and nothing of what was before. Of the true answers only
those of the given lengths are trained on; those of longer sums are compared with the labels for
``collect/label_error``, and nothing depends on them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.algorithms import Collected, Memory, check_prompts
from reasoning_jax.algorithms.sector import curriculum, guesses
from reasoning_jax.algorithms.sector.curriculum import Curriculum
from reasoning_jax.algorithms.sector.guesses import Solution
from reasoning_jax.charts import Chart, Curve
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import between, key, one_of
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.training.losses import Loss, weighted_nll
from reasoning_jax.training.rows import Row, completion_row

BATCH = ("weights",)
SELECTS_BEST = False  # accuracy on longer sums is a truth that nothing may depend on
CHARTS = (
    Chart(
        title="Labels of the model's own",
        note="of the problems asked; of those kept",
        curves=(
            Curve("collect", "collect/kept", "kept"),
            Curve("collect", "collect/label_error", "false, of the kept"),
            Curve("collect", "collect/correct", "true first simplifications"),
        ),
        fraction=True,
    ),
    Chart(
        title="Digits of the problems asked",
        note="as many as the round's problems have",
        curves=(Curve("collect", "collect/digits", "digits"),),
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    num_simplifications: int = key(3, between(1, 64))  # K, with a guess after each
    # none: one simplification, and the guess after it is the label, of any length. vote: the
    # guesses' majority.
    # commutativity: the majority, where it is the same for a + b and b + a.
    checks: str = key("commutativity", one_of("none", "vote", "commutativity"))
    # The next length follows a round that kept at least this fraction of its problems.
    least_kept: float = key(0.5, between(0, 1))
    # After so many rounds in a row that kept fewer, nothing is trained on any more.
    max_failed_rounds: int = key(2, between(1, 64))


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    if cfg.task.name != "addition" or cfg.task.form != "simplify":
        raise UserError(
            "config.algorithm.name: sector needs config.task.form=simplify of addition."
        )
    if a.checks != "none" and a.num_simplifications < guesses.LEAST_VOTES:
        raise UserError(
            f"config.algorithm.num_simplifications: {a.num_simplifications} guess is no vote; "
            f"checks={a.checks} needs {guesses.LEAST_VOTES} or more."
        )
    if a.checks == "none" and a.num_simplifications != 1:
        raise UserError(
            f"config.algorithm.num_simplifications: {a.num_simplifications} has no effect with "
            "checks=none, which makes one; set it to 1."
        )
    if cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: each length of sector is learned by the model of the lengths "
            "before; set it to False."
        )
    if cfg.base.num_updates and cfg.base.split != "given":
        raise UserError(
            f"config.base.split: {cfg.base.split} has sums of all lengths; the supervised phase "
            "of sector is shown those of the split given."
        )
    if cfg.sampling.temperature:
        raise UserError("config.sampling.temperature: sector samples greedily; set it to 0.")
    if cfg.rounds.patience:
        raise UserError(
            "config.rounds.patience: accuracy on longer sums must not stop the run of sector; set "
            "it to 0 (config.algorithm.max_failed_rounds stops it)."
        )
    if not cfg.rounds.examples:
        raise UserError("config.rounds.examples: sector asks so many problems a round, not 0.")
    if len(cfg.task.given) >= cfg.task.max_digits:
        raise UserError(
            f"config.task.max_digits: {cfg.task.max_digits} leaves nothing to learn beyond the "
            f"{len(cfg.task.given)} lengths of config.task.given."
        )


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """Every example can be asked, and its simplification written."""
    # Symbols of a shifted sum: its pairs, its carry, a digit and the end.
    longest = cfg.task.max_digits + simplify.SHIFTS + 2
    if rollout.max_new_tokens < longest:
        raise UserError(
            f"config.sampling.max_new_tokens: {rollout.max_new_tokens} have no room for the sums "
            f"of config.task.max_digits={cfg.task.max_digits}; set it to {longest}."
        )
    counts = Counter(simplify.difficulty(e)[1] for e in examples if e.rationale is None)
    for digits in range(len(cfg.task.given) + 1, cfg.task.max_digits + 1):
        if counts[digits] < cfg.rounds.examples:
            raise UserError(
                f"config.rounds.examples: {cfg.rounds.examples} are more than the "
                f"{counts[digits]} problems of {digits} digits in the split {cfg.rounds.split} "
                "(config.task.num_train is for all lengths together)."
            )
    return check_prompts(rollout, examples, cfg)


def init_memory(cfg: ConfigDict, num_examples: int) -> Curriculum:
    return curriculum.begin(cfg)


def examples(
    source: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> list[Example]:
    """New problems of the curriculum's length, and as many worked ones to remember the given by."""
    assert isinstance(memory, Curriculum)
    return curriculum.choose(source, memory, round, cfg)


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """Labels for the new problems; rows of those kept, and as many of the lengths before."""
    assert isinstance(memory, Curriculum)
    a = cfg.algorithm
    new = [e for e in examples if e.rationale is None]
    has_stopped = memory.failures >= a.max_failed_rounds
    if has_stopped or not new:  # or the curriculum is at its end
        return Collected(rows=[], memory=memory, stats={"kept_rows": 0, "kept": 0.0})
    problems = [simplify.asked(e.question) for e in new]
    both = [*problems, *map(simplify.swapped, problems)]
    steps = 1 if a.checks == "none" else a.num_simplifications
    exact_lengths = a.checks != "none"
    solutions = guesses.solve(rollout, both, steps, cfg.task.max_digits, exact_lengths)
    labels = [guesses.label(solution, a.checks) for solution in solutions]
    pairs = zip(labels[: len(new)], labels[len(new) :], strict=True)
    kept = [guesses.are_kept(label, swapped, a.checks) for label, swapped in pairs] * 2

    rng = np.random.default_rng([cfg.seed, round])
    own: list[Row] = []
    false_labels = 0
    for problem, solution, label, is_kept in zip(both, solutions, labels, kept, strict=True):
        if is_kept and label is not None:
            own += _rows(rollout, problem, solution, label, cfg.task.max_digits, rng)
            false_labels += label != simplify.digits(problem)  # for the log alone
    learned = sum(kept) / len(kept) >= a.least_kept
    stats = {
        "digits": int(memory.digits),
        "kept_rows": len(own),
        "kept": sum(kept) / len(kept),
        "voted": sum(label is not None for label in labels) / len(labels),
        "label_error": false_labels / max(sum(kept), 1),
        "learned": float(learned),
    }
    return Collected(
        rows=[*own, *_earlier(rollout, examples, memory, len(own), rng)],
        memory=curriculum.add(memory, own, learned),
        stats=stats,
        samples=[solution.first for solution in solutions],
        kept={s.first.key for s, is_kept in zip(solutions, kept, strict=True) if is_kept},
    )


def _rows(
    rollout: Rollout,
    problem: simplify.Sum,
    solution: Solution,
    label: str,
    max_digits: int,
    rng: np.random.Generator,
) -> list[Row]:
    """The label as the fast answer; the first simplification, where it led to the label."""
    answers = [(simplify.FAST, label)]
    if solution.from_first == label:
        answers.append((simplify.SLOW, solution.first.text))
    rows = []
    for mode, answer in answers:
        shift = int(rng.integers(simplify.SHIFTS))
        prompt = rollout.tokenizer.prompt(simplify.question(mode, problem, max_digits, shift))
        completion = rollout.tokenizer.encode(simplify.shifted(answer, shift))
        rows.append(completion_row(prompt, [*completion, rollout.tokenizer.eos_id]))
    return rows


def _earlier(
    rollout: Rollout,
    examples: Sequence[Example],
    memory: Curriculum,
    count: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Rows of earlier lengths, drawn at random from those kept and the worked examples."""
    worked = [rollout.worked_row(e) for e in examples if e.rationale is not None]
    earlier = [row for row in worked if row is not None] + curriculum.rows(memory)
    chosen = rng.permutation(len(earlier))[:count]
    return [earlier[int(i)] for i in chosen]


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Negative log-likelihood of the answers, the end token included."""
    return weighted_nll(logprobs, batch)
