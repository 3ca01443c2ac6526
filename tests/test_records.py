"""Files of records as people have them: JSON lines, compressed ones, JSON lists, Parquet."""

from __future__ import annotations

import dataclasses
import gzip
import json

import pyarrow as pa
import pytest
from ml_collections import ConfigDict
from pyarrow import parquet

from reasoning_jax import tasks
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.training import data

RECORDS = [
    {"question": "1 and 1?", "answer": "It is 2.\n#### 2", "number": 2, "ok": True},
    {"question": "wie süß?\u2028", "answer": "#### 3", "number": 3, "ok": False},
]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def lines(records) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write(path, records) -> None:
    """The records in the format of the file's name."""
    if path.name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(records), path)
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(records))
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines(records)))
    else:
        path.write_bytes(lines(records))


@pytest.mark.parametrize(
    "ending, place", zip(data.ENDINGS, ("line", "line", "record", "row"), strict=True)
)
def test_every_format_gives_the_same_records(tmp_path, ending, place):
    path = tmp_path / f"test{ending}"
    write(path, RECORDS)
    assert data.holds_records(path)
    expected = [(f"{path}, {place} {i}", record) for i, record in enumerate(RECORDS, start=1)]
    assert data.read_records(path) == expected
    assert data.read_split(tmp_path, "test") == expected
    with pytest.raises(MissingFileError, match="absent"):
        data.read_records(tmp_path / f"absent{ending}")


def test_parquet_holds_lists_and_other_types(tmp_path):
    path = tmp_path / "chat.parquet"
    table = pa.table(
        {
            "messages": pa.array([CHAT, CHAT[:1]]),
            "kind": pa.array(["a", None]).dictionary_encode(),
            "text": pa.array(["x", "y"], pa.large_string()),
            "weight": pa.array([1, 2], pa.int16()),
        }
    )
    parquet.write_table(table, path)
    [(_, first), (_, second)] = data.read_records(path)
    assert first == {"messages": CHAT, "kind": "a", "text": "x", "weight": 1}
    assert second["messages"] == CHAT[:1] and second["kind"] is None


def test_parts_of_a_download(tmp_path):
    for part in range(2):
        write(tmp_path / f"train-0000{part}-of-00002.parquet", RECORDS[part : part + 1])
    assert [record for _, record in data.read_split(tmp_path, "train")] == RECORDS
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="not all 2 parts of train are there"):
        data.read_split(tmp_path, "train")
    write(tmp_path / "train.jsonl", RECORDS)
    with pytest.raises(UserError, match=r"train\.jsonl and train-00000.* are both there"):
        data.read_split(tmp_path, "train")
    with pytest.raises(MissingFileError, match=r"test\.jsonl"):
        data.read_split(tmp_path, "test")


def test_a_small_file_that_grows_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 22)))
    with pytest.raises(UserError, match=r"bomb\.jsonl\.gz: .* more than 1 MiB"):
        data.read_records(path)
    path = tmp_path / "bomb.parquet"
    parquet.write_table(pa.table({"a": ["x" * 1000] * 10_000}), path)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(UserError, match=r"bomb\.parquet: .* more than 1 MiB"):
        data.read_records(path)
    parquet.write_table(pa.table({"a": pa.nulls(10_000)}), path)
    with pytest.raises(UserError, match=r"bomb\.parquet: .* more than 1 MiB"):
        data.read_records(path)


def test_damaged_files_are_named(tmp_path):
    whole = gzip.compress(lines(RECORDS))
    broken_middle = bytearray(whole)
    broken_middle[len(whole) // 2] ^= 0xFF
    for content in (whole[:-9], b"not gzip", bytes(broken_middle), lines(RECORDS)):
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.jsonl\.gz: this is no complete gzip file"):
            data.read_records(path)
    path.write_bytes(gzip.compress(lines(RECORDS) + b"[1]\n"))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz, line 3: not a JSON object but a list"):
        data.read_records(path)
    path = tmp_path / "a.parquet"
    write(path, RECORDS)
    whole = path.read_bytes()
    for content in (whole[:-20], b"", b"PAR1", whole[:100] + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: this Parquet file cannot be read"):
            data.read_records(path)
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match=r"a\.parquet: the file is empty"):
        data.read_records(path)
    texts = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    parquet.write_table(pa.table({"a": texts}), path)
    with pytest.raises(UserError, match=r"a\.parquet: after row 0, a text is not UTF-8"):
        data.read_records(path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"a": 1}', "not a list of JSON objects but an object"),
        ("[]", "not a list of JSON objects but an empty list"),
        ('[{"a": 1}, 2]', "record 2: not a JSON object but a number"),
        ("[{]", "not valid JSON"),
    ],
)
def test_bad_json_lists(tmp_path, content, sentence):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"a\.json[:,] .*{sentence}"):
        data.read_records(path)


def test_other_names_are_refused(tmp_path):
    assert not data.holds_records("shots.txt")
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"a\.csv: the name of a file of records ends with"):
        data.read_records(tmp_path / "a.csv")


@pytest.mark.parametrize("ending", data.ENDINGS)
def test_gsm8k_reads_them(tmp_path, ending):
    task = tasks.get("gsm8k")
    write(tmp_path / f"test{ending}", RECORDS)
    cfg = ConfigDict(dataclasses.asdict(task.Config(path=str(tmp_path))))
    assert [e.answer for e in task.load(cfg, "test")] == ["2", "3"]
