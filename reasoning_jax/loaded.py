"""A model that is not trained: how good it is on a task, and what it answers."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import experiment, multihost, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.estimators import MOST_SAMPLES
from reasoning_jax.evaluation import accuracy_metrics, vote_metrics
from reasoning_jax.experiment import Experiment
from reasoning_jax.model.decoder import Params
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example

Records = list[workdir.Line]  # pandas.DataFrame(records) reads them


@contextlib.contextmanager
def _mesh_put_back() -> Iterator[None]:
    """Leaves the mesh of the process as it was: a run that it trains goes on with its own."""
    before = jax.sharding.get_mesh()
    try:
        yield
    finally:
        jax.set_mesh(before)


class LoadedModel:
    """A model and the experiment that says what it is asked, and how."""

    def __init__(self, cfg: ConfigDict):
        self.config = cfg
        self._asked = 0

    def __repr__(self) -> str:
        return f"LoadedModel({self.config.model.source!r})"

    def _load(self, exp: Experiment) -> tuple[Params, int]:
        """The parameters, and the round that they are of."""
        return experiment.load_source(exp), 0

    # ---- evaluating ------------------------------------------------------------------------------

    @_mesh_put_back()
    def evaluate(
        self, split: str = "test", samples: int = 0, temperature: float = 0.7
    ) -> workdir.Line:
        """Accuracy on a split, with standard errors.

        samples: also so many samples an example at ``temperature``, for pass@k, maj@k and, where
        there is a verifier, best-of-k, for k = 1, 2, 4 ... samples.
        """
        if not 0 <= samples <= MOST_SAMPLES:
            raise UserError(f"samples={samples}: this must be a number from 0 to {MOST_SAMPLES}.")
        _check_temperature(temperature)
        if samples and not temperature:
            raise UserError("temperature: several samples of a question need one above 0.")
        exp, params, round = self._whole
        jax.set_mesh(exp.mesh)
        examples = exp.load_eval(split)
        label = f"evaluate {split}"
        roll = exp.rollout(params, label, round, temperature=0.0, until_question=True)
        values: workdir.Line = dict(accuracy_metrics(roll(examples), exp.task))
        if samples:
            label = f"vote {split}"
            roll = exp.rollout(params, label, round, temperature=temperature, until_question=True)
            drawn = roll(examples, num_samples=samples)
            scores = self._verifier_scores(drawn, exp)
            values |= vote_metrics(drawn, samples, scores, exp.task, exp.grader.equal)
        about: workdir.Line = {
            "split": split,
            "round": round,
            "samples": samples,
            "temperature": temperature if samples else 0.0,
        }
        return about | values

    @functools.cached_property
    def _whole(self) -> tuple[Experiment, Params, int]:
        """The experiment on all devices, the parameters, and their round."""
        exp = experiment.make(self.config)
        params, round = self._load(exp)
        return exp, params, round

    def _verifier_scores(self, samples: Sequence[Sample], exp: Experiment) -> dict[str, np.ndarray]:
        """What a verifier gives each sample, by the name of its curve; {} without one."""
        return {}

    # ---- asking ----------------------------------------------------------------------------------

    @_mesh_put_back()
    def sample(self, questions: Sequence[str], temperature: float = 0.0) -> Records:
        """The model's rationale and answer to each question.

        Records with question, rationale, answer (None where there is none) and finished (False
        where the length limit cut it off). At a temperature a question that is asked again gets
        another sample. UserError for a question that cannot be asked.
        """
        if isinstance(questions, str):
            raise UserError("sample: the questions are a list, not one text.")
        _check_temperature(temperature)
        exp, params = self._small
        jax.set_mesh(exp.mesh)
        roll = exp.rollout(params, "ask", 0, temperature=temperature, until_question=True)
        return [self._answer(roll, question) for question in questions]

    @functools.cached_property
    def _small(self) -> tuple[Experiment, Params]:
        """The experiment for one question at a time, on as few devices as the model needs."""
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
        params, _ = self._load(exp)
        return exp, params

    def _answer(self, roll: Rollout, question: str) -> workdir.Line:
        question = _without_decoration(question, getattr(roll.tokenizer, "alphabet", None))
        if not question.strip():
            raise UserError("The question is empty.")
        if any("\ud800" <= c <= "\udfff" for c in question):  # bytes that are no UTF-8
            raise UserError(f"The question is not valid UTF-8: {ascii(question)}.")
        example = Example(id=0, question=question, answer="")
        try:
            ids = roll.prompt_ids(example)
        except ValueError as error:
            raise UserError(f"The question cannot be asked: {error}") from None
        if len(ids) > roll.room:
            raise UserError(
                f"The question is too long: {len(ids)} tokens, and with "
                f"sampling.max_new_tokens={roll.max_new_tokens} there is room for {roll.room}."
            )
        sample = roll.complete(example, self._asked)
        self._asked += 1
        return {
            "question": question,
            "rationale": sample.text.strip(),
            "answer": roll.task.extract(sample.text) if sample.finished else None,
            "finished": sample.finished,
        }


def _check_temperature(temperature: float) -> None:
    """UserError unless it is 0, or logits divided by it are numbers that differ."""
    if temperature != 0 and not 1e-4 <= temperature <= 1e4:
        raise UserError(f"temperature={temperature}: this must be 0, or from 0.0001 to 10000.")


def _without_decoration(question: str, alphabet: Sequence[str] | None) -> str:
    """People write "12 + 34 = ?": without what a tokenizer of characters does not know of that."""
    if alphabet is None:
        return question
    return "".join(c for c in question if c in alphabet or c not in " \t=?")


# ---- what an evaluation writes -------------------------------------------------------------------


def evaluation_path(folder: Path, split: str) -> Path:
    """Where the figures of a split are written in a folder."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", split)
    return folder / f"evaluation_{name}.json"


def write_evaluation(path: Path, values: workdir.Line) -> None:
    """The figures as JSON, written by one process."""
    if multihost.is_process_0():
        workdir.write(path, (json.dumps(values, indent=1) + "\n").encode())
