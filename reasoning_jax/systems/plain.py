"""The model alone: one call an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.tasks import Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """No keys."""


def answer(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict, *, num_samples: int = 1
) -> list[Sample]:
    return rollout(examples, num_samples=num_samples)
