"""The variance of TRICE's gradient for a trained model, estimated from its own samples.

By full gradients, and again by the cheap score vectors that training measures with.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from reasoning_jax import config, experiment
from reasoning_jax.algorithms.trice import chains, control_variate
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Sample
from reasoning_jax.training import checkpoint, packing
from reasoning_jax.training.rows import completion_row

MINIBATCH = 64
EDGES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.999)  # of p(correct), between groups of questions
GRADIENTS = ("full", "cheap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Of the score vectors of one question: s' under the posterior, s under the model."""

    second: float  # E |s'|^2
    V: float  # tr Cov s'
    F: float  # E |s|^2
    mean: np.ndarray  # E s'


@dataclasses.dataclass(frozen=True)
class Question:
    own_rate: float  # its chain's rate of acceptance, by samples that are not measured
    rate: float  # p(correct), by the measured samples
    moments: dict[str, Moments]  # by GRADIENTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """What was measured of a group of questions."""

    count: int
    rate: float  # mean p(correct)
    rho: dict[str, float]  # of all questions, by GRADIENTS
    variances: dict[str, list[float]]  # of a minibatch's term: ``variances``, by GRADIENTS


# ---- score vectors -------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="cfg")
def gradients(
    params: decoder.Params, batch: dict[str, jax.Array], cfg: decoder.ModelConfig
) -> jax.Array:
    """[n, P]: the full gradients of the log-likelihoods of n sequences, one a row."""

    def log_likelihood(params: decoder.Params, row: dict[str, jax.Array]) -> jax.Array:
        batch_of_one = {key: x[None] for key, x in row.items()}
        token_logprobs = logprobs.token_logprobs(params, batch_of_one, cfg)
        return (token_logprobs * batch_of_one["weights"]).sum()

    def gradient(row: dict[str, jax.Array]) -> jax.Array:
        return ravel_pytree(jax.grad(log_likelihood)(params, row))[0]

    return jax.vmap(gradient)(batch)


def full_gradients(policy: Policy, samples: Sequence[Sample], chunk: int = 8) -> np.ndarray:
    """[n, P] of n samples of one question, many of which are the same."""
    distinct = {s.tokens.tobytes(): s for s in samples}
    rows = [[completion_row(s.prompt_ids, s.tokens)] for s in distinct.values()]
    found = []
    for start in range(0, len(rows), chunk):
        batch = packing.fill(rows[start : start + chunk], chunk, policy.max_length)
        found.append(np.asarray(gradients(policy.params, batch, policy.model_cfg)))
    vectors = np.concatenate(found)
    number = {tokens: i for i, tokens in enumerate(distinct)}
    return vectors[[number[s.tokens.tobytes()] for s in samples]]


def cheap_gradients(policy: Policy, samples: Sequence[Sample]) -> np.ndarray:
    """[n, D]: what training measures with instead."""
    return policy.score_vectors([completion_row(s.prompt_ids, s.tokens) for s in samples])


def moments(vectors: np.ndarray, right: np.ndarray) -> Moments:
    """Unbiased estimates from the score vectors [n, P] of n samples and their verdicts [n]."""
    sizes = (vectors**2).sum(1)
    mean = vectors[right].mean(0)
    count = right.sum()
    second = sizes[right].mean()
    spread = max(0.0, second - mean @ mean) * count / (count - 1)
    return Moments(second=second, V=spread, F=sizes.mean(), mean=mean)


# ---- a run's model -------------------------------------------------------------------------------


