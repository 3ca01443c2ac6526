"""run.lock: one run at a time in a work directory.

The lock is the operating system's (flock), so it ends with the process that holds it, however that
ends; the file says who that is, and is removed when the run ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from reasoning_jax import workdir
from reasoning_jax.errors import UserError

NAME = "run.lock"
UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # by some network file systems


class RunLock:
    """The lock of a work directory; object stores have none."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, and makes the directory; UserError that names the process that has it."""
        if not workdir.is_local(self.directory):
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"this folder cannot be made ({error.strerror})"
            raise UserError(f"{self.directory}: {reason}.") from None
        path = self.directory / NAME
        while self._descriptor is None:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 1000).decode(errors="replace")
                os.close(descriptor)
                raise UserError(f"{self.directory} is in use by {_described(holder)}.") from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    os.close(descriptor)
                    raise
            if _is_same_file(descriptor, path):
                self._descriptor = descriptor
            else:  # its holder has removed it meanwhile
                os.close(descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Gives the lock back, where this process has it."""
        if self._descriptor is None:
            return
        (self.directory / NAME).unlink(missing_ok=True)  # before it is free: it is still ours
        os.close(self._descriptor)
        self._descriptor = None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP):
            raise
        raise UserError(f"{path}: this is a folder or a link, not the lock of a run.") from None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _described(holder: str) -> str:
    """ "4711 host" -> "process 4711 on host"."""
    process, _, host = holder.strip().partition(" ")
    return f"process {process} on {host}" if host else "another process"
