"""What every test shares: eight fake CPU devices, a compilation cache, and the folder of real data."""

from __future__ import annotations

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICES = "--xla_force_host_platform_device_count"

# Before anything imports jax: it reads these once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data: $REASONING_DATA, else ../shared/data; skips where there is none."""
    path = pathlib.Path(os.environ.get("REASONING_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"there is no real data at {path} (set REASONING_DATA)")
    return path
