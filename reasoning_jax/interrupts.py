"""Ctrl-C and SIGTERM, deferred where work must not be broken off; all processes stop together."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_sigterm_received = threading.Event()  # only used where this is the only process


class Preempted(KeyboardInterrupt):
    """The run was stopped by SIGTERM, and is saved."""


@contextlib.contextmanager
def defer_interrupts() -> Iterator[threading.Event]:
    """Defers Ctrl-C: the first one sets the event, and KeyboardInterrupt is raised at the end.

    A second Ctrl-C raises KeyboardInterrupt at once. In a thread other than the main one, which
    gets no signals, this does nothing. It also does nothing with several processes, which stop
    together: there ``defer_sigterm`` handles Ctrl-C.
    """
    interrupted = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if not _is_main_thread() or _is_distributed():
        yield interrupted
        return
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def defer_sigterm() -> Iterator[None]:
    """Defers SIGTERM: it breaks nothing off, and ``preempted`` reports it.

    With several processes, the first Ctrl-C counts as SIGTERM; a second one stops this process at
    once. In a thread other than the main one this does nothing.
    """
    if not _is_main_thread():
        yield
        return

    def record(number: int, frame: FrameType | None) -> None:
        _sigterm_received.set()

    def forward(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGTERM)

    if _is_distributed():  # jax handles SIGTERM there
        deferred = signal.SIGINT
        previous = signal.signal(deferred, forward)
    else:
        deferred = signal.SIGTERM
        previous = signal.signal(deferred, record)
    try:
        yield
    finally:
        signal.signal(deferred, previous)
        _sigterm_received.clear()


def preempted() -> bool:
    """Whether to stop now: the same answer on all processes, without waiting for a device.

    All processes must call this equally often.
    """
    from reasoning_jax import multihost  # imports jax, which the parsing of flags does not wait for

    if multihost.is_distributed():
        return multihost.reached_stop()
    return _sigterm_received.is_set()


def check() -> None:
    """Raises Preempted where it is time to stop; for work whose results can be computed again."""
    if preempted():
        raise Preempted


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_distributed() -> bool:
    from reasoning_jax import multihost

    return multihost.is_distributed()
