"""The files of a run other than checkpoints and metrics: config.json and those of rounds/."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json, Line, parse_object

Rows = list[dict[str, np.ndarray]]

# What a run may go on with another value of: how long it is, and how and on what it is computed.
MAY_CHANGE = ("rounds.count", "mesh.", "micro_batches", "model.attention", "model.remat")
# What is there before anything has been computed.
FIRST_FILES = {"config.json", "run.json", "run.lock", "config.json.tmp", "run.json.tmp"}


class _Example(Protocol):
    id: int
    question: str
    answer: str


class _Sample(Protocol):
    example: _Example
    hinted: bool
    tokens: np.ndarray
    text: str
    answer: str | None
    verdict: str
    wrong_line: int | None
    calls: Sequence[object]

    @property
    def key(self) -> tuple[int, int, bool]: ...


class _Task(Protocol):
    def difficulty(self, example: _Example) -> tuple[str, int] | None: ...


def path(name: str | os.PathLike[str]) -> Path:
    """A path on this machine, or on an object store: gs://BUCKET/FOLDER.

    Raises UserError where there can be no such path, or what it needs is not installed.
    """
    if not isinstance(name, str):
        return name  # type: ignore[return-value]
    if not name or "\0" in name:
        raise UserError(f"{name!r} is not the name of a file or folder.")
    if "://" in name:
        return _stored(name)
    try:
        local = Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: {error}") from None
    for link in (local, *local.parents):
        if link.is_symlink() and not os.path.exists(link):
            raise UserError(f"{name}: the link {link} leads nowhere.")
    return local


def _stored(name: str) -> Path:
    """A path on an object store, which can be reached."""
    from etils import epath  # here, because few need it

    try:
        stored = epath.Path(name)
    except KeyError:
        scheme = name.partition("://")[0]
        raise UserError(f"{name}: there is no access to {scheme}://, but to gs://.") from None
    try:
        stored.exists()
    except ImportError as error:
        reason = f"this needs another package (gs:// needs gcsfs): {error}"
        raise UserError(f"{name}: {reason}.") from error
    return stored  # type: ignore[return-value]


def is_local(path: Path) -> bool:
    """Whether files there can be appended to and renamed.

    Objects of a store are only written whole, and read.
    """
    return isinstance(path, Path)


# ---- config.json ---------------------------------------------------------------------------------


def has_begun(workdir: Path) -> bool:
    """Whether anything has been computed there; UserError for a folder that is not a run's."""
    files = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    has_results = bool(files - FIRST_FILES)
    has_config = (workdir / "config.json").exists()
    if (has_results and not has_config) or (workdir.exists() and not workdir.is_dir()):
        raise UserError(
            f"{workdir} is not empty and not the work directory of a run; choose another --workdir."
        )
    return has_results


def check_config(cfg: ConfigDict, workdir: Path, upgrade: Callable[[dict], dict]) -> None:
    """Where a run has begun, its config may differ in MAY_CHANGE alone; nothing is written.

    ``upgrade`` makes a config of this version from one that an older version wrote. UserError
    names the first key that differs, or a folder that is not a run's.
    """
    if has_begun(workdir):
        new = json.loads(cfg.to_json_best_effort())
        _compare(flat(upgrade(read_config(workdir))), flat(new), workdir)


def claim(cfg: ConfigDict, workdir: Path, upgrade: Callable[[dict], dict]) -> None:
    """``check_config``, and then writes config.json."""
    check_config(cfg, workdir, upgrade)
    workdir.mkdir(parents=True, exist_ok=True)
    new = json.loads(cfg.to_json_best_effort())
    write(workdir / "config.json", json.dumps(new, indent=1, sort_keys=True).encode())


def _compare(old: Mapping[str, Json], new: Mapping[str, Json], workdir: Path) -> None:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not key.startswith(MAY_CHANGE):
            raise UserError(
                f"{workdir} was made with another config: {key} was {old.get(key)!r} and is now "
                f"{new.get(key)!r}; use the old value or another --workdir."
            )


PUBLISHED = "this is a published model, not the work directory of a run; --model=PATH asks it."


def read_config(workdir: Path) -> dict[str, Json]:
    """The config of a run; MissingFileError or UserError naming the file."""
    path = workdir / "config.json"
    if not path.is_file():
        reason = "this is not the work directory of a run (it has no config.json)"
        raise MissingFileError(f"{workdir}: {reason}.")
    try:
        values = parse_object(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path}: this is not the config of a run.") from None
    if not {"model_type", "architectures"}.isdisjoint(values):
        raise UserError(f"{workdir}: {PUBLISHED}")
    return values


def config_fingerprint(config: Mapping[str, Json]) -> str:
    """16 hexadecimal digits of the values of a config.json, but for those that may change."""
    values = {key: x for key, x in flat(config).items() if not key.startswith(MAY_CHANGE)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_as_written(workdir: Path, config: Mapping[str, Json]) -> None:
    """UserError where run.json says that config.json was another than this."""
    try:
        expected = json.loads((workdir / "run.json").read_text())["config"]
    except (OSError, ValueError, TypeError, KeyError):  # an older version wrote none
        return
    if expected != config_fingerprint(config):
        path = workdir / "config.json"
        raise UserError(f"{path}: this is not the config that the run wrote; put that one back.")


def flat(tree: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    leaves: dict[str, Json] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


# ---- JSON lines ----------------------------------------------------------------------------------


def write_samples(
    path: Path,
    samples: Sequence[_Sample],
    kept: Collection[tuple[int, int, bool]],
    task: _Task,
) -> None:
    """The samples of a round, a line each, as the report shows them.

    ``kept``: the keys of those that are trained on.
    """
    lines = []
    for sample in samples:
        example = sample.example
        difficulty = task.difficulty(example)
        line: Line = {
            "id": example.id,
            "question": example.question,
            "rationale": sample.text,
            "answer": sample.answer,
            "gold": example.answer,
            "verdict": sample.verdict,
            "hinted": sample.hinted,
            "kept": sample.key in kept,
            "wrong_line": sample.wrong_line,
            "tokens": len(sample.tokens),
            "difficulty": None if difficulty is None else list(difficulty),
        }
        if sample.calls:
            line["calls"] = [dataclasses.asdict(call) for call in sample.calls]
        lines.append(line)
    write_lines(path, lines)


def write_lines(path: Path, objects: Iterable[Line]) -> None:
    """A JSON-lines file, all of it or nothing."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in objects)
    write(path, text.encode())


def read_lines(name: str | os.PathLike[str]) -> list[Line]:
    """``lines`` as a list."""
    return list(lines(name))


def lines(name: str | os.PathLike[str]) -> Iterator[Line]:
    """The objects of a JSON-lines file that may have been cut off while its last line was written.

    Raises MissingFileError where there is no such file, UserError where an earlier line is broken.
    """
    file = path(name)
    if not file.is_file():
        raise MissingFileError(f"There is no file {file}.")
    with file.open("rb") as texts:
        for number, text in enumerate(texts, 1):
            try:
                line = parse_object(text)
            except ValueError:
                if not text.endswith(b"\n"):  # a torn last line
                    return
                reason = "this is not a JSON object"
                raise UserError(f"{file}, line {number}: {reason}.") from None
            yield line


def write(path: Path, content: bytes) -> None:
    """All of it or nothing: a reader never sees half a file, whenever the writer dies.

    Raises OSError naming the file.
    """
    if not is_local(path):
        path.write_bytes(content)  # an object is there when all of it is
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        # A new file, never what a link of this name points to.
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file, all of it or nothing."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(path, buffer.getvalue())
