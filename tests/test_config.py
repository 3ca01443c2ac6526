"""Configs on their way in: arguments, overrides, and keys that belong to somebody else."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import operator
import os
import random
import re
import typing
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from reasoning_jax import (
    algorithms,
    arguments,
    config,
    default,
    experiment,
    graders,
    overrides,
    ranges,
    tasks,
)
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.workdir import flat

NAN, INF = math.nan, math.inf
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def load(argument):
    return config.load(str(CONFIGS / argument))


def override(cfg, *arguments):
    return overrides.override(cfg, list(arguments), flags.FlagValues())


# ---- arguments of experiments ------------------------------------------------------------------


def test_the_words_of_an_argument():
    words = {"loss": ("both", "dpo", "nll"), "online": False, "smoke": False}
    args = config.parse_arg("", **words)
    assert (args.loss, args.online, args.smoke) == ("both", False, False)
    args = config.parse_arg("smoke, nll", **words)
    assert (args.loss, args.online, args.smoke) == ("nll", False, True)
    assert config.parse_arg("both", **words).loss == "both"
    for arg in ("smok", "nl", "smoke,typo", "loss", "smoke online"):
        with pytest.raises(UserError, match="both or dpo or nll; online; smoke") as error:
            config.parse_arg(arg, **words)
        assert repr(arg) in str(error.value)
    for arg in ("dpo,nll", "smoke,smoke"):
        with pytest.raises(UserError, match="two things of one kind"):
            config.parse_arg(arg, **words)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("star_gsm8k.py:typo", "smoke, not 'typo'."),
        ("sft_addition.py:dirct", "direct or given; smoke, not 'dirct'."),
        ("sft_addition.py:direct,given", "two things of one kind"),
        ("dpo_jsonl.py:anything", "smoke, not 'anything'."),
        ("trice_bbh.py:navgate,smoke", "navigate or "),
    ],
)
def test_an_argument_that_an_experiment_does_not_have_is_refused(argument, words):
    with pytest.raises(UserError) as error:
        load(argument)
    assert words in str(error.value)
    assert str(error.value).startswith(f"--config={CONFIGS / argument}: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="missing.py: there is no such file"):
        config.load(str(tmp_path / "missing.py"))


# ---- keys of others ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "--config.algorithm.beta=0.5",
            "config.algorithm.beta: star has no key beta; dpo, eval_planner, irpo, "
            "meta_rewarding, self_rewarding, thought_preference and vstar have.",
        ),
        (
            "--config.algorithm.clip_low=9",
            "config.algorithm.clip_low: star has no key clip_low; policy_gradient has.",
        ),
        (
            "--config.task.dimension=2",
            "config.task.dimension: addition has no key dimension; three_sum has.",
        ),
        (
            "--config.grader.overlong=0.5",
            "config.grader.overlong: exact has no key overlong; rewards has.",
        ),
        (
            "--config.base.algorithm.rationalize=False",
            "config.base.algorithm.rationalize: sft has no key rationalize; star has.",
        ),
    ],
)
def test_a_key_of_another_method_or_task_is_refused_with_who_has_it(argument, sentence):
    cfg = load("star_addition.py:smoke")
    before = flat(cfg.to_dict())
    with pytest.raises(UserError) as error:
        override(cfg, argument)
    assert str(error.value) == sentence
    key, _, value = argument.removeprefix("--config.").partition("=")
    with pytest.raises(UserError) as error:
        overrides.change(cfg, {key: value})
    assert str(error.value) == sentence
    assert flat(cfg.to_dict()) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("algorithm.num_rounds", "rounds.count"),
        ("algorithm.examples_per_round", "rounds.examples"),
        ("algorithm.start_updates", "rounds.updates"),
        ("algorithm.epochs", "rounds.updates"),
        ("algorithm.online", "rounds.online"),
        ("algorithm.format_reward", "grader.format"),
        ("base.hinted", "base.algorithm.hinted"),
    ],
)
def test_a_key_that_moved_is_answered_with_its_new_name(old, new):
    with pytest.raises(UserError) as error:
        override(load("star_addition.py:smoke"), f"--config.{old}=3")
    assert str(error.value) == f"config.{old} is now config.{new}."


def test_a_key_that_nobody_has_is_answered_with_what_is_near():
    cfg = load("star_addition.py:smoke")
    with pytest.raises(UserError, match=r"no key config\.rounds\.cuont; .*config\.rounds\.count"):
        override(cfg, "--config.rounds.cuont=3")
    with pytest.raises(UserError, match=r"config\.sampling\.batch_size"):
        override(cfg, "--config.algorithm.batch_size=3")
    with pytest.raises(UserError, match="config.rounds is a section: set one of config.rounds"):
        override(cfg, "--config.rounds=3")


# ---- overrides ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.algorithm.num_samples=8", "--config.algorithm.name=rejection"],
        ["--config.algorithm.name", "rejection", "--config.algorithm.num_samples", "8"],
    ],
)
def test_another_method_brings_its_keys(arguments):
    cfg = load("star_addition.py:smoke")
    assert override(cfg, *arguments, "word") == ["word"]
    section = algorithms.get("rejection").Config
    assert set(cfg.algorithm) == {"name", *section.__dataclass_fields__}
    assert cfg.algorithm.name == "rejection" and cfg.algorithm.num_samples == 8
    assert cfg.algorithm.max_kept == section().max_kept
    assert cfg.is_locked and cfg.algorithm.is_locked
    # The rest is the experiment's.
    assert cfg.rounds.examples == 128 and cfg.task.max_digits == 2
    with pytest.raises(UserError, match="rejection has no key rationalize; star has"):
        override(cfg, "--config.algorithm.rationalize=False")


def test_its_own_name_changes_nothing():
    cfg = load("irpo_addition.py:smoke")
    before = flat(cfg.to_dict())
    override(cfg, "--config.algorithm.name=irpo", "--config.task.name=addition")
    assert flat(cfg.to_dict()) == before


def test_another_task_brings_its_grader_unless_another_was_chosen():
    cfg = load("star_addition.py:smoke")
    override(cfg, "--config.task.name=gsm8k")
    assert cfg.grader.name == "math" and "calculator" in cfg.task and "given" not in cfg.task
    cfg = load("grpo_addition.py:dapo,smoke")
    override(cfg, "--config.task.name=gsm8k")
    assert (cfg.grader.name, cfg.grader.overlong) == ("rewards", 0.5)
    cfg = load("star_addition.py:smoke")
    override(cfg, "--config.grader.name=rewards", "--config.grader.format=0.1")
    assert (cfg.grader.name, cfg.grader.format) == ("rewards", 0.1)
    cfg = load("star_addition.py:smoke")
    override(cfg, "--config.base.algorithm.name=star", "--config.base.algorithm.rationalize=False")
    assert cfg.base.algorithm.to_dict() == {"name": "star", "rationalize": False}


def test_changes_by_dotted_key():
    cfg = load("star_addition.py:smoke")
    overrides.change(cfg, {"rounds.count": 3, "seed": 7, "base.algorithm.hinted": 1.0})
    assert (cfg.rounds.count, cfg.seed, cfg.base.algorithm.hinted) == (3, 7, 1.0)
    overrides.change(cfg, {"algorithm.num_samples": 8, "algorithm.name": "rejection"})
    assert (cfg.algorithm.name, cfg.algorithm.num_samples) == ("rejection", 8)
    with pytest.raises(UserError, match=r"config\.rounds\.count=\'many\': "):
        overrides.change(cfg, {"rounds.count": "many"})
    with pytest.raises(UserError, match=r"config\.rounds\.cuont"):
        overrides.change(cfg, {"rounds.cuont": 3})
    with pytest.raises(UserError, match="no algorithm 'rejecton'"):
        overrides.change(cfg, {"algorithm.name": "rejecton"})


# ---- what a run wrote down ---------------------------------------------------------------------


def test_a_saved_config_is_rebuilt(tmp_path):
    """Tuples, which JSON does not have, are tuples again; what it does not say has its default."""
    cfg = load("grpo_addition.py:dapo,smoke")
    saved = config.as_dict(cfg)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    rebuilt = config.rebuild(tmp_path)
    assert rebuilt == cfg and rebuilt.is_locked and rebuilt.task.given == (60, 300)
    del saved["optim"]["max_skipped"]
    assert config.from_saved(saved, "x") == cfg
    saved["optim"]["momentum"] = 0.9
    with pytest.raises(UserError, match=r"x: optim\.momentum=0\.9 is not of a config"):
        config.from_saved(saved, "x")


def test_the_default_is_locked_and_has_the_keys_of_what_it_names():
    for name in algorithms.names():
        cfg = default.get_config(algorithm=name)
        own = {"name", *algorithms.get(name).Config.__dataclass_fields__}
        assert set(cfg.algorithm) == own and cfg.is_locked
    assert default.get_config(task="gsm8k").grader.name == "math"
    assert default.get_config(task="gsm8k", grader="exact").grader.name == "exact"
    for unknown in ("algorithm", "task", "grader", "base"):
        with pytest.raises(UserError, match="'sta'"):
            default.get_config(**{unknown: "sta"})


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("[1, 2]", "this is not the config of a run"),
        ("{}", "name is missing"),
        ('{"algorithm": {"name": "star"}, "rounds": {"count": 2}}', "is missing"),
    ],
)
def test_a_damaged_config_of_a_run_is_one_sentence_with_its_file(tmp_path, content, sentence):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        config.rebuild(tmp_path)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"seed": 2**32}, "config.seed: 4294967296 is not a whole number from 0 to 2^32 - 1."),
        ({"optim.learning_rate": NAN}, "config.optim.learning_rate: nan is not a finite number"),
        ({"optim.b1": 1.0}, "config.optim.b1: 1.0 is not a finite number from 0 to below 1."),
        ({"base.algorithm.hinted": 2.0}, "config.base.algorithm.hinted: 2.0 is not a finite"),
        ({"task.given": (-1, 5)}, "config.task.given: (-1, 5) is not a tuple of which each is a"),
        ({"model.dtype": "float16"}, "config.model.dtype: 'float16' is not one of float32, bf"),
        ({"rounds.growth": 1e30}, "config.rounds.growth: 1e+30 makes more updates"),
        ({"sampling.max_new_tokens": 5000}, "config.sampling.max_new_tokens: 5000 leave no room"),
        ({"model.num_heads": 5}, "config.model: num_heads 5 is no multiple of num_kv_heads 2."),
        ({"model.head_dim": 7}, "config.model.head_dim: rotary embedding needs an even size"),
    ],
)
def test_a_value_that_no_run_can_have_is_one_sentence(changes, sentence):
    cfg = config.load(str(CONFIGS / "star_addition.py:smoke"))
    overrides.change(cfg, changes)
    with pytest.raises(UserError, match=re.escape(sentence)):
        experiment.make(cfg)


# ---- ranges --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Some:
    rate: float = ranges.key(0.5, ranges.between(0, 1, above=True))
    decay: float = ranges.key(0.5, ranges.between(0, 1, below=True))
    peak: float = ranges.key(1.0, ranges.above(0))
    count: int = ranges.key(2, ranges.at_least(1, also=-1))
    kind: str = ranges.key("a", ranges.one_of("a", ""))
    given: tuple[int, ...] = ranges.key((), ranges.each(ranges.between(0, 2**20)))
    unset: int | None = ranges.key(None, ranges.at_least(1))
    flag: bool = False
    text: str = ""


RATE = "a finite number above 0 and at most 1"
DECAY = "a finite number from 0 to below 1"
COUNT = "a whole number from 1 to 2^31 - 1, or -1"
GIVEN = "a tuple of which each is a whole number from 0 to 2^20"


@pytest.mark.parametrize(
    "name, inside, outside, what",
    [
        ("rate", (1e-30, 1, 1.0), (0.0, 1.1, -1, NAN, INF, True, "x", None), RATE),
        ("decay", (0.0, 0, 0.999), (1, -0.1, -INF), DECAY),
        ("peak", (3e38, 1e-30, 10**30), (INF, 10**400, -1), "a finite number above 0"),
        ("peak", (), (1e-50, 1e39), "a finite number above 0 in float32"),
        ("decay", (), (1 - 1e-9,), f"{DECAY} in float32"),  # 1 in float32
        ("count", (1, -1, 2**31 - 1), (0, -2, 2**31, 1.0, NAN, True, None), COUNT),
        ("kind", ("a", ""), ("b", None, 1), 'one of a, ""'),
        ("given", ((), (0, 2**20)), ((-1, 5), (True,), (0.5,), 3, [1], "x"), GIVEN),
        ("unset", (None, 1), (0, -1), "a whole number from 1 to 2^31 - 1"),
        ("flag", (True, False), (1, None, "x"), "True or False"),
        ("text", ("", "x"), (1, None, True), "text"),
    ],
)
def test_what_a_range_allows(name, inside, outside, what):
    values = dataclasses.asdict(Some())
    ranges.check(Some, values)
    for value in inside:
        ranges.check(Some, values | {name: value})
    for value in outside:
        with pytest.raises(UserError) as error:
            ranges.check(Some, values | {name: value})
        assert str(error.value) == f"config.{name}: {value!r} is not {what}."


def test_a_key_that_is_missing_is_named():
    cfg = default.get_config()
    cfg.algorithm.name = "rejection"  # whose keys it does not have
    with pytest.raises(UserError, match=r"^config\.algorithm\.num_samples is missing\.$"):
        default.check(cfg)


def test_a_name_that_nobody_has_is_named_with_its_section():
    cfg = default.get_config()
    cfg.base.algorithm.name = "rejecton"
    with pytest.raises(UserError, match=r"^config\.base\.algorithm\.name: 'rejecton' is not one"):
        default.check(cfg)


def every_config():
    """A config of each method, each task and each grader: every key of all is in one of them."""
    for name in algorithms.names():
        yield default.get_config(algorithm=name, base=name)
    for name in tasks.names():
        yield default.get_config(task=name)
    for name in graders.names():
        yield default.get_config(grader=name)


def keys_of(cfg):
    """(dotted key, Key) of every key."""
    values = flat(cfg.to_dict())
    for section, own in default.configs(values).items():
        for key in ranges.keys(own):
            yield f"{section}.{key.name}".lstrip("."), key


def test_every_key_of_a_config_is_a_key_of_a_dataclass():
    for cfg in every_config():
        names = {f"{section}.name" for section in default.NAMED}
        assert {name for name, _ in keys_of(cfg)} | names == set(flat(cfg.to_dict()))
        default.check(cfg)


def test_every_key_but_text_and_booleans_has_a_range():
    for cfg in every_config():
        for name, key in keys_of(cfg):
            assert key.range is not None or key.kind in (bool, str), name


def just_outside(key):
    """The nearest values outside each end of a key's range."""
    if isinstance(key.range, ranges.Choice):
        return ["nothing of this name"]
    if isinstance(key.range, ranges.Each):
        kind = typing.get_args(key.kind)[0]
        item = ranges.Key(name="", default=0, kind=kind, range=key.range.item)
        return [(value,) for value in just_outside(item)]
    interval = key.range
    if key.kind is int:
        high = ranges.INT32_MAX if interval.high == INF else interval.high
        return [interval.low - 1, high + 1]
    low, high = np.float32(interval.low), np.float32(interval.high)
    below = low if interval.excludes_low else np.nextafter(low, np.float32(-INF))
    above = high if interval.excludes_high or high == INF else np.nextafter(high, np.float32(INF))
    return [float(below), float(above), NAN, INF, -INF]


