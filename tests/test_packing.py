"""Packing: rows in, batches of full sequences out; whole, dense, and resumable."""

from __future__ import annotations

import itertools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax import algorithms, default
from reasoning_jax.model import logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.training import packing
from reasoning_jax.training.rows import attach, completion_row, pair_row


def row(n, tag=0):
    """A row whose tokens are all different from those of other tags."""
    return {
        "tokens": (1000 * tag + 1 + np.arange(n)).astype(np.int32),
        "weights": np.linspace(0.5, 1, n).astype(np.float32),
        "logprobs": -np.arange(n, dtype=np.float32) - tag,
    }


def many_rows(count=300, low=29, high=100, seed=0):
    rng = np.random.default_rng(seed)
    return [row(int(n), tag) for tag, n in enumerate(rng.integers(low, high, count))]


def segments(batch):
    """Every row in a batch: dicts of its keys."""
    rows = []
    for b, ids in enumerate(batch["segment_ids"]):
        for segment in range(1, ids.max() + 1):
            rows.append({key: value[b][ids == segment] for key, value in batch.items()})
    return rows


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


# ---- packed batches ------------------------------------------------------------------------------


def test_shapes_and_types():
    batch = next(iter(packing.batches(many_rows(), batch_size=4, length=256, seed=0)))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "tokens": ((4, 256), "int32"),
        "weights": ((4, 256), "float32"),
        "logprobs": ((4, 256), "float32"),
        "segment_ids": ((4, 256), "int32"),
        "positions": ((4, 256), "int32"),
    }
    assert all(value.flags.c_contiguous for value in batch.values())


