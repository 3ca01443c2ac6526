"""Checks a machine for the mistakes that stop runs on TPU slices, as far as one machine can see them, without touching the TPU.

What only several machines show (software that differs, a worker that was not started, a port that a firewall closes) is told
with what to compare. Nothing here imports jax.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PORT = 8476  # where process 0 listens; jax's own default, since 0.8.1, is 8482
FIREWALLED = "8470, 8471, 8474, 8476 and 11211"  # all that firewalls of TPU machines may leave open
STARTUP = (".bashrc", ".bash_profile", ".profile", ".zshrc")
GOOGLE = "0x1ae0"  # on the PCI bus; and its chips: v3, an unnamed one, v4, v5p, v5e, v6e, 7x
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
Finding = tuple[str, str]  # "ok", "note" or "WRONG", and a sentence


def main(workdir: str | None) -> int:
    """Prints the findings; 1 where something is wrong."""
    findings = list(examine(os.environ, Path.home(), workdir))
    for state, sentence in findings:
        print(f"{state:<6} {sentence}")
    wrong = sum(state == "WRONG" for state, _ in findings)
    print(f"{wrong} of {len(findings)} checks found something wrong." if wrong else "This machine sees nothing wrong.")
    return int(wrong > 0)


def examine(
    env: Mapping[str, str], home: Path, workdir: str | None = None, *, chips: int | None = None, root: Path = Path("/"),
    port: int | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """Every finding. chips: TPU chips of this machine, None = counted; root, port: for tests."""
    chips = count_chips(root) if chips is None else chips
    hosts = [h for h in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if h]
    yield _python(sys.version_info[:2])
    yield from _software(chips)
    yield from _variables(env, home, chips)
    yield from _holders(root, chips)
    yield _coordinator(port or int(env.get("JAX_COORDINATOR_PORT", PORT)), len(hosts))
    yield from _paths(env, workdir, len(hosts))
    if not chips:
        found = shutil.which("gcloud")
        yield ("ok", f"gcloud: {found}.") if found else ("note", "gcloud is not on the PATH: no slice can be made from here.")


def count_chips(root: Path = Path("/")) -> int:
    """TPU chips on the PCI bus."""
    found = 0
    for vendor in glob.glob(str(root / "sys/bus/pci/devices/*/vendor")):
        device = Path(vendor).with_name("device")
        found += Path(vendor).read_text().strip() == GOOGLE and device.read_text().strip() in TPUS
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(found: tuple[int, int]) -> Finding:
    here = f"Python {found[0]}.{found[1]}"
    if found < (3, 11):
        return "WRONG", f"{here} is too old (some TPU images have 3.10): install 3.11 or newer on every worker (with uv)."
    return "ok", f"{here}."


def _software(chips: int) -> Iterator[Finding]:
    """Whether what is needed is there, and libtpu the release that this jax was made with."""
    requirements = Path(__file__).resolve().parents[1] / "requirements.txt"
    lines = requirements.read_text().partition("# tests")[0].splitlines() if requirements.exists() else []
    names = [m[0] for line in lines if (m := re.match(r"[\w\-]+", line))]
    if missing := [name for name in names if version(name) is None]:
        yield "WRONG", f"{', '.join(missing)} is not installed: pip install -r requirements.txt, on every worker."
    installed = sorted(f"{name}=={version(name)}" for name in [*names, "jaxlib", "libtpu"])
    digest = hashlib.sha256(" ".join([sys.version.split()[0], *installed]).encode()).hexdigest()[:12]
    libtpu, jax = version("libtpu"), version("jax")
    yield "note", f"Software {digest} (Python, jax {jax}, libtpu {libtpu} ...): it must be the same on every worker."
    if libtpu is None:
        state = "WRONG" if chips else "note"
        yield state, f'libtpu is not installed: pip install "jax[tpu]"{" (plan needs it too)" if not chips else ""}.'
    elif (made_for := _wanted_libtpu()) and not libtpu.startswith(made_for):
        release = f"the release that jax {jax} was made with, {made_for}*"
        yield "note", f'libtpu {libtpu} is not {release}: where compiling fails, pip install "jax[tpu]".'
    else:
        yield "ok", f"libtpu {libtpu} is the release that jax {jax} was made with."


def _wanted_libtpu() -> str | None:
    """The beginning of the version, "0.0.42."."""
    wanted = importlib.metadata.requires("jax") or [] if version("jax") else []
    found = next((m for line in wanted if (m := re.match(r"libtpu\s*==\s*([\d.]+)", line))), None)
    return found[1] if found else None


def _variables(env: Mapping[str, str], home: Path, chips: int) -> Iterator[Finding]:
    """Settings for tests and compiling that were left behind: each host of a slice then works alone, or on its CPU."""
    bad = {
        "TPU_SKIP_MDS_QUERY": (lambda v: v != "", "each host believes that it is alone: unset it"),
        "JAX_PLATFORMS": (lambda v: "tpu" not in v.split(","), "the TPU is not used: unset it"),
        "TPU_LIBRARY_PATH": (lambda v: not Path(v).is_file(), "there is no such file: unset it"),
        "XLA_FLAGS": (lambda v: "host_platform_device_count" in v, "it makes fake CPU devices: unset it"),
        "JAX_DISABLE_JIT": (lambda v: v.lower() in ("1", "true"), "nothing is compiled: unset it"),
    }
    for name, (wrong, cure) in bad.items():
        if name in env and wrong(env[name]):
            yield "WRONG" if chips or name == "TPU_LIBRARY_PATH" else "note", f"{name}={env[name]}: on a TPU {cure}."
        else:
            yield "ok", f"{name} is {env[name] if name in env else 'not set'}."
    if env.get("JAX_PLATFORMS") == "tpu":
        yield "WRONG", "JAX_PLATFORMS=tpu leaves no CPU backend: JAX_PLATFORMS=tpu,cpu, or unset it."
    for file in STARTUP:
        text = (home / file).read_text(errors="replace") if (home / file).is_file() else ""
        for name in ("TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"):
            if re.search(rf"^\s*export\s+{name}=", text, re.MULTILINE):
                yield "WRONG" if chips else "note", f"~/{file} exports {name}: every new shell on a TPU has it; take it out."


def _holders(root: Path, chips: int) -> Iterator[Finding]:
    """A process that holds the TPU, or the lock of one that is gone."""
    held = {}
    for link in glob.glob(str(root / "proc/[0-9]*/fd/*")):
        try:
            target = os.readlink(link)
        except OSError:  # the process has ended, or is another user's
            continue
        if re.match(r"/dev/(accel\d|vfio/\d)", target):
            pid = link.split("/")[-3]
            held[pid] = (root / f"proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    for pid, command in sorted(held.items()):
        yield "WRONG", f"Process {pid} ({command}) holds the TPU, and no other can start: launch_tpu.sh stop, or kill {pid}."
    lock = root / "tmp/libtpu_lockfile"
    if lock.exists() and not held:
        if chips:
            yield "WRONG", f"{lock} is left from a process that is gone: rm {lock} (with sudo where it is another user's)."
        else:
            yield "ok", f"{lock} is there, as compiling leaves it; without a TPU it does no harm."
    elif not held:
        yield "ok", "No process holds a TPU, and there is no stale lock."


def _coordinator(port: int, hosts: int) -> Finding:
    """Whether process 0 could listen here."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
        except OSError:
            return "WRONG", f"Port {port}, where process 0 listens, is taken: an earlier run may still be here; stop it."
    more = f" {hosts} workers are named: start the command on all of them." if hosts > 1 else ""
    if str(port) not in FIREWALLED:
        return "note", f"Port {port} is free, but a firewall may leave only {FIREWALLED} open: workers then wait on.{more}"
    return "ok", f"Port {port}, where process 0 listens, is free.{more}"


def _paths(env: Mapping[str, str], workdir: str | None, hosts: int) -> Iterator[Finding]:
    """The work directory must be one for all hosts; the compilation cache is quicker on a local disk."""
    if workdir:
        local = "://" not in workdir
        if local and hosts > 1:
            yield "WRONG", f"--workdir={workdir} is on this machine's disk, and there are {hosts} hosts: use a gs:// path."
        else:
            yield "ok", f"--workdir={workdir}{': good for a single host' if local else ''}."
    cache = env.get("JAX_COMPILATION_CACHE_DIR") or str(Path("~/.cache/reasoning_jax").expanduser())
    if "://" in cache:
        yield "note", f"JAX_COMPILATION_CACHE_DIR={cache}: a local folder starts faster."
    else:
        there = next(p for p in (Path(cache), *Path(cache).absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free / 2**30
        state = "WRONG" if not os.access(there, os.W_OK) or free < 1 else "ok"
        more = ": it must be writable and have room." if state != "ok" else "."
        yield state, f"Compiled programs are kept in {cache}, {free:.0f} GiB free{more}"
