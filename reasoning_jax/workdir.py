"""The files of a run other than checkpoints and metrics: its config, and what each round collected."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

Rows = list[dict[str, np.ndarray]]
# What a run may go on with another value of: how long it is, and how and on what it is computed, but not what.
MAY_CHANGE = ("algorithm.num_rounds", "mesh.", "micro_batches", "model.attention", "model.remat")


def path(name: str | os.PathLike[str]) -> Path:
    """A path on this machine, or on an object store: gs://BUCKET/FOLDER. ValueError where what that needs is not installed."""
    if not isinstance(name, str):
        return name  # type: ignore[return-value]
    if "://" not in name:
        return Path(name).expanduser()
    from etils import epath  # here, because few need it

    try:
        epath.Path(name).exists()
    except ImportError as error:
        raise ValueError(f"{name}: this needs another package (gs:// needs gcsfs): {error}.") from error
    return epath.Path(name)  # type: ignore[return-value]


def is_local(path: Path) -> bool:
    """Whether files there can be appended to and renamed; objects of a store are only written whole, and read."""
    return isinstance(path, Path)


def claim(cfg: ConfigDict, workdir: Path) -> None:
    """Writes config.json, or, where a run has begun, refuses a config that differs in more than MAY_CHANGE.

    ValueError naming the first key that differs, or a folder that is not a run's.
    """
    new, path = json.loads(cfg.to_json_best_effort()), workdir / "config.json"
    files = {p.name for p in workdir.iterdir()} - {"config.json.tmp"} if workdir.is_dir() else set()
    if path.exists() and files != {"config.json"}:
        old_flat, new_flat = flat(read_config(workdir)), flat(new)
        for key in sorted({*old_flat, *new_flat}):
            if old_flat.get(key) != new_flat.get(key) and not key.startswith(MAY_CHANGE):
                raise ValueError(
                    f"{workdir} was made with another config: {key} was {old_flat.get(key)!r} and is now "
                    f"{new_flat.get(key)!r}; use the old value or another --workdir."
                )
    elif files - {"config.json"} or (workdir.exists() and not workdir.is_dir()):
        raise ValueError(f"{workdir} is not empty and not the work directory of a run; choose another --workdir.")
    workdir.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(new, indent=1, sort_keys=True).encode())


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of a run; FileNotFoundError or ValueError naming the file."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except OSError:
        raise FileNotFoundError(f"{workdir}: this is not the work directory of a run (it has no config.json).") from None
    except ValueError:
        raise ValueError(f"{path}: this is not the config of a run.") from None


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def write(path: Path, content: bytes) -> None:
    """All of it or nothing: a reader never sees half a file, whenever the writer dies. OSError naming the file."""
    if not is_local(path):
        path.write_bytes(content)  # an object is there when all of it is
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_rows(path: Path, rows: Rows, memory: Any) -> None:
    """A round's rows, and the method's memory after the round's collection."""
    import jax

    arrays = {f"memory_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(memory))}
    arrays["lengths"] = np.asarray([len(row["tokens"]) for row in rows], np.int64)
    for key in rows[0] if rows else ():
        arrays[f"row_{key}"] = np.concatenate([row[key] for row in rows])
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz file, all of it or nothing."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(path, buffer.getvalue())


def read_rows(path: Path, memory: Any) -> tuple[Rows, Any]:
    """What ``write_rows`` wrote; ``memory`` gives the tree's structure."""
    import jax

    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            arrays = dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"{path}: this file, the round's rows to train on, is damaged.") from None
    ends = np.cumsum(arrays["lengths"])[:-1] if len(arrays["lengths"]) else []
    parts = {k.removeprefix("row_"): np.split(v, ends) for k, v in arrays.items() if k.startswith("row_")}
    rows = [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    leaves = [arrays[f"memory_{i}"] for i in range(len(jax.tree.leaves(memory)))]
    return rows, jax.tree.unflatten(jax.tree.structure(memory), leaves)


def write_samples(path: Path, samples: Sequence[Any], kept: Any, task: ModuleType) -> None:
    """One JSON object a line for each sample of a round: what the report's browser shows."""

    def line(s: Any) -> dict[str, Any]:
        return {
            "id": s.example.id,
            "question": s.example.question,
            "rationale": s.text,
            "answer": s.answer,
            "gold": s.example.answer,
            "verdict": s.verdict,
            "hinted": s.hinted,
            "kept": (s.example.id, s.index, s.hinted) in kept,
            "wrong_line": s.wrong_line,
            "tokens": len(s.tokens),
            "difficulty": list(task.difficulty(s.example)),
        }

    write_lines(path, map(line, samples))


def write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """A JSON-lines file, all of it or nothing."""
    write(path, "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects).encode())
