"""What the doctor finds of a machine's software: Python, packages, and libtpu."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


class Finding(NamedTuple):
    """What one check found."""

    state: str  # "ok", "note" or "WRONG"
    sentence: str


def version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def python(release: tuple[int, int]) -> Finding:
    """Whether a release of Python, such as (3, 11), is new enough."""
    name = f"Python {release[0]}.{release[1]}"
    if release < (3, 11):
        return Finding(
            "WRONG",
            f"{name} is too old (some TPU images have 3.10): "
            "install 3.11 or newer on every worker (with uv).",
        )
    return Finding("ok", f"{name}.")


def packages(chips: int) -> Iterator[Finding]:
    """Whether what is needed is installed, and libtpu the release that this jax was made with."""
    names = _required_packages()
    missing = [name for name in names if version(name) is None]
    if missing:
        yield Finding(
            "WRONG",
            f"{', '.join(missing)} is not installed: "
            "pip install -r requirements.txt, on every worker.",
        )
    installed = sorted(f"{name}=={version(name)}" for name in [*names, "jaxlib", "libtpu"])
    python_release = sys.version.split()[0]
    digest = hashlib.sha256(" ".join([python_release, *installed]).encode()).hexdigest()[:12]
    yield Finding(
        "note",
        f"Software {digest} (Python, jax {version('jax')}, libtpu {version('libtpu')} ...): "
        "it must be the same on every worker.",
    )
    yield _libtpu(chips)


def _required_packages() -> list[str]:
    """The packages of requirements.txt; none where the file is not there."""
    if not REQUIREMENTS.exists():
        return []
    lines = REQUIREMENTS.read_text().splitlines()
    matches = [re.match(r"[\w\-]+", line) for line in lines]
    return [match[0] for match in matches if match]


def _libtpu(chips: int) -> Finding:
    libtpu = version("libtpu")
    jax = version("jax")
    if libtpu is None:
        if chips:
            return Finding("WRONG", 'libtpu is not installed: pip install "jax[tpu]".')
        return Finding(
            "note", 'libtpu is not installed: pip install "jax[tpu]" (plan needs it too).'
        )
    wanted = _wanted_libtpu()
    if wanted and not libtpu.startswith(wanted):
        return Finding(
            "note",
            f"libtpu {libtpu} is not the release that jax {jax} was made with, {wanted}*: "
            'where compiling fails, pip install "jax[tpu]".',
        )
    return Finding("ok", f"libtpu {libtpu} is the release that jax {jax} was made with.")


def _wanted_libtpu() -> str | None:
    """The beginning of the version, "0.0.42."; None where jax does not say."""
    if version("jax") is None:
        return None
    for line in importlib.metadata.requires("jax") or []:
        match = re.match(r"libtpu\s*==\s*([\d.]+)", line)
        if match:
            return match[1]
    return None
