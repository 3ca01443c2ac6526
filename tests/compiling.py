"""How the tests compile for the CPU: in a third of the time, into slower programs."""

from __future__ import annotations

import importlib.metadata
import os

DEVICES = "--xla_force_host_platform_device_count"
# Without optimisations the older way to write a fusion compiles in half the time of the newer one.
# jaxlib 0.12 no longer has it, and ends where it does not know a flag.
_IS_OLD = importlib.metadata.version("jaxlib").startswith("0.10.")
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false" if _IS_OLD else ""


def set_environment() -> None:
    """To be called before anything imports jax, which reads these once."""
    given = os.environ.get("XLA_FLAGS", "")
    if DEVICES not in given:
        given = f"{given} {DEVICES}=8"
    os.environ["XLA_FLAGS"] = f"{given} {XLA_FLAGS}".strip()
    # Without LLVM's optimisations a program compiles in half the time.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Small programs are kept too: reading one takes a tenth of compiling it.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
