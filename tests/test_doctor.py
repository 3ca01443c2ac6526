"""The doctor: each mistake that one machine can see, made and found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from reasoning_jax import discovery
from reasoning_jax.tpu import doctor, software

PORT = 48_482


def wrong(tmp_path, env=None, **more) -> list[str]:
    """The sentences about what is wrong on a machine with TPU chips."""
    arguments = {"chips": 4, "root": tmp_path, "port": PORT} | more
    sentences = []
    for state, sentence in doctor.examine(env or {}, tmp_path, **arguments):
        if state == "WRONG" and not sentence.startswith("libtpu"):
            sentences.append(sentence)
    return sentences


def test_a_clean_machine(tmp_path):
    assert wrong(tmp_path) == []


@pytest.mark.parametrize(
    "name, value",
    [
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("JAX_PLATFORMS", "cpu"),
        ("JAX_PLATFORMS", "tpu"),
        ("TPU_LIBRARY_PATH", "/gone.so"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8"),
        ("JAX_DISABLE_JIT", "1"),
    ],
)
def test_a_variable_that_was_left_behind(tmp_path, name, value):
    (found,) = wrong(tmp_path, {name: value})
    assert found.startswith(f"{name}={value}") and "unset it" in found


def test_such_a_variable_does_no_harm_without_a_tpu(tmp_path):
    assert wrong(tmp_path, {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}, chips=0) == []


def test_a_variable_in_a_startup_file(tmp_path):
    (tmp_path / ".bashrc").write_text("# export JAX_PLATFORMS=cpu\nexport TPU_SKIP_MDS_QUERY=1\n")
    (found,) = wrong(tmp_path)
    assert "~/.bashrc exports TPU_SKIP_MDS_QUERY" in found


def test_a_stale_lock(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/libtpu_lockfile").touch()
    (found,) = wrong(tmp_path)
    assert f"rm {tmp_path}/tmp/libtpu_lockfile" in found


def test_a_process_that_holds_the_tpu(tmp_path):
    """It, and not its lock, is what is in the way."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/libtpu_lockfile").touch()
    (tmp_path / "proc/4711/fd").mkdir(parents=True)
    (tmp_path / "proc/4711/cmdline").write_bytes(b"python\0-m\0reasoning_jax.main\0")
    (tmp_path / "proc/4711/fd/7").symlink_to("/dev/accel0")
    (found,) = wrong(tmp_path)
    assert "Process 4711 (python -m reasoning_jax.main) holds the TPU" in found
    assert "kill 4711" in found


def test_the_coordinators_port_is_taken(tmp_path):
    with socket.socket() as s:
        s.bind(("", 0))
        s.listen()
        port = s.getsockname()[1]
        (found,) = wrong(tmp_path, port=port)
    assert found.startswith(f"Port {port}, where process 0 listens, is taken")
    assert "Port 8482 is free, but a firewall" in doctor._coordinator({}, 8482, 4).sentence
    assert f"Port {discovery.PORT}" in doctor._coordinator({}, None, 4).sentence


@pytest.mark.parametrize("port", ["abc", "0", "65536", "²"])
def test_a_port_that_is_none(tmp_path, port):
    (found,) = wrong(tmp_path, {"JAX_COORDINATOR_PORT": port}, port=None)
    assert found.startswith(f"JAX_COORDINATOR_PORT={port}: this must be")


@pytest.mark.parametrize("cache", ["/proc/version", "x" * 300, "/nope/" + "y" * 5000])
def test_a_compilation_cache_that_cannot_be(tmp_path, cache):
    found = doctor._compilation_cache({"JAX_COMPILATION_CACHE_DIR": cache})
    assert cache in found.sentence


def test_a_local_folder_for_several_hosts(tmp_path):
    hosts = {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}
    (found,) = wrong(tmp_path, hosts, workdir="runs/a")
    assert "there are 2 hosts: use a gs:// path" in found
    assert wrong(tmp_path, hosts, workdir="gs://bucket/runs/a") == []
    assert wrong(tmp_path, workdir="runs/a") == []


def test_old_python():
    assert software.python((3, 10)).state == "WRONG"
    assert software.python((3, 12)).state == "ok"


def test_chips_are_counted(tmp_path):
    devices = [
        ("a", "0x1ae0", "0x0063"),
        ("b", "0x1ae0", "0x0042"),
        ("c", "0x10de", "0x0063"),
    ]
    for name, vendor, device in devices:
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
    assert doctor.count_chips(tmp_path) == 1


def test_the_command_ends_with_1_where_something_is_wrong():
    done = subprocess.run(
        [sys.executable, "-m", "reasoning_jax.plan", "--doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TPU_LIBRARY_PATH": "/gone.so"},
    )
    assert done.returncode == 1
    assert "WRONG  TPU_LIBRARY_PATH=/gone.so" in done.stdout
    assert done.stderr == ""
