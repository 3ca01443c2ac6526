"""Standard streams that were closed, that take no such text, or that nobody reads."""

from __future__ import annotations

import io
import os
import sys


def open_closed() -> None:
    """Opens standard streams that were closed, and lets both take any text.

    Else the next file that is opened would get the number of a closed one, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))
        elif isinstance(stream, io.TextIOWrapper):
            errors = "surrogateescape" if name == "stdin" else "backslashreplace"
            stream.reconfigure(errors=errors)


def silence_broken() -> None:
    """Python writes what is left at its end: where that fails, it would complain of it again."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w"))
