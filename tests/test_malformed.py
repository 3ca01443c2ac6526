"""Files with random mistakes: each loader gives what can be used, or one sentence with the path.

    REASONING_FUZZ=10000 python -m pytest -s tests/test_malformed.py

tries so many files a loader, and prints how many of each kind were loaded and refused.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import gzip
import io
import json
import os
import pathlib
import random
import tempfile
from collections.abc import Callable

import published
import pyarrow as pa
import pytest
import sentencepiece
import test_pretrained_tokenizer
from ml_collections import ConfigDict
from pyarrow import parquet

from reasoning_jax import config, default, pretrained_tokenizer, prompts, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.training import preference_files

TRIES = int(os.environ.get("REASONING_FUZZ", "200"))
SEED = 0
BYTES = tokenizer.Bytes()

# ---- good files --------------------------------------------------------------------------------

GSM8K = [
    {"question": f"What is {i} and 1?", "answer": f"<<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"}
    for i in range(4)
]
CHOICES = [{"label": label, "text": f"thing {label}"} for label in "ABCDE"]
COMMONSENSE_QA = [
    {"answerKey": label, "id": "1", "question": {"stem": "Where?", "choices": CHOICES}}
    for label in "ACE"
]
BBH = {
    "canary": "none",
    "examples": [
        {"input": "not ( True ) and ( False ) is", "target": "False"},
        {"input": "True or not not False is", "target": "True"},
    ],
}
GSM8K_AUG = "".join(f"What is {i} and 1?||<<{i}+1={i + 1}>> #### {i + 1}\n" for i in range(4))
PROSQA = [
    {
        "question": f"Every lempus is a {concept}. Tom is a lempus. Is Tom a {concept} or impus?",
        "answer": f"Tom is a {concept}.",
        "steps": ["Tom is a lempus.", f"Every lempus is a {concept}."],
        "idx_to_symbol": ["Tom", "lempus", concept, "impus"],
        "edges": [[0, 1], [1, 2]],
    }
    for concept in ("rorpus", "yumpus", "gorpus")
]
SNARKS = {"examples": [{"input": f"Which?\n(A) {i}\n(B) no", "target": "(A)"} for i in range(5)]}
PAIRS = [{"prompt": f"{i}+1\n", "chosen": f"{i + 1}", "rejected": "no"} for i in range(4)]
CONVERSATIONS = [
    {side: [{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p[side]}]
     for side in ("chosen", "rejected")}
    for p in PAIRS
]  # fmt: skip
WHOLE = [p | {side: p["prompt"] + p[side] for side in ("chosen", "rejected")} for p in PAIRS]
VERDICTS = [{"prompt": f"{i}+1\n", "completion": f"{i}", "label": i == 2} for i in range(4)]
LLMBAR = [
    {"input": f"Say {i}.", "output_1": f"{i}", "output_2": "no", "label": 1 + i % 2}
    for i in range(4)
]
REWARD_BENCH = [pair | {"subset": "hep-cpp", "id": i} for i, pair in enumerate(PAIRS)]
QUESTIONS = [
    {"question_id": i, "category": "math", "turns": [f"What is {i} and 1?", "And 2?"]}
    for i in range(3)
]
REFERENCES = [{"question_id": 1, "choices": [{"index": 0, "turns": ["2", "3"]}]}]
SEED_TASKS = [
    {"instruction": f"Say {i}.", "instances": [{"input": "", "output": f"{i}"}]} for i in range(29)
]
SHOTS = "\n\n".join(f"Q: {i} and 1?\nA: It is {i + 1}.\n#### {i + 1}" for i in range(3))
CHATS = [
    {"q": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": i}
    for i in range(3)
]
EXPERIMENT = """
from reasoning_jax import config, default

def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="star", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.rounds.count = 8
    if args.smoke:
        c.model.preset = "tiny"
    return c
