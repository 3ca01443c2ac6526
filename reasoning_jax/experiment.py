"""What a config names, put together: task, tokenizer, model, mesh; shared by training, evaluation and asking."""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import model, optim, presets, prng, prompts, sampling, sharding, state, tasks, tokenizer
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example

POSITIVE = (
    "batch_size", "micro_batches", "sequence_length", "log_every", "sampling.batch_size", "sampling.max_new_tokens",
    "checkpoint.every", "checkpoint.keep", "eval.every",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Experiment:
    cfg: ConfigDict
    task: ModuleType
    task_cfg: ConfigDict
    tokenizer: tokenizer.Tokenizer
    model_cfg: model.ModelConfig
    shots: Sequence[Example]
    mesh: Any
    sampling_mesh: Any = None  # where config.mesh.sampling_tensor asks for another one

    def load(self, split: str) -> Sequence[Example]:
        """The examples of a split; ValueError where there are none."""
        examples = self.task.load(self.task_cfg, split)
        if not len(examples):
            raise ValueError(f"The {split} split of {self.cfg.task.name} is empty.")
        return examples

    def load_eval(self, split: str) -> list[Example]:
        """The examples that an evaluation asks: all, or the number that the config gives, at even distances."""
        examples = self.load(split)
        n = (self.cfg.eval.num_test if split == "test" else self.cfg.eval.num_examples) or len(examples)
        return [examples[int(i)] for i in np.linspace(0, len(examples) - 1, min(n, len(examples)))]

    def rollout(
        self, params: model.Params, purpose: str, round: int, rule: sampling.Rule | None = None, **more: Any
    ) -> Rollout:
        """A rollout whose draws belong to this purpose and round; ``rule`` defaults to the config's. more: other fields."""
        s = self.cfg.sampling
        rule = rule if rule is not None else sampling.make_rule(s.temperature, s.top_k, s.top_p)
        return Rollout(
            params, self.model_cfg, self.tokenizer, self.task, self.shots, rule, s.batch_size, s.max_new_tokens,
            self.cfg.sequence_length, self.mesh, prng.key(self.cfg.seed, purpose, round), purpose, round,
            **({"sampling_mesh": self.sampling_mesh} | more),
        )  # fmt: skip

    def abstract_state(self) -> state.TrainState:
        """Shapes and shardings of the train state: what checkpoints are read into."""
        optimizer = optim.make(self.cfg.optim)
        shapes = jax.eval_shape(lambda: state.fresh(model.init(jax.random.key(0), self.model_cfg), optimizer))
        shardings = sharding.parameter_specs(shapes, self.mesh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def data_dir(name: str) -> str:
    """Where a task's files are looked for when the config names no path."""
    root = os.environ.get("REASONING_DATA") or str(Path(__file__).resolve().parents[2] / "shared" / "data")
    return str(Path(root) / name.replace("commonsense_qa", "commonsenseqa"))


def make(cfg: ConfigDict, devices: Any = None) -> Experiment:
    """Everything but the parameters. Sets the mesh, once, for the whole process. ValueError names the config's key."""
    for key in POSITIVE:
        if operator.attrgetter(key)(cfg) < 1:
            raise ValueError(f"config.{key}: {operator.attrgetter(key)(cfg)} is less than 1.")
    task = tasks.get(cfg.task.name)
    task_cfg = cfg.task.copy_and_resolve_references()
    if not task_cfg.path:
        task_cfg.path = data_dir(cfg.task.name)
    tok = tokenizer.make(cfg.tokenizer, task)
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    jax.set_mesh(mesh)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if cfg.batch_size % (cfg.micro_batches * rows):
        raise ValueError(
            f"config.batch_size: {cfg.batch_size} rows do not split into {cfg.micro_batches} micro-batches "
            f"over {rows} device groups."
        )
    other = sharding.sampling_mesh(mesh, cfg.mesh.sampling_tensor) if cfg.mesh.sampling_tensor else None
    size = cfg.sampling.batch_size
    for groups in (rows, rows if other is None else other.shape["data"]):
        if size % groups:
            raise ValueError(f"config.sampling.batch_size: {size} does not split over {groups} device groups.")
    sampling.make_rule(cfg.sampling.temperature, cfg.sampling.top_k, cfg.sampling.top_p)  # its errors, now
    shots = prompts.read_shots(cfg.task.shots, task) if cfg.task.shots else ()
    return Experiment(cfg, task, task_cfg, tok, presets.model_config(cfg.model, tok.vocab_size), shots, mesh, other)
