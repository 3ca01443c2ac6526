"""run.json: fingerprints of a run's config and data, and whether the run has been saved.

What a run keeps about its data, such as a reference's log-likelihoods or a method's memory, is of
use with this data only. A run that has been saved never starts from the beginning again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from reasoning_jax import multihost, workdir
from reasoning_jax.algorithms import Algorithm
from reasoning_jax.errors import UserError
from reasoning_jax.experiment import Experiment
from reasoning_jax.tasks import Example
from reasoning_jax.training import checkpoint, checkpoint_folders

NAME = "run.json"


class RunRecord(NamedTuple):
    """What run.json holds."""

    config: str  # the fingerprint of config.json
    data: dict[str, str]  # what is read -> its fingerprint
    saved: bool  # whether there has been a checkpoint


# ---- fingerprints --------------------------------------------------------------------------------


def fingerprints(
    exp: Experiment, splits: Mapping[str, Sequence[Example]], algorithm: Algorithm
) -> dict[str, str]:
    """Fingerprints of the splits, the shots, the tokenizer, a judge and the method's own files.

    splits: the examples of each split that the run uses, by its name. The parameters of
    ``base.init_from`` are not among them.
    """
    data = {f"the split {name}": _of_examples(examples) for name, examples in splits.items()}
    if exp.shots:
        data["task.shots"] = _of_examples(exp.shots)
    if exp.tokenizer.fingerprint is not None:
        data["tokenizer.path"] = exp.tokenizer.fingerprint
    for section in ("algorithm", "grader"):
        folder = exp.cfg[section].get("judge_run")
        if folder:
            judge = checkpoint.newest(workdir.path(folder))
            data[f"config.{section}.judge_run"] = fingerprint(judge)
    for key, records in algorithm.data(exp.cfg).items():
        data[key] = fingerprint(records)
    return data


def fingerprint(records: Iterable[object]) -> str:
    """16 hexadecimal digits of the content of records that JSON can hold, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record).encode() + b"\n")
    return digest.hexdigest()[:16]


def _of_examples(examples: Iterable[Example]) -> str:
    records = []
    for e in examples:
        turns = [e.turns] if e.turns else []  # most questions have none before them
        records.append([int(e.id), e.question, e.answer, e.rationale, *turns])
    return fingerprint(records)


# ---- the file ------------------------------------------------------------------------------------


def read(directory: Path) -> RunRecord | None:
    """The record of a run; None where there is none, as in the runs of older versions."""
    path = directory / NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        record = RunRecord(**content)
        texts = [record.config, *record.data.values()]
        is_text = all(isinstance(value, str) for value in texts)
        if not is_text or not isinstance(record.saved, bool):
            raise ValueError
        return record
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(
            f"{path}: this file is damaged. Without it the run goes on, and the data that it is "
            "given now is recorded as its data."
        ) from None


def write(directory: Path, record: RunRecord) -> None:
    """Writes run.json."""
    content = json.dumps(record._asdict(), indent=1, sort_keys=True)
    workdir.write(directory / NAME, content.encode())


def check_data(directory: Path, data: Mapping[str, str]) -> None:
    """UserError that names the first of ``data`` that is not what the run was made with."""
    record = read(directory)
    if record is None:
        return
    for name, actual in data.items():
        if name in record.data and record.data[name] != actual:
            raise UserError(
                f"{directory} was made with other data: {name} had the fingerprint "
                f"{record.data[name]} and has {actual} now; put the old data back or use another "
                "--workdir."
            )


def has_been_saved(directory: Path) -> bool:
    """Whether there has been a checkpoint, and so results, as far as can be told."""
    record = read(directory)
    if record is not None:
        return record.saved
    for name in ("base", "best"):
        if checkpoint_folders.steps(directory / name):
            return True
    log = directory / "metrics.jsonl"
    return log.exists() and b'"phase": "eval"' in log.read_bytes()


def note_saved(directory: Path) -> None:
    """Records that there is a checkpoint; does nothing where there is no run.json."""
    record = read(directory)
    if record is not None:
        write(directory, record._replace(saved=True))


def claim(directory: Path, data: Mapping[str, str], saved: bool) -> None:
    """Writes run.json, after config.json; prints a note where an older version wrote none."""
    record = read(directory)
    if record is None and saved:
        multihost.print_once(
            f"{directory}: an older version began this run and did not record its data; "
            "from now on it is compared with today's."
        )
    old_data = record.data if record is not None else {}
    config = workdir.config_fingerprint(workdir.read_config(directory))
    new = RunRecord(config=config, data={**old_data, **data}, saved=saved)
    if new != record:
        write(directory, new)
