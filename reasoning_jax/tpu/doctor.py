"""Checks a machine for the mistakes that stop runs on TPU slices, without touching the TPU.

It sees one machine. For what only several machines show (software that differs, a worker that was
not started, a port that a firewall closes) it says what to compare. Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reasoning_jax import discovery
from reasoning_jax.errors import UserError
from reasoning_jax.tpu import software
from reasoning_jax.tpu.software import Finding

OPEN_PORTS = (8470, 8471, 8474, 8476, 11211)  # all that firewalls of TPU machines may leave open
STARTUP_FILES = (".bashrc", ".bash_profile", ".profile", ".zshrc")
GOOGLE = "0x1ae0"  # on the PCI bus; and its chips: v3, an unnamed one, v4, v5p, v5e, v6e, 7x
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


def main(env: Mapping[str, str], workdir: str | None) -> int:
    """Prints the findings; 1 where something is wrong."""
    findings = list(examine(env, Path(os.path.expanduser("~")), workdir))
    for state, sentence in findings:
        print(f"{state:<6} {sentence}")
    wrong = [sentence for state, sentence in findings if state == "WRONG"]
    if wrong:
        print(f"{len(wrong)} of {len(findings)} checks found something wrong.")
        return 1
    print("This machine sees nothing wrong.")
    return 0


def examine(
    env: Mapping[str, str],
    home: Path,
    workdir: str | None = None,
    *,
    chips: int | None = None,
    root: Path = Path("/"),
    port: int | None = None,
) -> Iterator[Finding]:
    """Every finding. chips: TPU chips of this machine, None = counted; root, port: for tests."""
    if chips is None:
        chips = count_chips(root)
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    yield software.python(sys.version_info[:2])
    yield from software.packages(chips)
    yield from _variables(env, chips)
    yield from _startup_files(home, chips)
    yield from _holders(root, chips)
    yield _coordinator(env, port, len(hosts))
    if workdir:
        yield _workdir(workdir, len(hosts))
    yield _compilation_cache(env)
    if not chips:
        yield _gcloud()


def count_chips(root: Path = Path("/")) -> int:
    """TPU chips on the PCI bus."""
    chips = 0
    for vendor in glob.glob(str(root / "sys/bus/pci/devices/*/vendor")):
        device = Path(vendor).with_name("device")
        maker, kind = _read(Path(vendor)).decode().strip(), _read(device).decode().strip()
        if maker == GOOGLE and kind in TPUS:
            chips += 1
    return chips


# ---- settings ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A variable for tests and compiling, which does harm where a run on a TPU finds it."""

    name: str
    is_wrong: Callable[[str], bool]
    cure: str


SETTINGS = (
    _Setting(
        "TPU_SKIP_MDS_QUERY",
        lambda value: value != "",
        "each host believes that it is alone: unset it",
    ),
    _Setting(
        "JAX_PLATFORMS",
        lambda value: "tpu" not in value.split(","),
        "the TPU is not used: unset it",
    ),
    _Setting(
        "TPU_LIBRARY_PATH",
        lambda value: not os.path.isfile(value),
        "there is no such file: unset it",
    ),
    _Setting(
        "XLA_FLAGS",
        lambda value: "host_platform_device_count" in value,
        "it makes fake CPU devices: unset it",
    ),
    _Setting(
        "JAX_DISABLE_JIT",
        lambda value: value.lower() in ("1", "true"),
        "nothing is compiled: unset it",
    ),
)


def _variables(env: Mapping[str, str], chips: int) -> Iterator[Finding]:
    """Settings that were left behind: each host of a slice then works alone, or on its CPU."""
    for setting in SETTINGS:
        value = env.get(setting.name)
        if value is None:
            yield Finding("ok", f"{setting.name} is not set.")
        elif setting.is_wrong(value):
            harmful = chips > 0 or setting.name == "TPU_LIBRARY_PATH"
            state = "WRONG" if harmful else "note"
            yield Finding(state, f"{setting.name}={value}: on a TPU {setting.cure}.")
        else:
            yield Finding("ok", f"{setting.name} is {value}.")
    if env.get("JAX_PLATFORMS") == "tpu":
        yield Finding(
            "WRONG", "JAX_PLATFORMS=tpu leaves no CPU backend: JAX_PLATFORMS=tpu,cpu, or unset it."
        )


