"""launch_tpu.sh local: processes of this machine that start, get signals and end together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import XLA_FLAGS
from conftest import ROOT, wait_for

UNTIL_STOPPED = "trap 'echo saved; exit 143' TERM; echo step 1; while :; do sleep 0.05; done"
PRINT_PROCESS = (
    'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS on $JAX_PLATFORMS '
    'with $XLA_FLAGS: $A $*"\n'
)


@pytest.fixture
def cluster(tmp_path):
    """local(program, *words): what processes of a stand-in for Python do.

    SIGINT as in a terminal: tests that run in the background may have inherited that it is ignored,
    and bash keeps to it.
    """

    def start(program: str, *words: str, processes: int = 3, **more: str) -> subprocess.Popen[str]:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/bash\n{program}\n")
        path.chmod(0o755)
        command = [
            str(ROOT / "launch_tpu.sh"),
            "local",
            f"--processes={processes}",
            "--workdir=runs/a b",
            *words,
        ]
        env = (
            os.environ
            | {"PYTHON": str(path), "TMPDIR": str(tmp_path), "XLA_FLAGS": "", "HERE": str(tmp_path)}
            | more
        )
        return subprocess.Popen(
            command,
            text=True,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    yield start
    wait_for(lambda: not processes_of(tmp_path))  # nothing is left running, whatever the test was


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HERE={folder}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


def logs_with(folder: Path, word: str) -> list[Path]:
    return [log for log in folder.glob("*.log") if word in log.read_text()]


def test_local_starts_a_cluster(cluster, tmp_path):
    process = cluster(
        PRINT_PROCESS,
        "--devices=2",
        "--env=A=x y",
        "--",
        "--config=configs/x.py:a b",
        "--config.c=$(id)",
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    port, folder = re.match(
        r"3 processes, coordinator localhost:(\d+), logs in (\S+)\n", out
    ).groups()
    rest = "on cpu with  --xla_force_host_platform_device_count=2: x y -u -m reasoning_jax.main "
    rest += "--config=configs/x.py:a b --config.c=$(id) --workdir=runs/a b\n"
    for i in range(3):
        assert (Path(folder) / f"{i}.log").read_text() == f"{i} of 3 at localhost:{port} {rest}"
    assert out.splitlines()[1:] == [
        f"0 of 3 at localhost:{port} {rest}".strip()
    ]  # the terminal shows process 0


@pytest.mark.parametrize("failing", [0, 2])
def test_local_stops_the_others_where_one_fails(cluster, failing):
    program = f'((JAX_PROCESS_ID != {failing})) || {{ echo "cannot reach"; sleep 0.2; exit 3; }}; '
    program += UNTIL_STOPPED
    process = cluster(program, "--", "--config=x")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert (
        f"process {failing} of 3 ended with exit code 3; its last lines:\n  cannot reach\n" in err
    )
    assert ("saved" in out) == (failing != 0)  # they could save


def test_local_kills_what_does_not_end(cluster):
    program = 'if ((JAX_PROCESS_ID)); then trap "" TERM; (sleep 200)& '
    program += "while :; do sleep 0.05; done; fi; sleep 0.2; exit 5"
    process = cluster(program, "--", "--config=x", LAUNCH_GRACE="0.3")
    process.communicate(timeout=60)
    assert process.returncode == 5


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_local_passes_signals_on(cluster, name):
    program = f'trap "echo {name} came; exit 0" {name}; (sleep 200)& echo ready; '
    program += "while :; do sleep 0.05; done"
    process = cluster(program, "--", "--config=x")
    folder = Path(process.stdout.readline().split()[-1])
    wait_for(lambda: len(logs_with(folder, "ready")) == 3)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert all(f"{name} came" in (folder / f"{i}.log").read_text() for i in range(3))


def test_a_second_signal_does_not_wait(cluster):
    process = cluster(
        'trap "echo saving" TERM; echo ready; while :; do sleep 0.05; done', "--", "--config=x"
    )
    folder = Path(process.stdout.readline().split()[-1])
    for word in ("ready", "saving"):
        wait_for(lambda word=word: len(logs_with(folder, word)) == 3)
        process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 137


@pytest.mark.parametrize(
    "words, said",
    [
        (["--workdir=a", "--", "--config=x"], "--processes=: local needs"),
        (["--processes=0", "--workdir=a", "--", "--config=x"], "--processes=0"),
        (["--processes=2", "--devices=0", "--workdir=a", "--", "--config=x"], "--devices=0"),
        (["--processes=2", "--", "--config=x"], "--workdir is missing"),
        (["--processes=2", "--workdir=a", "--dry-run", "--", "--config=x"], "no gcloud"),
    ],
)
def test_local_mistakes(words, said):
    done = subprocess.run([ROOT / "launch_tpu.sh", "local", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    no_python = os.environ | {"PYTHON": "/none/python"}
    words = [ROOT / "launch_tpu.sh", "local", "--processes=2", "--workdir=a", "--", "x"]
    assert (
        "there is no Python at /none/python"
        in subprocess.run(words, env=no_python, capture_output=True, text=True).stderr
    )


def test_local_with_jax(tmp_path):
    """Two real processes find each other, with two devices each, and then meet a mistake.

    Training is tested elsewhere.
    """
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    words = [
        "--processes=2",
        "--devices=2",
        f"--workdir={tmp_path}/mine",
        "--",
        "--config=configs/star_addition.py:smoke",
    ]
    env = os.environ | {
        "PYTHON": sys.executable,
        "XLA_FLAGS": XLA_FLAGS,
        "TMPDIR": str(tmp_path),
        "HERE": str(tmp_path),
    }
    process = subprocess.Popen(
        [ROOT / "launch_tpu.sh", "local", *words],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.terminate()  # a second later than a kill, but then nothing is left running
    assert process.returncode == 1 and "ended with exit code 1; its last lines:" in err
    assert "is not empty and not the work directory of a run" in err
    folder = Path(out.splitlines()[0].split()[-1])
    assert all(
        f"process {i} of 2, 4 devices" in (folder / f"{i}.log").read_text() for i in range(2)
    )
    wait_for(lambda: not processes_of(tmp_path))
