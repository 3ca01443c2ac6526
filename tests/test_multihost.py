"""One program as several processes: real clusters on this machine's CPU, killed and stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys

import numpy as np
import pytest
from cluster import ROOT, TINY, Cluster, collected, final, log

from configs import star_addition
from reasoning_jax import (
    command_line,
    discovery,
    interrupts,
    loop,
    main,
    metrics,
    multihost,
    rows_file,
    workdir,
)
from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.training import checkpoint_folders

IRPO = TINY | {
    "sequence_length": 128,
    "base.num_updates": 20,
    "algorithm.num_samples": 2,
    "rounds.count": 1,
    "rounds.updates": 4,
}


# ---- clusters ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_like_one(tmp_path):
    """The samples and the parameters are those of one process with two devices, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    one = Cluster(0, 2, whole, "star_addition", TINY)
    assert one.end() == [0], one.output()

    # Amid updates, where the other learns of it at once; else it learns from jax, which aborts it.
    killed = Cluster(2, 1, broken, "star_addition", TINY | {"checkpoint.every": 10})
    killed.when('"phase": "update"', 1, signal.SIGKILL)
    codes = killed.end()
    assert codes[1] == -signal.SIGKILL and codes[0] == 1, killed.output()
    assert (
        "Process 0 of 2 has lost another one" in killed.lines[0][-1]
        and "Traceback" not in killed.output()
    )
    assert killed.lines[0][0] == f"process 0 of 2, waiting for the others at {killed.address}\n"
    assert killed.lines[1][1].startswith("process 1 of 2, 2 devices, here [")
    (broken / "config.json").write_text(
        (whole / "config.json").read_text()
    )  # saves were more frequent

    rest = Cluster(2, 1, broken, "star_addition", TINY)
    assert rest.end() == [0, 0], rest.output()
    assert "round" not in "".join(rest.lines[1][2:])  # the others say nothing
    assert collected(broken) == collected(whole) and log(broken) == log(whole)
    (mine, about), (theirs, like) = final(broken), final(whole)
    assert {k: v.tobytes() for k, v in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}
    assert about == like | {
        "metrics_bytes": about["metrics_bytes"]
    }  # losses and times have not always as many digits
    assert len(list(broken.glob("events.out.tfevents*"))) <= 2 and (broken / "report.html").exists()


@pytest.mark.slow
def test_four_processes_go_on_as_one_and_as_two(tmp_path):
    """A checkpoint serves any number of processes; sums over more devices have another order."""
    folder, whole = tmp_path / "changing", tmp_path / "whole"
    mesh = {"mesh.data": -1}
    four = Cluster(4, 1, folder, "irpo_addition", IRPO | mesh).when(
        "round 0 update: 0/20", 3, signal.SIGTERM
    )
    assert four.end() == [143] * 4, four.output()
    assert all(
        "Stopped by SIGTERM and saved; the same command goes on" in lines[-1]
        for lines in four.lines
    )
    first = final(folder)[1]
    alone = Cluster(0, 1, folder, "irpo_addition", IRPO | mesh).when(
        "round 1 collect: 0/", 0, signal.SIGTERM
    )
    assert alone.end() == [143], alone.output()
    assert f"going on in round {first['round']} after {first['update']} updates" in alone.output()
    assert final(folder)[1]["round"] == 1
    # Its parameters are split, and samples come from copies of them on a second mesh.
    two = Cluster(
        2, 2, folder, "irpo_addition", IRPO | mesh | {"mesh.fsdp": 2, "mesh.sampling_tensor": 2}
    )
    assert two.end() == [0, 0], two.output()
    assert "going on in round 1" in two.output()

    one = Cluster(0, 1, whole, "irpo_addition", IRPO | mesh)
    assert one.end() == [0], one.output()
    assert [samples for samples, _ in collected(folder)] == [
        samples for samples, _ in collected(whole)
    ]
    (mine, about), (theirs, like) = final(folder), final(whole)
    assert about["samples"] == like["samples"] and about["best_round"] == like["best_round"]
    for name, value in mine.items():
        np.testing.assert_allclose(
            value,
            theirs[name],
            rtol=0,
            atol=1e-3 * max(np.abs(theirs[name]).max(), 1e-6),
            err_msg=name,
        )


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    environment = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "REASONING_START_SECONDS": "2"}
    lost = Cluster(1, 1, tmp_path / "run", "star_addition", TINY, **environment)
    assert lost.end() == [1], lost.output()
    host, _, port = lost.address.partition(":")
    assert (
        len(lost.lines[0]) == 2
        and f"host {host}, port {port}" in lost.lines[0][1]
        and "2 seconds" in lost.lines[0][1]
    )
    assert not (tmp_path / "run").exists()


