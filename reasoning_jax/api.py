"""What a notebook imports: training as an iterator, and a run on disk as an object.

    import reasoning_jax as rj

    cfg = rj.load_config("configs/star_addition.py:smoke")
    for event in rj.train(cfg, "runs/smoke"):
        print(event.phase, event.round, event.values)
    run = rj.open("runs/smoke")
    run.evaluate(split="test"), run.sample(["12+34"]), run.metrics, run.samples(1)

Everything raises (``UserError`` for a mistake of the user's) and nothing exits.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import config, experiment, loop, metrics, multihost, overrides, workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.estimators import MOST_SAMPLES
from reasoning_jax.evaluation import accuracy_metrics, vote_metrics
from reasoning_jax.events import Event
from reasoning_jax.experiment import Experiment
from reasoning_jax.graders import verifier
from reasoning_jax.model.decoder import Params
from reasoning_jax.policy import Request
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example
from reasoning_jax.training import checkpoint

Records = list[workdir.Line]  # pandas.DataFrame(records) reads them


def load_config(argument: str, **changes: object) -> ConfigDict:
    """The config of "path/to/X.py" or "path/to/X.py:ARGUMENT", with some keys changed.

    changes: values by dotted key, as ``**{"rounds.count": 2}``. UserError for a key that the
    experiment does not have.
    """
    cfg = config.load(argument)
    overrides.change(cfg, changes)
    return cfg


def train(cfg: ConfigDict, directory: str | os.PathLike[str]) -> Iterator[Event]:
    """Trains, or goes on where the run in ``directory`` stopped; yields what it logs.

    Whoever stops iterating leaves a run that the same call goes on with.
    """
    if not isinstance(cfg, ConfigDict):
        raise UserError("train: the first argument is a config, as load_config gives it.")
    yield from loop.events(cfg, workdir.path(os.fspath(directory)))


def open(directory: str | os.PathLike[str]) -> SavedRun:
    """The run in a work directory; UserError where there is none."""
    folder = workdir.path(os.fspath(directory))
    return SavedRun(folder, config.rebuild(folder))


@contextlib.contextmanager
def _mesh_put_back() -> Iterator[None]:
    """Leaves the mesh of the process as it was: a run that it trains goes on with its own."""
    before = jax.sharding.get_mesh()
    try:
        yield
    finally:
        jax.set_mesh(before)


class SavedRun:
    """A run on disk: its figures, its samples, and the model of its best round.

    It may be a run that this process trains meanwhile.
    """

    def __init__(self, directory: Path, cfg: ConfigDict):
        self.dir = directory
        self.config = cfg
        self._asked = 0

    def __repr__(self) -> str:
        return f"SavedRun({str(self.dir)!r})"

    @property
    def metrics(self) -> Records:
        """The lines of metrics.jsonl."""
        return metrics.read(self.dir)

    def samples(self, round: int) -> Records:
        """What a round sampled: the lines of its samples.jsonl. MissingFileError without any."""
        path = self.dir / "rounds" / f"{round:04d}" / "samples.jsonl"
        if not path.exists():
            raise MissingFileError(f"{path}: the samples of round {round} are not written.")
        return workdir.read_lines(path)

    # ---- evaluating ------------------------------------------------------------------------------

    @_mesh_put_back()
    def evaluate(
        self, split: str = "test", samples: int = 0, temperature: float = 0.7
    ) -> workdir.Line:
        """Accuracy on a split, with standard errors; written as evaluation_SPLIT.json too.

        samples: also so many samples an example at ``temperature``, for pass@k, maj@k and, where
        the run has a verifier, best-of-k, for k = 1, 2, 4 ... samples.
        """
        if not 0 <= samples <= MOST_SAMPLES:
            raise UserError(f"samples={samples}: this must be a number from 0 to {MOST_SAMPLES}.")
        _check_temperature(temperature)
        if samples and not temperature:
            raise UserError("temperature: several samples of a question need one above 0.")
        exp, params, round = self._whole
        jax.set_mesh(exp.mesh)
        examples = exp.load_eval(split)
        roll = exp.rollout(params, f"evaluate {split}", round, temperature=0.0)
        values: workdir.Line = dict(accuracy_metrics(roll(examples), exp.task))
        if samples:
            roll = exp.rollout(params, f"vote {split}", round, temperature=temperature)
            drawn = roll(examples, num_samples=samples)
            scores = self._verifier_scores(drawn, exp)
            values |= vote_metrics(drawn, samples, scores, exp.task, exp.grader.equal)
        about: workdir.Line = {
            "split": split,
            "round": round,
            "samples": samples,
            "temperature": temperature if samples else 0.0,
        }
        if multihost.is_process_0():
            content = json.dumps(about | values, indent=1) + "\n"
            workdir.write(self.evaluation_path(split), content.encode())
        return about | values

    def evaluation_path(self, split: str) -> Path:
        """Where ``evaluate`` writes its figures."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", split)
        return self.dir / f"evaluation_{name}.json"

    @functools.cached_property
    def _whole(self) -> tuple[Experiment, Params, int]:
        """The experiment on all devices, the best round's parameters, and that round."""
        exp = experiment.make(self.config)
        params, meta = checkpoint.load_params(self.dir, exp.abstract_state().params)
        exp.check_stamp(meta, self.dir)
        return exp, params, meta["round"]

    def _verifier_scores(self, samples: Sequence[Sample], exp: Experiment) -> dict[str, np.ndarray]:
        """What the run's verifier gives each sample, by the name of its curve; {} without one.

        best_of is its log-likelihood (the paper's score, which favours what is short),
        best_of_ratio that less the base model's. The lowest of all for what is cut off or has no
        answer.
        """
        abstract = exp.abstract_state().params
        restored: checkpoint.Restored[Params, None] | None
        restored = checkpoint.restore(self.dir / "verifier", abstract)
        if not restored:
            return {}
        base_params, _ = checkpoint.load_params(self.dir / "base", abstract)

        def log_likelihoods(params: Params) -> np.ndarray:
            grades = verifier.grade(samples, exp.policy(params), exp.task, exp.cfg)
            return np.array([grade.score for grade in grades], np.float32)

        own = log_likelihoods(restored.params)
        base = log_likelihoods(base_params)
        has_answer = own > -np.inf
        ratio = np.where(has_answer, own - np.where(has_answer, base, 0), -np.inf)
        return {"best_of": own, "best_of_ratio": ratio}

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
        roll = exp.rollout(params, "ask", 0, temperature=temperature)
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
        params, meta = checkpoint.load_params(self.dir, exp.abstract_state().params)
        exp.check_stamp(meta, self.dir)
        return exp, params

    def _answer(self, roll: Rollout, question: str) -> workdir.Line:
        question = _without_decoration(question, getattr(roll.tokenizer, "alphabet", None))
        if not question.strip():
            raise UserError("The question is empty.")
        if any("\ud800" <= c <= "\udfff" for c in question):  # bytes that are no UTF-8
            raise UserError(f"The question is not valid UTF-8: {ascii(question)}.")
        try:
            ids = roll.prompt_ids(Example(id=0, question=question, answer=""))
        except ValueError as error:
            raise UserError(f"The question cannot be asked: {error}") from None
        room = roll.max_length - roll.max_new_tokens
        if len(ids) > room:
            raise UserError(
                f"The question is too long: {len(ids)} tokens, and with "
                f"sampling.max_new_tokens={roll.max_new_tokens} there is room for {room}."
            )
        samples = roll.sample_one(Request(0, self._asked, ids))
        self._asked += 1
        text = roll.tokenizer.decode(samples.tokens[0, : samples.lengths[0]].tolist())
        finished = bool(samples.finished[0])
        return {
            "question": question,
            "rationale": text.strip(),
            "answer": roll.task.extract(text) if finished else None,
            "finished": finished,
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
