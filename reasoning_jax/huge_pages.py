"""Memory in pages of 2 MiB, where Linux gives them to those who ask.

XLA's CPU programs take their buffers from malloc and give them back, each call anew: with pages of
4 KiB an update of a small model spends a fifth of its time on page faults (docs/speed.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTING = "glibc.malloc.hugetlb"  # 1: malloc advises the kernel to use them
SUPPORT = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use() -> None:
    """Starts this command again with the setting, which glibc reads when a process starts.

    The process stays the same one. Nothing happens where the setting is made already, or there are
    no such pages.
    """
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if SETTING in settings or not SUPPORT.exists() or "[never]" in SUPPORT.read_text():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [settings, f"{SETTING}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
