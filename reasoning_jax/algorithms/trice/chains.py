"""The Markov chains of TRICE, as arrays: one chain an example, whose state is a rationale."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Sample
from reasoning_jax.tasks import Example, Task
from reasoning_jax.tokenizer import Tokenizer

SHOWN = 24  # chains that a report follows
# A visit counts this much less with each later one in ``recent``: the model has changed since.
RECENT_DECAY = 0.8


class Chains(NamedTuple):
    """N chains, in the order of their examples' ids; a state has room for T tokens."""

    ids: np.ndarray  # [N] int32
    fingerprints: np.ndarray  # [N] uint32: checksum of question and answer
    tokens: np.ndarray  # [N, T] int32: the state, the end token included
    lengths: np.ndarray  # [N] int32; 0 = no state yet
    correct: np.ndarray  # [N] bool: whether the state's answer is right
    ages: np.ndarray  # [N] int32: own visits since the last acceptance
    visits: np.ndarray  # [N] int32: proposals so far
    accepted: np.ndarray  # [N] int32: acceptances so far
    distinct: np.ndarray  # [N] int32: acceptances of a rationale that was not the state before
    recent: np.ndarray  # [N, 2] float32: acceptances and visits, older ones counting less
    sums: np.ndarray  # [4] float64: what control_variate.py adds up over past minibatches

    def state(self, n: int) -> np.ndarray:
        """The tokens of chain n's state."""
        return self.tokens[n, : self.lengths[n]]


def empty(num_examples: int, max_tokens: int) -> Chains:
    """Chains that belong to no example yet."""
    n = num_examples
    return Chains(
        ids=np.zeros(n, np.int32),
        fingerprints=np.zeros(n, np.uint32),
        tokens=np.zeros((n, max_tokens), np.int32),
        lengths=np.zeros(n, np.int32),
        correct=np.zeros(n, bool),
        ages=np.zeros(n, np.int32),
        visits=np.zeros(n, np.int32),
        accepted=np.zeros(n, np.int32),
        distinct=np.zeros(n, np.int32),
        recent=np.zeros((n, 2), np.float32),
        sums=np.zeros(4),
    )


def start(chains: Chains, examples: Sequence[Example], samples: Sequence[Sample]) -> Chains:
    """Chains whose first states are these samples, one an example; wrong ones are states too."""
    order = [int(i) for i in np.argsort([e.id for e in examples])]
    chains = chains._replace(
        ids=np.array([examples[i].id for i in order], np.int32),
        fingerprints=np.array([fingerprint(examples[i]) for i in order], np.uint32),
    )
    return write(chains, np.arange(len(examples)), [samples[i] for i in order])


def write(chains: Chains, indices: np.ndarray, samples: Sequence[Sample]) -> Chains:
    """The chains with these samples as the states of the chains at ``indices``."""
    chains = chains._replace(
        tokens=chains.tokens.copy(), lengths=chains.lengths.copy(), correct=chains.correct.copy()
    )
    for n, sample in zip(indices, samples, strict=True):
        chains.tokens[n] = 0
        chains.tokens[n, : len(sample.tokens)] = sample.tokens
        chains.lengths[n] = len(sample.tokens)
        chains.correct[n] = sample.correct
    return chains


def step(
    chains: Chains, indices: np.ndarray, proposals: Sequence[Sample], accepted: np.ndarray
) -> Chains:
    """One step of the chains at ``indices``: an accepted proposal becomes the state.

    accepted: [M] bool. Every count is brought up to date.
    """
    is_new = np.array(
        [
            not np.array_equal(proposal.tokens, chains.state(n))
            for n, proposal in zip(indices, proposals, strict=True)
        ],
        bool,
    )
    new_states = [p for p, taken in zip(proposals, accepted, strict=True) if taken]
    moved = write(chains, indices[accepted], new_states)

    def updated(old: np.ndarray, values: np.ndarray) -> np.ndarray:
        new = old.copy()
        new[indices] = values
        return new

    visit = np.stack([accepted, np.ones(len(indices))], 1)
    return moved._replace(
        ages=updated(chains.ages, np.where(accepted, 0, chains.ages[indices] + 1)),
        visits=updated(chains.visits, chains.visits[indices] + 1),
        accepted=updated(chains.accepted, chains.accepted[indices] + accepted),
        distinct=updated(chains.distinct, chains.distinct[indices] + (accepted & is_new)),
        recent=updated(chains.recent, RECENT_DECAY * chains.recent[indices] + visit),
    )


