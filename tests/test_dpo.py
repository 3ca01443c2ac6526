"""DPO from files: which lines are usable, what their rows hold, the reference, and updates."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import graded
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import scripted
from scripted import TASK, TOK, config

from configs import dpo_jsonl
from reasoning_jax import algorithms, pretrained_tokenizer
from reasoning_jax.algorithms import dpo
from reasoning_jax.errors import UserError
from reasoning_jax.model import logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.tasks import CORRECT, WRONG, Example, addition
from reasoning_jax.training import (
    conversations,
    optim,
    packing,
    preference_files,
    state,
    train_step,
)

DPO = algorithms.get("dpo")
PAIRS = [
    {"prompt": "1+2\n", "chosen": "3", "rejected": "4"},
    {"prompt": "3+4\n", "chosen": "7", "rejected": "11"},
    {"prompt": "5+6\n", "chosen": "11", "rejected": "1"},
]
VERDICTS = [
    {"prompt": "1+2\n", "completion": "3", "label": True},
    {"prompt": "1+2\n", "completion": "4", "label": False},
    {"prompt": "3+4\n", "completion": "7", "label": True},
    {"prompt": "5+6\n", "completion": "12", "label": False},
    {"prompt": "1+2\n", "completion": "5", "label": False},
]
WHOLE = [p | {side: p["prompt"] + p[side] for side in ("chosen", "rejected")} for p in PAIRS]


@pytest.fixture
def settings(tmp_path):
    """A function of lines and settings: the config of a file with these lines."""

    def of(lines, **changes):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return config("dpo", pairs=str(path), **changes)

    return of


def load(cfg):
    """The usable preferences of a config's file."""
    return preference_files.read(cfg.algorithm)[0]


def minus_position(row):
    """The log-prob of every token is -its position."""
    return -row["position"].astype(np.float32)


def collect(cfg, memory=None, round=1, max_length=256):
    """What a round collects, and how many rows the model was asked about, call by call."""
    memory = dpo.init_memory(cfg, 9) if memory is None else memory
    roll = scripted.rollout({}, max_length=max_length, token_logprobs=minus_position)
    result = dpo.collect(roll, [], memory, round, cfg)
    assert roll.calls == []
    return result, [len(rows) for _, rows in roll.policy.calls]


def check_data(cfg, max_length=256):
    """What is said of a config's pairs before anything is trained."""
    return dpo.check_data(scripted.rollout({}, max_length=max_length), [], cfg)


def texts(row):
    """Prompt and completion of both sides, which have their own start and end tokens."""
    out = []
    for i in (0, 1):
        side = row["side"] == i
        tokens, weights = row["tokens"][side], row["weights"][side]
        assert tokens[0] == TOK.bos_id and tokens[-1] == TOK.eos_id
        assert weights[0] == 0 and weights[-1] == 1
        out += [TOK.decode(tokens[weights == 0]), TOK.decode(tokens[weights == 1])]
    return tuple(out)


def assert_same_rows(first, second):
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


# ---- rows ----------------------------------------------------------------------------------------


def test_a_file_becomes_pairs(settings):
    result, _ = collect(settings(PAIRS))
    expected = [(p["prompt"], p["chosen"], p["prompt"], p["rejected"]) for p in PAIRS]
    assert [texts(row) for row in result.rows] == expected
    # Positions 5, 6 (and 7) are the completion and its end.
    memory = result.memory.tolist()
    assert memory == [[-11, -11], [-11, -18], [-18, -11]]
    assert [row["ref"][row["ref"] != 0].tolist() for row in result.rows] == memory
    assert result.stats == {"kept_rows": 3, "kept": 1}
    assert list(result.warnings) == [] and list(result.samples) == []


def test_the_reference_is_read_in_round_1_only(settings):
    """Later rounds are given another model, and keep what the start model said."""
    cfg = settings(PAIRS)
    first, asked = collect(cfg)
    later, asked_later = collect(cfg, first.memory, round=2)
    assert asked == [3] and asked_later == [] and np.array_equal(later.memory, first.memory)
    assert_same_rows(first.rows, later.rows)


