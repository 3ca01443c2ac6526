"""Runs that an older version began: their configs are read as this version's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasoning_jax import algorithms, config, default, legacy, overrides, starting
from reasoning_jax.errors import UserError
from reasoning_jax.workdir import flat

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

# The default of the older version, as its config.json held it: every method's keys.
OLD = {
    "seed": 0,
    "batch_size": 32,
    "micro_batches": 1,
    "sequence_length": 256,
    "log_every": 10,
    "model": {
        "preset": "0.4m",
        "vocab_size": None,
        "num_layers": None,
        "width": None,
        "num_heads": None,
        "num_kv_heads": None,
        "head_dim": None,
        "mlp_dim": None,
        "window": None,
        "rope_theta": None,
        "tied": None,
        "dtype": "float32",
        "remat": "none",
        "attention": "auto",
    },
    "tokenizer": {"name": "characters", "path": ""},
    "task": {
        "name": "addition",
        "seed": 0,
        "max_digits": 5,
        "num_train": 50000,
        "num_eval": 500,
        "given": [0],
        "path": "",
        "form": "boolean_expressions",
        "source": "jsonl",
        "calculator": True,
        "shots": "",
    },
    "base": {
        "init_from": "",
        "split": "given",
        "num_updates": 0,
        "learning_rate": 0.002,
        "hinted": 0.25,
    },
    "algorithm": {
        "name": "star",
        "split": "train",
        "num_rounds": 16,
        "examples_per_round": 0,
        "online": False,
        "restart": True,
        "rationalize": True,
        "direct": False,
        "control_variate": "history",
        "refresh": 0,
        "stochastic": False,
        "subsample": 0,
        "max_age": 0,
        "measure_every": 10,
        "num_samples": 4,
        "max_kept": 0,
        "distinct": False,
        "per_question": False,
        "kind": "grpo",
        "groups": 0,
        "epochs": 1,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl": 0.0,
        "kl_kind": "k3",
        "format_reward": 0.0,
        "overlong": 0.0,
        "overlong_tokens": 32,
        "preference": "dpo",
        "beta": 0.1,
        "label_smoothing": 0.0,
        "dpo_weight": 1.0,
        "alpha": 0.0,
        "pairs": "",
        "whole_text": False,
        "skip_bad": False,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
        "pairs_per_question": 10,
        "verifier_updates": 200,
        "verifier_learning_rate": 0.0001,
        "temperatures": [],
        "gold": True,
        "schedule": "exponential",
        "start_updates": 40,
        "growth": 1.2,
        "increment": 20,
        "min_kept_rows": 100,
        "patience": 4,
        "min_gain": 0.002,
    },
    "sampling": {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 128,
        "batch_size": 256,
    },
    "optim": {
        "learning_rate": 0.001,
        "warmup": 20,
        "decay": 0.0,
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-08,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "max_skipped": 5,
    },
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sampling_tensor": 0},
    "checkpoint": {"every": 200, "keep": 2},
    "eval": {
        "split": "validation",
        "every": 1,
        "num_examples": 0,
        "num_test": 0,
        "test_every": 4,
    },
}
# What the older version's experiments changed in it, with their smoke tests' sizes.
SMALL_ADDITION = {
    "batch_size": 16,
    "sequence_length": 128,
    "model.preset": "tiny",
    "task.max_digits": 2,
    "task.num_eval": 50,
    "task.given": [60, 300],
    "base.num_updates": 100,
    "base.learning_rate": 0.01,
    "sampling.max_new_tokens": 48,
    "sampling.batch_size": 64,
    "optim.decay": 0.2,
    "checkpoint.every": 5,
    "eval.num_examples": 500,
}
EXPERIMENTS = {
    "star_addition.py:smoke": SMALL_ADDITION
    | {
        "algorithm.num_rounds": 2,
        "algorithm.examples_per_round": 128,
        "algorithm.schedule": "linear",
        "algorithm.start_updates": 10,
        "algorithm.min_kept_rows": 10,
    },
    "sft_addition.py:direct,smoke": SMALL_ADDITION
    | {
        "base.num_updates": 0,
        "algorithm.name": "sft",
        "algorithm.num_rounds": 1,
        "algorithm.direct": True,
        "algorithm.schedule": "linear",
        "algorithm.start_updates": 20,
        "algorithm.min_kept_rows": 10,
    },
    "grpo_addition.py:dapo,smoke": SMALL_ADDITION
    | {
        "log_every": 1,
        "task.num_train": 64,
        "algorithm.name": "policy_gradient",
        "algorithm.num_rounds": 8,
        "algorithm.examples_per_round": 8,
        "algorithm.online": True,
        "algorithm.restart": False,
        "algorithm.max_age": 50,
        "algorithm.measure_every": 2,
        "algorithm.num_samples": 8,
        "algorithm.kind": "dapo",
        "algorithm.groups": 2,
        "algorithm.clip_high": 0.28,
        "algorithm.overlong": 0.5,
        "algorithm.overlong_tokens": 16,
        "algorithm.schedule": "linear",
        "algorithm.start_updates": 10,
        "algorithm.increment": 0,
        "algorithm.min_kept_rows": 0,
        "algorithm.patience": 0,
        "sampling.temperature": 1.0,
        "optim.learning_rate": 0.0003,
        "optim.decay": 0.5,
        "eval.every": 4,
        "eval.test_every": 100,
    },
    "trice_bbh.py:navigate,smoke": {
        "batch_size": 16,
        "sequence_length": 128,
        "log_every": 1,
        "model.preset": "tiny",
        "task.name": "bbh",
        "task.num_train": 64,
        "task.num_eval": 16,
        "task.given": [40, 40],
        "task.form": "navigate",
        "base.num_updates": 60,
        "base.learning_rate": 0.01,
        "algorithm.name": "trice",
        "algorithm.num_rounds": 8,
        "algorithm.examples_per_round": 16,
        "algorithm.online": True,
        "algorithm.restart": False,
        "algorithm.max_age": 50,
        "algorithm.measure_every": 2,
        "algorithm.min_kept_rows": 0,
        "algorithm.patience": 0,
        "sampling.temperature": 1.0,
        "sampling.max_new_tokens": 32,
        "sampling.batch_size": 64,
        "optim.decay": 0.5,
        "optim.clip_norm": 0.0,
        "eval.every": 4,
        "eval.num_test": 32,
        "eval.test_every": 25,
    },
}


def old_config(changes):
    """The older version's config.json with these keys changed."""
    old = json.loads(json.dumps(OLD))
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = old
        for part in sections:
            section = section[part]
        assert name in section
        section[name] = value
    return old


