"""Tokenizers: exact ids, golden ids of real models, round trips, pickling, and one start token."""

from __future__ import annotations

import json
import pathlib
import pickle
import random
import re

import ml_collections
import published
import pytest
import sentencepiece

from reasoning_jax import tokenizer
from reasoning_jax.errors import UserError

MODELS = [
    "tokenizers/mistral/tokenizer.model.v1",
    "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
    "tokenizers/maxtext_default/tokenizer.model",
    "tokenizers/sentencepiece_test/test_model.model",
    "stories260k/tok512.model",
]
ADDITION = [*"0123456789+,=CIT: \n", "<scratch>", "</scratch>", "Input:", "Target:"]


def config(name: str, path: str = "", **others: object) -> ml_collections.ConfigDict:
    values = {"name": name, "path": path, "chat": False, "system": "", **others}
    return ml_collections.ConfigDict(values)


def stories(data_dir: pathlib.Path) -> tuple[str, list[int]]:
    """What SOURCE.md states for 200 greedy steps of stories260K: the text and its ids, no start."""
    source = (data_dir / "stories260k" / "SOURCE.md").read_text()
    quoted = next(line for line in source.splitlines() if line.startswith('"Once upon a time'))
    text = json.loads(quoted)
    ids = json.loads(re.search(r"^\[1, 403,.*\]$", source, re.MULTILINE).group())
    assert ids[0] == 1 and len(ids) == 201
    return text, ids[1:]


def test_characters_exact():
    made = tokenizer.Characters(["a", "b", "ab", "\n"])
    assert (made.pad_id, made.bos_id, made.eos_id, made.vocab_size) == (0, 1, 2, 7)
    assert made.encode("aabb\n") == [3, 5, 4, 6]  # greedy: "ab" before "a"
    assert made.decode([1, 3, 5, 4, 6, 2, 0, 0]) == "aabb\n"
    assert made.encode("") == [] and made.decode([]) == ""


def test_characters_longest_match_is_not_the_alphabets_order():
    for alphabet in (["<s", "<", "<scratch>", "s"], ["<scratch>", "<s", "s", "<"]):
        made = tokenizer.Characters(alphabet)
        assert [made.alphabet[i - 3] for i in made.encode("<scratch><s<")] == [
            "<scratch>",
            "<s",
            "<",
        ]


def test_characters_escape_patterns():
    made = tokenizer.Characters([".", "+", "a", "(", "\\"])
    assert made.decode(made.encode("a.+(\\.")) == "a.+(\\."
    with pytest.raises(ValueError):
        made.encode("ab")  # "." is a symbol here, not a pattern


def test_characters_outside_the_alphabet():
    with pytest.raises(ValueError, match=r"'x' is not in the alphabet '0123"):
        tokenizer.Characters(ADDITION).encode("1 + x")
    with pytest.raises(ValueError, match="distinct"):
        tokenizer.Characters(["a", "a"])


def test_characters_round_trip():
    made, rng = tokenizer.Characters(ADDITION), random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice(ADDITION) for _ in range(rng.randrange(40)))
        ids = made.encode(text)
        assert made.decode(ids) == text
        assert all(3 <= i < made.vocab_size for i in ids)


def test_bytes():
    made = tokenizer.Bytes()
    assert made.vocab_size == 259
    assert made.encode("Aé") == [3 + 0x41, 3 + 0xC3, 3 + 0xA9]
    text = "naïve 日本 \0\n🙂"
    assert made.decode([1, *made.encode(text), 2, 0]) == text
    assert made.decode([3 + 0xC3]) == "\ufffd"  # half a character, as a truncated sample may have


def test_sentencepiece_golden_ids(data_dir):
    text, ids = stories(data_dir)
    made = tokenizer.SentencePiece(data_dir / "stories260k" / "tok512.model")
    assert made.encode(text) == ids
    assert made.decode(ids) == text
    assert made.decode([made.bos_id, *ids, made.eos_id, made.pad_id, made.pad_id]) == text
    assert (made.vocab_size, made.bos_id, made.eos_id) == (512, 1, 2)


def test_sentencepiece_pieces_agree_with_the_vocab_file(data_dir):
    lines = (data_dir / "stories260k" / "tok512.vocab").read_text().splitlines()
    made = tokenizer.SentencePiece(data_dir / "stories260k" / "tok512.model")
    assert [made.model.id_to_piece(i) for i in range(512)] == [
        line.split("\t")[0] for line in lines
    ]


@pytest.mark.parametrize("path", MODELS)
def test_sentencepiece_round_trip_and_special_tokens(path, data_dir):
    made = tokenizer.SentencePiece(data_dir / path)
    book = data_dir / "tokenizers" / "sentencepiece_test" / "botchan.txt"
    lines = [line.strip() for line in book.read_text("utf-8").splitlines()[200:260]]
    texts = [line for line in lines if line.isascii() and line]
    assert len(texts) > 30
    special = {made.pad_id, made.bos_id, made.eos_id}
    for text in texts + ["Q: 2 + 3?\nA:", "<s>", "</s> a"]:
        ids = made.encode(text)
        assert made.bos_id not in ids and made.eos_id not in ids
        assert all(0 <= i < made.vocab_size for i in ids)
        prompt = [made.bos_id, *ids]
        assert prompt.count(made.bos_id) == 1
        assert made.decode([*prompt, made.eos_id, made.pad_id]) == made.decode(ids)
    # White space apart, which a model's normalizer may change, text comes back unless it has
    # unknown pieces.
    known = [text for text in texts if not special & set(made.encode(text))]
    assert len(known) > len(texts) / 2
    for text in known:
        assert made.decode(made.encode(text)).split() == text.split()