def test_the_memory_it_was_given_stays(settings):
    cfg = settings(PAIRS)
    memory = dpo.init_memory(cfg, 9)
    result, _ = collect(cfg, memory)
    assert not memory.any() and result.memory.all()


def test_sides_that_repeat_the_prompt(settings):
    plain, _ = collect(settings(PAIRS))
    whole, _ = collect(settings(WHOLE, whole_text=True))
    assert_same_rows(plain.rows, whole.rows)


def test_verdicts_for_kto(settings):
    """Each with the next completion that belongs to another prompt.

    And its verdict on its own side's last token.
    """
    result, _ = collect(settings(VERDICTS, preference="kto"))
    pairs = [texts(row) for row in result.rows]
    sides = [("3", "7"), ("4", "7"), ("7", "12"), ("12", "5"), ("5", "7")]
    assert [(own, other) for _, own, _, other in pairs] == sides
    assert all(prompt == again for prompt, _, again, _ in pairs)
    assert result.memory.shape == (5, 2)
    for row, verdict in zip(result.rows, VERDICTS, strict=True):
        last = (row["side"] == 0).sum() - 1
        expected = [last] if verdict["label"] else []
        assert np.flatnonzero(row["desirable"]).tolist() == expected
    with pytest.raises(ValueError, match="more than one prompt"):
        load(settings(VERDICTS[:2], preference="kto"))