# ---- one process that is to stop -----------------------------------------------------------------


def config():
    c = star_addition.get_config("smoke")
    c.update_from_flattened_dict(TINY)
    c.base.num_updates = 60
    c.rounds.updates = 4
    return c


def test_stopped_at_any_moment_a_run_ends_with_the_same_bits(tmp_path, monkeypatch, one_device):
    """While sampling, between updates and while evaluating; and nothing is logged twice."""
    loop.train(config(), tmp_path / "whole")
    folder, moments = tmp_path / "stopped", iter((50, 14, 6, 6, 4))
    asked = 0

    def preempted() -> bool:
        nonlocal asked
        asked -= 1
        return asked == 0

    monkeypatch.setattr(interrupts, "preempted", preempted)
    stopped = []
    while True:
        asked = next(moments, 0)
        try:
            loop.train(config(), folder)
            break
        except interrupts.Preempted:
            about = final(folder)[1]
            stopped.append((about["round"], about["update"]))
    assert stopped == [(0, 50), (0, 60), (1, 0), (1, 2), (1, 4)]
    (mine, about), (theirs, like) = final(folder), final(tmp_path / "whole")
    assert {k: v.tobytes() for k, v in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}
    assert about["finished"] and about == like | {"metrics_bytes": about["metrics_bytes"]}
    assert collected(folder) == collected(tmp_path / "whole") and log(folder) == log(
        tmp_path / "whole"
    )


def test_sigterm_is_deferred_and_ctrl_c_is_not_changed(request):
    # A background job of a shell ignores Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.defer_sigterm():
        assert not interrupts.preempted()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.preempted()
        with pytest.raises(interrupts.Preempted):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before and not interrupts.preempted()


# ---- which process this is -----------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables that say which process this is, and only these."""

    def put(chips=(), metadata=(), **values):
        for name in [*os.environ]:
            if name.startswith(("TPU_", "MEGASCALE_")) or name in (
                *discovery.VARIABLES,
                "JAX_COORDINATOR_PORT",
            ):
                monkeypatch.delenv(name)
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(
            discovery.glob, "glob", lambda pattern: list(chips) if "accel" in pattern else []
        )
        monkeypatch.setattr(
            discovery.importlib.util, "find_spec", lambda name: name == "libtpu" or None
        )
        monkeypatch.setattr(discovery, "_metadata", lambda key: dict(metadata).get(key, ""))

    return put


GCE = {
    "worker-network-endpoints": "unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.6",
    "agent-worker-number": "1",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nWORKER_ID: '1'",
}
TWO_SLICES = (
    "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9'"
)
CHIP = {"chips": ["/dev/accel0"]}
ON_GCE = CHIP | {"metadata": GCE}


