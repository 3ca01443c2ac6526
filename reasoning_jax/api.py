"""What a notebook imports: training as an iterator; runs and published models as objects.

    import reasoning_jax as rj

    cfg = rj.load_config("configs/star_addition.py:smoke")
    for event in rj.train(cfg, "runs/smoke"):
        print(event.phase, event.round, event.values)
    run = rj.open("runs/smoke")
    run.evaluate(split="test"), run.sample(["12+34"]), run.metrics, run.samples(1)
    run.evaluate(system="cove", variant="factored")  # in several calls
    run.export("adapter")  # as the command convert
    rj.load_model("SmolLM2-135M", task="gsm8k", shots=8).evaluate()
    for piece in rj.load_model("SmolLM2-135M").stream("Once upon a time"):
        print(piece, end="")

Everything raises (``UserError`` for a mistake of the user's) and nothing exits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import (
    config,
    default,
    loop,
    metrics,
    overrides,
    published,
    run_export,
    workdir,
)
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.events import Event
from reasoning_jax.experiment import Experiment
from reasoning_jax.graders import verifier
from reasoning_jax.loaded import (
    LoadedModel,
    Records,
    evaluation_path,
    mesh_restored,
    write_evaluation,
)
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import export as files
from reasoning_jax.rollout import Sample
from reasoning_jax.training import checkpoint


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


def load_model(source: str | os.PathLike[str], task: str = "", **options: object) -> LoadedModel:
    """A published model and what it is asked, without any run.

    options: ``shots``, ``chat``, ``prompting`` and the like, as ``published.config`` takes them;
    and values by dotted key, as ``**{"task.extraction": "boxed"}``. Without a task the model
    continues texts and chats, and of the former takes ``max_new_tokens``. UserError for what the
    experiment does not have.
    """
    named = {name: value for name, value in options.items() if name in published.OPTIONS}
    cfg = published.config(os.fspath(source), task, named)
    overrides.change(cfg, {key: value for key, value in options.items() if key not in named})
    published.check(cfg, named)
    default.check(cfg)
    return LoadedModel(cfg, has_task=bool(task))


class SavedRun(LoadedModel):
    """A run on disk: its figures, its samples, and the model of its best round.

    It may be a run that this process trains meanwhile.
    """

    def __init__(self, directory: Path, cfg: ConfigDict):
        super().__init__(cfg)
        self.dir = directory

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

    @mesh_restored()
    def export(self, destination: str | os.PathLike[str], merge: bool = False) -> str:
        """Writes the best round for other programs, as ``convert`` does; returns what it is.

        A Hugging Face folder, or of a LoRA a PEFT folder; ``merge`` adds it to the model. The
        destination must be new. UserError for what no other program reads.
        """
        place = workdir.path(os.fspath(destination))
        files.check_outside(self.dir, place)
        files.check_free(place)
        return run_export.write(self.dir, place, merge)

    # ---- evaluating ------------------------------------------------------------------------------

    def _evaluate(self, split: str, samples: int, temperature: float) -> workdir.Line:
        """Of the best round; written as evaluation_SPLIT.json too.

        A system's figures are in evaluation_SPLIT_SYSTEM.json. The file also has the keys whose
        values are not the run's own, under "config".
        """
        values = super()._evaluate(split, samples, temperature)
        changed = self._changed()
        written = values | {"config": changed} if changed else values
        write_evaluation(self.evaluation_path(split), written)
        return values

    def _changed(self) -> dict[str, workdir.Json]:
        """What differs from the config that the run was trained with, by dotted key."""
        own = workdir.flat(config.as_dict(config.rebuild(self.dir)))
        values = workdir.flat(config.as_dict(self.config))
        return {key: value for key, value in values.items() if own.get(key) != value}

    def evaluation_path(self, split: str) -> Path:
        """Where ``evaluate`` writes its figures."""
        return evaluation_path(self.dir, split, self.config)

    def _load(self, exp: Experiment) -> tuple[Params, int]:
        params, meta = checkpoint.load_params(self.dir, exp.abstract_state().params)
        exp.check_stamp(meta, self.dir)
        return params, meta["round"]

    def _load_base(self, exp: Experiment) -> Params:
        return exp.params_of_run(str(self.dir / "base"))

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
            model = exp.rollout(params, "verifier", 0)
            grades = verifier.grade(samples, model, exp.task, exp.cfg)
            return np.array([grade.score for grade in grades], np.float32)

        own = log_likelihoods(restored.params)
        base = log_likelihoods(base_params)
        has_answer = own > -np.inf
        ratio = np.where(has_answer, own - np.where(has_answer, base, 0), -np.inf)
        return {"best_of": own, "best_of_ratio": ratio}
