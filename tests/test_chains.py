"""Chains: whose they are, one step, and what a report sees of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scripted import TASK, TOK, example

from reasoning_jax.algorithms.trice import chains

EXAMPLES = [example(10 + i, 20 + i, 40 + i) for i in range(5)]
T = 6


def sample(*tokens, correct=True):
    return SimpleNamespace(tokens=np.array(tokens, np.int32), correct=correct)


def started(order=range(5)):
    """Chain n has the state [n + 3, 2], right where n is even; started in this order."""
    guides = [sample(n + 3, 2, correct=n % 2 == 0) for n in order]
    return chains.start(chains.empty(5, T), [EXAMPLES[n] for n in order], guides)


def same(a, b):
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_the_first_states_are_the_guides_in_any_order():
    first = started()
    assert first.ids.tolist() == [10, 11, 12, 13, 14]
    assert first.correct.tolist() == [True, False, True, False, True]
    # Wrong ones are states too.
    assert [first.state(n).tolist() for n in range(5)] == [[n + 3, 2] for n in range(5)]
    assert first.tokens.shape == (5, T) and not first.tokens[:, 2:].any()
    assert first.lengths.tolist() == [2] * 5
    for name in ("ages", "visits", "accepted", "distinct", "recent", "sums"):
        assert not getattr(first, name).any()
    assert same(first, started([3, 1, 4, 0, 2]))
    assert all(isinstance(x, np.ndarray) for x in first)  # a checkpoint holds arrays
    fresh = chains.empty(5, T)
    assert [(x.shape, x.dtype) for x in fresh] == [(x.shape, x.dtype) for x in first]
    counts = [fresh.ages, fresh.visits, fresh.accepted, fresh.distinct]
    assert not any(np.shares_memory(a, b) for a in counts for b in counts if a is not b)


def test_visits_by_hand():
    """Chain 1, wrong at first: refused, accepted, the same again, refused, another.

    Chain 4 once; the others never.
    """
    visited, indices = started(), np.array([1])
    proposals = [
        sample(9, correct=False),
        sample(8, 7, 2),
        sample(8, 7, 2),
        sample(6, correct=False),
        sample(5, 2),
    ]
    for proposal in proposals:
        visited = chains.step(visited, indices, [proposal], np.array([proposal.correct]))
    refused = sample(1, correct=False)
    visited = chains.step(visited, np.array([4]), [refused], np.array([False]))
    assert visited.state(1).tolist() == [5, 2] and visited.correct[1]
    assert visited.tokens[1].tolist() == [5, 2, 0, 0, 0, 0]
    counts = [visited.ages, visited.visits, visited.accepted, visited.distinct]
    assert [c[1] for c in counts] == [0, 5, 3, 2] and [c[4] for c in counts] == [1, 1, 0, 0]
    d = chains.RECENT_DECAY
    recent = [d**3 + d**2 + 1, d**4 + d**3 + d**2 + d + 1]
    np.testing.assert_allclose(visited.recent[1], recent, rtol=1e-6)
    np.testing.assert_allclose(visited.recent[4], [0, 1])
    # A refused proposal leaves the state.
    assert visited.state(4).tolist() == [7, 2] and visited.correct[4]
    assert visited.state(0).tolist() == [3, 2] and not visited.recent[0].any()
    assert not any(c[[0, 2, 3]].any() for c in counts)
    assert visited.recent.dtype == np.float32
    assert {c.dtype for c in counts} == {np.dtype(np.int32)}


def test_several_chains_at_once_each_with_its_own_proposal():
    indices, accept = np.array([3, 0, 2]), np.array([True, False, True])
    proposals = [sample(9, 2), sample(9, 9, correct=False), sample(5, 2)]
    visited = chains.step(started(), indices, proposals, accept)
    states = [visited.state(n).tolist() for n in range(5)]
    assert states == [[3, 2], [4, 2], [5, 2], [9, 2], [7, 2]]
    assert visited.correct.tolist() == [True, False, True, True, True]
    assert visited.ages.tolist() == [1, 0, 0, 0, 0]
    assert visited.distinct.tolist() == [0, 0, 0, 1, 0]


def test_a_step_leaves_the_chains_it_was_given():
    before, reference = started(), started()
    chains.step(before, np.arange(5), [sample(9, 9, 2)] * 5, np.full(5, True))
    chains.write(before, np.arange(5), [sample(9, 9, 2)] * 5)
    assert same(before, reference)


def test_a_state_may_fill_its_place_and_not_more():
    full = chains.write(started(), np.array([0]), [sample(*range(1, T + 1))])
    assert full.state(0).tolist() == list(range(1, T + 1))
    with pytest.raises(ValueError):
        chains.write(started(), np.array([0]), [sample(*range(T + 1))])


def test_chains_are_found_by_their_examples():
    indices = chains.indices_of(started(), [EXAMPLES[n] for n in (4, 0, 3)])
    assert indices.tolist() == [4, 0, 3]
    other_answer = SimpleNamespace(id=10, question=EXAMPLES[0].question, answer="1")
    in_other_order = [example(10 + i, 24 - i, 44 - i) for i in range(5)]
    unknown = [[example(15)], [example(9)], [example(15, 24, 44)]]
    sentence = r"^The memory of 5 chains belongs to other data.*no chain of example \d+, '\d+\+\d+'"
    for others in ([other_answer], in_other_order, *unknown):
        with pytest.raises(ValueError, match=sentence):
            chains.indices_of(started(), others)
    with pytest.raises(ValueError, match="distinct examples"):
        chains.indices_of(started(), [EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]])
    with pytest.raises(ValueError, match="other data"):
        chains.indices_of(chains.empty(5, T), EXAMPLES)  # of no example yet


def test_a_report_shows_the_same_few_chains():
    text = "<scratch>"
    guide = sample(*TOK.encode(text), TOK.eos_id, correct=False)
    examples = [example(i, 10 + i, 50) for i in range(49)]
    visited = chains.start(chains.empty(49, T), examples, [guide] * 49)
    proposal = sample(*TOK.encode("98"), TOK.eos_id)
    visited = chains.step(visited, np.array([48]), [proposal], np.array([True]))
    records = chains.records(visited, examples[::-1], TASK, TOK)
    ids = [record["id"] for record in records]
    assert len(ids) == chains.SHOWN and ids == sorted(set(ids)) and ids[0] == 0 and ids[-1] == 48
    assert records[0] == {
        "id": 0,
        "question": "10+50",
        "gold": "60",
        "rationale": text,
        "correct": False,
        "age": 0,
        "visits": 0,
        "accepted": 0,
        "difficulty": ["digits", 2],
    }
    last = records[-1]
    assert (last["rationale"], last["correct"], last["accepted"]) == ("98", True, 1)
    # All, where there are fewer.
    assert len(chains.records(started(), EXAMPLES, TASK, TOK)) == 5