@pytest.mark.parametrize(
    ("values", "process"),
    [
        ({}, None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "h:1",
                "JAX_NUM_PROCESSES": "4",
                "JAX_PROCESS_ID": "3",
            },
            ("h:1", 4, 3),
        ),
        (ON_GCE, ("10.0.0.5:8476", 2, 1)),
        (ON_GCE | {"JAX_COORDINATOR_PORT": "7"}, ("10.0.0.5:7", 2, 1)),
        (ON_GCE | {"JAX_COORDINATOR_ADDRESS": "c:9"}, ("c:9", 2, 1)),
        (
            CHIP | {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"},
            ("a:8476", 3, 2),
        ),
        (
            CHIP
            | {
                "TPU_WORKER_HOSTNAMES": "a,b",
                "TPU_WORKER_ID": "1",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "z:8080",
            },
            ("z:8476", 4, 3),
        ),
        (CHIP | {"metadata": GCE | {"tpu-env": TWO_SLICES}}, ("10.9.9.9:8476", 4, 3)),
        # Kaggle and Colab.
        (CHIP | {"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (CHIP | {"TPU_WORKER_HOSTNAMES": "", "TPU_WORKER_ID": "0"}, None),
        # A slice of one host, one host without the others, another platform, no chips.
        (CHIP | {"metadata": GCE | {"worker-network-endpoints": "u:u:10.0.0.5"}}, None),
        (ON_GCE | {"TPU_PROCESS_BOUNDS": "1,1,1"}, None),
        (ON_GCE | {"JAX_PLATFORMS": "cpu"}, None),
        ({"metadata": GCE, "TPU_WORKER_HOSTNAMES": "a,b"}, None),
    ],
)
def test_which_process_this_is(environment, values, process):
    environment(**values)
    expected = None
    if process is not None:
        coordinator, count, index = process
        expected = discovery.Process(coordinator=coordinator, count=count, index=index)
    assert discovery.this_process() == expected
    assert discovery.is_multi_host() == (expected is not None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("h:1 4 ", "JAX_PROCESS_ID is not set"),
        (" 4 0", "JAX_COORDINATOR_ADDRESS is not set"),
        ("h 4 0", "HOST:PORT"),
        ("h:1 4 4", "JAX_PROCESS_ID=4"),
        ("h:1 x 0", "x"),
        ("h:1 4 -1", "-1"),
        ("h:1 ² 0", "²"),
        ("h:1 9999999999 0", "9999999999"),
        ("h:0 4 0", "HOST:PORT"),
        ("h:65536 4 0", "HOST:PORT"),
        ("h:² 4 0", "HOST:PORT"),
    ],
)
def test_an_incomplete_environment_is_one_sentence(environment, values, words):
    environment(**{k: v for k, v in zip(discovery.VARIABLES, values.split(" "), strict=True) if v})
    with pytest.raises(UserError, match=words):
        discovery.this_process()


@pytest.mark.parametrize(
    "values",
    [
        {"JAX_COORDINATOR_PORT": "abc"},
        {"JAX_COORDINATOR_PORT": "0"},
        {"JAX_COORDINATOR_PORT": "65536"},
        {"TPU_WORKER_ID": "x"},
        {"TPU_WORKER_ID": "2"},
        {"MEGASCALE_NUM_SLICES": "0"},
        {"MEGASCALE_NUM_SLICES": "two"},
        {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "2"},
        {"JAX_COORDINATOR_ADDRESS": "host"},
    ],
)
def test_a_malformed_variable_of_a_slice_is_one_sentence(environment, values):
    name, value = list(values.items())[-1]
    environment(**({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"} | CHIP | values))
    with pytest.raises(UserError, match=f"{name}={value}: this must be"):
        discovery.this_process()


def test_a_local_work_directory_needs_the_flag_on_several_hosts(
    environment, tmp_path, monkeypatch, capsys
):
    begun = []
    monkeypatch.setattr(multihost, "initialize", lambda: begun.append(1))
    monkeypatch.setattr(loop, "train", lambda *_: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["--config=configs/star_addition.py:smoke", f"--workdir={tmp_path / 'run'}"]
    monkeypatch.chdir(ROOT)

    def start(address, *more):
        environment(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="0")
        command_line.run(main.main, command_line.define_shared, argv=[*arguments, *more])

    with pytest.raises(SystemExit) as stopped:
        start("10.0.0.5:8476")
    err = capsys.readouterr().err
    assert (
        stopped.value.code == 1
        and err.count("\n") == 1
        and "--allow_local_workdir" in err
        and str(tmp_path) in err
    )
    assert not begun
    start("10.0.0.5:8476", "--allow_local_workdir")
    start("localhost:8476")
    assert len(begun) == 2


def test_one_process_exchanges_nothing():
    assert (
        not multihost.is_distributed()
        and multihost.is_process_0()
        and multihost.gather({"a": 1}) == [{"a": 1}]
    )
    assert multihost.broadcast_from_process_0(lambda: 3) == 3
    with pytest.raises(FileNotFoundError):
        multihost.broadcast_from_process_0(lambda: open("/nowhere/at/all"))
    multihost.assert_same({"config.seed": 0, "config.x": float("nan")})


def test_processes_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(multihost, "gather", lambda value: [value, value, value | {"jax": "1"}])
    with pytest.raises(ValueError, match="^jax is 1 on process 2 and 2 on process 0.$"):
        multihost.assert_same({"Python": "3", "jax": "2"})
    with pytest.raises(ValueError, match="^jax is 1 on process 2 and nan on process 0.$"):
        multihost.assert_same({"NaN is the same": math.nan, "jax": math.nan})


def test_an_error_of_process_0_is_raised_on_all_processes(monkeypatch):
    monkeypatch.setattr(multihost, "is_distributed", lambda: True)
    monkeypatch.setattr(multihost, "is_process_0", lambda: False)
    monkeypatch.setattr(multihost, "gather", lambda value: [[None, "no such folder"], value])
    with pytest.raises(ValueError, match="no such folder"):
        multihost.broadcast_from_process_0(lambda: pytest.fail("this is for process 0"))


def test_a_process_whose_output_nobody_reads_ends_and_does_not_wait_for_the_others(monkeypatch):
    class Closed:
        def write(self, *_):
            raise BrokenPipeError

        flush = write

    ended = []
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(multihost.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(multihost.os, "_exit", ended.append)
    monkeypatch.setattr(multihost.time, "sleep", lambda _: None)
    monkeypatch.setattr(multihost.sys, "exit", ended.append)
    command_line._fail("It went wrong.", 3)
    multihost.give_up(ValueError("unexpected"))
    assert ended[0] == 3 and ended[-1] == 1


# ---- meshes --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "a device"


def test_only_data_goes_over_slices():
    devices = [Device(i, slice_index=i // 2 % 2) for i in range(8)]  # 0 1 4 5 and 2 3 6 7
    grid = sharding.make_mesh(-1, 2, 1, devices).devices
    assert grid.shape == (4, 2, 1)
    assert [[d.slice_index for d in row] for row in grid[:, :, 0]] == [
        [0, 0],
        [0, 0],
        [1, 1],
        [1, 1],
    ]
    with pytest.raises(ValueError, match=r"^config\.mesh: data is no multiple of the 2 slices"):
        sharding.make_mesh(1, 4, 2, devices)


# ---- object stores -------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """A gs:// that is in memory."""
    epath = pytest.importorskip("etils.epath")
    memory = pytest.importorskip("fsspec.implementations.memory")

    class Memory(memory.MemoryFileSystem):
        store: dict = {}
        pseudo_dirs = [""]
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return memory.MemoryFileSystem._strip_protocol(str(path).removeprefix("gs:/"))

    files = Memory()
    monkeypatch.setattr(type(epath.backend.fsspec_backend), "_get_filesystem", lambda *_: files)
    monkeypatch.setattr(epath.gpath, "_is_tf_installed", lambda: False)
    return workdir.path("gs://bucket/run")


def test_a_run_s_files_on_an_object_store(bucket):
    assert not workdir.is_local(bucket) and not bucket.exists() and str(bucket) == "gs://bucket/run"
    cfg = star_addition.get_config("smoke")
    workdir.claim(cfg, bucket, upgrade=dict)
    workdir.claim(cfg, bucket, upgrade=dict)
    assert json.loads((bucket / "config.json").read_text())["seed"] == 0
    cfg.seed = 5
    with pytest.raises(ValueError, match="seed was 0 and is now 5"):
        (bucket / "rounds").mkdir(parents=True, exist_ok=True)
        workdir.write(bucket / "metrics.jsonl", b"")
        workdir.claim(cfg, bucket, upgrade=dict)
    rows = [{"tokens": np.arange(3, dtype=np.int32)}]
    rows_file.write_rows(bucket / "rounds" / "0001" / "rows.npz", rows, (np.ones(2),))
    read, (memory,) = rows_file.read_rows(bucket / "rounds" / "0001" / "rows.npz", (np.zeros(2),))
    assert read[0]["tokens"].tolist() == [0, 1, 2] and memory.tolist() == [1, 1]


def test_metrics_where_nothing_can_be_appended(bucket, monkeypatch):
    monkeypatch.setattr(
        metrics.Writer, "_scalars", lambda *_: None
    )  # TensorBoard needs Google's own client there
    writer = metrics.Writer(bucket)
    assert writer.size() == 0
    writer.write(1, 0, "update", {"update/loss": 2.0})
    size = writer.size()
    writer.write(2, 0, "update", {"update/loss": 1.0})
    writer.flush()
    assert [m["step"] for m in metrics.read(bucket)] == [1, 2] and 0 < size < writer.size()
    again = metrics.Writer(bucket)
    again.truncate(size, 1)
    assert [m["step"] for m in metrics.read(bucket)] == [1] and again.size() == size
    again.write(2, 0, "update", {"update/loss": 0.5})
    again.close()
    assert [m["update/loss"] for m in metrics.read(bucket)] == [2.0, 0.5]


def test_a_whole_run_through_paths_that_are_not_pathlib_s(tmp_path, one_device):
    """Checkpoints and report too: a folder of this machine behind the paths of object stores."""
    epath = pytest.importorskip("etils.epath")
    cfg = config()
    cfg.rounds.count = 1
    loop.train(cfg, epath.Path(tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert not list((tmp_path / "run").rglob(checkpoint_folders.RECORD))
    assert {m["phase"] for m in metrics.read(epath.Path(tmp_path / "run"))} == {
        "collect",
        "update",
        "eval",
    }
    cfg.rounds.count = 2
    loop.train(cfg, epath.Path(tmp_path / "run"))
    assert final(epath.Path(tmp_path / "run"))[1]["round"] == 3


def test_an_object_store_without_its_package_is_one_sentence(monkeypatch):
    epath = pytest.importorskip("etils.epath")

    def missing(self):
        raise ImportError("No module named 'gcsfs'")

    monkeypatch.setattr(epath.gpath.PosixGPath, "exists", missing)
    with pytest.raises(ValueError, match="gs://b/r: this needs another package .*gcsfs"):
        workdir.path("gs://b/r")
