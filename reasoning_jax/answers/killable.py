"""Processes that run other people's code on texts, and are killed where that takes too long."""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import pkgutil
import queue
import signal
import subprocess
import sys

from reasoning_jax.json_object import Json

MEMORY = 4 << 30  # bytes of address space of a process
STARTUP_SECONDS = 120.0


class Pool:
    """``size`` processes, started when needed; one that takes longer than ``seconds`` is killed.

    ``checker`` is "module:function", a function of what JSON can hold that returns the same; first
    it is called with ``warm_up``, to import what it needs. The order of its sets of texts is the
    same in every process. Safe to use from several threads.
    """

    def __init__(
        self,
        checker: str,
        size: int,
        seconds: float,
        warm_up: tuple[str, ...] = ("1", "1"),
    ):
        self.checker, self.seconds, self.warm_up = checker, seconds, warm_up
        # Last in, first out: a second process starts only when two threads compare at once.
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def equal(self, text: str, gold: str) -> bool:
        """The checker's verdict; False where it is killed, dies or raises."""
        return self.ask(text, gold) is True

    def ask(self, *arguments: Json, seconds: float | None = None) -> Json:
        """What the checker returns; None where it is killed, dies or raises.

        seconds: None is the pool's, which no other time may exceed. RuntimeError where it cannot
        start.
        """
        worker = self._free.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = self._start()
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(arguments).encode() + b"\n")
            reply = _read(worker, self.seconds if seconds is None else seconds)
            if not reply:
                _kill(worker)
                worker = None
            return json.loads(reply or "null")
        except BrokenPipeError:
            _kill(worker)
            worker = None
            return None
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Ends the processes; a later comparison starts new ones."""
        for _ in range(self._free.qsize()):
            _kill(self._free.get())
            self._free.put(None)

    def _start(self) -> subprocess.Popen[bytes]:
        # A new interpreter, not a fork: the threads of jax do not survive one. It imports this
        # file but not main.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from {__package__} import killable; "
            f"killable._serve({self.checker!r}, {self.seconds!r}, {self.warm_up!r})"
        )
        worker = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        if _read(worker, STARTUP_SECONDS) != b"ready\n":
            _kill(worker)
            raise RuntimeError(
                f"The process that compares answers ({self.checker}) did not start; "
                "is it installed?"
            )
        return worker


def _read(worker: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line of a process; empty where it ended or said nothing in time."""
    assert worker.stdout is not None
    ready = multiprocessing.connection.wait([worker.stdout.fileno()], seconds)
    return worker.stdout.readline() if ready else b""


def _kill(worker: subprocess.Popen[bytes] | None) -> None:
    if worker is not None:
        with worker:  # closes the pipes and waits
            worker.kill()


def _serve(checker: str, seconds: float, warm_up: tuple[str, ...]) -> None:
    """The main function of a process: a JSON list of arguments a line in, a JSON value out."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not look like a verdict
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not on this system: the time limit remains
        pass
    check = pkgutil.resolve_name(checker)
    check(*warm_up)  # imports what it needs before the clock runs
    print("ready", file=replies)
    for line in sys.stdin:
        # The default action of this signal ends the process, even in C code: so it ends too
        # where its parent is gone.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            reply = json.dumps(check(*json.loads(line)))
        except Exception:
            reply = "null"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(reply, file=replies)
