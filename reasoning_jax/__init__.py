"""Language models that teach themselves to reason, in JAX; see api.py for what is here.

The names are loaded when they are first used: importing jax takes a while.
"""

from __future__ import annotations

import importlib

_WHERE = {
    "train": "reasoning_jax.api",
    "open": "reasoning_jax.api",
    "load_config": "reasoning_jax.api",
    "load_model": "reasoning_jax.api",
    "get_config": "reasoning_jax.default",
    "UserError": "reasoning_jax.errors",
}
__all__ = [*_WHERE]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
