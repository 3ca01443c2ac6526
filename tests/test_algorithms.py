"""The contract of methods: every file fills it, and its loss reads what it says it reads."""

from __future__ import annotations

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from reasoning_jax import algorithms, contracts, default, overrides
from reasoning_jax.algorithms import Algorithm, Programs
from reasoning_jax.errors import UserError
from reasoning_jax.model import logprobs
from reasoning_jax.training.losses import Loss

TOKEN_ARRAYS = ("tokens", "positions", "segment_ids")

# What a method's check asks for, where the default of every method is something else.
NEEDED = {
    "dpo": {},
    "eval_planner": {"rounds.restart": False},
    "irpo": {"rounds.restart": False, "sampling.temperature": 0.7},
    "meta_rewarding": {"rounds.restart": False, "sampling.temperature": 1.0},
    "policy_gradient": {"rounds.restart": False, "sampling.temperature": 1.0},
    "rejection": {"sampling.temperature": 0.7},
    "sector": {
        "task.form": "simplify",
        "rounds.examples": 100,
        "rounds.patience": 0,
        "rounds.restart": False,
    },
    "self_rewarding": {"rounds.restart": False, "sampling.temperature": 1.0},
    "sft": {},
    "star": {},
    "taught_evaluator": {},
    "thought_preference": {"rounds.restart": False, "sampling.temperature": 1.0},
    "trice": {
        "rounds.online": True,
        "rounds.restart": False,
        "rounds.updates": 1,
        "rounds.growth": 1.0,
        "sampling.temperature": 1.0,
    },
    "vstar": {"rounds.patience": 0, "sampling.temperature": 1.0},
    "wake_sleep": {"sampling.temperature": 1.0},
}

# Settings of a method under which its batches hold other arrays.
VARIANTS = [
    *((name, {}) for name in NEEDED),
    ("dpo", {"algorithm.preference": "ipo"}),
    ("dpo", {"algorithm.preference": "kto"}),
    ("policy_gradient", {"algorithm.kl": 0.1}),
    ("policy_gradient", {"algorithm.kl": 0.1, "algorithm.kl_kind": "k2"}),
    (
        "policy_gradient",
        {"algorithm.kl": 0.1, "algorithm.kl_kind": "k1", "algorithm.kind": "rloo"},
    ),
    ("trice", {"algorithm.stochastic": True}),
]


def make_config(name, changes):
    cfg = default.get_config(algorithm=name)
    overrides.change(cfg, NEEDED[name] | changes)
    return cfg


# ---- every method --------------------------------------------------------------------------------


