"""Checkpoints: the only file that knows Orbax. A save is complete or it does not exist, and a bounded number is kept.

A checkpoint holds ``params``, ``rest`` (all other arrays of the run: optimiser, counters, the method's memory) and ``meta``
(JSON: round, position in the data, what was best). Restoring puts every array where its abstract target says.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save


def _open(directory: Path, keep: int | None = None) -> ocp.training.Checkpointer:
    policy = ocp.training.preservation_policies.LatestN(keep) if keep else None
    return ocp.training.Checkpointer(directory.resolve(), preservation_policy=policy, cleanup_tmp_directories=bool(keep))


def save(directory: Path, step: int, params: Any, rest: Any, meta: dict[str, Any], keep: int) -> None:
    """Writes one checkpoint and returns when it is complete; older ones beyond ``keep`` are then removed.

    OSError naming the directory where there is no space left: what was saved before stays.
    """
    try:
        with _open(directory, keep) as checkpointer:
            items = {"params": params} | ({} if rest is None else {"rest": rest})
            checkpointer.save_checkpointables(step, items, force=True, overwrite=True, custom_metadata=meta)
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
    if not directory.is_dir():
        return None
    with _open(directory) as checkpointer:
        steps = sorted((c.step for c in checkpointer.checkpoints), reverse=True)
        problems = []
        for step in steps:
            wanted = {"params": params} | ({} if rest is None else {"rest": rest})
            try:
                found = checkpointer.load_checkpointables(step, wanted)
                meta = checkpointer.checkpointables_metadata(step).custom_metadata
            except Exception as error:  # whatever is wrong with this one, an older one may be whole
                reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
                problems.append(f"checkpoint {step} in {directory} cannot be used ({reason})")
                print(f"warning: {problems[-1]}; trying the one before it.", file=sys.stderr, flush=True)
                continue
            return found["params"], found.get("rest"), meta
    if problems:
        raise ValueError(f"None of the {len(steps)} checkpoints can be used: {problems[0]}. Is it of another model?")
    return None


def load_params(workdir: Path, params: Any) -> tuple[Any, dict[str, Any]]:
    """The parameters of a run: of its best round, else of its newest checkpoint. FileNotFoundError where it has none."""
    for name in ("best", "checkpoints"):
        if found := restore(workdir / name, params):
            return found[0], found[2]
    raise FileNotFoundError(f"{workdir}: there is no checkpoint in this work directory.")