def indices_of(chains: Chains, examples: Sequence[Example]) -> np.ndarray:
    """The chains of these examples, [M]; UserError where the memory does not belong to them."""
    ids = np.array([e.id for e in examples], np.int32)
    if len(set(ids.tolist())) < len(ids):
        raise ValueError("A minibatch needs distinct examples: one proposal a chain.")
    indices = np.minimum(np.searchsorted(chains.ids, ids), len(chains.ids) - 1)
    for n, example in zip(indices, examples, strict=True):
        same_id = chains.ids[n] == example.id
        if not same_id or chains.fingerprints[n] != fingerprint(example):
            raise UserError(
                f"The memory of {len(chains.ids)} chains belongs to other data, or to the same in "
                f"another order: it has no chain of example {example.id}, "
                f"{example.question[:40]!r}."
            )
    return indices


def in_order_of_need(
    chains: Chains, examples: Sequence[Example], refresh: int, max_age: int
) -> tuple[Sequence[Example], np.ndarray]:
    """These examples and the indices of their chains.

    With ``refresh`` chains that are not valid (a wrong state, or an expired one) come first, as
    only the first ``refresh`` get a proposal.
    """
    indices = indices_of(chains, examples)
    if not refresh:
        return examples, indices
    order = np.argsort(valid(chains, max_age)[indices], kind="stable")
    return [examples[i] for i in order], indices[order]


def fingerprint(example: Example) -> int:
    return zlib.crc32(f"{example.question}\n{example.answer}".encode())


def expired(chains: Chains, max_age: int) -> np.ndarray:
    """[N] bool: the chains without an acceptance in their last ``max_age`` visits.

    None where ``max_age`` is 0.
    """
    return (chains.ages >= max_age) & (max_age > 0)


def valid(chains: Chains, max_age: int) -> np.ndarray:
    """[N] bool: the chains whose state has the right answer and that have not expired."""
    return chains.correct & ~expired(chains, max_age)


def summary(chains: Chains, max_age: int) -> tuple[dict[str, float], list[str]]:
    """Figures of all chains, and a warning of those that are not trained on any more."""
    is_expired = expired(chains, max_age)
    never_correct = (chains.visits > 0) & (chains.accepted == 0)
    figures = {
        "age_mean": float(chains.ages.mean()),
        "age_max": float(chains.ages.max()),
        "distinct": float(chains.distinct.sum()),
        "unreached": float(never_correct.mean()),
        "expired": float(is_expired.mean()),
    }
    if not is_expired.any():
        return figures, []
    ids = ", ".join(str(i) for i in chains.ids[is_expired][:3])
    warning = (
        f"{is_expired.sum()} examples had no correct proposal in algorithm.max_age={max_age} "
        f"visits and are left out ({ids} ...)."
    )
    return figures, [warning]


def records(
    chains: Chains, examples: Sequence[Example], task: Task, tokenizer: Tokenizer
) -> list[dict[str, object]]:
    """What a report shows of SHOWN chains, always the same ones, at even distances."""
    by_id = {e.id: e for e in examples}
    shown = np.linspace(0, len(chains.ids) - 1, min(SHOWN, len(chains.ids))).astype(int)
    found: list[dict[str, object]] = []
    for n in np.unique(shown):
        example = by_id[int(chains.ids[n])]
        found.append(
            {
                "id": example.id,
                "question": example.question,
                "gold": example.answer,
                "rationale": tokenizer.decode(chains.state(n).tolist()),
                "correct": bool(chains.correct[n]),
                "age": int(chains.ages[n]),
                "visits": int(chains.visits[n]),
                "accepted": int(chains.accepted[n]),
                "difficulty": list(task.difficulty(example) or ()),
            }
        )
    return found
