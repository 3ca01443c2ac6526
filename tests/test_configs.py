"""Every experiment: built from the default's keys, locked, and fit for what its keys name."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from configs import default
from reasoning_jax import algorithms, tasks, tokenizer
from reasoning_jax.training import optim
from reasoning_jax.model import presets
from reasoning_jax.sampling import methods

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
CASES = [(name, arg) for name in NAMES for arg in ("", "smoke")]


def keys(section: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in section.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


@pytest.mark.parametrize("name, arg", CASES)
def test_a_config_is_locked_and_adds_no_keys(name, arg):
    cfg = importlib.import_module(f"configs.{name}").get_config(arg)
    assert keys(cfg.to_dict()) <= keys(default.get_config().to_dict())
    assert cfg.is_locked and cfg.model.is_locked and cfg.task.is_locked
    with pytest.raises(AttributeError, match="learning_rat"):
        cfg.optim.learning_rat = 1.0


@pytest.mark.parametrize("name, arg", CASES)
def test_what_a_config_names_is_there(name, arg):
    """Task, method, model, sampler and optimiser can be made from it; sizes agree with each other."""
    cfg = importlib.import_module(f"configs.{name}").get_config(arg)
    tasks.get(cfg.task.name), algorithms.get(cfg.algorithm.name)
    presets.model_config(cfg.model, vocab_size=32), optim.make(cfg.optim)
    methods.make_rule(cfg.sampling.temperature, cfg.sampling.top_k, cfg.sampling.top_p)
    assert (
        cfg.batch_size % cfg.micro_batches == 0
        and cfg.sampling.max_new_tokens < cfg.sequence_length
    )
    if cfg.task.name == "addition":
        assert cfg.base.num_updates == 0 or sum(cfg.task.given) > 0
        assert len(cfg.task.given) <= cfg.task.max_digits
        tok, task = tokenizer.make(cfg.tokenizer, tasks.get("addition")), tasks.get("addition")
        longest = task.load(cfg.task, "test")[-1]
        worked = tasks.Example(
            0,
            longest.question,
            longest.answer,
            task.scratchpad(*map(int, longest.question.split("+"))),
        )
        completion = len(tok.encode(task.target(worked))) + 1
        assert completion <= cfg.sampling.max_new_tokens  # or the longest sums could never be right
        hinted = 1 + len(tok.encode(task.prompt(worked, hint=worked.answer)))
        assert hinted + cfg.sampling.max_new_tokens <= cfg.sequence_length


@pytest.mark.parametrize("name", [n for n in NAMES if n != "default"])
def test_an_experiment_opens_with_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    assert f"--config=configs/{name}.py" in inspect.getdoc(module)
