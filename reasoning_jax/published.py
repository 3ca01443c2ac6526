"""The experiment of a published model: what it is asked on a task, without any run."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from reasoning_jax import default, overrides, pretrained, tasks, workdir
from reasoning_jax.errors import UserError

SEQUENCE_LENGTH = 4096  # room for worked examples, in bytes too
MAX_NEW_TOKENS = 512
BATCH_SIZE = 32
# What is often said of such an evaluation, and the keys that it sets.
OPTIONS = {
    "shots": ("task.num_shots",),  # of a task's known worked examples, where no file is named
    "chat": ("tokenizer.chat",),
    "prompting": ("task.prompting",),
    "num_examples": ("eval.num_examples", "eval.num_test"),
    "max_new_tokens": ("sampling.max_new_tokens",),
}


def config(source: str, task: str, options: Mapping[str, object]) -> ConfigDict:
    """The config of a published model on a task; ``options`` are those of OPTIONS that are given.

    task: "" for a model that only continues texts and chats. UserError for an option whose key the
    task does not have.
    """
    if not task:
        return _without_task(source, options)
    cfg = default.get_config(task=task)
    _use_source(cfg, source)
    cfg.sampling.batch_size = BATCH_SIZE
    known = tasks.get(task).SHOTS
    if options.get("shots") and known:
        cfg.task.shots = next(iter(known))
    overrides.change(cfg, _changes(options))
    return cfg


def _without_task(source: str, options: Mapping[str, object]) -> ConfigDict:
    """The config of a published model that continues texts and chats."""
    for name in options:
        if name != "max_new_tokens":
            raise UserError(f"{name}: without a task it has no effect.")
    cfg = default.get_config()
    _use_source(cfg, source)
    overrides.change(cfg, _changes(options))
    return cfg


def _use_source(cfg: ConfigDict, source: str) -> None:
    """Names the model; prompt and completion are no longer than what it was made for."""
    cfg.model.source = source
    cfg.sequence_length = min(SEQUENCE_LENGTH, _longest(pretrained.open(source)))
    cfg.sampling.max_new_tokens = min(MAX_NEW_TOKENS, cfg.sequence_length // 2)


def _longest(source: pretrained.Source) -> int:
    """Tokens that a model was made for; SEQUENCE_LENGTH where its config does not say."""
    lengths = [source.config.get(name) for name in ("max_position_embeddings", "n_positions")]
    known = [length for length in lengths if isinstance(length, int) and length > 1]
    return min(known, default=SEQUENCE_LENGTH)


def check(cfg: ConfigDict, options: Mapping[str, object]) -> None:
    """UserError for an option that a key of its own says otherwise, and for an adapter."""
    if cfg.tune.name != "full":
        raise UserError(f"config.tune: {cfg.tune.name} is for training; here nothing is trained.")
    values = workdir.flat(cfg.to_dict())
    for name, value in options.items():
        for key in OPTIONS[name]:
            if values.get(key) != value:
                raise UserError(f"{name}={value} and config.{key}={values.get(key)} contradict.")


def changed(cfg: ConfigDict) -> dict[str, object]:
    """What differs from the task's default config, by dotted key."""
    plain = workdir.flat(default.get_config(task=cfg.task.name).to_dict())
    values = workdir.flat(cfg.to_dict())
    return {key: value for key, value in values.items() if plain.get(key) != value}


def _changes(options: Mapping[str, object]) -> dict[str, object]:
    changes = {}
    for name, value in options.items():
        changes |= dict.fromkeys(OPTIONS[name], value)
    return changes
