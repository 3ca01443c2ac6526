"""Simplify-then-guess: the labels of sums that a model gives itself, and when they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.tasks.addition_forms.simplify import FAST, SLOW, Sum

LEAST_VOTES = 2


class Solution(NamedTuple):
    """What simplify-then-guess makes of one problem."""

    first: Sample  # the first simplification
    guesses: list[str]  # digits of the sum, the lowest first; less those that could not be read
    from_first: str | None  # the guess after the first simplification; None = not read


class _Chain(NamedTuple):
    """A problem that is being simplified."""

    number: int  # of the problem that it began with
    digits: str  # taken off so far
    left: Sum


def ask(rollout: Rollout, mode: str, problems: Sequence[Sum], width: int) -> list[Sample]:
    """Greedy answers to problems that have pairs.

    The examples hold the true answers, which only the samples' verdicts, for the log, look at.
    """
    examples = [
        Example(
            id=number,
            question=simplify.question(mode, problem, width),
            answer=simplify.answer(mode, problem),
        )
        for number, problem in enumerate(problems)
    ]
    return rollout(examples, temperature=0.0) if examples else []


def solve(
    rollout: Rollout,
    problems: Sequence[Sum],
    steps: int,
    width: int,
    exact_lengths: bool = True,
) -> list[Solution]:
    """At most ``steps`` simplifications of each problem, with a guess after each.

    A chain ends where no pair is left, or where a simplification cannot be read. exact_lengths: it
    must have one pair less than its problem, and a guess one digit more; else, no more than sums of
    ``width`` digits have.
    """
    firsts: list[Sample] = []
    guesses: list[list[str | None]] = [[] for _ in problems]
    chains = [_Chain(number, "", problem) for number, problem in enumerate(problems)]
    for step in range(steps):
        simplified = ask(rollout, SLOW, [chain.left for chain in chains], width)
        if step == 0:
            firsts = simplified
        following = []
        for chain, sample in zip(chains, simplified, strict=True):
            found = simplify.read_simplification(sample.text) if sample.finished else None
            length = len(chain.left.pairs) - 1
            if found is None or not _has(found[1].pairs, length, width, exact_lengths):
                guesses[chain.number].append(None)
            else:
                following.append(_Chain(chain.number, chain.digits + found[0], found[1]))
        chains = [chain for chain in following if chain.left.pairs]
        for chain in following:
            if not chain.left.pairs:
                guesses[chain.number].append(f"{chain.digits}{chain.left.carry}")
        guessed = ask(rollout, FAST, [chain.left for chain in chains], width)
        for chain, sample in zip(chains, guessed, strict=True):
            digits = simplify.read_digits(sample.text) if sample.finished else None
            length = len(chain.left.pairs) + 1
            if digits is None or not _has(digits, length, width + 1, exact_lengths):
                guesses[chain.number].append(None)
            else:
                guesses[chain.number].append(f"{chain.digits}{digits}")
    return [
        Solution(first, [guess for guess in own if guess is not None], own[0])
        for first, own in zip(firsts, guesses, strict=True)
    ]


def _has(found: Sequence, length: int, most: int, exact: bool) -> bool:
    """Whether something has this length; where not ``exact``, no more than the longest has."""
    return len(found) == length if exact else len(found) <= most


def majority(guesses: Sequence[str]) -> str | None:
    """The guess that most agree on, at least two; of equals, the one that was made first."""
    votes = Counter(guesses).most_common(1)  # equals are in the order of their first votes
    if not votes or votes[0][1] < LEAST_VOTES:
        return None
    return votes[0][0]


def label(solution: Solution, checks: str) -> str | None:
    """The label of one order of a problem; None where there is none."""
    return solution.from_first if checks == "none" else majority(solution.guesses)


def are_kept(label: str | None, swapped: str | None, checks: str) -> bool:
    """Whether a problem is kept, by its label and that of the same sum in the other order."""
    if label is None or swapped is None:
        return False
    return checks != "commutativity" or label == swapped