def test_tfds(tmp_path):
    """Real data sets in ArrayRecord, written by TFDS itself."""
    import tensorflow_datasets as tfds

    def kind(key):
        return np.bool_ if key == "label" else tfds.features.Text()

    class Pairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kinds = {key: kind(key) for key in self.rows[0]}
            features = tfds.features.FeaturesDict(kinds)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": enumerate(self.rows)}

        def _generate_examples(self):  # abstract there; _split_generators has them already
            return iter(())

    for name, rows in (("hh", PAIRS), ("verdicts", VERDICTS)):
        made = type(name, (Pairs,), {"name": name, "rows": rows})
        made(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    pairs = load(config("dpo", pairs=f"tfds:{tmp_path}:hh:train"))
    assert {(p.prompt, *p.sides) for p in pairs} == {tuple(row.values()) for row in PAIRS}
    slice_of_it = load(config("dpo", pairs=f"tfds:{tmp_path}:hh:train[1:]"))
    assert [p.sides for p in slice_of_it] == [p.sides for p in pairs[1:]]
    where = slice_of_it[0].where
    assert where.endswith("train[1:], row 1"), "a row keeps its number in a slice"
    verdicts = load(config("dpo", pairs=f"tfds:{tmp_path}:verdicts:train", preference="kto"))
    read = {(p.prompt, p.sides[0], p.desirable) for p in verdicts}
    assert read == {tuple(row.values()) for row in VERDICTS}
    with pytest.raises(ValueError, match=r"row 0: the key 'completion' is missing"):
        load(config("dpo", pairs=f"tfds:{tmp_path}:hh:train", preference="kto"))
    with pytest.raises(ValueError, match="is not tfds:FOLDER:NAME:SPLIT"):
        load(config("dpo", pairs="tfds:hh:train"))


# ---- bad input -----------------------------------------------------------------------------------

BAD_PAIRS = [
    ({"prompt": "1+2\n", "chosen": "", "rejected": "4"}, "'chosen' is empty"),
    ({"prompt": "1+2\n", "chosen": "4", "rejected": " \n"}, "'rejected' is empty"),
    ({"prompt": "\n", "chosen": "4", "rejected": "5"}, "'prompt' is empty"),
    ({"prompt": "1+2\n", "chosen": "3", "rejected": "3"}, "the sides are equal"),
    ({"prompt": "1+2\n", "chosen": 3, "rejected": "4"}, "'chosen' is a number, not text"),
    ({"prompt": ["1+2"], "chosen": "3", "rejected": "4"}, "'prompt' is a list, not text"),
    ({"prompt": "\ud8001", "chosen": "3", "rejected": "4"}, r"'prompt' holds .ud800, half"),
]
BAD_WHOLE_TEXTS = [
    ({"prompt": "1+2\n", "chosen": "1+2\n3", "rejected": "1+3\n4"}, "the prompt is no prefix"),
    ({"prompt": "1+2\n", "chosen": "1+2\n3", "rejected": "1+2\n"}, "a side is empty"),
]
BAD_VERDICTS = [
    ({"prompt": "1+2\n", "completion": "", "label": True}, "'completion' is empty"),
    ({"prompt": "1+2\n", "completion": "3", "label": "yes"}, "the label is neither"),
    ({"prompt": "1+2\n", "completion": "3", "label": [1]}, "the label is neither"),
]
BAD = [
    *((line, message, {}, PAIRS) for line, message in BAD_PAIRS),
    *((line, message, {"whole_text": True}, WHOLE) for line, message in BAD_WHOLE_TEXTS),
    *((line, message, {"preference": "kto"}, VERDICTS) for line, message in BAD_VERDICTS),
]


@pytest.mark.parametrize("line, message, changes, good", BAD)
def test_a_bad_line_is_a_sentence_or_is_counted(settings, line, message, changes, good):
    lines = [*good[:2], line, *good[2:], line]
    sentence = rf"pairs\.jsonl, line 3: {message}.*skip_bad=True"
    with pytest.raises(ValueError, match=sentence) as error:
        dpo.init_memory(settings(lines, **changes), 9)
    assert "\n" not in str(error.value)
    result, _ = collect(settings(lines, skip_bad=True, **changes))
    assert len(result.rows) == len(good)
    assert result.stats["kept"] == len(good) / (len(good) + 2)
    [warning] = check_data(settings(lines, skip_bad=True, **changes))
    assert re.match(f"2 rows are left out, as {message}", warning)
    assert "line 3; " in warning and "jsonl, line" in warning


def test_pairs_over_the_limit(settings):
    """Named, or counted beside what else is left out.

    The reference's numbers stay with their pairs.
    """
    lines = [PAIRS[1], PAIRS[0], PAIRS[1] | {"rejected": "7"}]
    limit = 2 * len([TOK.bos_id, *TOK.encode("1+2\n3"), TOK.eos_id])
    with pytest.raises(ValueError, match=r"line 3: the sides are equal"):
        load(settings(lines))
    with pytest.raises(ValueError, match=r"line 1: it is longer than config\.sequence_length"):
        check_data(settings(lines[:2]), max_length=limit)
    with pytest.raises(ValueError, match=f"{limit - 1} tokens have no room for any of the 2 pairs"):
        check_data(settings(lines, skip_bad=True), max_length=limit - 1)
    result, asked = collect(settings(lines, skip_bad=True), max_length=limit)
    assert [texts(row)[0] for row in result.rows] == ["1+2\n"]
    assert result.memory.tolist() == [[0, 0], [-11, -11]] and asked == [1]
    assert result.stats == pytest.approx({"kept_rows": 1, "kept": 1 / 3})
    warnings = check_data(settings(lines, skip_bad=True), max_length=limit)
    assert [sentence.split(":")[0] for sentence in warnings] == [
        "1 rows are left out, as the sides are equal",
        "1 rows are left out, as it is longer than config.sequence_length",
    ]


def test_other_errors(settings, tmp_path):
    with pytest.raises(ValueError, match=r"config\.algorithm\.pairs: dpo needs a JSONL file"):
        dpo.init_memory(config("dpo"), 9)
    with pytest.raises(FileNotFoundError, match="absent"):
        dpo.init_memory(config("dpo", pairs=str(tmp_path / "absent.jsonl")), 9)
    with pytest.raises(ValueError, match=r"line 1: the key 'rejected' is missing"):
        dpo.init_memory(settings([{"prompt": "1", "chosen": "2"}]), 9)
    with pytest.raises(ValueError, match="no row is a preference"):
        dpo.init_memory(settings([PAIRS[0] | {"chosen": ""}], skip_bad=True), 9)
    sentence = r"pairs\.jsonl, line 2: The character 'x' is not in the alphabet"
    with pytest.raises(ValueError, match=sentence):
        check_data(settings([PAIRS[0], PAIRS[1] | {"chosen": "x"}]))
    foreign = [*VERDICTS[:3], VERDICTS[3] | {"completion": "x"}, VERDICTS[4]]
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 4: The character 'x'"):
        check_data(settings(foreign, preference="kto"))  # line 3 has it as its mismatched side
    dpo.check(settings(PAIRS))
    with pytest.raises(ValueError, match=r"config\.algorithm\.desirable_weight.*dpo has none"):
        dpo.check(settings(PAIRS, desirable_weight=2.0))
    with pytest.raises(ValueError, match=r"config\.algorithm\.desirable_weight.*both are 0"):
        dpo.check(settings(PAIRS, preference="kto", desirable_weight=0.0, undesirable_weight=0.0))
    cfg = settings(PAIRS)
    cfg.rounds.examples = 5
    with pytest.raises(ValueError, match=r"config\.rounds\.examples"):
        dpo.check(cfg)


# ---- conversations -------------------------------------------------------------------------------


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [user("1+2"), assistant("3"), user("2+2")]


def pair(prompt, chosen, rejected):
    """A pair; without a prompt where that is None."""
    sides = {"chosen": chosen, "rejected": rejected}
    return sides if prompt is None else {"prompt": prompt, **sides}


@pytest.fixture
def chat_rollout(tmp_path):
    """A rollout whose tokenizer has the template of ChatML."""
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    template = published.template("chatml")
    folder = published.write(
        tmp_path / "model", special, chat_template=template, eos_token="<|endoftext|>"
    )
    made = pretrained_tokenizer.Pretrained(folder)
    return scripted.rollout({}, token_logprobs=minus_position, tokenizer=made), special


@pytest.mark.parametrize(
    "line",
    [
        pair([user("2+2")], [assistant("4")], [assistant("5")]),
        pair([user("2+2")], [user("2+2"), assistant("4")], [user("2+2"), assistant("5")]),
        pair(None, [user("2+2"), assistant("4")], [user("2+2"), assistant("5")]),
        pair("2+2", [user("2+2"), assistant("4")], [user("2+2"), assistant("5")]),
        pair("2+2", [assistant("4")], [assistant("5")]),
        pair([user("2+2")], "4", "5"),
    ],
)
def test_conversations_of_one_question(settings, chat_rollout, line):
    """All the shapes in which published sets hold the same pair, written by the template."""
    roll, special = chat_rollout
    cfg = settings([line])
    result = dpo.collect(roll, [], dpo.init_memory(cfg, 9), 1, cfg)
    [row] = result.rows
    start, end = "<|im_start|>", "<|im_end|>"
    prompt = published.ids(special, start, "system\nYou are helpful.", end, "\n")
    prompt += published.ids(special, start, "user\n2+2", end, "\n", start, "assistant\n")
    for side, answer in enumerate(("4", "5")):
        tokens = row["tokens"][row["side"] == side].tolist()
        assert tokens == [*prompt, *published.ids(special, answer, end)]
    assert (row["weights"] > 0).sum() == 4


def test_longer_conversations(settings):
    prompt = [SYSTEM, *TURNS]
    lines = [
        pair(prompt, [assistant("4")], [assistant("5")]),
        pair(None, [*prompt, assistant("4")], [*prompt, assistant("5")]),
        pair("2+2", [*prompt, assistant("4")], [*prompt, assistant("5")]),
    ]
    pairs = load(settings(lines))
    assert len({(p.prompt, p.sides) for p in pairs}) == 1
    assert [turn.content for turn in pairs[0].prompt] == ["Be brief.", "1+2", "3", "2+2"]
    assert pairs[0].sides == ("4", "5")
    assert dpo.data(settings(lines))["algorithm.pairs"][0][0] == pairs[0].prompt


def test_verdicts_of_conversations(settings, chat_rollout):
    roll, _ = chat_rollout
    verdicts = [
        {"prompt": [user("1+2")], "completion": [assistant("3")], "label": True},
        {"prompt": [user("1+3")], "completion": [assistant("3")], "label": False},
        {"completion": [*TURNS, assistant("4")], "label": True},
    ]
    cfg = settings(verdicts, preference="kto")
    read = load(cfg)
    assert [p.sides for p in read] == [("3", "3"), ("3", "4"), ("4", "3")]
    assert [len(p.prompt) for p in read] == [1, 1, 3]
    result = dpo.collect(roll, [], dpo.init_memory(cfg, 9), 1, cfg)
    assert len(result.rows) == 3


def test_messages_need_a_chat_template(settings):
    cfg = settings([pair([user("1+2")], [assistant("3")], [assistant("4")])])
    with pytest.raises(UserError, match=r"line 1: a list of messages needs .*chat template"):
        check_data(cfg)


@pytest.mark.parametrize(
    "line, message",
    [
        (pair([user("1")], [assistant("3")], [assistant("3")]), "the sides are equal"),
        (pair([user("1")], [assistant(" ")], [assistant("3")]), "'chosen' is empty"),
        (pair([user("1")], [user("2")], [assistant("3")]), "a side is not one message of the ass"),
        (pair([user("1")], TURNS[:2], [assistant("3")]), "a side is not one message of the ass"),
        (pair([assistant("1")], [assistant("2")], [assistant("3")]), "the conversation before the"),
        (pair(None, [assistant("2")], [assistant("3")]), "the conversation before the sides is m"),
        (pair("1+1", [user("1"), assistant("2")], [user("1"), assistant("3")]), "the prompt is"),
        (pair([user("1")], [assistant(None)], [assistant("3")]), "'chosen', message 1: 'cont"),
        (pair([{"role": "king", "content": "1"}], "2", "3"), "'prompt', message 1: the role"),
        (pair([user("1"), "x"], "2", "3"), "'prompt', message 2: this is text, not an object"),
        (pair([user("1")], 2, "3"), "'chosen' is no list of messages"),
        (pair([user("1")], [], "3"), "'chosen' is no list of messages"),
    ],
)  # fmt: skip
def test_bad_conversations_are_a_sentence_or_are_counted(settings, line, message):
    good = [pair([user("1")], "2", "3"), pair([user("3")], "2", "3")]
    with pytest.raises(UserError, match=rf"pairs\.jsonl, line 2: ({message}).*skip_bad=True"):
        load(settings([good[0], line, good[1]]))
    usable, left_out = preference_files.read(
        settings([good[0], line, good[1]], skip_bad=True).algorithm
    )
    assert len(usable) == 2 and len(left_out) == 1


def test_conversations_in_tfds():
    """TFDS makes an object of two arrays of a sequence of objects."""
    turns = {"role": np.array([b"user"], object), "content": np.array([b"1+2"], object)}
    side = {"role": np.array([b"assistant"], object), "content": np.array(["3\u00e9".encode()])}
    read = conversations.as_prompt({"prompt": turns, "chosen": side, "rejected": "4"},
                                   preference_files.PAIR_KEYS)  # fmt: skip
    assert read["prompt"] == (("user", "1+2"),)
    assert (read["chosen"], read["rejected"]) == ("3é", "4")


def test_pairs_without_a_prompt_say_what_to_do(settings):
    pairs = [{"chosen": "1+2\n3", "rejected": "1+2\n4"}]
    with pytest.raises(UserError, match=r"line 1: .*'prompt' is missing: .*whole_text=True"):
        load(settings(pairs))
    with pytest.raises(
        UserError, match="line 1: the key 'completion' is missing; needed: prompt, "
    ):
        load(settings(PAIRS, preference="kto"))


def test_sides_that_repeat_the_prompt_are_counted(settings):
    assert check_data(settings(PAIRS)) == []
    assert check_data(settings(WHOLE, whole_text=True)) == []
    [warning] = check_data(settings([*WHOLE[:2], PAIRS[2]]))
    assert "2 of 3 completions repeat their prompt" in warning and "whole_text=True" in warning
    whole = [v | {"completion": v["prompt"] + v["completion"]} for v in VERDICTS]
    [warning] = check_data(settings([*whole[:4], VERDICTS[4]], preference="kto"))
    assert "4 of 5 completions repeat their prompt" in warning


def test_verdicts_of_one_kind_are_named(settings):
    assert check_data(settings(VERDICTS, preference="kto")) == []
    for label in (True, False):
        alike = [verdict | {"label": label} for verdict in VERDICTS]
        [warning] = check_data(settings(alike, preference="kto"))
        assert f"all 5 labels are {str(label).lower()}" in warning


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", ["dpo", "kto"])
def test_updates_of_a_model_from_its_own_reference(tiny, settings, preference):
    """ln 2 (KTO: a half) at step 0, and then it falls.

    The references are of the same model, computed one pair a row.
    """
    model_cfg, params = tiny
    is_kto = preference == "kto"
    cfg = settings(VERDICTS if is_kto else PAIRS, preference=preference, beta=0.5)
    cfg.rounds.update({"updates": 7, "growth": 1.0})
    policy = Policy(params=params, model_cfg=model_cfg, mesh=None, batch_size=8, max_length=48)
    roll = scripted.rollout({}, policy=policy)
    result = dpo.collect(roll, [], dpo.init_memory(cfg, 9), 1, cfg)
    rows = result.rows
    assert (result.memory < -1).all() and DPO.num_updates(3, len(rows), cfg) == 7
    batch = jax.tree.map(jnp.asarray, packing.pack(rows, multiple=2, length=48))
    loss = dpo.loss(logprobs.compiled_token_logprobs(params, batch, model_cfg), batch, cfg)
    start = 0.5 if is_kto else math.log(2)
    assert float(loss.weight) == len(rows)
    assert float(loss.total / loss.weight) == pytest.approx(start, abs=1e-5)

    optimizer = optim.make(cfg.optim)
    step = train_step.make_train_step(DPO, model_cfg, optimizer, cfg)
    train_state = jax.jit(lambda p: state.fresh(p, optimizer))(params)
    totals, margins = [], []
    for _ in range(6):
        micro_batches = {key: value[None] for key, value in batch.items()}
        train_state, metrics = step(train_state, micro_batches, np.float32(0.01))
        totals.append(float(metrics["loss"]))
        margins.append(float(metrics["reward" if is_kto else "margin"]))
    assert totals[0] == pytest.approx(start, abs=1e-5) and totals[-1] < 0.7 * start
    assert abs(margins[0]) < 1e-4
    if not is_kto:
        assert margins[-1] > 0.5 and float(metrics["accuracy"]) == 1


def test_the_pairs_of_the_config():
    """Right beside wrong, in the task's own words."""
    cfg = dpo_jsonl.get_config()
    assert Path(cfg.algorithm.pairs).is_file()
    pairs = load(cfg)
    assert len(pairs) == 64
    for p in pairs:
        a, b = p.prompt.split("+")
        e = Example(id=0, question=p.prompt.strip(), answer=str(int(a) + int(b)))
        assert p.prompt == scripted.prompt(e)
        verdicts = [graded.verdict(TASK, side, e) for side in p.sides]
        assert verdicts == [CORRECT, WRONG]
        assert addition.wrong_line(p.sides[0], e) is None
