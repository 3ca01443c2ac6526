"""Where a run is: the JSON part of every checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from reasoning_jax.errors import UserError
from reasoning_jax.training.checkpoint import Meta


@dataclasses.dataclass(kw_only=True)
class Position:
    """Where a run is."""

    round: int = 0  # the round in progress; round 0 trains the base model
    update: int = 0  # updates of this round that are done
    iterator: dict | None = None  # state of the round's stream of batches
    samples: int = 0  # drawn so far for training
    metrics_bytes: int = 0  # length of metrics.jsonl
    best_round: int = -1
    best_accuracy: float = -1.0
    evaluations_without_gain: int = 0
    finished: bool = False


def from_meta(meta: Meta, folder: Path) -> Position:
    """The position that a checkpoint in ``folder`` holds; UserError naming a field that is bad."""
    defaults = {field.name: field.default for field in dataclasses.fields(Position)}
    for name in sorted({*defaults, *meta}):
        value = meta.get(name)
        kind = type(defaults.get(name))
        is_well = type(value) is kind or (name == "iterator" and isinstance(value, dict))
        if name not in defaults or name not in meta or not is_well:
            raise UserError(
                f"{folder}: the newest checkpoint does not say where the run was: "
                f"{name} is {value!r}."
            )
    return Position(**meta)
