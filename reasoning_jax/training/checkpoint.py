"""Checkpoints: the only file that knows Orbax. A save is complete or it does not exist.

A checkpoint holds ``params``, ``rest`` (all other arrays of the run: optimiser, counters, the
method's memory) and ``meta`` (JSON: round, position in the data, the best round). Restoring puts
every array where its abstract target says, whatever the number of processes and devices was that
saved it. A bounded number of checkpoints is kept.

A record of checksums is written last, since Orbax reads damaged numbers as numbers, and a damaged
``meta`` as none. Object stores have checksums of their own, and get no record.
"""

from __future__ import annotations

import json
import logging
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from reasoning_jax import interrupts, multihost, workdir
from reasoning_jax.errors import FullDiskError, MissingFileError, UserError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every save, and raises what fails
CHECKSUMS = "checksums.json"
# Fields of NamedTuples that have been renamed: the name in old checkpoints, and today's.
OLD_NAMES = {"prints": "fingerprints"}
FULL_DISK = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")

Meta = dict[str, Any]  # what JSON can hold
Items = dict[str, Any]  # the trees of a checkpoint by name: "params" and "rest"
P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class Restored(NamedTuple, Generic[P, R]):
    """What a checkpoint holds."""

    params: P
    rest: R | None
    meta: Meta


def save(directory: Path, step: int, params: P, rest: R | None, meta: Meta, keep: int) -> None:
    """Writes one checkpoint and returns when it is complete; only the newest ``keep`` are kept.

    FullDiskError naming the directory where there is no space left: the earlier ones are kept.
    """
    folder = directory / str(step)
    try:
        with interrupts.defer_interrupts():
            with _open(directory, keep) as checkpointer:
                checkpointer.save_checkpointables(
                    step, _items(params, rest), force=True, overwrite=True, custom_metadata=meta
                )
            if multihost.is_process_0() and workdir.is_local(directory):
                record = json.dumps(_checksums(folder))
                workdir.write(folder / CHECKSUMS, record.encode())
    except Exception as error:
        if any(words in str(error) for words in FULL_DISK):
            raise FullDiskError(
                f"{directory}: no space left for checkpoint {step}; "
                "the earlier checkpoints are kept."
            ) from error
        raise


def restore(directory: Path, params: P, rest: R | None = None) -> Restored[P, R] | None:
    """The newest checkpoint that is complete and has these shapes; None where there is none.

    params, rest: abstract trees (shape, dtype, sharding); ``rest=None`` reads the parameters only.
    A checkpoint that cannot be read is passed over with a warning; UserError where none can be.
    """
    if not multihost.broadcast_from_process_0(directory.is_dir):
        return None
    wanted = _items(params, rest)
    problems: list[str] = []
    # Orbax would suppress a Ctrl-C, and return an empty checkpoint.
    with interrupts.defer_interrupts(), _open(directory) as checkpointer:
        for step in multihost.broadcast_from_process_0(lambda: _steps(checkpointer)):
            loaded, reason = _load_checked(checkpointer, directory, step, wanted)
            if loaded is None:
                problems.append(f"checkpoint {step} in {directory} cannot be used ({reason})")
                continue
            for problem in problems:
                warning = f"WARNING: {problem}; going on from checkpoint {step}."
                multihost.print_once(warning, file=sys.stderr)
            items, meta = loaded
            return Restored(params=items["params"], rest=items.get("rest"), meta=meta)
    if problems:
        raise UserError(f"Nothing saved can be used: {problems[0]}.")
    return None


def load_params(folder: Path, params: P) -> tuple[P, Meta]:
    """The parameters of a run, and the ``meta`` that was saved with them.

    folder: a work directory, of which the best round is read, else the newest checkpoint; or a
    folder of checkpoints, such as DIR/base. params: the abstract tree. MissingFileError where there
    is no checkpoint.
    """

    def holds_checkpoints() -> bool:
        return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())

    if multihost.broadcast_from_process_0(holds_checkpoints):
        directories = [folder]
    else:
        directories = [folder / "best", folder / "checkpoints"]
    for directory in directories:
        restored = restore(directory, params)
        if restored is not None:
            return restored.params, restored.meta
    raise MissingFileError(f"{folder}: there is no checkpoint in this work directory.")


# ---- Orbax ---------------------------------------------------------------------------------------


