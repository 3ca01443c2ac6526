"""Chains: whose they are, one visit, and what a report sees of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scripted import TOK, example

from reasoning_jax.algorithms.trice import chains
from reasoning_jax.tasks import addition

EXAMPLES = [example(10 + i, 20 + i, 40 + i) for i in range(5)]
T = 6


def sample(*tokens, correct=True):
    return SimpleNamespace(tokens=np.array(tokens, np.int32), correct=correct)


def begun(order=range(5)):
    """Chain n has the state [n + 3, 2], right where n is even; begun in this order of the examples."""
    guides = [sample(n + 3, 2, correct=n % 2 == 0) for n in order]
    return chains.begin(chains.empty(5, T), [EXAMPLES[n] for n in order], guides)


def same(a, b):
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_the_first_states_are_the_guides_in_any_order():
    found = begun()
    assert found.ids.tolist() == [10, 11, 12, 13, 14] and found.correct.tolist() == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert [found.state(n).tolist() for n in range(5)] == [
        [n + 3, 2] for n in range(5)
    ]  # wrong ones are states too
    assert (
        found.tokens.shape == (5, T)
        and not found.tokens[:, 2:].any()
        and found.lengths.tolist() == [2] * 5
    )
    for counts in (
        found.ages,
        found.visits,
        found.accepted,
        found.distinct,
        found.recent,
        found.sums,
    ):
        assert not counts.any()
    assert same(found, begun([3, 1, 4, 0, 2]))
    assert all(isinstance(x, np.ndarray) for x in found)  # a checkpoint holds arrays
    fresh = chains.empty(5, T)
    assert [(x.shape, x.dtype) for x in fresh] == [(x.shape, x.dtype) for x in found]
    counts = [fresh.ages, fresh.visits, fresh.accepted, fresh.distinct]
    assert not any(np.shares_memory(a, b) for a in counts for b in counts if a is not b)


def test_visits_by_hand():
    """Chain 1, wrong at first: refused, accepted, the same again, refused, another; chain 4 once; the others never."""
    found, at = begun(), np.array([1])
    proposals = [
        sample(9, correct=False),
        sample(8, 7, 2),
        sample(8, 7, 2),
        sample(6, correct=False),
        sample(5, 2),
    ]
    for proposal in proposals:
        found = chains.visit(found, at, [proposal], np.array([proposal.correct]))
    found = chains.visit(found, np.array([4]), [sample(1, correct=False)], np.array([False]))
    assert (
        found.state(1).tolist() == [5, 2]
        and found.correct[1]
        and found.tokens[1].tolist() == [5, 2, 0, 0, 0, 0]
    )
    counts = [found.ages, found.visits, found.accepted, found.distinct]
    assert [c[1] for c in counts] == [0, 5, 3, 2] and [c[4] for c in counts] == [1, 1, 0, 0]
    f = chains.FORGET
    np.testing.assert_allclose(
        found.recent[1], [f**3 + f**2 + 1, f**4 + f**3 + f**2 + f + 1], rtol=1e-6
    )
    np.testing.assert_allclose(found.recent[4], [0, 1])
    assert (
        found.state(4).tolist() == [7, 2] and found.correct[4]
    )  # a refused proposal leaves the state
    assert (
        found.state(0).tolist() == [3, 2]
        and not any(c[[0, 2, 3]].any() for c in counts)
        and not found.recent[0].any()
    )
    assert found.recent.dtype == np.float32 and {c.dtype for c in counts} == {np.dtype(np.int32)}


def test_several_chains_at_once_each_with_its_own_proposal():
    at, accept = np.array([3, 0, 2]), np.array([True, False, True])
    proposals = [sample(9, 2), sample(9, 9, correct=False), sample(5, 2)]
    found = chains.visit(begun(), at, proposals, accept)
    assert [found.state(n).tolist() for n in range(5)] == [[3, 2], [4, 2], [5, 2], [9, 2], [7, 2]]
    assert found.correct.tolist() == [True, False, True, True, True]
    assert found.ages.tolist() == [1, 0, 0, 0, 0] and found.distinct.tolist() == [0, 0, 0, 1, 0]


def test_a_visit_leaves_the_chains_it_was_given():
    before, reference = begun(), begun()
    chains.visit(before, np.arange(5), [sample(9, 9, 2)] * 5, np.full(5, True))
    chains.write(before, np.arange(5), [sample(9, 9, 2)] * 5)
    assert same(before, reference)


def test_a_state_may_fill_its_place_and_not_more():
    found = chains.write(begun(), np.array([0]), [sample(*range(1, T + 1))])
    assert found.state(0).tolist() == list(range(1, T + 1))
    with pytest.raises(ValueError):
        chains.write(begun(), np.array([0]), [sample(*range(T + 1))])


def test_chains_are_found_by_their_examples():
    assert chains.find(begun(), [EXAMPLES[n] for n in (4, 0, 3)]).tolist() == [4, 0, 3]
    other_answer = SimpleNamespace(id=10, question=EXAMPLES[0].question, answer="1")
    in_other_order = [example(10 + i, 24 - i, 44 - i) for i in range(5)]
    sentence = r"^The memory of 5 chains belongs to other data.*no chain of example \d+, '\d+\+\d+'"
    for others in (
        [other_answer],
        in_other_order,
        [example(15)],
        [example(9)],
        [example(15, 24, 44)],
    ):
        with pytest.raises(ValueError, match=sentence):
            chains.find(begun(), others)
    with pytest.raises(ValueError, match="distinct examples"):
        chains.find(begun(), [EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]])
    with pytest.raises(ValueError, match="other data"):
        chains.find(chains.empty(5, T), EXAMPLES)  # of no example yet


def test_a_report_shows_the_same_few_chains():
    text = "<scratch>"
    guide = sample(*TOK.encode(text), TOK.eos_id, correct=False)
    examples = [example(i, 10 + i, 50) for i in range(49)]
    found = chains.begin(chains.empty(49, T), examples, [guide] * 49)
    found = chains.visit(
        found, np.array([48]), [sample(*TOK.encode("98"), TOK.eos_id)], np.array([True])
    )
    lines = chains.show(found, examples[::-1], addition, TOK)
    ids = [line["id"] for line in lines]
    assert len(ids) == chains.SHOWN and ids == sorted(set(ids)) and ids[0] == 0 and ids[-1] == 48
    assert lines[0] == {
        "id": 0, "question": "10+50", "gold": "60", "rationale": text, "correct": False, "age": 0, "visits": 0, "accepted": 0,
        "difficulty": ["digits", 2],
    }  # fmt: skip
    assert (lines[-1]["rationale"], lines[-1]["correct"], lines[-1]["accepted"]) == ("98", True, 1)
    assert len(chains.show(begun(), EXAMPLES, addition, TOK)) == 5  # all, where there are fewer
