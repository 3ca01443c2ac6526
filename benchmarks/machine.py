"""What figures are of: the machine, its load, and the memory that was used."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # jax is not imported before its environment is set
    import jax


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(device: jax.Device) -> dict[str, str | int | float]:
    import jax

    name = processor() if device.platform == "cpu" else device.device_kind
    return {
        "device": name,
        "platform": device.platform,
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1),
        "jax": jax.__version__,
    }


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory_mib(device: jax.Device | None = None) -> float:
    """Of the device where it says so, else of the whole process."""
    stats = device.memory_stats() if device else None
    peak = (stats or {}).get("peak_bytes_in_use")
    if peak:
        return peak / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
