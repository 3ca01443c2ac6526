"""Data: JSONL errors, TFDS without TensorFlow, and the order of examples."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import types

import numpy as np
import pytest

from reasoning_jax.answers import equivalence
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import gsm8k
from reasoning_jax.training import data

# ---- JSONL ---------------------------------------------------------------------------------------


def test_read_jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1, "b": "x\\ny"}\n{"a": 2, "b": "é\u2028"}\n')
    first, second = {"a": 1, "b": "x\ny"}, {"a": 2, "b": "é\u2028"}
    assert data.read_jsonl(path) == [(f"{path}, line 1", first), (f"{path}, line 2", second)]
    path.write_text('{"a": 1}')
    assert data.read_jsonl(str(path)) == [(f"{path}, line 1", {"a": 1})]


def test_what_editors_of_other_systems_write(tmp_path):
    """A byte order mark, CRLF, and blank lines at the end."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n\r\n \n')
    assert [record for _, record in data.read_jsonl(path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1}\n{"a": \n', r"rows\.jsonl, line 2: not valid JSON"),
        ('{"a": 1}\n\n{"a": 2}\n', r"rows\.jsonl, line 2: the line is blank"),
        ('{"a": 1}\n[1]\n', r"rows\.jsonl, line 2: not a JSON object but a list: '\[1\]'"),
        ('{"a": 1}\nnull\n', r"rows\.jsonl, line 2: not a JSON object but null"),
        ('{"a": 1}\n{"a": NaN}\n', r"rows\.jsonl, line 2: not valid JSON \(NaN is no JSON\)"),
        ('{"a": 1}\n{"a": -Infinity}\n', r"rows\.jsonl, line 2: not valid JSON"),
        ('{"a": 1, "a": 2}\n', r"rows\.jsonl, line 1: not valid JSON .the key 'a' is there twice"),
        ("[" * 100_000 + "\n", r"rows\.jsonl, line 1: this JSON is nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}\n", r"rows\.jsonl, line 1: not valid JSON \(Exceeds"),
        ("x" * 3_000_000, r"rows\.jsonl, line 1: not valid JSON"),
        ("", r"rows\.jsonl: the file is empty"),
        ("\n", r"rows\.jsonl: the file is empty"),
    ],
)
def test_bad_jsonl(text, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        data.read_jsonl(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "é"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: this is not UTF-8 text"):
        data.read_jsonl(path)
    path.write_bytes('{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(UserError, match=r"rows\.jsonl: this is UTF-16 text"):
        data.read_jsonl(path)


def test_what_is_not_a_file_is_never_opened(tmp_path):
    """A pipe, above all: to open it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("{}")
    for name in ("absent", "file/inside"):
        with pytest.raises(MissingFileError, match=f"{name}: there is no such file"):
            data.read_jsonl(tmp_path / name)
    others = {
        tmp_path: "this is a folder, not a file",
        tmp_path / "pipe": "pipe: this is not a regular file",
        "/dev/zero": "/dev/zero: this is not a regular file",
        tmp_path / "loop": "loop: Too many levels of symbolic links",
        tmp_path / "a\0b": "this cannot be the name of a file",
        tmp_path / ("a" * 300): "aaa: File name too long",
    }
    for path, sentence in others.items():
        with pytest.raises(UserError, match=sentence) as error:
            data.read_jsonl(path)
        assert not isinstance(error.value, MissingFileError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(UserError, match="secret: Permission denied"):
        data.read_jsonl(tmp_path / "secret")


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


def test_damaged_tfds_files_are_one_sentence(prepared, tmp_path):
    """Every file of the data set, cut in half or with bytes changed."""
    whole = tmp_path / "whole"
    shutil.copytree(prepared.folder, whole)
    for path in sorted(p for p in whole.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b"\xff" * 64 + content[64:]):
            path.write_bytes(damaged)
            try:
                assert data.tfds_source("gsm8k", whole, "train")
            except UserError as error:
                assert str(whole) in str(error) and "\n" not in str(error)
        path.write_bytes(content)


def test_tfds_records_of_other_types_are_named(monkeypatch):
    cfg = gsm8k.Config(path="/data", source="tfds")
    good = {"question": "1 + 1?", "answer": "#### 2"}
    for changes, sentence in [
        ({"question": np.array([1, 2])}, "'question' is a list, not text"),
        ({"question": 3}, "'question' is a number, not text"),
        ({"answer": "#### 2\udcff"}, "'answer' holds .udcff, half of a character"),
        ({"answer": ""}, "'answer' is empty"),
    ]:
        rows = [(7, good), (8, good | changes)]
        monkeypatch.setattr(data, "tfds_source", lambda *args, rows=rows: rows)
        with pytest.raises(UserError, match=rf"\(gsm8k, train\[:9\]\), record 9: {sentence}"):
            gsm8k.load(cfg, "train[:9]")


def test_gsm8k_from_tfds(prepared):
    cfg = gsm8k.Config(path=str(prepared.folder), source="tfds")
    names = ("train", "given", "validation", "test", "train[:1%]")
    splits = {name: gsm8k.load(cfg, name) for name in names}
    assert [len(split) for split in splits.values()] == [20, 20, 500, 30, 5]
    assert [e.id for e in splits["train[:1%]"]] == [e.id for e in splits["train"]][:5]
    ids = [e.id for name in ("train", "validation", "test") for e in splits[name]]
    assert len(set(ids)) == 550
    published = {json.loads(line)["question"] for line in prepared.test}
    assert {e.question for e in splits["test"]} == published
    for example in splits["given"]:
        assert equivalence.equal(gsm8k.extract(gsm8k.target(example)), example.answer)


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