def _startup_files(home: Path, chips: int) -> Iterator[Finding]:
    for file in STARTUP_FILES:
        text = _read(home / file).decode(errors="replace")
        for name in ("TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"):
            if re.search(rf"^\s*export\s+{name}=", text, re.MULTILINE):
                state = "WRONG" if chips else "note"
                yield Finding(
                    state, f"~/{file} exports {name}: every new shell on a TPU has it; take it out."
                )


# ---- the TPU, the network and the disk -----------------------------------------------------------


def _holders(root: Path, chips: int) -> Iterator[Finding]:
    """A process that holds the TPU, or the lock of one that is gone."""
    holders = _processes_with_a_tpu(root)
    for pid, command in sorted(holders.items()):
        yield Finding(
            "WRONG",
            f"Process {pid} ({command}) holds the TPU, and no other can start: "
            f"launch_tpu.sh stop, or kill {pid}.",
        )
    if holders:
        return
    lock = root / "tmp/libtpu_lockfile"
    if not lock.exists():
        yield Finding("ok", "No process holds a TPU, and there is no stale lock.")
    elif chips:
        yield Finding(
            "WRONG",
            f"{lock} is left from a process that is gone: "
            f"rm {lock} (with sudo where it is another user's).",
        )
    else:
        yield Finding(
            "ok", f"{lock} is there, as compiling leaves it; without a TPU it does no harm."
        )


def _processes_with_a_tpu(root: Path) -> dict[str, str]:
    """{process id: beginning of its command} of those that have a TPU's device file open."""
    holders = {}
    for link in glob.glob(str(root / "proc/[0-9]*/fd/*")):
        try:
            target = os.readlink(link)
        except OSError:  # the process has ended, or is another user's
            continue
        if re.match(r"/dev/(accel\d|vfio/\d)", target):
            pid = link.split("/")[-3]
            command = _read(root / f"proc/{pid}/cmdline").replace(b"\0", b" ")
            holders[pid] = command.decode(errors="replace").strip()[:80]
    return holders


def _read(path: Path) -> bytes:
    """The content of a file; b"" where it cannot be read, or is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _coordinator(env: Mapping[str, str], port: int | None, hosts: int) -> Finding:
    """Whether process 0 could listen here; port: None is the environment's."""
    if port is None:
        try:
            port = discovery.coordinator_port(env)
        except UserError as error:
            return Finding("WRONG", str(error))
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return Finding(
                "WRONG",
                f"Port {port}, where process 0 listens, is taken: "
                "an earlier run may still be here; stop it.",
            )
    workers = ""
    if hosts > 1:
        workers = f" {hosts} workers are named: start the command on all of them."
    if port not in OPEN_PORTS:
        ports = f"{', '.join(map(str, OPEN_PORTS[:-1]))} and {OPEN_PORTS[-1]}"
        return Finding(
            "note",
            f"Port {port} is free, but a firewall may leave only {ports} open: "
            f"workers then wait on.{workers}",
        )
    return Finding("ok", f"Port {port}, where process 0 listens, is free.{workers}")


def _workdir(workdir: str, hosts: int) -> Finding:
    """The work directory must be one for all hosts."""
    if "://" in workdir:
        return Finding("ok", f"--workdir={workdir}.")
    if hosts > 1:
        return Finding(
            "WRONG",
            f"--workdir={workdir} is on this machine's disk, and there are {hosts} hosts: "
            "use a gs:// path.",
        )
    return Finding("ok", f"--workdir={workdir}: good for a single host.")


def _compilation_cache(env: Mapping[str, str]) -> Finding:
    """The compilation cache is quicker on a local disk, and must have room there."""
    cache = env.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/reasoning_jax")
    if "://" in cache:
        return Finding("note", f"JAX_COMPILATION_CACHE_DIR={cache}: a local folder starts faster.")
    folders = (cache, *map(str, Path(cache).absolute().parents))
    folder = next(folder for folder in folders if os.path.exists(folder))
    free = shutil.disk_usage(folder).free / 2**30
    sentence = f"Compiled programs are kept in {cache}, {free:.0f} GiB free"
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or free < 1:
        return Finding("WRONG", f"{sentence}: it must be writable and have room.")
    return Finding("ok", f"{sentence}.")


def _gcloud() -> Finding:
    path = shutil.which("gcloud")
    if path:
        return Finding("ok", f"gcloud: {path}.")
    return Finding("note", "gcloud is not on the PATH: no slice can be made from here.")