def test_a_value_just_outside_either_end_of_a_range_is_refused():
    """In one sentence that names the key and the range; the default is inside."""
    tried = set()
    for cfg in every_config():
        values = flat(cfg.to_dict())
        for section, own in default.configs(values).items():
            prefix = f"{section}." if section else ""
            for key in ranges.keys(own):
                assert key.allows(key.default)
                if key.range is None:
                    continue
                for value in just_outside(key):
                    name = f"{prefix}{key.name}"
                    with pytest.raises(UserError) as error:
                        ranges.check(own, values | {name: value}, prefix)
                    sentence = f"config.{name}: {value!r} is not {key.range.describe(key.kind)}"
                    assert str(error.value).startswith(sentence)
                    assert "\n" not in str(error.value)
                    tried.add(name)
    assert {"seed", "optim.b1", "algorithm.kl", "base.algorithm.hinted", "task.given"} <= tried


HOSTILE = [0, -1, 10**30, -(10**30), 10**400, NAN, INF, "", "x", (), (True,), (NAN,), None, True]


def refused(cfg, name, value):
    """Whether setting a key to a value is answered by a sentence; any other error is raised."""
    before = flat(cfg.to_dict())[name]
    try:
        overrides.change(cfg, {name: value})
        default.check(cfg)
    except UserError as error:
        assert "\n" not in str(error) and f"config.{name}" in str(error)
        return True
    finally:
        section, _, last = name.rpartition(".")
        (operator.attrgetter(section)(cfg) if section else cfg)[last] = before
    return False


