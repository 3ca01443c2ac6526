"""How many devices a CPU is for jax."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasoning_jax import cpu_devices, default

ROOT = Path(__file__).resolve().parents[1]
SHOW = """
import jax
from reasoning_jax import cpu_devices, default
cpu_devices._cores = lambda: 3
cfg = default.get_config(algorithm="sft", task="addition")
cfg.batch_size, cfg.sampling.batch_size = 12, 48
for change in {changes!r}:
    cfg.update_from_flattened_dict(change)
print(len(cpu_devices.devices(cfg)))
cfg.batch_size = 4
print(len(cpu_devices.devices(cfg)))
"""


@pytest.fixture
def cfg():
    cfg = default.get_config(algorithm="sft", task="addition")
    cfg.batch_size, cfg.sampling.batch_size = 24, 256
    return cfg


@pytest.mark.parametrize(
    ("cores", "count"), [(1, 1), (2, 2), (3, 2), (5, 4), (8, 8), (23, 8), (96, 8)]
)
def test_one_for_each_core_as_far_as_the_batches_split(cfg, cores, count):
    assert cpu_devices.suitable(cfg, cores) == count


def test_a_micro_batch_is_what_splits(cfg):
    cfg.micro_batches = 6
    assert cpu_devices.suitable(cfg, 16) == 4
    cfg.micro_batches = 24
    assert cpu_devices.suitable(cfg, 16) == 1


def test_one_for_a_large_model(cfg):
    cfg.model.preset = "100m"
    assert cpu_devices.suitable(cfg, 8) == 1
    cfg.model.width = 256
    assert cpu_devices.suitable(cfg, 8) == 8
    cfg.model.source = "a published model"
    assert cpu_devices.suitable(cfg, 8) == 1


@pytest.mark.parametrize(
    ("environment", "changes", "counts"),
    [
        ({}, [], "3 2"),
        ({"JAX_NUM_CPU_DEVICES": "2"}, [], "2 2"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, [], "4 4"),
        ({}, [{"mesh.data": 1}], "1 1"),
        ({}, [{"mesh.fsdp": 2}], "1 1"),
    ],
)
def test_what_the_user_says_comes_first(environment, changes, counts):
    """Else each config has what suits it; the first makes jax's devices."""
    names = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(changes=changes)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=inherited | environment,
    )
    assert done.stdout.split() == counts.split(), done.stderr


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", None), ("200000 100000", 2), ("50000 100000", 1), ("", None)]
)
def test_a_container_has_the_cores_of_its_quota(tmp_path, monkeypatch, quota, most):
    monkeypatch.setattr(cpu_devices.os, "sched_getaffinity", lambda process: range(64), False)
    monkeypatch.setattr(cpu_devices, "QUOTA", tmp_path / "cpu.max")
    assert cpu_devices._cores() == 64
    cpu_devices.QUOTA.write_text(quota)
    assert cpu_devices._cores() == (most or 64)


def test_sampling_groups_split_the_devices(cfg):
    cfg.batch_size, cfg.sampling.batch_size, cfg.mesh.sampling_tensor = 12, 48, 2
    assert cpu_devices.suitable(cfg, 3) == 2
