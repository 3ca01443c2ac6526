"""Checkpoints: the only file that knows Orbax. A save is complete or it does not exist.

A checkpoint holds ``params``, ``rest`` (all other arrays of the run: optimiser, counters, the
method's memory) and ``meta`` (JSON: round, position in the data, the best round). Restoring puts
every array where its abstract target says, whatever the number of processes and devices was that
saved it. A bounded number of checkpoints is kept.

What is on the disk and can be trusted is in checkpoint_folders.py.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from reasoning_jax import interrupts, multihost, workdir
from reasoning_jax.errors import FullDiskError, MissingFileError, UserError
from reasoning_jax.training import checkpoint_folders as folders

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every save, and raises what fails
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
    is_local = workdir.is_local(directory)
    try:
        with interrupts.defer_interrupts():
            multihost.broadcast_from_process_0(lambda: _prepare(directory))
            folder = directory / str(step)
            target = directory / f"{step}.tmp" if is_local else folder
            ocp.save_checkpointables(
                target.resolve(), _items(params, rest), overwrite=True, custom_metadata=meta
            )
            multihost.broadcast_from_process_0(lambda: _finish(target, folder, keep))
    except Exception as error:
        if any(words in str(error) for words in FULL_DISK):
            if multihost.is_process_0() and is_local:
                # Orbax's threads may still write there; the next save removes the rest.
                with contextlib.suppress(OSError):
                    folders.remove_left_over(directory)
            raise FullDiskError(
                f"{directory}: no space left for checkpoint {step}; "
                "the earlier checkpoints are kept."
            ) from error
        raise


def _prepare(directory: Path) -> None:
    if workdir.is_local(directory):
        folders.check_directory(directory)
        folders.remove_left_over(directory)


def _finish(target: Path, folder: Path, keep: int) -> None:
    """From here on the checkpoint counts, and older ones may go."""
    if workdir.is_local(folder):
        folders.commit(target, folder)
    folders.remove_older(folder.parent, int(folder.name), keep)


def restore(directory: Path, params: P, rest: R | None = None) -> Restored[P, R] | None:
    """The newest checkpoint that is complete and has these shapes; None where there is none.

    params, rest: abstract trees (shape, dtype, sharding); ``rest=None`` reads the parameters only.
    A checkpoint that cannot be read is passed over with a warning; UserError where none can be.
    """
    wanted = _items(params, rest)
    problems: list[str] = []
    # Orbax would suppress a Ctrl-C, and return an empty checkpoint.
    with interrupts.defer_interrupts():
        for step in multihost.broadcast_from_process_0(lambda: folders.steps(directory)):
            loaded, reason = _load_checked(directory / str(step), wanted)
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
    is no checkpoint, UserError where none can be used.
    """
    for directory in _directories(folder):
        restored = restore(directory, params)
        if restored is not None:
            return restored.params, restored.meta
    raise MissingFileError(f"{folder}: there is no checkpoint in this work directory.")


def _directories(folder: Path) -> list[Path]:
    """Where the parameters of a run are, or of a folder of checkpoints; the first are preferred."""
    if multihost.broadcast_from_process_0(lambda: folders.steps(folder)):
        return [folder]
    return [folder / "best", folder / "checkpoints"]


def newest(folder: Path) -> list[str]:
    """Which checkpoint ``load_params`` tries first, and the checksums of its files, if any.

    MissingFileError where there is none.
    """
    for directory in _directories(folder):
        for step in multihost.broadcast_from_process_0(lambda at=directory: folders.steps(at)):
            record = directory / str(step) / folders.RECORD
            return [f"{directory.name}/{step}", record.read_text() if record.is_file() else ""]
    raise MissingFileError(f"{folder}: there is no checkpoint in this work directory.")


# ---- Orbax ---------------------------------------------------------------------------------------


def _items(params: P, rest: R | None) -> Items:
    if rest is None:
        return {"params": params}
    return {"params": params, "rest": rest}


def _load_checked(folder: Path, wanted: Items) -> tuple[tuple[Items, Meta] | None, str | None]:
    """One checkpoint, or None and, on all processes, why it cannot be used."""

    def check() -> None:
        if multihost.is_process_0() and workdir.is_local(folder):
            folders.check(folder)

    _, reason = _attempt(check)
    if reason is not None:
        return None, reason
    return _attempt(lambda: _load(folder, wanted))


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


def _load(folder: Path, wanted: Items) -> tuple[Items, Meta]:
    folder = folder.resolve()  # Orbax wants absolute paths
    about = ocp.checkpointables_metadata(folder)
    saved = _shapes(about.metadata)
    has_old_names = any(name.rpartition(".")[2] in OLD_NAMES for name in saved)
    target = _with_old_names(wanted) if has_old_names else wanted
    _check_shapes(saved, _shapes(target))
    items = ocp.load_checkpointables(folder, target)
    meta = about.custom_metadata
    if not isinstance(meta, dict) or type(meta.get("round")) is not int:
        raise ValueError("it does not say where the run was")
    if has_old_names:
        items = _with_new_names(items, wanted)
    return items, meta


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
    parts = {name.partition(".")[0] for name in wanted}  # others are not read
    for name in (*wanted, *(name for name in saved if name.partition(".")[0] in parts)):
        there, here = saved.get(name, "missing"), wanted.get(name, "missing")
        if there != here:
            raise ValueError(
                f"it is of another model or of other data: {name} is {there} there and {here} here"
            )
