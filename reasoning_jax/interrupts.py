"""Ctrl-C and SIGTERM that wait for what must not be broken off, and on which all processes agree."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_told = threading.Event()  # SIGTERM has come, where this is the only process


class Preempted(KeyboardInterrupt):
    """The run was told to stop, by SIGTERM, and is saved."""


@contextlib.contextmanager
def wait() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C sets the event and breaks nothing off; KeyboardInterrupt is raised at the end.

    A second one stops at once. Threads other than the main one get no signals, so there this does nothing, and neither
    within a ``heed`` of several processes: they stop together or not at all.
    """
    asked = threading.Event()

    def handler(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread() or _several():
        yield asked
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def heed() -> Iterator[None]:
    """Within, SIGTERM breaks nothing off: ``preempted`` tells of it. With several processes the first Ctrl-C does the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one stops this process at once
        signal.raise_signal(signal.SIGTERM)

    if _several():  # SIGTERM's handler is jax's
        number, before = signal.SIGINT, signal.signal(signal.SIGINT, forward)
    else:
        number, before = signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: _told.set())
    try:
        yield
    finally:
        signal.signal(number, before)
        _told.clear()


def preempted() -> bool:
    """Whether to stop here. All processes must ask equally often: they get the same answers, and no device is waited for."""
    from reasoning_jax import processes  # here, because it imports jax

    return processes.reached_stop() if processes.several() else _told.is_set()


def check() -> None:
    """Preempted where it is time to stop; between two batches of work that can be done again."""
    if preempted():
        raise Preempted


def _several() -> bool:
    from reasoning_jax import processes

    return processes.several()
