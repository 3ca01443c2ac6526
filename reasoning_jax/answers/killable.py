"""Processes that compare two texts, and are killed where that takes too long."""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import pkgutil
import queue
import signal
import subprocess
import sys

MEMORY = 4 << 30  # bytes of address space of a process
STARTUP_SECONDS = 120.0


class Pool:
    """``size`` processes, started when needed; one that takes longer than ``seconds`` is killed.

    ``checker`` is "module:function", a function (text, gold) -> bool. Safe to use from several
    threads.
    """

    def __init__(self, checker: str, size: int, seconds: float):
        self.checker, self.seconds = checker, seconds
        # Last in, first out: a second process starts only when two threads compare at once.
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def equal(self, text: str, gold: str) -> bool:
        """The checker's verdict; False where it is killed, dies or raises.

        RuntimeError where it cannot start.
        """
        worker = self._free.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = self._start()
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([text, gold]).encode() + b"\n")
            reply = _read(worker, self.seconds)
            if not reply:
                _kill(worker)
                worker = None
            return reply == b"1\n"
        except BrokenPipeError:
            _kill(worker)
            worker = None
            return False
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
            f"killable._serve({self.checker!r}, {self.seconds!r})"
        )
        worker = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
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


def _serve(checker: str, seconds: float) -> None:
    """The main function of a process: a JSON pair a line in, "1" or "0" a line out."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not look like a verdict
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not on this system: the time limit remains
        pass
    check = pkgutil.resolve_name(checker)
    check("1", "1")  # imports what it needs before the clock runs
    print("ready", file=replies)
    for line in sys.stdin:
        # The default action of this signal ends the process, even in C code: so it ends too
        # where its parent is gone.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            verdict = bool(check(*json.loads(line)))
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(int(verdict), file=replies)
