"""What figures are of: the machine, its load, and the memory that was used."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: Any) -> dict[str, Any]:
    import jax

    name = device.device_kind
    if device.platform == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        name = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())
    load = round(os.getloadavg()[0], 1)
    return {"device": name, "platform": device.platform, "cores": cores(), "load": load, "jax": jax.__version__}


def peak_memory_mib(device: Any = None) -> float:
    """Of the device where it says so, else of the whole process."""
    if peak := ((device.memory_stats() if device else None) or {}).get("peak_bytes_in_use"):
        return peak / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
