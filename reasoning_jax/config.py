"""Configs on their way in: experiment files, their arguments, and what a run wrote down."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from reasoning_jax import default, legacy, overrides, text_files, workdir
from reasoning_jax.errors import UserError

# What a config means that is older than these sections.
BEFORE = {"tune": "full", "forward": "plain", "system": "plain"}

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
            raise UserError(f"the arguments are {_described(words)}, not {arg!r}.")
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
    """ "online; smoke" or "direct or given; smoke"."""
    kinds = []
    for name, value in words.items():
        kinds.append(name if isinstance(value, bool) else " or ".join(value))
    return "; ".join(kinds)


def load(argument: str) -> ConfigDict:
    """The config of "path/to/X.py" or "path/to/X.py:ARGUMENT".

    UserError naming the file where it is not there, is no experiment, or refuses the argument.
    """
    name, _, arg = argument.partition(":")
    path = Path(os.path.expanduser(name)).absolute()  # as tracebacks name it
    text_files.check_is_file(path, f"--config={name}")
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        _check_get_config(module, name)
        cfg = module.get_config(arg)
    except UserError as error:
        raise UserError(f"--config={argument}: {error}") from error
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.filename else name
        raise UserError(f"{place}: {error.msg}.") from None
    except SystemExit as error:  # or the command would end here, as if it were done
        raise UserError(f"{_line_of(error, path, name)}: an experiment must not exit.") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file does wrong, it is the user's
        raise UserError(f"{_line_of(error, path, name)}: {_reason(error)}.") from error
    if not isinstance(cfg, ConfigDict) or "rounds" not in cfg:
        raise UserError(f"--config: get_config of {name} does not return an experiment's config.")
    _check_keys(cfg, name)
    return cfg


def _check_get_config(module: ModuleType, name: str) -> None:
    """UserError where an experiment's file has no get_config that takes the argument."""
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{name} has no function get_config.")
    try:
        inspect.signature(get_config).bind("")
    except TypeError:
        raise UserError(
            f'get_config of {name} must take one argument, as in get_config(arg: str = "").'
        ) from None


def _check_keys(cfg: ConfigDict, name: str) -> None:
    """UserError where a config was unlocked and has other keys, or values of other types."""
    values = workdir.flat(cfg.to_dict())
    missing = workdir.flat(_fill(values, name).to_dict()).keys() - values.keys()
    if missing:
        raise UserError(f"{name}: the key {min(missing)} is missing.")


def _line_of(error: BaseException, path: Path, name: str) -> str:
    """The file, and the line of it that was at work."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f"{name}, line {lines[-1]}" if lines else name


def _reason(error: BaseException) -> str:
    """What an exception says, on one line; of an unknown key, which."""
    text = str(error.args[0] if error.args else error) or type(error).__name__
    match = re.search(r'[Kk]ey "?(\w+)"? does not exist', text)
    if match:
        nearest = re.search(r'Did you mean "(\w+)"', text)
        hint = f"; did you mean {nearest[1]}?" if nearest else ""
        return f"the config has no key {match[1]}{hint}".rstrip("?")
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}"


# ---- what a run wrote down ---------------------------------------------------------------------


def rebuild(folder: Path) -> ConfigDict:
    """The config that a run wrote down, whatever version wrote it; UserError names the key."""
    saved = workdir.read_config(folder)
    cfg = from_saved(saved, folder / "config.json")
    workdir.check_as_written(folder, saved)
    return cfg


def from_saved(saved: Mapping[str, workdir.Json], path: Path | str) -> ConfigDict:
    """The config of the content of a config.json; what it does not say has its default."""
    try:
        values = workdir.flat(legacy.upgrade(saved))
    except KeyError as error:
        raise UserError(f"{path}: the key {error.args[0]} is missing.") from None
    return _fill(values, path)


def _fill(values: Mapping[str, workdir.Json], path: Path | str) -> ConfigDict:
    """A config with these values by dotted key; UserError naming the file and the key."""
    names = {}
    for section in default.NAMED:
        name = values.get(f"{section}.name", BEFORE.get(section))
        if not isinstance(name, str):
            raise UserError(f"{path}: the key {section}.name is missing.")
        names[section] = name
    try:
        cfg = default.get_config(
            algorithm=names["algorithm"],
            task=names["task"],
            grader=names["grader"],
            base=names["base.algorithm"],
            tuned=names["tune"],
            forward=names["forward"],
            system=names["system"],
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    keys = workdir.flat(cfg.to_dict())
    for key, value in values.items():
        if key not in keys:
            raise UserError(f"{path}: {key}={value!r} is not of a config of this version.")
        try:
            overrides.set_value(cfg, key, tuple(value) if isinstance(value, list) else value)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return cfg


def as_dict(cfg: ConfigDict) -> dict[str, workdir.Json]:
    """The config as config.json holds it."""
    return json.loads(cfg.to_json_best_effort())
