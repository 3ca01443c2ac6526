"""Data: JSONL errors, TFDS without TensorFlow, the order of examples, and packed batches."""

from __future__ import annotations

import itertools
import json
import sys
import time
import types

import numpy as np
import pytest

from reasoning_jax.graders import math
from reasoning_jax.tasks import gsm8k
from reasoning_jax.training import data, packing


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


# ---- JSONL ---------------------------------------------------------------------------------------


def test_read_jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1, "b": "x\\ny"}\n{"a": 2, "b": "é\u2028"}\n')
    assert data.read_jsonl(path, ["a", "b"]) == [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "é\u2028"}]
    path.write_text('{"a": 1}')
    assert data.read_jsonl(str(path)) == [{"a": 1}]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1}\n{"a": \n', r"rows\.jsonl, line 2: not a JSON object"),
        ('{"a": 1}\n\n{"a": 2}\n', r"rows\.jsonl, line 2: not a JSON object"),
        ('{"a": 1}\n[1]\n', r"rows\.jsonl, line 2: not a JSON object but '\[1\]'"),
        ('{"a": 1}\n{"b": 1}\n', r"rows\.jsonl, line 2: the key 'a' is missing"),
        ("", r"rows\.jsonl: the file is empty"),
        ("\n", r"rows\.jsonl: the file is empty"),
    ],
)
def test_bad_jsonl(text, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        data.read_jsonl(path, ["a"])
    assert "\n" not in str(error.value)


def test_missing_and_binary_jsonl(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: there is no such file"):
        data.read_jsonl(tmp_path / "absent.jsonl", [])
    with pytest.raises(FileNotFoundError):
        data.read_jsonl(tmp_path, [])
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.jsonl"):
        data.read_jsonl(tmp_path / "binary.jsonl", [])


# ---- TFDS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(data_dir, tmp_path_factory):
    """GSM8K in ArrayRecord, prepared from 520 + 30 local lines: no TensorFlow, no network."""
    from tensorflow_datasets.core.download import DownloadManager
    from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k

    folder, local = tmp_path_factory.mktemp("tfds"), tmp_path_factory.mktemp("local")
    lines = (data_dir / "gsm8k" / "train.jsonl").read_text().split("\n")[:550]
    for name in ("train", "test", "train_socratic", "test_socratic"):
        chosen = lines[:520] if name == "train" else lines[520:]
        (local / f"{name}.jsonl").write_text("\n".join(chosen) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            DownloadManager,
            "download_and_extract",
            lambda self, urls: {key: local / f"{key}.jsonl" for key in urls},
        )
        Gsm8k(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return types.SimpleNamespace(folder=folder, train=lines[:520], test=lines[520:])


def test_tfds_records(prepared):
    rows = data.tfds_source("gsm8k", prepared.folder, "train")
    assert [number for number, _ in rows] == list(range(520))
    published = {(r["question"], r["answer"]) for r in map(json.loads, prepared.train)}
    assert {(r["question"], r["answer"]) for _, r in rows} == published and len(published) == 520
    assert "tensorflow" not in sys.modules


def test_a_tfds_slice_keeps_the_records_numbers(prepared):
    rows = data.tfds_source("gsm8k", prepared.folder, "train")
    assert data.tfds_source("gsm8k", prepared.folder, "train[:1%]") == rows[:5]
    assert data.tfds_source("gsm8k", prepared.folder, "train[-7:]") == rows[-7:]
    assert data.tfds_source("gsm8k", prepared.folder, "train[100:103]") == rows[100:103]


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no TFDS data set 'gsm8k'; prepare it"):
        data.tfds_source("gsm8k", tmp_path, "train")
    for split in ("nope", "train[:0]", "train[x]"):
        with pytest.raises(ValueError, match="the split") as error:
            data.tfds_source("gsm8k", prepared.folder, split)
        assert split in str(error.value) and "\n" not in str(error.value)


def test_gsm8k_from_tfds(prepared):
    cfg = types.SimpleNamespace(path=str(prepared.folder), source="tfds", calculator=True)
    names = ("train", "given", "validation", "test", "train[:1%]")
    splits = {name: gsm8k.load(cfg, name) for name in names}
    assert [len(split) for split in splits.values()] == [20, 20, 500, 30, 5]
    assert [e.id for e in splits["train[:1%]"]] == [e.id for e in splits["train"]][:5]
    ids = [e.id for name in ("train", "validation", "test") for e in splits[name]]
    assert len(set(ids)) == 550
    published = {json.loads(line)["question"] for line in prepared.test}
    assert {e.question for e in splits["test"]} == published
    for example in splits["given"]:
        assert math.equal(gsm8k.extract(gsm8k.target(example)), example.answer)


# ---- the examples of a round ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "count"),
    [(12, 4), (10, 3), (10, 7), (10, 9), (10, 10), (1, 1), (7, 1), (25, 10), (11, 8)],
)
def test_every_example_once_an_epoch(n, count):
    rounds = [data.examples_for_round(n, count, 3, r) for r in range(4 * n)]
    for chosen in rounds:
        assert chosen.shape == (count,) and len(set(chosen.tolist())) == count
    walk = np.concatenate(rounds)
    for epoch in range(len(walk) // n):
        assert sorted(walk[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_rounds_are_a_pure_function():
    late = data.examples_for_round(10, 7, 3, 1000)
    assert np.array_equal(late, data.examples_for_round(10, 7, 3, 1000))
    first = data.examples_for_round(1000, 100, 0, 0)
    assert not np.array_equal(first, data.examples_for_round(1000, 100, 1, 0))  # the seed
    assert not np.array_equal(first, data.examples_for_round(1000, 100, 0, 10))  # the epoch
    assert not np.array_equal(first, np.arange(100))
    for count in (0, 11):
        with pytest.raises(ValueError, match="distinct"):
            data.examples_for_round(10, count, 0, 0)


def test_rounds_are_fast_after_many_epochs():
    start = time.monotonic()
    data.examples_for_round(7473, 64, 0, 1_000_000)
    assert time.monotonic() - start < 1


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
        assert np.all(np.count_nonzero(batch["segment_ids"], axis=1) == 16 // n * n)


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
    assert filled >= 0.90


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