def measure(
    folder: Path, which: str, num_questions: int, num_samples: int
) -> tuple[list[Group], int]:
    """Each group of questions, and last all of them; and how many questions were left out.

    The first half of a question's samples is its chain's past: its rate of acceptance, and its
    group. The other half is measured, independently of that; questions without two right samples
    there are left out.
    """
    cfg = config.rebuild(folder)
    exp = experiment.make(cfg, jax.devices()[:1])
    params, _ = checkpoint.load_params(folder / which, exp.abstract_state().params)
    source = exp.load(cfg.rounds.split)
    examples = [source[int(i)] for i in np.linspace(0, len(source) - 1, num_questions)]
    rollout = exp.rollout(params, "variance", 0)
    drawn = rollout(examples, num_samples=num_samples, temperature=1.0)
    samples = np.array(drawn, object).reshape(num_questions, num_samples)
    correct = np.array([[s.correct for s in question] for question in samples])
    half = num_samples // 2
    past = correct[:, :half]
    own_rates = rates_of_chains(past)
    chosen = np.flatnonzero(correct[:, half:].sum(1) > 1)
    if len(chosen) < 2:
        sys.exit(f"{folder / which}: this model answers too few questions for an estimate.")
    groups: dict[int, list[Question]] = {n: [] for n in range(len(EDGES) + 1)}
    for done, n in enumerate(chosen, 1):
        show_progress(done, len(chosen))
        measured, right = samples[n, half:].tolist(), correct[n, half:]
        by_gradients = {
            "full": moments(full_gradients(rollout.policy, measured), right),
            "cheap": moments(cheap_gradients(rollout.policy, measured), right),
        }
        question = Question(own_rates[n], right.mean(), by_gradients)
        groups[int(np.searchsorted(EDGES, past[n].mean()))].append(question)
    everything = [question for group in groups.values() for question in group]
    rho = {by: least_squares(everything, by) for by in GRADIENTS}
    large = [group for group in groups.values() if len(group) > 2]
    found = [summary(group, past.mean(), rho) for group in (*large, everything)]
    return found, num_questions - len(chosen)


def rates_of_chains(past: np.ndarray) -> np.ndarray:
    """[M]: ``control_variate``'s rates of acceptance after visits with these verdicts [M, N]."""
    num_questions, num_visits = past.shape
    decay = chains.RECENT_DECAY ** np.arange(num_visits)
    recent = np.stack([past @ decay, np.full(num_questions, decay.sum())], 1)
    sums = np.array([past.mean(), 1.0, 0.0, 0.0])
    memory = chains.empty(num_questions, 1)._replace(recent=recent, sums=sums)
    return control_variate.acceptance_rates(memory, np.arange(num_questions))


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "" if done < total else "\n"
        print(f"\r{done} of {total} questions", end=end, file=sys.stderr)


def summary(questions: Sequence[Question], batch_rate: float, rho: dict[str, float]) -> Group:
    return Group(
        count=len(questions),
        rate=float(np.mean([q.rate for q in questions])),
        rho=rho,
        variances={by: variances(questions, by, batch_rate, rho[by]) for by in GRADIENTS},
    )


# ---- variances -----------------------------------------------------------------------------------


def least_squares(questions: Sequence[Question], by: str) -> float:
    """rho: what ``control_variate`` would come to on these questions."""
    product = sum(q.own_rate * q.rate * q.moments[by].V for q in questions)
    square = sum(q.own_rate**2 * q.moments[by].F for q in questions)
    return float(np.clip(product / square, 0, 1))


def variances(questions: Sequence[Question], by: str, batch_rate: float, rho: float) -> list[float]:
    """The variance of one term of a minibatch: without a control variate, the paper's, ours.

    The draw of its question from these is included. The paper's coefficient is the rate of the
    other 63 questions of a minibatch of all kinds of questions.
    """
    n = len(questions)
    means = np.stack([q.moments[by].mean for q in questions])
    square_of_mean = ((means.sum(0) ** 2).sum() - (means**2).sum()) / (n * (n - 1))
    noise = batch_rate * (1 - batch_rate) / (MINIBATCH - 1)

    def variance(q: Question, coefficient: float, its_square: float) -> float:
        m = q.moments[by]
        return m.second - 2 * coefficient * q.rate * m.V + its_square * m.F

    terms = []
    for q in questions:
        own = rho * q.own_rate
        none = variance(q, 0.0, 0.0)
        paper = variance(q, batch_rate, batch_rate**2 + noise)
        terms.append([none, paper, variance(q, own, own**2)])
    return [float(x) for x in np.mean(terms, 0) - square_of_mean]


def table(groups: Sequence[Group]) -> str:
    """The variances relative to that without a control variate, by full and by cheap gradients."""
    header = "questions  p(correct)   variance   the paper's: full   cheap   ours: full   cheap"
    lines = [header]
    for group in groups:
        full, cheap = group.variances["full"], group.variances["cheap"]
        ratios = [values[i] / values[0] for i in (1, 2) for values in (full, cheap)]
        numbers = f"{group.count:9}  {group.rate:10.3f} {full[0] / MINIBATCH:10.4g}"
        lines.append(numbers + "".join(f"{ratio:11.3f}" for ratio in ratios))
    rho = groups[0].rho
    lines.append(f"rho: {rho['full']:.3f} by full gradients, {rho['cheap']:.3f} by cheap ones")
    return "\n".join(lines)
