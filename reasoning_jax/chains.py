"""The memory of an MCMC method: one rationale an example, the state of the example's chain, as arrays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reasoning_jax.tasks import Example

SHOWN = 24  # chains that a report follows
FORGET = 0.8  # a visit counts this much less with each later one in ``recent``: the model that was asked then has changed


class Chains(NamedTuple):
    """N chains, in the order of their examples' ids."""

    ids: np.ndarray  # [N] int32
    prints: np.ndarray  # [N] uint32: checksum of question and answer
    tokens: np.ndarray  # [N, T] int32: the state, the end token included
    lengths: np.ndarray  # [N] int32; 0 = no state yet
    correct: np.ndarray  # [N] bool: whether the state's answer is right
    ages: np.ndarray  # [N] int32: own visits since the last acceptance
    visits: np.ndarray  # [N] int32: proposals so far
    accepted: np.ndarray  # [N] int32: acceptances so far
    distinct: np.ndarray  # [N] int32: acceptances of a rationale that was not the state before
    recent: np.ndarray  # [N, 2] float32: acceptances and visits, older ones counting less
    sums: np.ndarray  # [4] float64: what the method adds up over past minibatches

    def state(self, n: int) -> np.ndarray:
        return self.tokens[n, : self.lengths[n]]


def empty(num_examples: int, max_tokens: int) -> Chains:
    """Chains that belong to no example yet."""
    counts = (np.zeros(num_examples, np.int32) for _ in range(4))
    return Chains(
        np.zeros(num_examples, np.int32), np.zeros(num_examples, np.uint32), np.zeros((num_examples, max_tokens), np.int32),
        np.zeros(num_examples, np.int32), np.zeros(num_examples, bool), *counts, np.zeros((num_examples, 2), np.float32),
        np.zeros(4),
    )  # fmt: skip


def begin(chains: Chains, examples: Sequence[Example], samples: Sequence[Any]) -> Chains:
    """Chains whose first states are these samples, one an example, in the same order; wrong ones are states too."""
    order = np.argsort([e.id for e in examples])
    chains = chains._replace(
        ids=np.array([examples[int(i)].id for i in order], np.int32),
        prints=np.array([fingerprint(examples[int(i)]) for i in order], np.uint32),
    )
    return write(chains, np.arange(len(examples)), [samples[int(i)] for i in order])


def write(chains: Chains, at: np.ndarray, samples: Sequence[Any]) -> Chains:
    """The chains with these samples as the states of the chains ``at``."""
    chains = chains._replace(tokens=chains.tokens.copy(), lengths=chains.lengths.copy(), correct=chains.correct.copy())
    for n, sample in zip(at, samples, strict=True):
        chains.tokens[n] = 0
        chains.tokens[n, : len(sample.tokens)] = sample.tokens
        chains.lengths[n], chains.correct[n] = len(sample.tokens), sample.correct
    return chains


def visit(chains: Chains, at: np.ndarray, proposals: Sequence[Any], accept: np.ndarray) -> Chains:
    """One step of the chains ``at``: an accepted proposal becomes the state, and every count is brought up to date."""
    new = np.array([not np.array_equal(p.tokens, chains.state(n)) for n, p in zip(at, proposals, strict=True)], bool)
    moved = write(chains, at[accept], [p for p, a in zip(proposals, accept, strict=True) if a])

    def changed(old: np.ndarray, values: np.ndarray) -> np.ndarray:
        out = old.copy()
        out[at] = values
        return out

    return moved._replace(
        ages=changed(chains.ages, np.where(accept, 0, chains.ages[at] + 1)),
        visits=changed(chains.visits, chains.visits[at] + 1),
        accepted=changed(chains.accepted, chains.accepted[at] + accept),
        distinct=changed(chains.distinct, chains.distinct[at] + (accept & new)),
        recent=changed(chains.recent, FORGET * chains.recent[at] + np.stack([accept, np.ones(len(at))], 1)),
    )


def find(chains: Chains, examples: Sequence[Example]) -> np.ndarray:
    """The chains of these examples; ValueError where the memory does not belong to them."""
    ids = np.array([e.id for e in examples], np.int32)
    if len(set(ids.tolist())) < len(ids):
        raise ValueError("A minibatch needs distinct examples: one proposal a chain.")
    at = np.minimum(np.searchsorted(chains.ids, ids), len(chains.ids) - 1)
    for n, example in zip(at, examples, strict=True):
        if chains.ids[n] != example.id or chains.prints[n] != fingerprint(example):
            raise ValueError(
                f"The memory of {len(chains.ids)} chains belongs to other data, or to the same in another order: it has no "
                f"chain of example {example.id}, {example.question[:40]!r}."
            )
    return at


def fingerprint(example: Example) -> int:
    return zlib.crc32(f"{example.question}\n{example.answer}".encode())


def expired(chains: Chains, max_age: int) -> np.ndarray:
    """[N] bool: the chains without an acceptance in their last ``max_age`` visits; none where that is 0."""
    return (chains.ages >= max_age) & (max_age > 0)


def valid(chains: Chains, max_age: int) -> np.ndarray:
    """[N] bool: the chains whose state has the right answer and that have not expired."""
    return chains.correct & ~expired(chains, max_age)


def summary(chains: Chains, max_age: int) -> tuple[dict[str, float], list[str]]:
    """Figures of all chains, and a warning of those that are not trained on any more."""
    old = expired(chains, max_age)
    figures = {
        "age_mean": chains.ages.mean(),
        "age_max": chains.ages.max(),
        "distinct": chains.distinct.sum(),
        "unreached": ((chains.visits > 0) & (chains.accepted == 0)).mean(),  # visited, and never a correct proposal
        "expired": old.mean(),
    }
    ids = ", ".join(map(str, chains.ids[old][:3]))
    lost = f"{old.sum()} examples had no correct proposal in algorithm.max_age={max_age} visits and are left out ({ids} ...)."
    return figures, [lost] if old.any() else []


def show(chains: Chains, examples: Sequence[Example], task: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """What a report shows of SHOWN chains, always the same ones, at even distances."""
    by_id = {e.id: e for e in examples}
    lines = []
    for n in np.unique(np.linspace(0, len(chains.ids) - 1, min(SHOWN, len(chains.ids))).astype(int)):
        e = by_id[int(chains.ids[n])]
        lines.append({
            "id": e.id, "question": e.question, "gold": e.answer, "rationale": tokenizer.decode(chains.state(n).tolist()),
            "correct": bool(chains.correct[n]), "age": int(chains.ages[n]), "visits": int(chains.visits[n]),
            "accepted": int(chains.accepted[n]), "difficulty": list(task.difficulty(e)),
        })  # fmt: skip
    return lines