def test_hostile_values_are_refused_or_allowed_and_nothing_else():
    """Every value at every key; and in every composition, at a few keys, one value each."""
    tried = set()
    for cfg in every_config():
        values = flat(cfg.to_dict())
        for name in values:
            owner = values.get(f"{name.rpartition('.')[0]}.name", "")
            if (owner, name) not in tried:
                assert any([refused(cfg, name, value) for value in HOSTILE])
            tried.add((owner, name))
    rng = random.Random(0)
    names = itertools.product(algorithms.names(), tasks.names(), graders.names())
    for algorithm, task, grader in names:
        cfg = default.get_config(algorithm=algorithm, task=task, grader=grader)
        for name in rng.sample(sorted(flat(cfg.to_dict())), 8):
            refused(cfg, name, rng.choice(HOSTILE))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"rounds.count": None}, "config.rounds.count=None: this must be of type int"),
        ({"rounds.count": True}, "config.rounds.count=True: this must be of type int"),
        ({"rounds.count": "two"}, "config.rounds.count='two': this must be of type int"),
        ({"rounds.restart": 1}, "config.rounds.restart=1: this must be of type bool"),
        ({"task.given": ("a",)}, "this must be a tuple like"),
        ({"algorithm.name": "nope"}, "config.algorithm.name: there is no algorithm 'nope'"),
        (
            {"base.algorithm.name": "nope"},
            "config.base.algorithm.name: there is no algorithm 'nope'",
        ),
    ],
)
def test_a_change_has_the_type_of_its_key(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        overrides.change(default.get_config(), changes)


def test_none_is_for_keys_of_the_model():
    cfg = default.get_config()
    overrides.change(cfg, {"model.width": 64})
    overrides.change(cfg, {"model.width": None})
    assert cfg.model.width is None


@pytest.mark.parametrize(
    "body, sentence",
    [
        ("    return None", "does not return an experiment's config"),
        ("    return {'seed': 1}", "does not return an experiment's config"),
        ("    return c.to_dict()", "does not return an experiment's config"),
        ("    c.unlock(); del c.seed; return c", "the key seed is missing"),
        ("    c.unlock(); del c.task.name; return c", "the key task.name is missing"),
        ("    c.unlock(); del c.rounds; c.rounds = 3; return c", "rounds=3 is not of a config"),
        ("    c.unlock(); c.sede = 3; return c", "sede=3 is not of a config"),
        ("    exit()", "line 6: an experiment must not exit"),
        ("    raise SystemExit(0)", "line 6: an experiment must not exit"),
        ("    raise BaseException('no')", "line 6: BaseException: no"),
        ("    return get_config(arg)", "RecursionError"),
        ("    return 1 / 0", "line 6: ZeroDivisionError: division by zero"),
        ("    import foo_bar", "line 6: ModuleNotFoundError: No module named 'foo_bar'"),
        ("    c.rounds.cnt = 3", "line 6: the config has no key cnt; did you mean count"),
        ("    c.rounds.count = 'x'", "line 6: TypeError"),
    ],
)
def test_what_an_experiment_does_wrong_is_named_with_its_line(tmp_path, body, sentence):
    path = tmp_path / "mine.py"
    head = "from reasoning_jax import default\n\n\ndef get_config(arg):\n"
    path.write_text(f"{head}    c = default.get_config()\n{body}\n")
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        config.load(str(path))
    assert "mine.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"from reasoning_jax import nope\n", "mine.py, line 1: ImportError"),
        (b"import sys\nsys.exit(0)\n", "mine.py, line 2: an experiment must not exit"),
        (b"def get_confg(arg):\n    pass\n", "mine.py has no function get_config"),
        (b"get_config = 3\n", "mine.py has no function get_config"),
        (b"def get_config():\n    pass\n", "mine.py must take one argument"),
        (b"def get_config(arg, more):\n    pass\n", "mine.py must take one argument"),
        (b"x = 1\0\n", "mine.py"),
        (b"x = '\xff'\n", "mine.py"),
    ],
)
def test_an_experiment_that_fails_when_it_is_read(tmp_path, content, sentence):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        config.load(str(path))
    assert "\n" not in str(caught.value)


def test_the_line_is_named_of_a_path_that_is_relative_too(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^mine\.py, line 2: an experiment must not exit"):
        config.load("mine.py")


def test_what_is_no_file_is_no_experiment(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "mine.txt").write_text("def get_config(arg):\n    pass\n")
    names = {
        "": "this is a folder",
        "/pipe.py": "this is not a regular file",
        "/mine.txt": "is not a Python file",
        "/a\0.py": "this cannot be the name of a file",
        f"/{'a' * 300}.py": "File name too long",
    }
    for name, sentence in names.items():
        with pytest.raises(UserError, match=sentence):
            config.load(f"{tmp_path}{name}")


def test_a_flag_that_takes_no_value_says_so():
    values = flags.FlagValues()
    flags.DEFINE_boolean("quick", False, "A flag.", values)
    with pytest.raises(UserError, match="quick"):
        arguments.parse_into(values, ["--noquick=1"])
