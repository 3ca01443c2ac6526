"""Estimators without sampling: exact means and variances over toys whose rationales can be listed.

K rationales a question, P parameters of all questions together. ``of_softmax`` is a toy with
separate logits a question. ``of_model`` is a transformer of this package with a task of its own:
every completion up to a limit of tokens, those that are cut off included.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from reasoning_jax.algorithms.trice import gradient as trice_gradient
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example
from reasoning_jax.tokenizer import Characters
from reasoning_jax.training.losses import masked_sum


class Question(NamedTuple):
    """All rationales z of one question."""

    p: np.ndarray  # [K] p(z | x)
    score: np.ndarray  # [K, P] grad log p(z | x)
    correct: np.ndarray  # [K] bool, c(z, y)


# ---- of one question -----------------------------------------------------------------------------


def pi(q: Question) -> float:
    """p(y | x), the probability of a right answer."""
    return float(q.p @ q.correct)


def posterior(q: Question) -> np.ndarray:
    """p(z | x, y) [K]."""
    return q.p * q.correct / pi(q)


def gradient(q: Question) -> np.ndarray:
    """grad log p(y | x) [P], the posterior's mean score."""
    return posterior(q) @ q.score


def moments(distribution: np.ndarray, q: Question) -> tuple[np.ndarray, float]:
    """Mean [P] and trace of the covariance of the score where z has this distribution [K]."""
    mean = distribution @ q.score
    return mean, float(distribution @ np.square(q.score).sum(1) - mean @ mean)


def spread(q: Question) -> tuple[float, float]:
    """V and F: the traces of the score's covariance under the posterior and under the model."""
    return moments(posterior(q), q)[1], moments(q.p, q)[1]


def rho(
    questions: Sequence[Question],
    own: np.ndarray | None = None,
    square: np.ndarray | None = None,
) -> float:
    """What control_variate's least squares come to on average.

    own, square: the means [M] of own and own^2, None = of pi.
    """
    rates, (V, F) = np.array([pi(q) for q in questions]), np.array([spread(q) for q in questions]).T
    own, square = rates if own is None else own, rates**2 if square is None else square
    return float(np.clip(own @ (rates * V) / (square @ F), 0.0, 1.0))


# ---- of an estimator -----------------------------------------------------------------------------


def of_trice(
    questions: Sequence[Question],
    beta: None | np.ndarray | Callable = None,
    memory: Sequence[np.ndarray] | None = None,
    subsample: int = 0,
) -> tuple[np.ndarray, float]:
    """Mean [P] and trace of the covariance of TRICE's gradient on a minibatch of these questions.

    beta: as for ``coefficients``, or a function of (proposal_correct, memory_correct) -> beta.
    memory: the distribution [K] of each chain's state, None = the posterior. ``coefficients`` sees
    booleans only, and given them all draws are independent: so the sum goes over the booleans, and
    adds up moments of one question at a time. (An accepted proposal has weight as z' alone.)
    """
    memory = [posterior(q) for q in questions] if memory is None else memory
    cases = [_cases(q, states) for q, states in zip(questions, memory, strict=True)]
    mean, square = 0.0, 0.0
    for case in itertools.product(*cases):
        chances, new, old, state, proposal = zip(*case, strict=True)
        b = beta(np.array(new), np.array(old)) if callable(beta) else beta
        terms = trice_gradient.coefficients(new, old, b)
        signed = np.concatenate([terms.memory, -terms.proposal])
        for probability, weights in resampled(signed, subsample):
            weights = weights / max(terms.normaliser, 1)
            chance = math.prod(chances) * probability
            means, variances = zip(*state, *proposal, strict=True)
            first = weights @ np.array(means)
            mean = mean + chance * first
            square += chance * (first @ first + weights**2 @ np.array(variances))
    return mean, float(square - mean @ mean)


def _cases(q: Question, memory: np.ndarray) -> list[tuple]:
    """What can be true of one chain and its proposal.

    (probability, c(z~), c(z), moments of the score of z', of z~) of each case.
    """
    cases = []
    for new, old in itertools.product((False, True), repeat=2):
        proposal, state = q.p * (q.correct == new), memory * (q.correct == old)
        if chance := proposal.sum() * state.sum():
            at_proposal = moments(proposal / proposal.sum(), q)
            at_state = at_proposal if new else moments(state / state.sum(), q)
            cases.append((chance, new, old, at_state, at_proposal))
    return cases


