"""One program as several processes, one a host: how they begin and end, and what they exchange.

Every process computes the same plan from the same seed, so that they exchange little: what only
process 0 has read or written, verdicts of samples, and that it is time to stop. With one process,
nothing is exchanged, and every function returns this process's own value.

A function that communicates must be called on all processes in the same order, so never inside
``if is_process_0():``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import NoReturn, TextIO, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from reasoning_jax.discovery import Process, number, this_process
from reasoning_jax.errors import UserError

# What jax's errors say where another process has ended or cannot be reached.
LOST_PROCESS = re.compile(
    r"gloo|peer|UNAVAILABLE|ABORTED|heartbeat|coordination service|barrier|slice health",
    re.IGNORECASE,
)
T = TypeVar("T")


# ---- from the beginning to the end ---------------------------------------------------------------


def initialize() -> None:
    """Waits for the other processes, where there are others; before anything else of jax is used.

    $REASONING_START_SECONDS (300) is how long. $REASONING_HEARTBEAT_SECONDS (100) is how soon a
    process that has ended is missed. UserError where the processes run different software.
    """
    process = this_process()
    if process is None or jax.distributed.is_initialized():
        return
    limit = _seconds("START", 300)
    heartbeat = _seconds("HEARTBEAT", 100)
    title = f"process {process.index} of {process.count}"
    print(f"{title}, waiting for the others at {process.coordinator}", flush=True)
    # When jax has waited for long enough, it aborts with a stack of C++; this alarm is earlier.
    alarm = threading.Timer(limit, _end_late, (process, limit))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            process.coordinator,
            process.count,
            process.index,
            cluster_detection_method="deactivate",
            initialization_timeout=limit + 60,
            heartbeat_timeout_seconds=heartbeat,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{title.capitalize()} cannot begin at {process.coordinator}: {reason}."
        ) from error
    print(f"{title}, {jax.device_count()} devices, here {jax.local_devices()}", flush=True)
    alarm.cancel()
    versions = {name: sys.modules[name].__version__ for name in ("jax", "jaxlib", "numpy")}
    assert_same({"Python": platform.python_version()} | versions)


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(f"REASONING_{name}_SECONDS") or str(default)
    return number(f"REASONING_{name}_SECONDS", value, 1)


def _end_late(process: Process, limit: int) -> None:
    """Ends this process, and says which of the others it has waited for in vain."""
    host, _, port = process.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        fault = (
            f"not all of the {process.count} processes have come to {process.coordinator}: "
            "start the command on every host"
        )
    except OSError as error:
        fault = (
            f"there is no answer from the coordinator, process 0, at host {host}, port {port} "
            f"({error}): start the command on every host, and open that port between them"
        )
    name = f"Process {process.index} of {process.count}"
    print(f"{name} has waited for {limit} seconds, and {fault}.", file=sys.stderr, flush=True)
    os._exit(1)


def leave(code: int) -> NoReturn:
    """Ends this process after an error.

    Where there are others, it ends at once: jax would wait for them, and they for this one.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if is_process_0():
        time.sleep(1)  # the others lose their coordinator, and have an error to print too
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader may have gone
            stream.flush()
    os._exit(code)


def explain(error: BaseException) -> str | None:
    """One sentence about an error that another process's end has caused; None for all others."""
    if not is_distributed() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if not LOST_PROCESS.search(str(error)):
        return None
    return (
        f"Process {jax.process_index()} of {jax.process_count()} has lost another one, which has "
        "ended or cannot be reached; "
        "the same command on all hosts goes on from the last checkpoint."
    )


def give_up(error: BaseException) -> None:
    """Prints the traceback of a bug and ends this process, where others would wait for it."""
    if jax.distributed.is_initialized():
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
        leave(1)


# ---- what the processes exchange -----------------------------------------------------------------


def is_distributed() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_process_0() -> bool:
    """Whether this is process 0, the one that writes files and prints."""
    return jax.process_index() == 0


def print_once(sentence: str, file: TextIO | None = None) -> None:
    """Prints the sentence, on process 0 only."""
    if is_process_0():
        print(sentence, file=file, flush=True)


def gather(value: T) -> list[T]:
    """The values of all processes, in their order. A value is anything that JSON can hold."""
    if not is_distributed():
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    power_of_two = 1 << int(max(sizes) - 1).bit_length()
    width = max(1024, power_of_two)  # few widths occur: each of them is compiled
    padded = np.zeros(width, np.uint8)
    padded[: len(content)] = content
    contents = multihost_utils.process_allgather(padded)
    values = []
    for line, size in zip(contents, sizes, strict=True):
        values.append(json.loads(line[:size].tobytes()))
    return values


def broadcast_from_process_0(work: Callable[[], T]) -> T:
    """The value of ``work()``, which is called on process 0 only; anything that JSON can hold.

    A ValueError or OSError of ``work`` is raised on process 0, and as a UserError on the others.
    """
    if not is_distributed():
        return work()
    value: T | None = None
    error: ValueError | OSError | None = None
    if is_process_0():
        try:
            value = work()
        except (ValueError, OSError) as caught:
            error = caught
    message = None if error is None else str(error)
    value, message = gather((value, message))[0]
    if error is not None:
        raise error
    if message is not None:
        raise UserError(message)
    return cast(T, value)


def assert_same(values: Mapping[str, object]) -> None:
    """UserError, on all processes, that names the first value which differs between them.

    NaN is the same as NaN.
    """
    everyones = gather(dict(values))
    expected = everyones[0]
    for index, actual in enumerate(everyones):
        for name in {**expected, **actual}:
            if json.dumps(actual.get(name)) != json.dumps(expected.get(name)):
                raise UserError(
                    f"{name} is {actual.get(name)} on process {index} "
                    f"and {expected.get(name)} on process 0."
                )


_calls_of_reached_stop = 0


def reached_stop() -> bool:
    """Whether all processes are to stop now, since one of them got SIGTERM.

    It becomes true at the same call on each of them, and costs no communication until then. It
    relies on the handler of SIGTERM that jax installs where there are several processes.
    """
    global _calls_of_reached_stop
    _calls_of_reached_stop += 1
    return multihost_utils.reached_preemption_sync_point(_calls_of_reached_stop)
