"""The folders of checkpoints: which there are, and whether one is as it was written.

On a disk, a checkpoint is written into the folder N.tmp, gets a record of the checksums of all its
files, and is then renamed to N: what has no record is no checkpoint, and nothing is read that does
not equal its record, since Orbax reads damaged numbers as numbers. Object stores have checksums of
their own and rename nothing: there the folder N is written directly, without a record.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from reasoning_jax import workdir
from reasoning_jax.errors import UserError

RECORD = "checksums.json"
STEP = re.compile(r"0|[1-9][0-9]*")
# What a save that was killed leaves behind: the folders of ``commit``, and those of Orbax.
LEFT_OVER = re.compile(r"[0-9]+(\.old)?\.tmp|.*\.orbax-checkpoint-tmp.*")
DIRECTORIES = ("base", "best", "checkpoints")  # those of a work directory


class _Record(NamedTuple):
    """What is recorded of a checkpoint; older versions recorded the files alone."""

    step: int | None
    directory: str | None  # the name of the folder that it is in
    files: dict[str, int]  # the CRC-32 of each


# ---- reading -------------------------------------------------------------------------------------


def steps(directory: Path) -> list[int]:
    """The numbers of all that has a checkpoint's name, whatever it is; the newest first.

    UserError where ``directory`` is not a folder; none where it does not exist.
    """
    check_directory(directory)
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir()]
    return sorted((int(name) for name in names if STEP.fullmatch(name)), reverse=True)


def check_directory(directory: Path) -> None:
    """UserError where this is something else than a folder of checkpoints."""
    if os.path.lexists(directory) and not directory.is_dir():
        raise UserError(f"{directory}: this is not a folder of checkpoints.")


def check(folder: Path) -> None:
    """ValueError, which says why, where a checkpoint is not as it was written."""
    if not folder.is_dir():
        raise ValueError("it is not a folder")
    record = _read_record(folder)
    if record.step not in (None, int(folder.name)):
        raise ValueError(f"it is checkpoint {record.step} under another name")
    directory = folder.parent.name  # a copy of a folder may be called what its owner likes
    if directory in DIRECTORIES and record.directory not in (None, directory):
        raise ValueError(f"it is one of {record.directory}")
    recorded = record.files
    actual = _checksums(folder)
    for name in sorted({*recorded, *actual}):
        if name not in actual:
            raise ValueError(f"its file {name} is missing")
        if name not in recorded:
            raise ValueError(f"its file {name} does not belong to it")
        if actual[name] != recorded[name]:
            raise ValueError(f"its file {name} is damaged")


def _read_record(folder: Path) -> _Record:
    try:
        record = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        raise ValueError(f"it has no {RECORD}: it was not saved to its end") from None
    except (OSError, ValueError):
        raise ValueError(f"its file {RECORD} is damaged") from None
    damaged = ValueError(f"its file {RECORD} is damaged")
    if not isinstance(record, dict):
        raise damaged
    if set(record) != set(_Record._fields):  # an older version's: the files alone
        record = {"step": None, "directory": None, "files": record}
    elif type(record["step"]) is not int or not isinstance(record["directory"], str):
        raise damaged
    files = record["files"]
    if not isinstance(files, dict) or any(type(crc) is not int for crc in files.values()):
        raise damaged
    return _Record(**record)


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file but the record."""
    paths = []
    for path in sorted(folder.rglob("*")):
        is_record = path.parent == folder and path.name.startswith(RECORD)
        if not path.is_dir() and not is_record:
            paths.append(path)
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(_checksum, paths), strict=True))


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc


# ---- writing -------------------------------------------------------------------------------------


def commit(temporary: Path, folder: Path) -> None:
    """Gives a checkpoint that is complete its record and its name."""
    record = _Record(int(folder.name), folder.parent.name, _checksums(temporary))
    for path in temporary.rglob("*"):
        _sync(path)
    workdir.write(temporary / RECORD, json.dumps(record._asdict()).encode())
    _sync(temporary)
    before = folder.with_name(f"{folder.name}.old.tmp")
    if os.path.lexists(folder):  # a damaged one, or one that is saved again after a kill
        folder.rename(before)
    temporary.rename(folder)
    _sync(folder.parent)
    if os.path.lexists(before):
        _remove(before)


def remove_left_over(directory: Path) -> None:
    """Removes what earlier saves have not brought to their end."""
    if not directory.is_dir():
        return
    for path in list(directory.iterdir()):
        if LEFT_OVER.fullmatch(path.name):
            _remove(path)


def remove_older(directory: Path, step: int, keep: int) -> None:
    """Removes all checkpoints before ``step`` but the ``keep`` - 1 before it.

    Newer ones stay: they could not be used when the run was started, and are no longer its own.
    """
    folders = [directory / str(number) for number in steps(directory) if number <= step]
    for folder in [folder for folder in folders if folder.is_dir()][keep:]:
        _remove(folder)


def _remove(path: Path) -> None:
    if not workdir.is_local(path):
        path.rmtree()  # type: ignore[attr-defined]
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
