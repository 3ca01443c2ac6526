"""The configs of runs that an older version began, which kept all of a method's and the loop's keys
in one section: read through one map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from reasoning_jax import algorithms, tasks
from reasoning_jax.workdir import Json, flat

MOVED = {
    "algorithm.num_rounds": "rounds.count",
    "algorithm.examples_per_round": "rounds.examples",
    "algorithm.split": "rounds.split",
    "algorithm.online": "rounds.online",
    "algorithm.restart": "rounds.restart",
    "algorithm.start_updates": "rounds.updates",
    "algorithm.growth": "rounds.growth",
    "algorithm.increment": "rounds.increment",
    "algorithm.min_kept_rows": "rounds.min_kept_rows",
    "algorithm.patience": "rounds.patience",
    "algorithm.min_gain": "rounds.min_gain",
    "base.hinted": "base.algorithm.hinted",
    "algorithm.epochs": "rounds.updates",
    "algorithm.format_reward": "grader.format",
    "algorithm.overlong": "grader.overlong",
    "algorithm.overlong_tokens": "grader.overlong_tokens",
    "algorithm.schedule": "rounds.growth",
}
# These moved, but not to every method's config: they are set below where they had an effect.
CONDITIONAL = (
    "algorithm.epochs",
    "algorithm.format_reward",
    "algorithm.overlong",
    "algorithm.overlong_tokens",
    "algorithm.schedule",
)
# Of configs that have their sections already.
RENAMED = {"algorithm.tries": "algorithm.max_failed_rounds"}
# Methods that made one update a round where online, and those with a fixed number otherwise.
ONE_UPDATE_ONLINE = ("trice", "rejection", "wake_sleep")
FIXED_UPDATES = ("dpo", "sft")


def upgrade(saved: Mapping[str, Json]) -> dict[str, Json]:
    """The content of a config.json in this version's keys; as it is where it has them already."""
    old = flat(dict(saved))
    if RENAMED.keys() & old.keys():
        old = {RENAMED.get(key, key): value for key, value in old.items()}
        saved = _nested(old)
    if "rounds.count" in old or "algorithm.num_rounds" not in old:
        return _with_default_tokenizer(saved, old)
    new: dict[str, Json] = {}
    for key, value in old.items():
        if key in CONDITIONAL:
            continue
        if key in MOVED:
            new[MOVED[key]] = value
        elif _has_effect(key, old):
            new[key] = value
    new["base.algorithm.name"] = "sft"
    new["base.algorithm.direct"] = old["algorithm.direct"]
    if not old["base.num_updates"]:  # what else is said of the base model had no effect
        new["base.algorithm.direct"] = False
        if old["algorithm.name"] == "sft":
            del new["base.learning_rate"]
    _set_updates(new, old)
    _set_grader(new, old)
    return _with_default_tokenizer(_nested(new), old)


def _with_default_tokenizer(saved: Mapping[str, Json], old: Mapping[str, Json]) -> dict[str, Json]:
    """Before there were published models, the default was called "characters"."""
    new = dict(saved)
    if old.get("tokenizer.name") == "characters" and "tokenizer.chat" not in old:
        new["tokenizer"] = {"name": "auto", "path": old.get("tokenizer.path", "")}
    return new


def _has_effect(key: str, old: Mapping[str, Json]) -> bool:
    """Whether the run's own method or task has this key; every other section has all its keys."""
    section, _, name = key.rpartition(".")
    if key == "task.form":  # it was a key of bbh alone
        return old["task.name"] == "bbh"
    if section == "algorithm":
        config = algorithms.get(str(old["algorithm.name"])).Config
    elif section == "task":
        config = tasks.get(str(old["task.name"])).Config
    else:
        return True
    return name == "name" or name in {field.name for field in dataclasses.fields(config)}


def _set_updates(new: dict[str, Json], old: Mapping[str, Json]) -> None:
    """The number of updates of a round, which is now one formula for all methods."""
    method = old["algorithm.name"]
    constant = method in FIXED_UPDATES
    if old["algorithm.online"] and method in ONE_UPDATE_ONLINE:
        new["rounds.updates"] = 1
        constant = True
    if old["algorithm.online"] and method == "policy_gradient":
        new["rounds.updates"] = old["algorithm.epochs"]
        constant = True
    if constant or old["algorithm.schedule"] == "linear":
        new["rounds.growth"] = 1.0
    if constant or old["algorithm.schedule"] == "exponential":
        new["rounds.increment"] = 0


def _set_grader(new: dict[str, Json], old: Mapping[str, Json]) -> None:
    """The terms that policy gradients added to the reward are now a grader's."""
    new["grader.name"] = tasks.get(str(old["task.name"])).GRADER
    has_rewards = old["algorithm.format_reward"] or old["algorithm.overlong"]
    if old["algorithm.name"] != "policy_gradient" or not has_rewards:
        return
    new["grader.name"] = "rewards"
    for key in ("format_reward", "overlong", "overlong_tokens"):
        new[MOVED[f"algorithm.{key}"]] = old[f"algorithm.{key}"]


def _nested(values: Mapping[str, Json]) -> dict[str, Json]:
    """{"a.b": 1} -> {"a": {"b": 1}}"""
    tree: dict = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        holder = tree
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[name] = value
    return tree