@pytest.mark.parametrize("argument", EXPERIMENTS)
def test_an_experiment_of_the_older_version_is_that_of_this_one(argument, tmp_path):
    old = old_config(EXPERIMENTS[argument])
    (tmp_path / "config.json").write_text(json.dumps(old))
    cfg = config.rebuild(tmp_path)
    assert flat(cfg.to_dict()) == flat(config.load(str(CONFIGS / argument)).to_dict())
    assert cfg.is_locked
    assert old == old_config(EXPERIMENTS[argument])  # what was read is left as it is


def test_a_config_of_this_version_stays_as_it_is():
    saved = config.as_dict(config.load(str(CONFIGS / "star_addition.py:smoke")))
    assert legacy.upgrade(saved) == saved


@pytest.mark.parametrize(
    ("changes", "count", "updates"),
    [
        # The number of updates in rounds 1, 2 and 3.
        ({}, 16, [40, 48, 57]),
        ({"algorithm.schedule": "linear"}, 16, [40, 60, 80]),
        ({"algorithm.name": "dpo"}, 16, [40, 40, 40]),
        ({"algorithm.name": "trice", "algorithm.online": True}, 16, [1, 1, 1]),
        (
            {
                "algorithm.name": "policy_gradient",
                "algorithm.online": True,
                "algorithm.epochs": 3,
                "algorithm.num_rounds": 5,
            },
            5,
            [3, 3, 3],
        ),
    ],
)
def test_the_schedule_is_the_older_versions(changes, count, updates):
    cfg = config.from_saved(old_config(changes), "config.json")
    algorithm = algorithms.get(cfg.algorithm.name)
    assert cfg.rounds.count == count
    assert [algorithm.num_updates(n, 1000, cfg) for n in (1, 2, 3)] == updates


def test_a_run_of_the_older_version_goes_on_with_its_config_alone(tmp_path):
    """Its config.json is then this version's."""
    argument = "star_addition.py:smoke"
    (tmp_path / "rounds").mkdir()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old_config(EXPERIMENTS[argument])))
    cfg = config.load(str(CONFIGS / argument))
    other = config.load(str(CONFIGS / argument))
    overrides.change(other, {"rounds.updates": 11})
    with pytest.raises(UserError, match="rounds.updates was 10 and is now 11"):
        starting._claim(other, tmp_path)
    overrides.change(cfg, {"rounds.count": 3})  # it may be longer
    starting._claim(cfg, tmp_path)
    assert config.rebuild(tmp_path) == cfg
    assert json.loads(path.read_text())["rounds"]["count"] == 3


def test_a_key_that_has_another_name_now():
    cfg = config.as_dict(default.get_config(algorithm="sector", task="addition"))
    old = json.loads(json.dumps(cfg))
    old["algorithm"]["tries"] = old["algorithm"].pop("max_failed_rounds")
    assert legacy.upgrade(old) == legacy.upgrade(cfg) == cfg


def test_a_key_that_no_version_had_is_named(tmp_path):
    old = old_config({})
    old["optim"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"momentum=0\.9 is not of a config of this version"):
        config.from_saved(old, tmp_path / "config.json")


def test_every_key_that_moved_was_the_older_versions():
    assert set(legacy.MOVED) <= set(flat(OLD))


def test_a_run_from_before_published_models_goes_on(tmp_path):
    """The default tokenizer had another name; another that was chosen is as it was."""
    cfg = config.load(str(CONFIGS / "star_addition.py:smoke"))
    (tmp_path / "rounds").mkdir()
    for name, now in (("characters", "auto"), ("bytes", "bytes")):
        saved = config.as_dict(cfg)
        saved["tokenizer"] = {"name": name, "path": ""}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        assert config.rebuild(tmp_path).tokenizer.name == now
        overrides.change(cfg, {"tokenizer.name": now})
        starting._claim(cfg, tmp_path)
    explicit = config.as_dict(cfg) | {
        "tokenizer": {"name": "characters", "path": "", "chat": False}
    }
    assert legacy.upgrade(explicit) == explicit
