"""Configs on their way in: arguments, overrides, and keys that belong to somebody else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from absl import flags

from reasoning_jax import algorithms, arguments, config, default, experiment, overrides, tasks
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.workdir import flat

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
            "config.algorithm.beta: star has no key beta; dpo, irpo and vstar have.",
        ),
        (
            "--config.algorithm.clip_low=9",
            "config.algorithm.clip_low: star has no key clip_low; policy_gradient has.",
        ),
        ("--config.task.form=navigate", "config.task.form: addition has no key form; bbh has."),
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
        ({"seed": 2**32}, "config.seed: 4294967296 is not below"),
        ({"seed": -1}, "config.seed: -1 is less than 0"),
        ({"task.seed": -1}, "config.task.seed: -1 is less than 0"),
        ({"optim.learning_rate": float("nan")}, "config.optim.learning_rate: nan is not a finite"),
        ({"optim.learning_rate": -1.0}, "config.optim.learning_rate: -1.0 is not above 0"),
        ({"optim.decay": 5.0}, "config.optim.decay: 5.0 is not between 0 and 1"),
        ({"optim.b1": 2.0}, "config.optim.b1: 2.0 is not between"),
        ({"rounds.count": -1}, "config.rounds.count: -1 is less than 0"),
        ({"rounds.updates": 0}, "config.rounds.updates: 0 is less than 1"),
        ({"rounds.growth": 1e30}, "config.rounds.growth: 1e+30 makes more updates"),
        ({"rounds.growth": -1.0}, "config.rounds.growth: -1.0 is not above 0"),
        ({"eval.num_examples": -5}, "config.eval.num_examples: -5 is less than 0"),
        ({"sampling.max_new_tokens": 5000}, "config.sampling.max_new_tokens: 5000 leave no room"),
        ({"model.num_layers": 0}, "config.model.num_layers: 0 is less than 1"),
        ({"model.head_dim": 0}, "config.model.head_dim: 0 is less than 1"),
        ({"model.rope_theta": -1.0}, "config.model.rope_theta: -1.0 is not above 0"),
    ],
)
def test_a_value_that_no_run_can_have_is_one_sentence(changes, sentence):
    cfg = config.load(str(CONFIGS / "star_addition.py:smoke"))
    overrides.change(cfg, changes)
    with pytest.raises(UserError, match=re.escape(sentence)):
        experiment.make(cfg)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"max_digits": 30}, "config.task.max_digits: 30 is not 1 to 18"),
        ({"given": (-1,)}, "given must not be negative"),
    ],
)
def test_sums_that_cannot_be_made_are_one_sentence(changes, sentence):
    cfg = default.get_config()
    cfg.task.update(changes)
    with pytest.raises(UserError, match=sentence):
        tasks.get("addition").load(cfg.task, "given")


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
