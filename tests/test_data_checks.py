"""What a run says of its data before anything is trained, and before it claims its folder."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest
import scripted

from reasoning_jax import algorithms, data_checks, default, experiment, loop, overrides
from reasoning_jax.errors import UserError
from reasoning_jax.starting import base_config
from reasoning_jax.tasks import gsm8k

GOOD = {"question": "1 + 1?", "answer": "2.\n#### 2"}
LONG = {"question": "1 + 1" * 20, "answer": "2.\n#### 2"}  # 109 tokens with its prompt
FOREIGN = {"question": "1 + 1 €?", "answer": "2.\n#### 2"}
WORDY = {"question": "1 + 1?", "answer": "so " * 40 + "\n#### 2"}


@pytest.fixture(autouse=True)
def mesh_put_back():
    before = jax.sharding.get_mesh()
    yield
    jax.set_mesh(before)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A function of records: the config of STaR on GSM8K files with them.

    The train file is ``train``, then 2 records of validation, the last of them ``validation``.
    """
    monkeypatch.setattr(gsm8k, "VALIDATION", 2)
    last_two = slice(-2, None)
    splits = {"train": slice(-2), "given": slice(-2), "validation": last_two, "test": slice(None)}
    monkeypatch.setattr(gsm8k, "SPLITS", splits)

    def of(train=(GOOD, GOOD), validation=GOOD, test=(GOOD,), **changes):
        for name, records in (("train", [*train, GOOD, validation]), ("test", test)):
            lines = [json.dumps(record) + "\n" for record in records]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        cfg = default.get_config("star", "gsm8k")
        keys = {
            "task.path": str(tmp_path),
            "tokenizer.name": "bytes",
            "model.preset": "tiny",
            "sequence_length": 100,
            "sampling.max_new_tokens": 60,
            "batch_size": 8,
            "base.num_updates": 1,
            "rounds.count": 1,
        }
        overrides.change(cfg, keys | changes)
        return cfg

    return of


def check(cfg):
    """As ``starting.start`` does."""
    exp = experiment.make(cfg)
    data_checks.check_shots(exp)
    data_checks.check_evaluations(exp)
    base = base_config(cfg)
    for c in (base, cfg):
        method = algorithms.get(c.algorithm.name)
        data_checks.check_method(exp, method, exp.load(c.rounds.split), c)


