"""A trained or a published model to work with: its accuracy, its answers, its texts and chats."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import (
    default,
    experiment,
    growing,
    multihost,
    overrides,
    systems,
    workdir,
)
from reasoning_jax.asking import Asker, check_temperature
from reasoning_jax.chat import Message
from reasoning_jax.errors import UserError
from reasoning_jax.estimators import MOST_SAMPLES
from reasoning_jax.evaluation import accuracy_metrics, system_metrics, vote_metrics
from reasoning_jax.experiment import Experiment
from reasoning_jax.model.decoder import Params
from reasoning_jax.rollout import Sample

Records = list[workdir.Line]  # pandas.DataFrame(records) reads them


def load_source(exp: Experiment) -> Params:
    """The parameters of the published model, in the type it computes in: not to be trained."""
    if exp.tuning.FREEZES:
        return exp.initial_params()
    if exp.source is None:
        raise UserError("config.model.source: name a published model.")
    return exp.source.load(exp.model_cfg, exp.mesh, dtype=exp.model_cfg.dtype)


@contextlib.contextmanager
def mesh_restored() -> Iterator[None]:
    """Puts the process's mesh back afterwards: a run in this process goes on with its own."""
    before = jax.sharding.get_mesh()
    try:
        yield
    finally:
        jax.set_mesh(before)


