"""Ctrl-C that waits for what must not be broken off."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def wait() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C sets the event and breaks nothing off; KeyboardInterrupt is raised at the end.

    A second one stops at once. Threads other than the main one get no signals, so there this does nothing.
    """
    asked = threading.Event()

    def handler(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt
