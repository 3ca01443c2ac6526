"""How a model answers at inference: in one call, or in several that look again.

A system is a module with a class ``Config`` (a frozen dataclass: its own keys, each with its range
and a comment) and

    answer(rollout, examples, cfg, *, num_samples=1) -> list[Sample]

which gives what calling the rollout itself would: ``num_samples`` graded samples of each example,
in their order. A sample's ``prompt_ids`` are those of the task's own prompt and its ``tokens`` the
last call's, so that a row of it trains the model to answer at once; ``calls`` has every call.
``cfg`` is the experiment's section ``system``. A module may also have ``check(cfg)``, which raises
UserError for values that do not go together and for prompt files that will not do.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Protocol

from ml_collections import ConfigDict

from reasoning_jax import contracts, extraction
from reasoning_jax.errors import UserError
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.tasks import Example

PLAIN = "plain"  # the model alone


class Answering(Protocol):
    """The function ``answer`` of a system's module."""

    def __call__(
        self,
        rollout: Rollout,
        examples: Sequence[Example],
        cfg: ConfigDict,
        *,
        num_samples: int = 1,
    ) -> list[Sample]: ...


def _accept(cfg: ConfigDict) -> None:
    """The check of a system that has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A system's parts; a system's file may leave out those that have a default here."""

    name: str
    Config: type
    answer: Answering
    check: Callable[[ConfigDict], None] = _accept


def names() -> list[str]:
    """The systems: the files in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


@functools.cache
def get(name: str) -> System:
    """The system of this name; UserError where there is none, or where its file is incomplete."""
    if name not in names():
        known = ", ".join(names())
        raise UserError(
            f"config.system.name: there is no system {name!r}; the systems are {known}."
        )
    return contracts.fill(System, importlib.import_module(f"{__name__}.{name}"))


def check(cfg: ConfigDict) -> None:
    """UserError for an experiment whose system cannot answer; ``cfg`` is all of it."""
    get(cfg.system.name).check(cfg.system)
    if cfg.system.name != PLAIN and extraction.is_zero_shot(cfg.task):
        raise UserError(
            f"config.task.prompting: zero_shot has a second prompt of its own, for which "
            f"config.system.name={cfg.system.name} has no place."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemRollout(Rollout):
    """A rollout whose samples a system answers; hinted ones, which know the answer, it draws."""

    system: ConfigDict | None = None  # the experiment's section; None = the model alone

    def __call__(
        self,
        examples: Sequence[Example],
        *,
        hint: bool = False,
        num_samples: int = 1,
        temperature: float | None = None,
    ) -> list[Sample]:
        if hint or self.system is None:
            return super().__call__(
                examples, hint=hint, num_samples=num_samples, temperature=temperature
            )
        own = self.temperature if temperature is None else temperature
        alone = dataclasses.replace(self, system=None, temperature=own)
        answer = get(self.system.name).answer
        return answer(alone, examples, self.system, num_samples=num_samples)
