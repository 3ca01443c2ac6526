"""Configs on their way in: experiment files, their arguments, overrides, and what a run wrote down.

A key that the experiment does not have is refused, in one sentence that says who has it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from reasoning_jax import algorithms, default, graders, legacy, tasks, workdir
from reasoning_jax.arguments import parse_into
from reasoning_jax.errors import MissingFileError, UserError

# The sections whose keys depend on their name: how to make each, and who has which keys.
MAKE_SECTION: dict[str, Callable[[str], ConfigDict]] = {
    "algorithm": default.algorithm_section,
    "base.algorithm": default.algorithm_section,
    "task": default.task_section,
    "grader": default.grader_section,
}
CONTRACTS: dict[str, ModuleType] = {
    "algorithm": algorithms,
    "base.algorithm": algorithms,
    "task": tasks,
    "grader": graders,
}


# ---- experiment files --------------------------------------------------------------------------


def parse_arg(arg: str, /, **words: bool | tuple[str, ...]) -> ConfigDict:
    """The words of an experiment's argument, such as "online,smoke".

    words: ``smoke=False`` is a word that may be there; ``form=("navigate", "snarks")`` is a choice,
    of which the first is taken where none is given. Returns a dict of these. UserError for any
    other word, and for two of one choice.
    """
    values = ConfigDict()
    for name, value in words.items():
        values[name] = value if isinstance(value, bool) else value[0]
    given: set[str] = set()
    for word in [word.strip() for word in arg.split(",") if word.strip()]:
        kind = _kind_of_word(word, words)
        if kind is None:
            raise UserError(f"the argument is {_described(words)}, not {arg!r}.")
        if kind in given:
            raise UserError(f"{arg!r} says two things of one kind: {_described(words)}.")
        given.add(kind)
        values[kind] = True if isinstance(words[kind], bool) else word
    return values


def _kind_of_word(word: str, words: Mapping[str, bool | tuple[str, ...]]) -> str | None:
    for name, value in words.items():
        if isinstance(value, bool) and word == name:
            return name
        if not isinstance(value, bool) and word in value:
            return name
    return None


def _described(words: Mapping[str, bool | tuple[str, ...]]) -> str:
    """ "online, smoke" or "direct or given, smoke"."""
    kinds = []
    for name, value in words.items():
        kinds.append(name if isinstance(value, bool) else " or ".join(value))
    return f"any of: {'; '.join(kinds)}"


def load(argument: str) -> ConfigDict:
    """The config of "path/to/X.py" or "path/to/X.py:ARGUMENT".

    UserError naming the file where it is not there, is no experiment, or refuses the argument.
    """
    name, _, arg = argument.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise MissingFileError(f"--config: there is no file {name}.")
    module = _execute(path, name)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config: {name} has no function get_config.")
    try:
        cfg = module.get_config(arg)
        if not isinstance(cfg, ConfigDict):
            raise UserError("get_config does not return a config.")
        return cfg
    except ValueError as error:
        raise UserError(f"--config={argument}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        # A key that the default does not have, or a value of another type.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        reason = reason.strip("'\"").rstrip(".")
        raise UserError(f"{name}, line {lines[-1] if lines else '?'}: {reason}.") from error


def _execute(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}.") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{name}: {error}.") from None
    return module


# ---- what a run wrote down ---------------------------------------------------------------------


def rebuild(folder: Path) -> ConfigDict:
    """The config that a run wrote down, whatever version wrote it; UserError names the key."""
    return from_saved(workdir.read_config(folder), folder / "config.json")


def from_saved(saved: Mapping[str, workdir.Json], path: Path | str) -> ConfigDict:
    """The config of the content of a config.json; what it does not say has its default."""
    try:
        values = workdir.flat(legacy.upgrade(saved))
        names = {section: str(values[f"{section}.name"]) for section in MAKE_SECTION}
    except KeyError as error:
        raise UserError(f"{path}: the key {error.args[0]} is missing.") from None
    cfg = default.get_config(
        algorithm=names["algorithm"],
        task=names["task"],
        grader=names["grader"],
        base=names["base.algorithm"],
    )
    keys = workdir.flat(cfg.to_dict())
    for key, value in values.items():
        if key not in keys:
            raise UserError(f"{path}: {key}={value!r} is not of a config of this version.")
        section, _, name = key.rpartition(".")
        holder = _section_of(cfg, section)
        try:
            with cfg.unlocked():
                holder[name] = tuple(value) if isinstance(value, list) else value
        except TypeError:
            wanted = type(holder[name]).__name__
            raise UserError(f"{path}: {key}={value!r}: this must be a {wanted}.") from None
    return cfg


def as_dict(cfg: ConfigDict) -> dict[str, workdir.Json]:
    """The config as config.json holds it."""
    return json.loads(cfg.to_json_best_effort())


def _section_of(cfg: ConfigDict, section: str) -> ConfigDict:
    for part in section.split(".") if section else ():
        cfg = cfg[part]
    return cfg


# ---- overrides on the command line -------------------------------------------------------------


def override(cfg: ConfigDict, arguments: list[str], known: flags.FlagValues) -> list[str]:
    """Sets what --config.KEY=VALUE asks for; returns the arguments that belong to no flag.

    known: the command's own flags. UserError for a key that the experiment does not have and for a
    value of another type.
    """
    before_dashes = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for section, name in _names_chosen(before_dashes):
        _choose_by_name(cfg, section, name)
    defaults = workdir.flat(cfg.to_dict())
    for argument in before_dashes:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match:
            _check_key(match[1], cfg)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", cfg, flag_values=values, sys_argv=["", *arguments])
    try:
        words = parse_into(values, arguments)
    except flags.UnrecognizedFlagError as error:
        nearest = _nearest(error.flagname, [*known], "--")
        raise UserError(f"There is no flag --{error.flagname}{nearest}") from None
    new = workdir.flat(cfg.to_dict())
    overridden = values["config"].override_values  # type: ignore[attr-defined]
    for key in overridden:
        _check_tuple(key, defaults[key], new[key])
    return words


def change(cfg: ConfigDict, changes: Mapping[str, object]) -> None:
    """Sets values by dotted key; UserError for a key that the experiment does not have."""
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if name == "name" and section in MAKE_SECTION:
            _choose_by_name(cfg, section, str(value))
    for key, value in changes.items():
        _check_key(key, cfg)
        section, _, name = key.rpartition(".")
        try:
            _section_of(cfg, section)[name] = value
        except TypeError as error:
            raise UserError(f"config.{key}: {error}.") from None


def _names_chosen(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(section, name) of each --config.SECTION.name=NAME, or --config.SECTION.name NAME."""
    names = []
    for number, argument in enumerate(arguments):
        match = re.fullmatch(r"--?config\.([\w.]+)\.name(?:=(.*))?", argument)
        if not match or match[1] not in MAKE_SECTION:
            continue
        following = arguments[number + 1 : number + 2]
        value = [match[2]] if match[2] is not None else following
        names += [(match[1], name) for name in value]
    return names