def refused(cfg) -> str:
    with pytest.raises(UserError) as error:
        check(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_data_is_accepted_without_a_word(settings, capsys):
    check(settings())
    assert capsys.readouterr().err == ""


def test_questions_without_room_for_an_answer_are_named(settings, tmp_path):
    rest = "config.sampling.max_new_tokens 60 exceed config.sequence_length 100."
    line = refused(settings(train=(GOOD, LONG)))
    where = f"train split, {tmp_path / 'train.jsonl'}, line 2"
    assert line == f"{where}: the prompt with its hint of 111 tokens and {rest}"
    line = refused(settings(validation=LONG))
    assert line.startswith(f"validation split, {tmp_path / 'train.jsonl'}, line 4: the prompt of ")
    line = refused(settings(test=(GOOD, GOOD, LONG)))
    assert line.startswith(f"test split, {tmp_path / 'test.jsonl'}, line 3: the prompt of 107")


def test_only_what_is_evaluated_is_checked(settings):
    check(settings(test=(GOOD, LONG, GOOD), **{"eval.num_test": 2}))  # the first and the last
    assert "line 2" in refused(settings(test=(GOOD, LONG, GOOD), **{"eval.num_test": 3}))
    check(settings(validation=LONG, **{"eval.num_examples": 1}))
    assert refused(settings(test=(), train=(GOOD,))).endswith("test.jsonl: the file is empty.")


def test_a_hint_counts_where_the_method_gives_one(settings):
    """The hint " (2)" is 4 tokens: the prompt fits without it."""
    exact = {"question": "x" * 31, "answer": "2.\n#### 2"}  # 38 tokens and 60 are 98
    changes = {"rounds.split": "train", "base.algorithm.hinted": 0.0}
    assert "with its hint of 42 tokens" in refused(settings(train=(exact, GOOD), **changes))
    check(settings(train=(exact, GOOD), **changes | {"algorithm.rationalize": False}))


@pytest.mark.parametrize(
    ("name", "hinted"),
    [
        *((name, True) for name in ("star", "trice", "wake_sleep")),
        *((name, False) for name in ("irpo", "policy_gradient", "rejection", "vstar")),
    ],
)
def test_methods_check_the_prompts_that_they_ask(name, hinted):
    """One token a character, and the start token."""
    method = algorithms.get(name)

    def check(room):
        roll = scripted.rollout({}, max_length=64 + room)
        return method.check_data(roll, [scripted.example(1)], scripted.config(name))

    needed = len("17+26\n43\n") + 1 if hinted else len("17+26\n") + 1
    assert check(needed) == []
    with pytest.raises(UserError, match=f"of {needed} tokens and config.sampling.max_new_tokens"):
        check(needed - 1)


def test_rationales_that_a_method_would_take_are_counted():
    examples = [scripted.example(1, given=True), scripted.example(2)]
    for name in ("irpo", "vstar"):
        check = algorithms.get(name).check_data
        cfg = scripted.config(name)
        assert check(scripted.rollout({}), examples, cfg) == []
        short = scripted.rollout({}, max_length=40, max_new_tokens=20)
        [warning] = check(short, examples, cfg)
        assert warning.startswith("1 of 1 worked examples are longer")


def test_questions_without_tokens_are_named(settings, tmp_path):
    words = {"tokenizer.name": "sentencepiece", "tokenizer.path": str(tmp_path / "absent")}
    assert "absent: there is no such file" in refused(settings(**words))
    cfg = settings(test=(GOOD, FOREIGN))
    exp = experiment.make(cfg)
    letters = experiment.tokenizer.Characters([chr(n) for n in range(10, 127)])
    exp = dataclasses.replace(exp, tokenizer=letters)
    with pytest.raises(UserError, match=r"^test split, .*test\.jsonl, line 2: .*'€' is not in the"):
        data_checks.check_evaluations(exp)


def test_worked_examples_that_are_too_long_are_counted(settings, capsys):
    check(settings(train=(GOOD, WORDY)))
    err = capsys.readouterr().err
    assert err.startswith("WARNING: sft: 1 of 3 worked examples are longer than config.sequence_le")
    assert err.count("\n") == 1
    line = refused(settings(train=(WORDY, WORDY)))
    assert line.startswith(
        "config.sequence_length: 100 tokens have no room for any of the 3 worked"
    )


def test_rounds_of_more_examples_than_there_are(settings):
    check(settings(**{"rounds.examples": 2}))
    line = refused(settings(**{"rounds.examples": 3}))
    assert line.startswith("config.rounds.examples: 3 are more than the 2 examples of the split tr")


def test_a_shot_without_tokens_is_named(settings, tmp_path):
    path = tmp_path / "shots.txt"
    path.write_text("Q: 1 + 1?\nA: It is 2.\n#### 2\n\nQ: 1 € + 1 €?\nA: It is 2.\n#### 2\n")
    exp = experiment.make(settings(**{"task.shots": str(path)}))
    letters = experiment.tokenizer.Characters([chr(n) for n in range(10, 127)])
    exp = dataclasses.replace(exp, tokenizer=letters)
    with pytest.raises(UserError, match=r"^config\.task\.shots, .*shots\.txt, line 5: .*'€'"):
        data_checks.check_shots(exp)
    path.write_text(" \n")
    assert "shots.txt: the file is empty" in refused(settings(**{"task.shots": str(path)}))


@pytest.mark.parametrize("changes", [{"train": (GOOD, LONG)}, {"test": (LONG,)}])
def test_a_folder_is_not_claimed_by_a_config_that_cannot_run(settings, tmp_path, changes):
    with pytest.raises(UserError, match="exceed"):
        list(loop.events(settings(**changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
