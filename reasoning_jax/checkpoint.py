"""Checkpoints: the only file that knows Orbax. A save is complete or it does not exist, and a bounded number is kept.

A checkpoint holds ``params``, ``rest`` (all other arrays of the run: optimiser, counters, the method's memory) and ``meta``
(JSON: round, position in the data, what was best). Restoring puts every array where its abstract target says, whatever
the number of processes and devices was that saved it. Checksums of its files are written last: Orbax takes damaged numbers
for numbers, and a damaged ``meta`` for none. (Not on object stores, which have their own.)
"""

from __future__ import annotations

import json
import logging
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from reasoning_jax import interrupts, processes, workdir

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax tells of every save; what fails is an exception too
CHECKSUMS = "checksums.json"


def _open(directory: Path, keep: int | None = None) -> ocp.training.Checkpointer:
    policy = ocp.training.preservation_policies.LatestN(keep) if keep else None
    return ocp.training.Checkpointer(directory.resolve(), preservation_policy=policy, cleanup_tmp_directories=bool(keep))


def save(directory: Path, step: int, params: Any, rest: Any, meta: dict[str, Any], keep: int) -> None:
    """Writes one checkpoint and returns when it is complete; older ones beyond ``keep`` are then removed.

    OSError naming the directory where there is no space left: what was saved before stays.
    """
    try:
        items = {"params": params} | ({} if rest is None else {"rest": rest})
        with interrupts.wait():
            with _open(directory, keep) as checkpointer:
                checkpointer.save_checkpointables(step, items, force=True, overwrite=True, custom_metadata=meta)
            if processes.first() and workdir.is_local(directory):
                workdir.write(directory / str(step) / CHECKSUMS, json.dumps(_checksums(directory / str(step))).encode())
    except Exception as error:
        if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error) or "Disk quota" in str(error):
            message = f"{directory}: no space left for checkpoint {step}; the earlier checkpoints are kept."
            raise OSError(message) from error
        raise


def restore(directory: Path, params: Any, rest: Any = None) -> tuple[Any, Any, dict[str, Any]] | None:
    """The newest checkpoint that is complete and has these shapes, as (params, rest, meta); None where there is none.

    params, rest: abstract trees (shape, dtype, sharding); ``rest=None`` reads the parameters alone. One that cannot be
    read is passed over with a warning; ValueError where none of them can.
    """
    if not processes.of_first(directory.is_dir):
        return None
    with interrupts.wait(), _open(directory) as checkpointer:  # Orbax swallows a Ctrl-C and finds an empty checkpoint
        steps = processes.of_first(lambda: sorted((c.step for c in checkpointer.checkpoints), reverse=True))
        problems = []
        for step in steps:
            wanted = {"params": params} | ({} if rest is None else {"rest": rest})
            reason = _attempt(lambda step=step: processes.first() and _check_files(directory / str(step)))[1]
            if reason is None:
                (found, meta), reason = _attempt(lambda step=step, wanted=wanted: _load(checkpointer, step, wanted))
            if reason is not None:
                problems.append(f"checkpoint {step} in {directory} cannot be used ({reason})")
                continue
            for problem in problems:
                processes.say(f"WARNING: {problem}; going on from checkpoint {step}.", file=sys.stderr)
            return found["params"], found.get("rest"), meta
    if problems:
        raise ValueError(f"Nothing saved can be used: {problems[0]}.")
    return None


def _load(checkpointer: ocp.training.Checkpointer, step: int, wanted: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    about = checkpointer.checkpointables_metadata(step)
    _check_shapes(about.metadata, wanted)
    found, meta = checkpointer.load_checkpointables(step, wanted), about.custom_metadata
    if not meta:
        raise ValueError("it does not say where the run was")
    return found, meta


def _attempt(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """The value of ``work()`` and None, or two Nones and, on all processes, why it failed on one of them."""
    value = reason = None
    try:
        value = work()
    except Exception as error:  # whatever is wrong with this checkpoint, an older one may be whole
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    reasons = [r for r in processes.gather(reason) if r is not None]
    return (value, None) if not reasons else ((None, None), reasons[0])


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file but this record."""

    def checksum(path: Path) -> int:
        crc = 0
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
        return crc

    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(CHECKSUMS))
    with ThreadPoolExecutor(8) as pool:
        return dict(zip((str(p.relative_to(folder)) for p in paths), pool.map(checksum, paths), strict=True))


def _check_files(folder: Path) -> None:
    """ValueError where a file is not as it was written; one saved just before a kill has no record and is taken as it is."""
    if workdir.is_local(folder) and (folder / CHECKSUMS).exists():
        then, now = json.loads((folder / CHECKSUMS).read_text()), _checksums(folder)
        if damaged := [name for name in then if now.get(name) != then[name]]:
            raise ValueError(f"its file {damaged[0]} is damaged")


def _check_shapes(saved: Any, wanted: Any) -> None:
    """ValueError naming the first array that is of another shape: Orbax does not say which."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(p, simple=True, separator="."): tuple(getattr(x, "shape", ())) for p, x in leaves}

    there = shapes(saved)
    for name, shape in shapes(wanted).items():
        if there.get(name) != shape:
            raise ValueError(
                f"it is of another model or of other data: {name} is {there.get(name, 'missing')} there and {shape} here"
            )


def load_params(workdir: Path, params: Any) -> tuple[Any, dict[str, Any]]:
    """The parameters of a run: of its best round, else of its newest checkpoint; or those of one folder of checkpoints,
    such as DIR/base. FileNotFoundError where there is none."""
    itself = processes.of_first(lambda: workdir.is_dir() and any(p.name.isdigit() for p in workdir.iterdir()))
    for folder in [workdir] if itself else [workdir / "best", workdir / "checkpoints"]:
        if found := restore(folder, params):
            return found[0], found[2]
    raise FileNotFoundError(f"{workdir}: there is no checkpoint in this work directory.")
