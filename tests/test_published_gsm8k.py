"""The config that a published model's folder is given to, on random models and real questions."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import jax
import pytest
from compiling import XLA_FLAGS
from conftest import ROOT
from golden import make_models
from published import chat_model, gsm8k_of_one_length

import reasoning_jax as rj
from reasoning_jax import algorithms, experiment, pretrained
from reasoning_jax.model.parameters import BLOCK_MATRICES
from reasoning_jax.pretrained import peft

CONFIG = ROOT / "configs" / "published_gsm8k.py"
METHODS = ("trice", "star", "dpo", "grpo")
TUNED = ("lora", "prompt", "full")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("model") / "qwen2")


@pytest.fixture(scope="module")
def shard(data_dir, tmp_path_factory):
    return gsm8k_of_one_length(data_dir / "gsm8k", tmp_path_factory.mktemp("data") / "gsm8k")


def load(arg, **changes):
    return rj.load_config(f"{CONFIG}:{arg}", **changes)


@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_way_of_tuning(method, tuned, model):
    cfg = load(f"{method},{tuned}", **{"model.source": str(model)})
    assert cfg.tune.name == tuned
    algorithms.get(cfg.algorithm.name).check(cfg)
    exp = experiment.make(cfg)
    assert exp.mesh.shape["fsdp"] == jax.device_count()  # the model is split over what there is
    trained = exp.abstract_state().params
    assert set(trained) >= {"lora": {"lora"}, "prompt": {"soft_prompt"}, "full": {"layers"}}[tuned]
    frozen = exp.abstract_frozen()
    assert {x.dtype.name for x in jax.tree.leaves(trained)} == {"float32"}
    assert bool(frozen) == (tuned != "full")


@pytest.mark.parametrize("arg", ["", "prompt", "full", "smoke"])
def test_without_a_model_one_sentence_says_what_to_set(arg):
    with pytest.raises(rj.UserError, match=r"^config\.model\.source: set it to the folder"):
        experiment.make(load(arg))


def test_other_configs_with_a_model_and_a_lora(tmp_path):
    """A config that spells in bytes says so, rather than to feed bytes to a published model."""
    model = chat_model(tmp_path / "model")
    make_models.write("qwen2", model, vocab_size=320)
    changes = {"model.source": str(model), "tune": "lora"}
    cfg = rj.load_config(f"{ROOT / 'configs' / 'star_gsm8k.py'}:smoke", **changes)
    with pytest.raises(rj.UserError, match=r"bytes has 259 tokens, the model 320; set auto"):
        experiment.make(cfg)
    cfg.tokenizer.name = "auto"
    exp = experiment.make(cfg)
    assert exp.tokenizer.vocab_size == 258 and set(exp.abstract_state().params) == {"lora"}


def test_learned_positions_bound_the_sequences(tmp_path):
    changes = {"model.source": str(chat_model(tmp_path / "gpt2", "gpt2"))}
    with pytest.raises(rj.UserError, match=r"sequence_length: 1024, but the model has 128 places"):
        experiment.make(load("", **changes))
    changes |= {"sequence_length": 128, "sampling.max_new_tokens": 16}
    assert experiment.make(load("", **changes)).model_cfg.max_positions == 128


def test_smoke_from_the_folder_to_an_adapter(model, shard, tmp_path):
    """The command as a user types it, on one device: two rounds, and an adapter as PEFT reads it.

    A random model finds no answer, so that what is trained on are worked solutions.
    """
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "reasoning_jax.main", f"--config={CONFIG}:smoke"]
    command += [f"--workdir={run_dir}", f"--config.model.source={model}"]
    command += [f"--config.task.path={shard}"]
    env = os.environ | {"XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = rj.open(run_dir)
    losses = [line["update/loss"] for line in run.metrics if line["phase"] == "update"]
    assert losses and all(map(math.isfinite, losses))
    assert {line["round"] for line in run.metrics if line["phase"] == "collect"} == {0, 1, 2}
    assert run.export(tmp_path / "adapter").startswith("a PEFT adapter")
    source = pretrained.open(model)
    adapter = peft.read(tmp_path / "adapter", source.model_config(), source.family)
    assert set(adapter.lora) == {f"{name}_{x}" for name in BLOCK_MATRICES for x in "ab"}