@pytest.mark.parametrize(
    "path", ["tokenizers/mistral/tokenizer.model.v1", "stories260k/tok512.model"]
)
def test_sentencepiece_keeps_lines(path, data_dir):
    made = tokenizer.SentencePiece(data_dir / path)
    text = "Q: How many?\nA: 48/2 = <<48/2=24>>24 é 日本.\n#### 24"
    assert made.decode(made.encode(text)) == text


def test_sentencepiece_is_lazy_and_pickles_by_path(data_dir, tmp_path):
    absent = tokenizer.SentencePiece(tmp_path / "absent.model")  # no file is read yet
    with pytest.raises(FileNotFoundError, match=r"absent\.model"):
        absent.encode("a")
    bad = tmp_path / "bad.model"
    bad.write_text("not a model")
    with pytest.raises(ValueError, match=r"bad\.model"):
        tokenizer.SentencePiece(bad).encode("a")
    made = tokenizer.SentencePiece(data_dir / MODELS[0])
    ids = made.encode("Once upon a time")
    dumped = pickle.dumps(made)
    assert len(dumped) < 500
    assert pickle.loads(dumped).encode("Once upon a time") == ids


def test_pickling_keeps_ids():
    for made in (tokenizer.Characters(ADDITION), tokenizer.Bytes()):
        text = "Input:\n1 2 + 3\nTarget:\n<scratch>"
        assert pickle.loads(pickle.dumps(made)).encode(text) == made.encode(text)


def test_make(data_dir):
    with pytest.raises(UserError, match="toy has no alphabet"):
        tokenizer.make(config("characters"), (), "toy")
    assert tokenizer.make(config("characters"), ("a", "b"), "toy").encode("ba") == [4, 3]
    assert tokenizer.make(config("bytes"), (), "toy").vocab_size == 259
    path = str(data_dir / "stories260k" / "tok512.model")
    assert tokenizer.make(config("sentencepiece", path), (), "toy").vocab_size == 512
    with pytest.raises(UserError, match=r"config\.tokenizer\.path"):
        tokenizer.make(config("sentencepiece"), (), "toy")


def test_make_of_published_models(tmp_path):
    """auto: the model's own where there is one, else characters."""
    auto = config("auto")
    assert isinstance(tokenizer.make(auto, ("a", "b"), "toy"), tokenizer.Characters)
    with pytest.raises(UserError, match="toy has no alphabet"):
        tokenizer.make(auto, (), "toy")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    template = published.template("chatml")
    source = str(published.write(tmp_path, special, chat_template=template))
    made = tokenizer.make(auto, ("a", "b"), "toy", source)
    assert made.prompt("ab") == [97, 98] and made.eos_id == 256
    assert isinstance(tokenizer.make(config("characters"), ("a",), "toy", source),
                      tokenizer.Characters)  # fmt: skip
    for own, model in ((config("pretrained"), source), (config("pretrained", source), "other")):
        assert tokenizer.make(own, (), "toy", model).vocab_size == 259
    chats = tokenizer.make(config("auto", chat=True, system="Hi"), (), "toy", source)
    assert chats.prompt("ab")[:9] == [257, *b"system\nH"] and chats.eos_id == 258


@pytest.mark.parametrize(
    "values, key",
    [
        (config("auto", "a/folder"), r"config\.tokenizer\.path: set config\.tokenizer\.name"),
        (config("pretrained"), r"config\.tokenizer\.path: the folder or file"),
        (config("bytes", chat=True), r"config\.tokenizer\.chat, system: .*'bytes' has no chat"),
        (config("characters", system="Hi"), r"config\.tokenizer\.chat, system: .*'characters'"),
        (config("pretrained", "a", system="Hi"), r"config\.tokenizer\.system: .*tokenizer\.chat"),
    ],
)
def test_keys_that_do_not_go_together(values, key):
    with pytest.raises(UserError, match=key):
        tokenizer.make(values, ("a",), "toy", "" if values.name != "auto" else "model")


def test_prompts_and_stop_ids_of_every_kind(data_dir):
    piece = tokenizer.SentencePiece(data_dir / "stories260k" / "tok512.model")
    for made in (tokenizer.Characters(["1", "2"]), tokenizer.Bytes(), piece):
        assert made.prompt("12") == [made.bos_id, *made.encode("12")]
        assert made.stop_ids == (made.eos_id,) and made.turn_end_id == made.eos_id
        with pytest.raises(UserError, match="a list of messages needs the tokenizer of a model"):
            made.chat([{"role": "user", "content": "12"}])


def test_a_sentencepiece_model_without_a_start_token(tmp_path):
    for name, start, end in (("end", -1, 1), ("none", -1, -1), ("both", 1, 2)):
        path = tmp_path / f"{name}.model"
        with path.open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["the quick brown fox"] * 5),
                model_writer=file,
                vocab_size=30,
                hard_vocab_limit=False,
                bos_id=start,
                eos_id=end,
                minloglevel=2,
            )
    made = tokenizer.SentencePiece(tmp_path / "end.model")
    assert made.bos_id is None and made.stop_ids == (1,)
    assert made.prompt("the fox") == made.encode("the fox") == made.model.encode("the fox")
    assert made.decode([*made.encode("the fox"), 1]) == "the fox"
    assert tokenizer.SentencePiece(tmp_path / "both.model").prompt("fox")[0] == 1
    with pytest.raises(UserError, match=r"none\.model has no end token"):
        tokenizer.SentencePiece(tmp_path / "none.model").encode("a")