class LoadedModel:
    """A model and the experiment that says what it is asked, and how.

    has_task: False for a model that only continues texts and chats.
    """

    def __init__(self, cfg: ConfigDict, has_task: bool = True):
        self.config = cfg
        self.has_task = has_task

    def __repr__(self) -> str:
        return f"LoadedModel({self.config.model.source!r})"

    def _load(self, exp: Experiment) -> tuple[Params, int]:
        """The parameters, and the round that they are of: 0 of a published model."""
        return load_source(exp), 0

    def _load_base(self, exp: Experiment) -> Params:
        """The parameters that the rounds began with; of a model without rounds, its own."""
        return self._load(exp)[0]

    # ---- evaluating ------------------------------------------------------------------------------

    def evaluate(
        self,
        split: str = "test",
        samples: int = 0,
        temperature: float = 0.7,
        system: str = "",
        **keys: object,
    ) -> workdir.Line:
        """Accuracy on a split, with standard errors.

        samples: also so many samples an example at ``temperature``, for pass@k, maj@k and, where
        there is a verifier, best-of-k, for k = 1, 2, 4 ... samples. system: who answers, in the
        place of the config's, and its ``keys``, such as ``variant="joint"``.
        """
        model = self._answering(system, keys) if system or keys else self
        return model._evaluate(split, samples, temperature)

    def _answering(self, system: str, keys: Mapping[str, object]) -> Self:
        """This model with another system, or other values of its keys."""
        cfg = self.config.copy_and_resolve_references()
        named = {"system": system} if system else {}
        overrides.change(cfg, named | {f"system.{key}": value for key, value in keys.items()})
        default.check(cfg)
        systems.check(cfg)
        exp, params, round = self._on_all_devices
        other = copy.copy(self)
        other.config = cfg
        other.__dict__.pop("_asker", None)
        other.__dict__["_on_all_devices"] = dataclasses.replace(exp, cfg=cfg), params, round
        return other

    @mesh_restored()
    def _evaluate(self, split: str, samples: int, temperature: float) -> workdir.Line:
        if not isinstance(samples, numbers.Integral) or not 0 <= samples <= MOST_SAMPLES:
            raise UserError(f"samples={samples!r}: this must be a number from 0 to {MOST_SAMPLES}.")
        check_temperature(temperature)
        if samples and not temperature:
            raise UserError("temperature: several samples of a question need one above 0.")
        self._check_task()
        exp, params, round = self._on_all_devices
        jax.set_mesh(exp.mesh)
        examples = exp.load_eval(split)
        label = f"evaluate {split}"
        draw = functools.partial(
            exp.rollout,
            params,
            round=round,
            until_question=True,
            base_params=functools.cache(lambda: self._load_base(exp)),
        )
        roll = draw(label, temperature=0.0)
        values: workdir.Line = dict(accuracy_metrics(roll(examples), exp.task))
        if samples:
            roll = draw(f"vote {split}", temperature=temperature)
            drawn = roll(examples, num_samples=samples)
            scores = self._verifier_scores(drawn, exp)
            values |= vote_metrics(drawn, samples, scores, exp.task, exp.grader.equal)
            if "eval/drawn_tokens" in values:
                values["eval/vote_tokens"] = system_metrics(drawn)["eval/drawn_tokens"]
        about: workdir.Line = {
            "split": split,
            "round": round,
            "samples": samples,
            "temperature": temperature if samples else 0.0,
        }
        return about | values

    @functools.cached_property
    def _on_all_devices(self) -> tuple[Experiment, Params, int]:
        """The experiment on all devices, the parameters, and their round."""
        exp = experiment.make(self.config)
        params, round = self._load(exp)
        return exp, params, round

    def _verifier_scores(self, samples: Sequence[Sample], exp: Experiment) -> dict[str, np.ndarray]:
        """What a verifier gives each sample, by the name of its curve; {} without one."""
        return {}

    # ---- asking ----------------------------------------------------------------------------------

    @mesh_restored()
    def sample(self, questions: Sequence[str], temperature: float = 0.0) -> Records:
        """The model's rationale and answer to each question.

        Records with question, rationale, answer (None where there is none) and finished (False
        where the length limit cut it off). At a temperature above 0 a question that is asked again
        gets another sample. UserError for a question that cannot be asked.
        """
        if isinstance(questions, str):
            raise UserError("sample: the questions are a list, not one text.")
        self._check_task()
        return [self._asker.answer(question, temperature) for question in questions]

    @mesh_restored()
    def stream(self, question: str, temperature: float = 0.0) -> Iterator[str]:
        """What ``ask`` prints, in pieces, as it grows: the rationale, and then the answer.

        Without a task the question is the beginning of a text, and the pieces are what follows.
        """
        asker = self._asker
        begin = asker.answer_as_it_grows if self.has_task else asker.continuation
        return self._pieces(begin(question, temperature))

    @mesh_restored()
    def chat(self, messages: Sequence[Message], temperature: float = 0.0) -> Iterator[str]:
        """The assistant's next words in a conversation, in pieces, as they grow.

        messages: objects with a "role" and a "content". UserError where the model has no chat
        template, or it refuses them; TooLongError where they leave no room.
        """
        return self._pieces(self._asker.reply(messages, temperature))

    @mesh_restored()
    def check_chat(self, messages: Sequence[Message]) -> None:
        """UserError where the model has no template for this; does not wait for its weights."""
        self._asker.check_chat(messages)

    def _check_task(self) -> None:
        if not self.has_task:
            raise UserError("This model was loaded without a task; it continues texts and chats.")

    def _pieces(self, texts: Iterator[str]) -> Iterator[str]:
        """What each text adds to the one before it.

        A generator runs wherever its values are taken: the model's mesh is set for each of them.
        """
        pieces = growing.additions(texts)
        while True:
            with mesh_restored():
                jax.set_mesh(self._asker.exp.mesh)
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    @functools.cached_property
    def _asker(self) -> Asker:
        """One question at a time, on as many devices as the config splits a model over.

        Where it leaves that to the number of devices, on one.
        """
        cfg = self.config.copy_and_resolve_references()
        fsdp = max(1, cfg.mesh.fsdp)
        tensor = max(1, cfg.mesh.tensor)
        if fsdp * tensor > jax.device_count():
            fsdp = tensor = 1
        cfg.mesh.update(data=1, fsdp=fsdp, tensor=tensor, sampling_tensor=0)
        cfg.batch_size = fsdp
        cfg.micro_batches = 1
        cfg.sampling.batch_size = fsdp
        exp = experiment.make(cfg, jax.devices()[: fsdp * tensor])
        return Asker(exp, lambda: self._load(exp))


# ---- what an evaluation writes -------------------------------------------------------------------


def evaluation_path(folder: Path, split: str, cfg: ConfigDict) -> Path:
    """Where the figures of a split are written in a folder; those of a system in a file of its own.

    cfg: the experiment that is evaluated.
    """
    if cfg.system.name != systems.PLAIN:
        split = f"{split}_{cfg.system.name}"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", split)
    return folder / f"evaluation_{name}.json"


def write_evaluation(path: Path, values: workdir.Line) -> None:
    """The figures as JSON, written by one process."""
    if multihost.is_process_0():
        workdir.write(path, (json.dumps(values, indent=1) + "\n").encode())
