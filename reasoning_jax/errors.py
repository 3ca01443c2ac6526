"""What goes wrong by the user's mistake: one sentence each, to be printed without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake; its text is one sentence that names the key, the file or the line."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or that a run needs, is not there."""


class FullDiskError(UserError, OSError):
    """There is no space left for something that is to be saved; what was saved before is whole."""


class NonFiniteError(UserError, FloatingPointError):
    """Loss or gradient was not finite in too many updates in a row."""