def test_the_methods():
    assert algorithms.names() == sorted(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
def test_a_method_fills_the_contract(name):
    algorithm = algorithms.get(name)
    assert algorithm.name == name
    assert dataclasses.is_dataclass(algorithm.Config)
    for required in (algorithm.collect, algorithm.loss, algorithm.check, algorithm.init_memory):
        assert callable(required)
    assert algorithm.BATCH and all(isinstance(key, str) for key in algorithm.BATCH)


@pytest.mark.parametrize("name", NEEDED)
def test_its_section_is_its_keys_with_their_defaults(name):
    cfg = default.get_config(algorithm=name)
    keys = dataclasses.fields(algorithms.get(name).Config)
    expected = {"name": name} | {key.name: key.default for key in keys}
    assert cfg.algorithm.to_dict() == expected
    with pytest.raises(AttributeError):
        cfg.algorithm.no_such_key = 1


@pytest.mark.parametrize("name, changes", VARIANTS)
def test_its_config_passes_its_check(name, changes):
    algorithms.get(name).check(make_config(name, changes))


@pytest.mark.parametrize("name", NEEDED)
def test_what_its_check_asks_for_is_needed(name):
    for key in NEEDED[name]:
        cfg = make_config(name, {})
        section, _, last = key.partition(".")
        cfg[section][last] = default.get_config(algorithm=name)[section][last]
        with pytest.raises(UserError, match=r"^config\.[^\n]*\.$"):
            algorithms.get(name).check(cfg)


def test_a_method_that_is_not_there():
    sentence = r"^config\.algorithm\.name: there is no algorithm 'stra'; they are .*sft.*star"
    with pytest.raises(UserError, match=sentence):
        algorithms.get("stra")


# ---- what its loss reads -------------------------------------------------------------------------


def abstract_batch(arrays):
    def dtype(name):
        return jnp.int32 if name in TOKEN_ARRAYS else jnp.float32

    names = (*TOKEN_ARRAYS, *arrays)
    return {name: jax.ShapeDtypeStruct((2, 8), dtype(name)) for name in names}


def trace_loss(algorithm, cfg, model_cfg, params, batch):
    """The shapes of what an update takes the gradient of."""

    def loss(params, batch):
        token_logprobs = logprobs.token_logprobs(params, batch, model_cfg)
        return algorithm.loss(token_logprobs, batch, cfg)

    return jax.eval_shape(loss, params, batch)


@pytest.mark.parametrize("name, changes", VARIANTS)
def test_the_loss_reads_exactly_what_programs_says(name, changes, tiny):
    model_cfg, params = tiny
    algorithm = algorithms.get(name)
    cfg = make_config(name, changes)
    updates = algorithm.programs_of(cfg).updates
    assert "" in updates
    batches = [abstract_batch(arrays) for arrays in updates.values()]
    for batch in batches:
        loss = trace_loss(algorithm, cfg, model_cfg, params, batch)
        assert isinstance(loss, Loss)
        numbers = (loss.total, loss.weight, *loss.means.values(), *loss.maxima.values())
        assert all(number.shape == () for number in numbers)
        for missing in batch:
            rest = {key: value for key, value in batch.items() if key != missing}
            if rest in batches:  # what is left is another kind of batch: it has a loss too
                trace_loss(algorithm, cfg, model_cfg, params, rest)
                continue
            with pytest.raises(KeyError, match=missing):
                trace_loss(algorithm, cfg, model_cfg, params, rest)


def test_the_usual_batch_is_that_of_the_contract():
    for name in NEEDED:
        algorithm = algorithms.get(name)
        assert algorithm.programs_of(make_config(name, {})).updates[""] == algorithm.BATCH


# ---- a method that is incomplete -----------------------------------------------------------------

WHOLE = """
import dataclasses

BATCH = ("weights",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    pass


def collect(rollout, examples, memory, round, cfg):
    return None


def loss(logprobs, batch, cfg):
    return None
"""


def module(source):
    made = types.ModuleType("reasoning_jax.algorithms.made_up")
    exec(source, vars(made))
    return made


def test_the_smallest_method():
    algorithm = contracts.fill(Algorithm, module(WHOLE))
    assert algorithm.name == "made_up" and algorithm.collect(1, 2, 3, 4, 5) is None
    cfg = default.get_config()
    algorithm.check(cfg)
    assert algorithm.init_memory(cfg, 5) == () and algorithm.side_model(1, cfg) is None
    assert algorithm.programs_of(cfg) == Programs(updates={"": ("weights",)})
    assert algorithm.examples([1, 2, 3], (), 1, cfg) == [1, 2, 3]
    cfg.rounds.updates, cfg.rounds.growth, cfg.rounds.increment = 10, 1.5, 2
    assert [algorithm.num_updates(n, 100, cfg) for n in (1, 2, 3)] == [10, 17, 26]


@pytest.mark.parametrize("name", ["collect", "loss", "BATCH", "Config"])
def test_a_part_that_is_missing_is_an_error(name):
    made = module(WHOLE)
    delattr(made, name)
    sentence = rf"^reasoning_jax/algorithms/made_up\.py: {name} is missing\.$"
    with pytest.raises(UserError, match=sentence):
        contracts.fill(Algorithm, made)


@pytest.mark.parametrize(
    "misspelt, meant",
    [
        ("def init_memry(cfg, n):\n    return ()\n", "init_memory"),
        ("def num_update(round, rows, cfg):\n    return 1\n", "num_updates"),
        ("def chek(cfg):\n    pass\n", "check"),
        ("def program(cfg):\n    pass\n", "programs"),
        ("CHART = ()\n", "CHARTS"),
    ],
)
def test_a_misspelt_part_is_an_error(misspelt, meant):
    path = r"^reasoning_jax/algorithms/made_up\.py: "
    with pytest.raises(UserError, match=rf"{path}\w+ has no effect; did you mean {meant}\?$"):
        contracts.fill(Algorithm, module(WHOLE + misspelt))


def test_a_misspelt_required_part_is_named():
    with pytest.raises(UserError, match=r"colect has no effect; did you mean collect\?$"):
        contracts.fill(Algorithm, module(WHOLE.replace("def collect", "def colect")))


@pytest.mark.parametrize("field", ["scale: float = 1.0", "given: tuple[int, ...] = (0,)"])
def test_a_number_without_a_range_is_an_error(field, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_jax.algorithms.made_up", algorithms)
    sentence = rf"^reasoning_jax/algorithms/made_up\.py: Config\.{field.split(':')[0]} has no range"
    with pytest.raises(UserError, match=sentence):
        contracts.fill(Algorithm, module(WHOLE.replace("    pass", f"    {field}", 1)))
    plain = 'direct: bool = False\n    path: str = ""'
    contracts.fill(Algorithm, module(WHOLE.replace("    pass", f"    {plain}", 1)))


def test_helpers_and_what_is_imported_are_no_misspellings():
    helper = "from reasoning_jax.training.losses import Loss as losses\n_chek = 1\n"
    contracts.fill(Algorithm, module(WHOLE + helper))
