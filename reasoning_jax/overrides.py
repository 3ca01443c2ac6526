"""Values of a config that are changed: on the command line, and by dotted key.

A key that the experiment does not have is refused, in one sentence that says who has it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from reasoning_jax import default, graders, legacy, tasks, workdir
from reasoning_jax.arguments import parse_into
from reasoning_jax.default import NAMED
from reasoning_jax.errors import UserError


def _section_of(cfg: ConfigDict, section: str) -> ConfigDict:
    for part in section.split(".") if section else ():
        cfg = cfg[part]
    return cfg


def override(cfg: ConfigDict, arguments: list[str], known: flags.FlagValues) -> list[str]:
    """Sets what --config.KEY=VALUE asks for; returns the arguments that belong to no flag.

    known: the command's own flags. UserError for a key that the experiment does not have and for a
    value of another type.
    """
    arguments = [_with_name(argument) for argument in arguments]
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
    changes = {f"{key}.name" if key in NAMED else key: value for key, value in changes.items()}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if name == "name" and section in NAMED:
            _choose_by_name(cfg, section, str(value))
    for key, value in changes.items():
        _check_key(key, cfg)
        set_value(cfg, key, value)


def set_value(cfg: ConfigDict, key: str, value: object) -> None:
    """Sets a value by dotted key; UserError for one of another type than the key's."""
    section, _, name = key.rpartition(".")
    holder = _section_of(cfg, section)
    before = holder[name]
    may_be_none = before is None or section == "model"
    kind = holder.get_type(name)
    unlike = isinstance(value, bool) != (kind is bool)  # a bool is an int to ConfigDict
    if (value is None and not may_be_none) or (value is not None and unlike):
        raise UserError(f"config.{key}={value!r}: this must be of type {kind.__name__}.")
    try:
        holder[name] = value
    except (TypeError, OverflowError):
        raise UserError(f"config.{key}={value!r}: this must be of type {kind.__name__}.") from None
    _check_tuple(key, before, value)


def _with_name(argument: str) -> str:
    """--config.tune=lora is short for --config.tune.name=lora; so with all that have a name."""
    match = re.fullmatch(r"(--?config\.([\w.]+))(=.*)?", argument, re.DOTALL)
    if not match or match[2] not in NAMED:
        return argument
    return f"{match[1]}.name{match[3] or ''}"


def _names_chosen(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(section, name) of each --config.SECTION.name=NAME, or --config.SECTION.name NAME."""
    names = []
    for number, argument in enumerate(arguments):
        match = re.fullmatch(r"--?config\.([\w.]+)\.name(?:=(.*))?", argument)
        if not match or match[1] not in NAMED:
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
    if name not in NAMED[section].names():
        kind = section.rpartition(".")[2]
        known = ", ".join(NAMED[section].names())
        raise UserError(f"config.{section}.name: there is no {kind} {name!r}; they are {known}.")
    own_grader = cfg.grader.name == tasks.get(cfg.task.name).GRADER
    with cfg.unlocked():
        _section_of(cfg, holder)[last] = default.section(NAMED[section], name)
        if section == "task" and own_grader:
            cfg.grader = default.section(graders, tasks.get(name).GRADER)


def _check_tuple(key: str, before: object, after: object) -> None:
    if not isinstance(before, tuple) or not before or not isinstance(after, tuple):
        return
    if not all(isinstance(item, type(before[0])) for item in after):
        raise UserError(f"config.{key}={after}: this must be a tuple like {before}.")


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
    if section in NAMED:
        _refuse_foreign_key(section, name, _section_of(cfg, section).name)
    if key in legacy.MOVED:
        raise UserError(f"config.{key} is now config.{legacy.MOVED[key]}.")
    # A key may be in another section than thought: its last part counts too.
    last = [k for k in keys if k.rpartition(".")[2] == name]
    nearest = _nearest(key, [*keys], "config.", last)
    raise UserError(f"The config has no key config.{key}{nearest}")


def _refuse_foreign_key(section: str, key: str, own_name: str) -> None:
    """UserError where others than ``own_name`` have this key, naming them."""
    contract = NAMED[section]
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