def resampled(weights: np.ndarray, count: int) -> list[tuple[float, np.ndarray]]:
    """(probability, weights) of every outcome of ``subsample``.

    Its draws change at a few places of u only.
    """
    total = np.abs(weights).sum()
    if not count or not total:
        return [(1.0, weights)]
    jumps = np.cumsum(np.abs(weights)) / total * count % 1.0
    edges = np.unique(np.concatenate([[0.0, 1.0], jumps]))
    outcomes = []
    for probability, u in zip(np.diff(edges), (edges[:-1] + edges[1:]) / 2, strict=True):
        signs = np.sign(weights)
        indices, drawn = trice_gradient.subsample(np.abs(weights), signs, count, u)
        outcomes.append((probability, np.bincount(indices, drawn, minlength=len(weights))))
    return outcomes


def of_group(q: Question, n: int, weigh: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean [P] of sum_i weigh(correct)_i grad log p(z_i | x) over n samples of one question.

    The samples are independent. ``weigh`` maps the booleans [n] to weights [n] and treats its
    samples alike, so that only their number of correct ones matters.
    """
    good, p = gradient(q), pi(q)
    bad = (q.p * ~q.correct) @ q.score / (1 - p)
    mean = np.zeros_like(good)
    for k in range(n + 1):
        correct = np.arange(n) < k
        w = weigh(correct)
        terms = w[correct].sum() * good + w[~correct].sum() * bad
        mean += math.comb(n, k) * p**k * (1 - p) ** (n - k) * terms
    return mean


# ---- a toy of separate logits --------------------------------------------------------------------

# Shift of the right ones' logits, mean pi, variance without and with the paper's control variate,
# norm of the mean gradient.
TABLE = [
    (0, 0.2885, 0.1057, 0.1275, 0.470),
    (1, 0.4834, 0.1057, 0.1332, 0.370),
    (2, 0.6713, 0.1057, 0.1240, 0.265),
    (4, 0.9168, 0.1057, 0.0524, 0.077),
    (6, 0.9869, 0.1057, 0.0094, 0.0125),
    (8, 0.9982, 0.1057, 0.0013, 0.0017),
]


def of_softmax(shift: float = 0.0) -> list[Question]:
    """Three questions with four rationales each; the logits of the right ones are shifted."""
    correct = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0]], bool)
    logits = np.random.default_rng(0).normal(size=(3, 4)) + shift * correct
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    questions = []
    for m in range(3):
        score = np.zeros((4, 3, 4))
        score[:, m] = np.eye(4) - p[m]
        questions.append(Question(p[m], score.reshape(4, 12), correct[m]))
    return questions


# ---- a transformer -------------------------------------------------------------------------------

TOK = Characters(("a", "b", "c"))
CFG = decoder.ModelConfig(
    vocab_size=TOK.vocab_size,
    width=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=16,
)
EXAMPLES = [
    Example(id=i, question=question, answer=question[-1])
    for i, question in enumerate(("a", "ab", "c"))
]


def grade(text: str, example: Example) -> str:
    """Right is every text that ends in another symbol than the question."""
    if not text:
        return UNPARSED
    return WRONG if text[-1] == example.answer else CORRECT


TASK = SimpleNamespace(
    prompt=lambda example, cfg, hint=None: example.question + (hint or ""),
    target=lambda example, direct: example.answer,
)


@functools.cache
def completions(limit: int) -> list[np.ndarray]:
    """Every sequence of tokens that a sample of at most ``limit`` tokens can be.

    The unfinished ones are cut off.
    """
    others = [t for t in range(TOK.vocab_size) if t != TOK.eos_id]
    finished = [(*z, TOK.eos_id) for n in range(limit) for z in itertools.product(others, repeat=n)]
    cut_off = itertools.product(others, repeat=limit)
    return [np.array(z, np.int32) for z in (*finished, *cut_off)]


def verdicts(example: Example, limit: int) -> np.ndarray:
    """Which completions are correct, [K] bool: a cut off one never is."""
    return np.array(
        [
            z[-1] == TOK.eos_id and grade(TOK.decode(z), example) == CORRECT
            for z in completions(limit)
        ]
    )


@functools.cache
def listed(limit: int) -> dict[str, np.ndarray]:
    """The batch [M * K, S] of every question with every completion, one a row."""
    rows = [
        ([TOK.bos_id, *TOK.encode(e.question)], z) for e in EXAMPLES for z in completions(limit)
    ]
    width = max(len(x) + len(z) for x, z in rows)
    tokens, weights = np.zeros((2, len(rows), width), np.int32)
    for n, (x, z) in enumerate(rows):
        tokens[n, : len(x) + len(z)] = [*x, *z]
        weights[n, len(x) : len(x) + len(z)] = 1
    ends = np.array([len(x) + len(z) for x, z in rows])[:, None]
    positions = np.arange(tokens.shape[1]) * np.ones_like(tokens)
    return {
        "tokens": tokens,
        "positions": positions,
        "segment_ids": (positions < ends).astype(np.int32),
        "weights": weights,
    }


@jax.jit
def _log_p(params: decoder.Params, batch: dict) -> jax.Array:
    """log p(z | x) [N] of the batch's rows."""
    return (logprobs.token_logprobs(params, batch, CFG) * batch["weights"]).sum(1)


@jax.jit
def _scores(params: decoder.Params, batch: dict) -> tuple[jax.Array, jax.Array]:
    """log p(z | x) [N] and its gradient [N, P], of one row at a time."""

    def one(row: dict) -> tuple[jax.Array, jax.Array]:
        def log_p(params: decoder.Params) -> jax.Array:
            whole = {k: v[None] for k, v in row.items()}
            return masked_sum(logprobs.token_logprobs(params, whole, CFG), whole["weights"])

        value, grad = jax.value_and_grad(log_p)(params)
        return value, ravel_pytree(grad)[0]

    return jax.vmap(one)(batch)


def of_model(params: decoder.Params, limit: int = 3) -> list[Question]:
    """The three questions of EXAMPLES, all their completions listed."""
    log_p, score = (np.asarray(x, np.float64) for x in _scores(params, listed(limit)))
    K = len(completions(limit))
    questions = []
    for m, e in enumerate(EXAMPLES):
        own = slice(m * K, (m + 1) * K)
        questions.append(Question(np.exp(log_p[own]), score[own], verdicts(e, limit)))
    return questions


def params(seed: int = 0) -> decoder.Params:
    """Random ones with the shapes of ``decoder.init``, by numpy: compiling that takes seconds."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), CFG))

    def leaf(x: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.normal(size=x.shape) * CFG.width**-0.5, jnp.float32)

    return jax.tree.map(leaf, shapes)


@functools.partial(jax.jit, static_argnames="limit")
def reach(level: float, params: decoder.Params, limit: int = 3) -> decoder.Params:
    """Parameters with about this mean p(correct).

    They are on the way of exact gradient ascent (or descent) of mean log p(correct).
    """
    right = jnp.asarray(np.stack([verdicts(e, limit) for e in EXAMPLES]))

    def mean_log_pi(params: decoder.Params) -> tuple[jax.Array, jax.Array]:
        log_p = _log_p(params, listed(limit)).reshape(right.shape)
        log_pi = jax.nn.logsumexp(jnp.where(right, log_p, -jnp.inf), axis=1)
        return log_pi.mean(), jnp.exp(log_pi).mean()

    ascent = jax.grad(mean_log_pi, has_aux=True)
    _, mean = ascent(params)
    sign = jnp.where(mean < level, 1.0, -1.0)

    def ongoing(carry: tuple) -> jax.Array:
        return sign * carry[1] < sign * level

    def step(carry: tuple) -> tuple:
        params, _ = carry
        grad, mean = ascent(params)
        rate = 0.03 * sign / optax.global_norm(grad)
        return jax.tree.map(lambda p, g: p + rate * g, params, grad), mean

    return jax.lax.while_loop(ongoing, step, (params, mean))[0]
