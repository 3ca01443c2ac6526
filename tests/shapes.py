"""Checks the shapes in annotations while the tests run."""

from __future__ import annotations

from collections.abc import Callable

import beartype
import jaxtyping

MODULES = ["reasoning_jax.model", "reasoning_jax.sampling", "reasoning_jax.training.losses"]


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
