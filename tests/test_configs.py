"""Every experiment: the keys of what it names, locked, and fit for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from reasoning_jax import algorithms, config, default, experiment, graders, tasks, tokenizer
from reasoning_jax.model import presets
from reasoning_jax.sampling import methods
from reasoning_jax.tasks import Example
from reasoning_jax.training import optim
from reasoning_jax.workdir import flat

FOLDER = Path(__file__).resolve().parent.parent / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
MORE = {
    "babi": ["trice", "paths", "three_facts,trice,smoke"],
    "sft_addition": ["given"],
    "coconut_graphs": [
        "learned",
        "dropped",
        "at_once",
        "cot",
        "direct,smoke",
        "walk,smoke",
        "prosqa_symbols",
        "walk,prosqa_symbols",
        "cot,prosqa_symbols,smoke",
    ],
    "coconut_gsm8k": ["cot", "direct", "cot,smoke"],
    "filler_tokens": [
        "fillers",
        "immediate",
        "worked,smoke",
        "finetuned",
        "three_sum",
        "worked,three_sum,smoke",
    ],
    "rejection_addition": ["rft", "four_particles", "four_particles,smoke"],
    "trice_addition": ["online", "online,smoke"],
    "trice_bbh": ["navigate", "object_counting,smoke"],
    "sector_addition": ["none", "vote"],
    "irpo_addition": ["dpo", "nll,smoke"],
    "quiet_star_gsm8k": ["plain", "plain,smoke"],
    "quiet_star_text": ["plain", "plain,smoke", "walk", "walk,smoke"],
    "self_rewarding_cards": ["seeds", "oracle", "positives", "seeds,smoke"],
    "meta_rewarding_cards": ["seeds", "long", "actor,smoke"],
    "taught_evaluator_cards": ["seeds", "verdict_only", "planner", "planner_sft,smoke"],
    "thought_preference_cards": ["seeds", "direct", "direct,smoke"],
    "grpo_addition": ["dapo", "dapo,smoke"],
    "published_gsm8k": ["star", "dpo,prompt", "grpo,full,smoke"],
    "s2a_distractors": ["distracted", "distracted,smoke"],
    "smollm2_gym": ["trice", "dpo", "grpo,smoke"],
}
CASES = [(name, arg) for name in NAMES for arg in ("", "smoke", *MORE.get(name, ()))]


@pytest.fixture(autouse=True)
def chat_model(monkeypatch):
    """The weights that smollm2_gym.py looks for among the packages; no test here reads them."""
    monkeypatch.setenv("SMOLLM2", "SmolLM2.gguf")


def load(name, arg=""):
    return config.load(f"{FOLDER / name}.py:{arg}")


def test_the_experiments_are_seen():
    assert {"star_addition", "star_gsm8k", "wake_sleep_addition"} <= set(NAMES)
    assert set(MORE) <= set(NAMES)
    trained = {load(name, arg).algorithm.name for name, arg in CASES}
    assert trained == set(algorithms.names())  # there is one for each method


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_a_config_is_locked_and_adds_no_keys(name, arg):
    cfg = load(name, arg)
    made = default.get_config(
        algorithm=cfg.algorithm.name,
        task=cfg.task.name,
        grader=cfg.grader.name,
        base=cfg.base.algorithm.name,
        tuned=cfg.tune.name,
        forward=cfg.forward.name,
        system=cfg.system.name,
    )
    assert set(flat(cfg.to_dict())) == set(flat(made.to_dict()))
    assert cfg.is_locked
    for section in ("model", "task", "algorithm", "grader", "rounds"):
        assert cfg[section].is_locked
    with pytest.raises(AttributeError, match="learning_rat"):
        cfg.optim.learning_rat = 1.0


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_what_a_config_names_is_there(name, arg):
    """Task, grader, method, model, sampler and optimiser can be made from it; sizes agree."""
    cfg = load(name, arg)
    task = tasks.get(cfg.task.name)
    graders.make(cfg, task)
    algorithms.get(cfg.algorithm.name).check(cfg)
    presets.model_config(cfg.model, vocab_size=32)
    optim.make(cfg.optim)
    methods.make_method(cfg.sampling.temperature, cfg.sampling.top_k, cfg.sampling.top_p)
    experiment.check(cfg)
    assert cfg.batch_size % cfg.micro_batches == 0
    assert cfg.sampling.max_new_tokens < cfg.sequence_length


# The form of sector's sums has no workings; its room is tested in test_sector.py.
SCRATCHPADS = [case for case in CASES if "addition" in case[0] and "sector" not in case[0]]


@pytest.mark.parametrize(("name", "arg"), SCRATCHPADS)
def test_the_longest_sums_can_be_right(name, arg):
    """Their workings fit into what is sampled, and into a sequence, with the hint too."""
    cfg = load(name, arg)
    task = tasks.get("addition")
    assert cfg.base.num_updates == 0 or sum(cfg.task.given) > 0
    assert len(cfg.task.given) <= cfg.task.max_digits
    tok = tokenizer.make(cfg.tokenizer, task.ALPHABET, "addition")
    longest = task.load(cfg.task, "test")[-1]
    a, b = map(int, longest.question.split("+"))
    worked = Example(
        id=0,
        question=longest.question,
        answer=longest.answer,
        rationale=tasks.addition.scratchpad(a, b),
    )
    completion = len(tok.encode(task.target(worked))) + 1
    assert completion <= cfg.sampling.max_new_tokens
    hinted = 1 + len(tok.encode(task.prompt(worked, cfg.task, hint=worked.answer)))
    assert hinted + cfg.sampling.max_new_tokens <= cfg.sequence_length


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_opens_with_its_command(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"--config=configs/{name}.py" in text and "Arguments:" in text