def _open(directory: Path, keep: int | None = None) -> ocp.training.Checkpointer:
    """For saving, where ``keep`` is given, else for reading."""
    policy = None if keep is None else ocp.training.preservation_policies.LatestN(keep)
    return ocp.training.Checkpointer(
        directory.resolve(),
        preservation_policy=policy,
        cleanup_tmp_directories=keep is not None,
    )


def _items(params: P, rest: R | None) -> Items:
    if rest is None:
        return {"params": params}
    return {"params": params, "rest": rest}


def _steps(checkpointer: ocp.training.Checkpointer) -> list[int]:
    """The numbers of the checkpoints, the newest first."""
    return sorted((checkpoint.step for checkpoint in checkpointer.checkpoints), reverse=True)


def _load_checked(
    checkpointer: ocp.training.Checkpointer, directory: Path, step: int, wanted: Items
) -> tuple[tuple[Items, Meta] | None, str | None]:
    """One checkpoint, or None and, on all processes, why it cannot be used."""

    def check_files() -> bool:
        if multihost.is_process_0() and workdir.is_local(directory):
            _check_files(directory / str(step))
        return True

    _, reason = _attempt(check_files)
    if reason is not None:
        return None, reason
    return _attempt(lambda: _load(checkpointer, step, wanted))


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """The value of ``work()`` and None; where it failed on any process, None and, on all, why."""
    value = None
    reason = None
    try:
        value = work()
    except Exception as error:  # whatever is wrong with this checkpoint, an older one may be whole
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else type(error).__name__
    reasons = [text for text in multihost.gather(reason) if text is not None]
    if reasons:
        return None, reasons[0]
    return value, None


def _load(checkpointer: ocp.training.Checkpointer, step: int, wanted: Items) -> tuple[Items, Meta]:
    about = checkpointer.checkpointables_metadata(step)
    saved = _shapes(about.metadata)
    has_old_names = any(name.rpartition(".")[2] in OLD_NAMES for name in saved)
    target = _with_old_names(wanted) if has_old_names else wanted
    _check_shapes(saved, _shapes(target))
    items = checkpointer.load_checkpointables(step, target)
    if not about.custom_metadata:
        raise ValueError("it does not say where the run was")
    if has_old_names:
        items = _with_new_names(items, wanted)
    return items, about.custom_metadata


# ---- names and shapes ----------------------------------------------------------------------------


def _has_renamed_field(tree: object) -> bool:
    """Whether this is a NamedTuple with a field that has another name in old checkpoints."""
    fields = getattr(tree, "_fields", ())
    return any(field in OLD_NAMES.values() for field in fields)


def _with_old_names(wanted: Items) -> Items:
    """The tree with a dict of the old names in place of each NamedTuple with a renamed field."""
    old_names = {new: old for old, new in OLD_NAMES.items()}

    def convert(leaf: Any) -> Any:
        if not _has_renamed_field(leaf):
            return leaf
        return {old_names.get(name, name): value for name, value in leaf._asdict().items()}

    return jax.tree.map(convert, wanted, is_leaf=_has_renamed_field)


def _with_new_names(items: Items, wanted: Items) -> Items:
    """The reverse: ``items``, read by the old names, as a tree like ``wanted``."""

    def convert(like: Any, loaded: Any) -> Any:
        if not _has_renamed_field(like):
            return loaded
        return type(like)(**{OLD_NAMES.get(name, name): value for name, value in loaded.items()})

    return jax.tree.map(convert, wanted, items, is_leaf=_has_renamed_field)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array by its dotted name."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shapes[name] = tuple(getattr(leaf, "shape", ()))
    return shapes


def _check_shapes(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    """ValueError naming the first array that is of another shape: Orbax does not say which."""
    for name, shape in wanted.items():
        if saved.get(name) != shape:
            raise ValueError(
                "it is of another model or of other data: "
                f"{name} is {saved.get(name, 'missing')} there and {shape} here"
            )


# ---- checksums -----------------------------------------------------------------------------------


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file but the record of checksums."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(CHECKSUMS):
            paths.append(path)
    names = [str(path.relative_to(folder)) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(_checksum, paths), strict=True))


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc


def _check_files(folder: Path) -> None:
    """ValueError where a file is not as it was written.

    A checkpoint that was saved just before a kill has no record, and is taken as it is.
    """
    record = folder / CHECKSUMS
    if not record.exists():
        return
    actual = _checksums(folder)
    for name, checksum in json.loads(record.read_text()).items():
        if actual.get(name) != checksum:
            raise ValueError(f"its file {name} is damaged")