def _choose_by_name(cfg: ConfigDict, section: str, name: str) -> None:
    """Where this is another method, task or grader, the section gets that one's keys."""
    holder, _, last = section.rpartition(".")
    if _section_of(cfg, section).name == name:
        return
    own_grader = cfg.grader.name == tasks.get(cfg.task.name).GRADER
    with cfg.unlocked():
        _section_of(cfg, holder)[last] = MAKE_SECTION[section](name)
        if section == "task" and own_grader:
            cfg.grader = default.grader_section(tasks.get(name).GRADER)


def _check_tuple(key: str, before: object, after: object) -> None:
    if not isinstance(before, tuple) or not before or not isinstance(after, tuple):
        return
    if not all(isinstance(item, type(before[0])) for item in after):
        raise UserError(f"--config.{key}={after}: this must be a tuple like {before}.")


def _check_key(key: str, cfg: ConfigDict) -> None:
    """UserError for a key that the experiment does not have: who has it, or what is near."""
    keys = workdir.flat(cfg.to_dict())
    if key in keys:
        return
    inside = [k for k in keys if k.startswith(f"{key}.")]
    if inside:
        settable = ", ".join(f"config.{k}" for k in inside)
        raise UserError(f"config.{key} is a section: set one of {settable}.")
    section, _, name = key.rpartition(".")
    if section in CONTRACTS:
        _refuse_foreign_key(section, name, _section_of(cfg, section).name)
    if key in legacy.MOVED:
        raise UserError(f"config.{key} is now config.{legacy.MOVED[key]}.")
    # A key may be in another section than thought: its last part counts too.
    last = [k for k in keys if k.rpartition(".")[2] == name]
    nearest = _nearest(key, [*keys], "config.", last)
    raise UserError(f"The config has no key config.{key}{nearest}")


def _refuse_foreign_key(section: str, key: str, own_name: str) -> None:
    """UserError where others than ``own_name`` have this key, naming them."""
    contract = CONTRACTS[section]
    owners = []
    for name in contract.names():
        fields = dataclasses.fields(contract.get(name).Config)
        if key in {field.name for field in fields}:
            owners.append(name)
    if not owners:
        return
    if len(owners) == 1:
        others = f"{owners[0]} has"
    else:
        others = f"{', '.join(owners[:-1])} and {owners[-1]} have"
    raise UserError(f"config.{section}.{key}: {own_name} has no key {key}; {others}.")


def _nearest(name: str, names: list[str], prefix: str, first: Sequence[str] = ()) -> str:
    alike = [*first, *difflib.get_close_matches(name, names, 3)]
    nearest = list(dict.fromkeys(alike))[:3]
    if not nearest:
        return "."
    return f"; did you mean {' or '.join(prefix + n for n in nearest)}?"
