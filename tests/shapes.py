"""Checks the shapes in annotations while the tests run."""

from __future__ import annotations

from collections.abc import Callable

import beartype
import jaxtyping

MODULES = [  # those whose annotations have shapes
    "reasoning_jax.model.attention",
    "reasoning_jax.model.decoder",
    "reasoning_jax.model.linear",
    "reasoning_jax.model.logprobs",
    "reasoning_jax.model.transformer",
    "reasoning_jax.sampling",
    "reasoning_jax.training.losses",
]


def install() -> None:
    """To be called before anything imports these modules.

    A function is checked when it is called, which for a compiled one is when it is traced.
    """
    jaxtyping.install_import_hook(MODULES, "shapes.check")


def check(function: Callable) -> Callable:
    """The function with its arguments and result checked.

    Not a dataclass's __init__: jax rebuilds pytrees around all that stands for an array.
    """
    if function.__name__ == "__init__":
        return function
    return beartype.beartype(function)