"""


def lines(records: list) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet_file() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(GSM8K), file)
    return file.getvalue()


def sentencepiece_model() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 5),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()


# ---- loaders -----------------------------------------------------------------------------------


def use_examples(name: str, split: str = "test", **keys: object) -> Callable[[pathlib.Path], None]:
    """Loads a split of a task and does with its examples what a run does."""
    task = tasks.get(name)

    def load(path: pathlib.Path) -> None:
        folder = path.parent.parent if name == "bbh" else path.parent
        cfg = ConfigDict(dataclasses.asdict(task.Config(path=str(folder), **keys)))
        examples = task.load(cfg, split)
        assert examples
        for example in examples:
            BYTES.encode(task.prompt(example, cfg))
            BYTES.encode(task.prompt(example, cfg, hint=example.answer))
            direct = task.target(example, direct=True)
            BYTES.encode(direct)
            assert example.question.strip() and example.answer.strip() and example.where
            task.extract(direct)
            task.steps(direct)
            task.wrong_line(direct, example)
            task.difficulty(example)

    return load


def use_mt_bench(path: pathlib.Path) -> None:
    """Questions beside good reference answers."""
    task = tasks.get("mt_bench")
    references = path.parent / "reference_answer"
    references.mkdir(exist_ok=True)
    (references / "gpt-4.jsonl").write_bytes(lines(REFERENCES))
    for turn in (1, 2):
        keys = task.Config(path=str(path.parent.parent), turn=turn)
        cfg = ConfigDict(dataclasses.asdict(keys))
        examples = task.load(cfg, "test")
        assert examples
        for example in examples:
            BYTES.encode(task.prompt(example, cfg))
            BYTES.encode(task.judged_request(example))
            task.difficulty(example)


def use_pairs(**keys: object) -> Callable[[pathlib.Path], None]:
    cfg = default.get_config("dpo").algorithm

    def load(path: pathlib.Path) -> None:
        cfg.update({"pairs": str(path), **keys})
        usable, left_out = preference_files.read(cfg)
        preference_files.warnings(usable, cfg)
        left_out.warnings()
        for preference in usable:
            texts = list(preference.sides)
            if isinstance(preference.prompt, str):
                texts.append(preference.prompt)
            else:
                assert "".join(turn.role for turn in preference.prompt)
            assert all(BYTES.encode(text) for text in texts)

    return load


def use_shots(path: pathlib.Path) -> None:
    task = tasks.get("gsm8k")
    shots = prompts.read_shots(path, task, ConfigDict())
    assert shots
    BYTES.encode(prompts.build(task, shots[0], ConfigDict(), shots, hint=shots[0].answer))


def use_tokenizer(path: pathlib.Path) -> None:
    made = tokenizer.SentencePiece(path)
    ids = [*made.encode("the fox 1+2?\n"), made.pad_id, made.bos_id, made.eos_id]
    assert all(0 <= i < made.vocab_size for i in ids)
    made.decode(ids)


def published_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (published_folder(pathlib.Path(folder)) / name).read_bytes()


def published_folder(folder: pathlib.Path) -> pathlib.Path:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return published.write(folder, special, chat_template=published.template("chatml"))


def use_published(path: pathlib.Path) -> None:
    """Writes the files beside it, and encodes a conversation."""
    content = path.read_bytes()
    published_folder(path.parent)
    path.write_bytes(content)
    made = pretrained_tokenizer.Pretrained(path.parent, chats=True)
    ids = [*made.prompt("Hi <|im_end|>"), made.eos_id, made.pad_id, *made.stop_ids]
    assert all(0 <= i < made.vocab_size for i in ids)
    made.decode(ids)


def use_gguf(path: pathlib.Path) -> None:
    made = pretrained_tokenizer.Pretrained(path, chats=True)
    ids = [*made.prompt("Hi <|end|>"), made.eos_id, made.pad_id, *made.stop_ids]
    assert all(0 <= i < made.vocab_size for i in ids)
    made.decode(ids)


def gguf_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        test_pretrained_tokenizer.written(pathlib.Path(folder), **test_pretrained_tokenizer.GGUF)
        return (pathlib.Path(folder) / "model.gguf").read_bytes()


def use_experiment(path: pathlib.Path) -> None:
    cfg = config.load(str(path))
    config.from_saved(config.as_dict(cfg), path)


def use_saved_config(path: pathlib.Path) -> None:
    config.rebuild(path.parent)


LOADERS = {
    "gsm8k": ("test.jsonl", lines(GSM8K), use_examples("gsm8k")),
    "commonsense_qa": (
        "dev_rand_split.jsonl",
        lines(COMMONSENSE_QA),
        use_examples("commonsense_qa"),
    ),
    "gsm8k_aug": ("test.txt", GSM8K_AUG.encode(), use_examples("gsm8k_aug")),
    "prosqa": ("prosqa_test.json", json.dumps(PROSQA).encode(), use_examples("prosqa")),
    "prosqa, lines": ("prosqa_test.jsonl", lines(PROSQA), use_examples("prosqa")),
    "prosqa_symbols": (
        "prosqa_test.json",
        json.dumps(PROSQA).encode(),
        use_examples("prosqa_symbols"),
    ),
    "bbh": (
        "bbh/boolean_expressions.json",
        json.dumps(BBH).encode(),
        use_examples("bbh", form="boolean_expressions"),
    ),
    "bbh, no generator": (
        "bbh/snarks.json",
        json.dumps(SNARKS).encode(),
        use_examples("bbh", form="snarks"),
    ),
    "pairs": ("pairs.jsonl", lines(PAIRS), use_pairs()),
    "pairs, skip_bad": ("pairs.jsonl", lines(PAIRS), use_pairs(skip_bad=True)),
    "pairs, whole_text": ("pairs.jsonl", lines(WHOLE), use_pairs(whole_text=True)),
    "verdicts": ("pairs.jsonl", lines(VERDICTS), use_pairs(preference="kto")),
    "jsonl": ("test.jsonl", lines(GSM8K), use_examples("jsonl")),
    "jsonl, messages": ("test.jsonl", lines(CHATS), use_examples("jsonl", question="q")),
    "jsonl, compressed": ("test.jsonl.gz", gzip.compress(lines(GSM8K)), use_examples("jsonl")),
    "jsonl, a list": ("test.json", json.dumps(GSM8K).encode(), use_examples("jsonl")),
    "jsonl, parquet": ("test.parquet", parquet_file(), use_examples("jsonl")),
    "llmbar": (
        "Natural.json",
        json.dumps(LLMBAR).encode(),
        use_examples("llmbar", "natural"),
    ),
    "reward_bench": ("filtered.jsonl", lines(REWARD_BENCH), use_examples("reward_bench")),
    "mt_bench": ("mt_bench/question.jsonl", lines(QUESTIONS), use_mt_bench),
    "self_instruct": (
        "seed_tasks.jsonl",
        lines(SEED_TASKS),
        use_examples("self_instruct", "given"),
    ),
    "shots.jsonl": ("shots.jsonl", lines(GSM8K), use_shots),
    "shots": ("shots.txt", SHOTS.encode(), use_shots),
    "tokenizer": ("words.model", sentencepiece_model(), use_tokenizer),
    "tokenizer_config.json": (
        "tokenizer_config.json",
        published_file("tokenizer_config.json"),
        use_published,
    ),
    "vocab.json": ("vocab.json", published_file("vocab.json"), use_published),
    "chat template": (
        "chat_template.jinja",
        published.template("llama3").encode(),
        use_published,
    ),
    "gguf": ("model.gguf", gguf_file(), use_gguf),
    "conversations": ("pairs.jsonl", lines(CONVERSATIONS), use_pairs(skip_bad=True)),
    "experiment": ("mine.py", EXPERIMENT.encode(), use_experiment),
    "config.json": (
        "config.json",
        json.dumps(config.as_dict(default.get_config())).encode(),
        use_saved_config,
    ),
}

# ---- mistakes ----------------------------------------------------------------------------------

ODD = [
    *(None, True, 0, -1, 1.5, 10**30, 1e300, float("nan"), float("inf"), "", " ", "\n", "x"),
    *("\ud800", "x\udfff", "\0", "é日本", "x" * 5000, "Q: ", [], {}, [None], ["x", 1], {"x": 1}),
    [{"role": "user", "content": "hi"}],
    {"role": ["user"], "content": ["hi"]},
    [[[[[[]]]]]],
]


def parsed(content: bytes) -> list | None:
    """The JSON values of a file, one a line; None where it is something else."""
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError:
        return None


def holders(value: object) -> list:
    """Every list and object within a value that is not empty."""
    children = []
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, list):
        children = value
    found = [value] if children else []
    for child in children:
        found += holders(child)
    return found


def any_key(rng: random.Random, holder: list | dict) -> object:
    return rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))


def changed_value(rng: random.Random, values: list) -> None:
    holder = rng.choice(holders(values))
    holder[any_key(rng, holder)] = copy.deepcopy(rng.choice(ODD))


def removed_key(rng: random.Random, values: list) -> None:
    holder = rng.choice([h for h in holders(values) if h is not values] or [values])
    del holder[any_key(rng, holder)]


def nested(rng: random.Random, values: list) -> None:
    holder = rng.choice(holders(values))
    key = any_key(rng, holder)
    for _ in range(rng.choice((1, 2, 40))):
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}


def doubled(rng: random.Random, values: list) -> None:
    holder = rng.choice(holders(values))
    key = any_key(rng, holder)
    other = any_key(rng, holder)
    holder[key] = json.loads(json.dumps(holder[other]))
    if isinstance(holder, list):
        holder.insert(0, holder[key])


def flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def moved_lines(rng: random.Random, content: bytes) -> bytes:
    """A line removed, said twice, blank, or joined with the next."""
    found = content.split(b"\n")
    i = rng.randrange(len(found))
    found[i : i + 1] = rng.choice(([], [found[i]] * 2, [b"", found[i]], [b" ", found[i]]))
    separators = rng.choice((b"\n", b"\n", b"\r\n", b"", b"\n\n"))
    return separators.join(found)


def replaced(rng: random.Random, content: bytes) -> bytes:
    """Another encoding, or nothing of it left."""
    text = content.decode("utf-8", errors="replace")
    return rng.choice(
        (
            *(b"", b"\n", b"null", b"3", b"NaN", b"[]", b"{}", b'"x"', b"\0" * 9, b"[" * 50_000),
            *(b'{"a":' * 50_000, b"1" * 5000, b"\xff" * 9, b"x" * 100_000),
            rng.randbytes(60),
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-8-sig"),
            text.replace("?", "é").encode("latin-1", errors="replace"),
        )
    )


OF_VALUES = {
    "value": changed_value,
    "key removed": removed_key,
    "nested": nested,
    "doubled": doubled,
}
OF_BYTES = {"bytes": flipped, "cut": cut, "lines": moved_lines, "whole file": replaced}


def mistaken(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """(kind, content) of a file with a mistake, or two."""
    values = parsed(content)
    kind = rng.choice([*OF_BYTES, *(OF_VALUES if values else ())])
    if kind in OF_BYTES:
        return kind, OF_BYTES[kind](rng, content)
    for _ in range(rng.randint(1, 2)):
        OF_VALUES[kind](rng, values)
    return kind, "\n".join(json.dumps(value) for value in values).encode()


# ---- the test ----------------------------------------------------------------------------------


def outcome(load: Callable[[pathlib.Path], None], path: pathlib.Path) -> str:
    """ "loaded" or "refused"; otherwise what is wrong."""
    try:
        load(path)
    except UserError as error:
        sentence = str(error)
        if "\n" in sentence:
            return f"no sentence: {sentence[:300]!r}"
        if path.name not in sentence and str(path.parent) not in sentence:
            return f"no path: {sentence[:300]!r}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "loaded"


@pytest.mark.parametrize("name", LOADERS)
def test_a_malformed_file_is_used_or_refused(name, tmp_path):
    file, content, load = LOADERS[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    load(path)  # as it is
    rng = random.Random(f"{SEED} {name}")
    counts: dict[str, collections.Counter] = {}
    wrong = []
    for _ in range(TRIES):
        kind, broken = mistaken(rng, content)
        path.write_bytes(broken)
        found = outcome(load, path)
        if found not in ("loaded", "refused"):
            wrong.append((kind, found, broken[:300]))
            found = "wrong"
        counts.setdefault(kind, collections.Counter())[found] += 1
    print(f"\n{name:20}{'tried':>8}{'loaded':>8}{'refused':>8}{'wrong':>8}")
    for kind in sorted(counts):
        row = counts[kind]
        cells = [row.total(), row["loaded"], row["refused"], row["wrong"]]
        print(f"  {kind:18}" + "".join(f"{cell:8}" for cell in cells))
    assert not wrong, f"{len(wrong)} of {TRIES}, such as {wrong[0]}"