def test_rows_come_out_whole():
    rows = many_rows(50)
    for batch in take(iter(packing.batches(rows, batch_size=4, length=256, seed=0)), 10):
        for segment in segments(batch):
            original = rows[(segment["tokens"][0] - 1) // 1000]
            assert equal({key: segment[key] for key in original}, original)
            assert np.array_equal(segment["positions"], np.arange(len(segment["tokens"])))
        for b, ids in enumerate(batch["segment_ids"]):
            used = np.count_nonzero(ids)
            assert ids[0] == 1 and np.all(ids[used:] == 0)  # padding is on the right only
            assert set(np.diff(ids[:used])) <= {0, 1}
            assert all(not batch[key][b][used:].any() for key in batch)


def test_an_epoch_has_every_row_once_and_the_next_another_order():
    rows = [row(10, tag) for tag in range(40)]
    order = []
    for batch in take(iter(packing.batches(rows, batch_size=2, length=20, seed=0)), 30):
        order += [int(segment["tokens"][0] - 1) // 1000 for segment in segments(batch)]
    epochs = [order[i * 40 : (i + 1) * 40] for i in range(3)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(40))


def test_same_seed_same_batches():
    rows = many_rows(60)
    streams = []
    for seed in (1, 1, 2):
        iterator = iter(packing.batches(rows, batch_size=3, length=200, seed=seed))
        streams.append(take(iterator, 8))
    assert all(equal(a, b) for a, b in zip(streams[0], streams[1], strict=True))
    assert not any(equal(a, b) for a, b in zip(streams[0], streams[2], strict=True))


@pytest.mark.parametrize("count, n", [(1, 5), (1, 16), (2, 9), (3, 16), (5, 1)])
def test_fewer_rows_than_a_batch(count, n):
    rows = [row(n, tag) for tag in range(count)]
    for batch in take(iter(packing.batches(rows, batch_size=4, length=16, seed=0)), 5):
        assert batch["tokens"].shape == (4, 16)
        assert np.all(batch["segment_ids"][:, 0] == 1)  # no sequence is empty
        assert np.count_nonzero(batch["segment_ids"]) >= 0.7 * 4 * (16 // n * n)


def test_few_rows_are_not_slow():
    rows = [row(40, tag) for tag in range(5)]
    iterator = iter(packing.batches(rows, batch_size=32, length=256, seed=0))
    next(iterator)
    start = time.monotonic()
    take(iterator, 10)
    assert time.monotonic() - start < 1.5  # 0.1 s is usual; Grain's own shuffle needs 9 s


def test_unusable_rows():
    with pytest.raises(ValueError, match="no rows"):
        packing.batches([], batch_size=2, length=8, seed=0)
    with pytest.raises(ValueError, match="Row 1 has 9 tokens.*1 to 8"):
        packing.batches([row(8), row(9)], batch_size=2, length=8, seed=0)
    with pytest.raises(ValueError, match="Row 0 has 0 tokens"):
        packing.batches([row(0)], batch_size=2, length=8, seed=0)
    with pytest.raises(ValueError, match="Row 1 must have"):
        packing.batches([row(3), {"tokens": np.zeros(3, np.int32)}], batch_size=2, length=8, seed=0)
    with pytest.raises(ValueError, match="Row 0 must have.*one length"):
        packing.batches([{**row(3), "weights": np.zeros(2)}], batch_size=2, length=8, seed=0)


@pytest.mark.parametrize("count", [1, 5, 80])
def test_resuming_is_exact(count):
    rows = many_rows(count)
    stream = packing.batches(rows, batch_size=4, length=256, seed=5)
    iterator, states, expected = iter(stream), [], []
    for _ in range(12):  # several epochs
        states.append(json.dumps(iterator.get_state()))
        expected.append(next(iterator))
    for step, state in enumerate(states):
        fresh = iter(packing.batches(rows, batch_size=4, length=256, seed=5))
        if step % 2:
            next(fresh)  # a used iterator resumes as well as a new one
        fresh.set_state(json.loads(state))
        assert all(
            equal(a, b) for a, b in zip(take(fresh, 12 - step), expected[step:], strict=True)
        )
        assert len(state) < 300


def test_reading_the_state_changes_nothing():
    rows = many_rows(30)
    plain = take(iter(packing.batches(rows, batch_size=4, length=256, seed=5)), 6)
    iterator = iter(packing.batches(rows, batch_size=4, length=256, seed=5))
    for batch in plain:
        iterator.get_state()
        iterator.set_state(iterator.get_state())
        assert equal(next(iterator), batch)


def test_an_emitted_batch_is_not_changed_later():
    iterator = iter(packing.batches(many_rows(30), batch_size=4, length=256, seed=0))
    batch = next(iterator)
    kept = {key: value.copy() for key, value in batch.items()}
    take(iterator, 5)
    assert equal(batch, kept)


def test_packing_is_dense():
    iterator = iter(packing.batches(many_rows(2000), batch_size=32, length=256, seed=0))
    filled = np.mean([np.mean(batch["segment_ids"] > 0) for batch in take(iterator, 30)])
    assert filled >= 0.97


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_is_near_the_best_there_can_be(seed):
    rng = np.random.default_rng(seed)
    lengths = -np.sort(-rng.integers(1, 40, 200))
    bins = packing.best_fit(lengths, 64)
    assert sorted(n for numbers in bins for n in numbers) == list(range(200))
    assert all(lengths[numbers].sum() <= 64 for numbers in bins)
    assert len(bins) <= -(-lengths.sum() // 64) + 1
    assert packing.best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]  # full, both


# ---- one batch of all rows -----------------------------------------------------------------------


def test_pack_holds_every_row_once_and_few_sequences():
    rows = many_rows(60)
    batch = packing.pack(rows, multiple=4, length=128)
    packed = [
        (s["tokens"].tolist(), s["weights"].tolist(), s["positions"].tolist())
        for s in segments(batch)
    ]
    given = [
        (r["tokens"].tolist(), r["weights"].tolist(), list(range(len(r["tokens"])))) for r in rows
    ]
    assert sorted(packed) == sorted(given)
    size = batch["tokens"].shape[0]
    total = sum(len(r["tokens"]) for r in rows)
    assert size % 4 == 0 and total / 128 <= size <= 1.25 * total / 128 + 4
    assert not batch["weights"][batch["segment_ids"] == 0].any()
    again = packing.pack(rows, multiple=4, length=128)
    assert (
        equal(batch, again)
        and batch["tokens"].dtype == np.int32
        and batch["weights"].dtype == np.float32
    )
    full = packing.pack(
        [row(128, i) for i in range(3)], multiple=2, length=128
    )  # nothing fits beside them
    assert full["tokens"].shape == (4, 128) and not full["segment_ids"][3].any()
    for bad in (row(129), {k: v[:0] for k, v in row(1).items()}):
        words = f"has {len(bad['tokens'])} tokens, but a packed sequence holds 1 to 128"
        with pytest.raises(ValueError, match=words):
            packing.pack([row(5), bad], multiple=4, length=128)


def test_fill_puts_each_list_in_its_sequence():
    batch = packing.fill([[row(3), row(2, 1)], [row(4, 2)]], 3, 6)
    assert batch["tokens"].tolist() == [
        [1, 2, 3, 1001, 1002, 0],
        [2001, 2002, 2003, 2004, 0, 0],
        [0] * 6,
    ]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0], [0] * 6]


# ---- pairs ---------------------------------------------------------------------------------------


def pair(first, second, tag=0):
    """A row of two sides of these lengths."""
    side = np.repeat(np.arange(2, dtype=np.int32), (first, second))
    position = np.concatenate([np.arange(first), np.arange(second)]).astype(np.int32)
    return row(first + second, tag) | {"side": side, "position": position}


@pytest.mark.parametrize("stream", [True, False])
def test_a_pair_is_two_segments_of_one_sequence(stream):
    """Whatever is packed beside it: segments 2 i - 1 and 2 i, each with positions from 0."""
    rng = np.random.default_rng(0)
    rows = [pair(*rng.integers(1, 12, 2), tag) for tag in range(12)]
    if stream:
        batches = take(iter(packing.batches(rows, batch_size=2, length=40, seed=0)), 4)
    else:
        batches = [packing.pack(rows, multiple=2, length=40)]
    seen = 0
    for batch in batches:
        assert set(batch) == {"tokens", "weights", "logprobs", "segment_ids", "positions"}
        assert batch["segment_ids"].dtype == batch["positions"].dtype == np.int32
        assert not batch["positions"][batch["segment_ids"] == 0].any()
        sequences = zip(batch["tokens"], batch["segment_ids"], batch["positions"], strict=True)
        for tokens, ids, positions in sequences:
            assert ids.max() % 2 == 0
            for i in range(ids.max() // 2):
                inside = np.isin(ids, (2 * i + 1, 2 * i + 2))
                original = rows[(tokens[inside][0] - 1) // 1000]
                assert np.array_equal(tokens[inside], original["tokens"])
                assert np.array_equal(ids[inside], 2 * i + 1 + original["side"])
                assert np.array_equal(positions[inside], original["position"])
                seen += 1
    assert seen >= 12


# ---- prompts that rows share ---------------------------------------------------------------------


def groups_of_completions(seed=0):
    """Rows of 12 prompts, of which some have several completions, in no order."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(12):
        prompt = rng.integers(3, 20, rng.integers(1, 12))
        rows += [completion_row(prompt, rng.integers(3, 20, rng.integers(1, 9))) for _ in range(3)]
    rows += [completion_row(rng.integers(3, 20, 4), [5, 6]), completion_row([], [7, 8, 9])]
    return [rows[i] for i in rng.permutation(len(rows))]


def groups_of_pairs(seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(8):
        prompt = rng.integers(3, 20, rng.integers(1, 12))
        sides = [rng.integers(3, 20, rng.integers(1, 7)) for _ in range(2)]
        rows.append(attach(pair_row(prompt, sides), "ref", rng.normal(size=2)))
    return rows


def test_shared_prompts_are_written_once():
    rows = [
        completion_row([3, 4, 5], [6, 7]),
        completion_row([9], [8]),
        completion_row([3, 4, 5], [8]),
    ]
    batch = packing.pack(rows, multiple=1, length=16, share=True)
    assert batch["tokens"].tolist() == [[3, 4, 5, 6, 7, 5, 8, 9, 8, *[0] * 7]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1, *[0] * 7]]
    assert batch["segment_ids"].tolist() == [[18, 18, 1, 1, 1, 2, 2, 3, 3, *[0] * 7]]
    assert batch["prefix_ids"].tolist() == [[18, 18, 18, 18, 18, 18, 18, 3, 3, *[0] * 7]]
    assert batch["weights"].tolist() == [[0, 0, 0, 1, 1, 0, 1, 0, 1, *[0] * 7]]
    alone = packing.pack(rows[:2], multiple=1, length=16, share=True)
    assert "prefix_ids" not in alone  # nothing is shared


@pytest.mark.parametrize(
    ("name", "rows"), [("sft", groups_of_completions()), ("irpo", groups_of_pairs())]
)
def test_losses_and_gradients_are_those_of_rows_apart(tiny, name, rows):
    cfg, params = tiny
    method = algorithms.get(name)
    config = default.get_config(algorithm=name)

    def total(params, batch):
        loss = method.loss(logprobs.token_logprobs(params, batch, cfg), batch, config)
        return loss.total, loss.weight

    both = []
    for share in (False, True):
        batch = packing.pack(rows, multiple=1, length=64, share=share)
        assert ("prefix_ids" in batch) == share
        batch = jax.tree.map(jnp.asarray, batch)
        both.append((batch, *jax.jit(jax.value_and_grad(total, has_aux=True))(params, batch)))
    (apart, (loss, weight), grads), (shared, (other, other_weight), other_grads) = both
    assert (shared["segment_ids"] > 0).sum() < 0.85 * (apart["segment_ids"] > 0).sum()
    assert weight == other_weight
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        assert np.abs(a).max() > 1e-3
        np.testing.assert_allclose(b, a, atol=2e-5 * np.abs(a).max())


def test_a_stream_keeps_the_rows_of_a_prompt_together():
    rows = groups_of_completions()
    for batch in take(iter(packing.batches(rows, batch_size=2, length=48, seed=0, share=True)), 4):
        for ids, prefixes in zip(batch["segment_ids"], batch["prefix_ids"], strict=True):
            for n in set(prefixes[prefixes > 49].tolist()):  # shared by two completions at least
                assert len(set(ids[prefixes == n].tolist())) > 2
        assert (batch["prefix_ids"] > 49).sum() > 50


def test_logprobs_of_a_policy_are_those_of_rows_apart(tiny):
    cfg, params = tiny
    policy = Policy(params=params, model_cfg=cfg, mesh=None, batch_size=4, max_length=48)
    by_hand = jax.jit(lambda batch: logprobs.token_logprobs(params, batch, cfg))
    for rows in (groups_of_completions(1), groups_of_pairs(1)):
        for row, together in zip(rows, policy.logprobs(rows), strict=True):
            [alone] = policy.logprobs([row])
            assert np.count_nonzero(together) == np.count_nonzero(row["weights"][1:])
            np.testing.assert_allclose(together, alone, atol=1e-5)
            # By hand, each side a row of its own; of one length, as each is compiled for.
            sides = [row["side"] == side for side in (0, 1)] if "side" in row else [slice(None)]
            for side in sides:
                n = len(row["tokens"][side])
                batch = {key: np.zeros((1, 24), np.int32) for key in ("tokens", "segment_ids")}
                batch["tokens"][0, :n] = row["tokens"][side]
                batch["segment_ids"][0, :n] = 1
                batch["positions"] = np.arange(24, dtype=np.int32)[None]
                expected = by_hand(batch)[0][:n]
                expected = np.where(row["weights"][side] != 0, expected, 0)
                np.testing.assert_allclose(together[side], expected, atol=1e-5)
