"""What a config names, put together: task, grader, tokenizer, model, mesh.

Training, evaluation, asking and planning share it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from reasoning_jax import (
    cpu_devices,
    extraction,
    forwards,
    graders,
    named_model,
    pretrained,
    prng,
    prompts,
    systems,
    tasks,
    tokenizer,
    tune,
    workdir,
)
from reasoning_jax.config_checks import check, sampling_mesh
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, sharding
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Rollout
from reasoning_jax.round_prompts import RoundPrompts
from reasoning_jax.tasks import Example
from reasoning_jax.training import checkpoint, optim, state
from reasoning_jax.training.checkpoint import Meta

# In what is saved with an adapter: the fingerprint of the frozen model, and the scale of a LoRA.
BASE_MODEL = "base_model"
SCALE = "lora_scale"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A config and all that it names but the parameters."""

    cfg: ConfigDict
    task: tasks.Task
    task_cfg: ConfigDict
    grader: graders.Grader
    tokenizer: tokenizer.Tokenizer
    model_cfg: decoder.ModelConfig
    shots: Sequence[Example]
    mesh: Mesh
    tuning: tune.Tuning
    source: pretrained.Source | None = None  # the published model that config.model.source names
    sampling_mesh: Mesh | None = None  # where config.mesh.sampling_tensor asks for another one
    splits: dict[str, Sequence[Example]] = dataclasses.field(default_factory=dict)  # loaded ones

    def load(self, split: str) -> Sequence[Example]:
        """The examples of a split; UserError where there are none."""
        if split not in self.splits:
            examples = self.task.load(self.task_cfg, split)
            if not len(examples):
                raise UserError(f"The {split} split of {self.cfg.task.name} is empty.")
            self.splits[split] = examples
        return self.splits[split]

    def load_eval(self, split: str) -> list[Example]:
        """The examples that an evaluation asks.

        All, or the number that the config gives, at even distances.
        """
        examples = self.load(split)
        limit = self.cfg.eval.num_test if split == "test" else self.cfg.eval.num_examples
        count = min(limit or len(examples), len(examples))
        return [examples[int(i)] for i in np.linspace(0, len(examples) - 1, count)]

    # ---- parameters ------------------------------------------------------------------------------

    @functools.cached_property
    def forward(self) -> forwards.Forward:
        """How parameters become log-probabilities."""
        return forwards.get(self.cfg.forward.name)

    @functools.cached_property
    def forward_cfg(self) -> forwards.ForwardConfig:
        return forwards.settings(self.cfg.forward)

    @functools.cached_property
    def frozen(self) -> decoder.Params:
        """The parameters that no update changes, on their devices; read when they are first used.

        {} where all are trained.
        """
        if not self.tuning.FREEZES:
            return {}
        if self.source is None:
            raise UserError(
                f"config.model.source: tune.name {self.tuning.name} needs a published model."
            )
        return self.source.load(self.model_cfg, self.mesh, dtype=self.model_cfg.dtype)

    @functools.cached_property
    def base_fingerprint(self) -> str | None:
        """16 hexadecimal digits of what is frozen; None where nothing is."""
        return pretrained.fingerprint(self.frozen) if self.tuning.FREEZES else None

    def stamped(self, meta: Meta) -> Meta:
        """What is saved with an adapter: also which model it changes."""
        if self.base_fingerprint is None:
            return meta
        return meta | {BASE_MODEL: self.base_fingerprint, SCALE: self.model_cfg.lora_scale}

    def check_stamp(self, meta: Meta, folder: Path) -> Meta:
        """What was saved, without the stamp; UserError where it is an adapter of another model."""
        saved = meta.get(BASE_MODEL)
        if saved != self.base_fingerprint:
            raise UserError(
                f"{folder}: this was trained beside a frozen model with the fingerprint {saved}, "
                f"but config.model.source {self.cfg.model.source!r} has {self.base_fingerprint}, "
                f"read as {self.cfg.model.dtype}: model.dtype must be the run's too."
            )
        scale, own_scale = meta.get(SCALE), self.model_cfg.lora_scale
        if scale is not None and scale != own_scale:
            raise UserError(
                f"{folder}: this LoRA was trained at the scale {scale:g}, and config.tune.alpha / "
                f"rank is {own_scale:g}."
            )
        return {name: value for name, value in meta.items() if name not in (BASE_MODEL, SCALE)}

    def params_of_run(self, folder: str) -> decoder.Params:
        """What another run of the same shape has trained: its best round, or that of DIR/base."""
        directory = workdir.path(folder)
        params, meta = checkpoint.load_params(directory, self.abstract_state().params)
        self.check_stamp(meta, directory)
        return params

    def initial_params(self) -> decoder.Params:
        """What is trained, before any update."""
        if self.source is not None and not self.tuning.FREEZES:
            model = self.source.load(self.model_cfg, self.mesh, dtype="float32")
            return model | self.forward_params()
        key = prng.key(self.cfg.seed, "init")
        words = sharding.put(np.asarray(self._first_words(), np.int32), self.mesh)
        create = functools.partial(self.tuning.init, cfg=self.cfg.tune, model_cfg=self.model_cfg)
        shapes = tune.abstract_trained(self.tuning, self.cfg.tune, self.model_cfg)
        shardings = sharding.parameter_specs(shapes, self.mesh)
        model = jax.jit(create, out_shardings=shardings)(key, self.frozen, words)
        return model | self.forward_params()

    def forward_params(self) -> decoder.Params:
        """What the forward adds to the model's parameters, before any update."""
        shapes = self._abstract_forward_params()
        if not shapes:
            return {}
        shardings = sharding.parameter_specs(shapes, self.mesh)
        key = prng.key(self.cfg.seed, "forward")
        return jax.jit(self._new_forward_params, out_shardings=shardings)(key)

    def _new_forward_params(self, key: jax.Array) -> decoder.Params:
        return self.forward.init(key, self.model_cfg, self.forward_cfg)

    def _abstract_forward_params(self) -> decoder.Params:
        return jax.eval_shape(lambda: self._new_forward_params(jax.random.key(0)))

    def _first_words(self) -> list[int]:
        """The tokens that a soft prompt begins as."""
        length = self.tuning.prompt_length(self.cfg.tune)
        if not length:
            return []
        if self.cfg.tune.text:
            ids = self.tokenizer.encode(self.cfg.tune.text)
            return (ids * length)[:length]
        rng = np.random.default_rng(self.cfg.seed)
        return rng.integers(self.tokenizer.vocab_size, size=length).tolist()

    def _abstract_params(self) -> decoder.Params:
        model = tune.abstract_trained(self.tuning, self.cfg.tune, self.model_cfg)
        return model | self._abstract_forward_params()

    @functools.cached_property
    def prompts(self) -> RoundPrompts:
        """What stands after the prompts of each round."""
        return RoundPrompts(
            forward=self.forward,
            cfg=self.forward_cfg,
            words=self.tokenizer,
            vocab_size=self.model_cfg.vocab_size,
            first_id=self.model_cfg.vocab_size + self.tuning.prompt_length(self.cfg.tune),
            seed=self.cfg.seed,
        )

    def policy(self, params: decoder.Params) -> Policy:
        """A policy with these parameters for what is trained."""
        return Policy(
            params=self.frozen | params,
            model_cfg=self.model_cfg,
            mesh=self.mesh,
            sampling_mesh=self.sampling_mesh,
            batch_size=self.cfg.sampling.batch_size,
            max_length=self.cfg.sequence_length,
            forward=self.forward,
            forward_cfg=self.forward_cfg,
            cache_tokens=self.cfg.sampling.cache_tokens,
            in_int8=self.cfg.sampling.int8,
            int8_cache=self.cfg.sampling.int8_cache,
        )

    def rollout(
        self,
        params: decoder.Params,
        purpose: str,
        round: int,
        *,
        temperature: float | None = None,
        quiet: bool = False,
        until_question: bool = False,
        base_params: Callable[[], decoder.Params] | None = None,
    ) -> Rollout:
        """A rollout whose draws belong to this purpose and round.

        temperature: None is the config's, with its truncation; another is not truncated.
        """
        s = self.cfg.sampling
        own = temperature is None
        return systems.SystemRollout(
            policy=self.policy(params),
            tokenizer=self.prompts.tokenizer(round),
            of_training_row=functools.partial(self.prompts.of_training_row, round=round),
            task=self.task,
            task_cfg=self.task_cfg,
            grader=self.grader,
            shots=self.shots,
            temperature=s.temperature if own else temperature,
            top_k=s.top_k if own else 0,
            top_p=s.top_p if own else 1.0,
            max_new_tokens=s.max_new_tokens,
            key=prng.key(self.cfg.seed, purpose, round),
            label=purpose,
            round=round,
            quiet=quiet,
            chat=self.cfg.tokenizer.chat,
            until_question=until_question,
            base_params=base_params and (lambda: self.frozen | base_params()),
            params_of_run=functools.cache(lambda name: self.frozen | self.params_of_run(name)),
            system=self.cfg.system,
        )

    def abstract_state(self) -> state.TrainState:
        """Shapes and shardings of the train state: what checkpoints are read into."""
        optimizer = optim.make(self.cfg.optim)
        shapes = jax.eval_shape(lambda p: state.fresh(p, optimizer), self._abstract_params())
        return _with_shardings(shapes, self.mesh)

    def abstract_frozen(self) -> decoder.Params:
        """Shapes and shardings of ``frozen``."""
        return _with_shardings(tune.abstract_frozen(self.tuning, self.model_cfg), self.mesh)


def _with_shardings(shapes: PyTree, mesh: Mesh) -> PyTree:
    shardings = sharding.parameter_specs(shapes, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def make(cfg: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Everything but the parameters; sets the mesh, once, for the whole process.

    The config's values are checked first: UserError names the key.
    """
    check(cfg)
    devices = cpu_devices.devices(cfg) if devices is None else devices
    task_cfg = extraction.settle(cfg.task)
    task = extraction.make(task_cfg)
    tuning = tune.get(cfg.tune.name)
    source, words, model_cfg = named_model.of(cfg, task)
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    jax.set_mesh(mesh)
    shots = prompts.read_shots(task_cfg.shots, task, task_cfg) if task_cfg.shots else []
    return Experiment(
        cfg=cfg,
        task=task,
        task_cfg=task_cfg,
        grader=graders.make(cfg, task),
        tokenizer=tuning.tokenizer(cfg.tune, words, model_cfg),
        model_cfg=tuning.model_config(cfg.tune, model_cfg),
        tuning=tuning,
        source=source,
        shots=shots,
        mesh=mesh,
        sampling_mesh=sampling_mesh(cfg, mesh),
    )
