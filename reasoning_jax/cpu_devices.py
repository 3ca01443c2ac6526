"""On a CPU, a device for each core: XLA splits few operations of a small model over cores.

With two cores updates of the demo's model take 0.7 and its samples 0.5 of the time (docs/speed.md).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from reasoning_jax import discovery
from reasoning_jax.model import presets

WIDEST = 256  # model: the products of wider ones are large enough to be split
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, and of how many
VARIABLE = "JAX_NUM_CPU_DEVICES"
FLAG = "--xla_force_host_platform_device_count"


def devices(cfg: ConfigDict) -> list[jax.Device]:
    """The devices of an experiment: of a CPU as many as suit its config, others all.

    All CPU devices too where the environment or config.mesh says how many there are, and in one of
    several processes. Where jax has not made its devices yet, there is then one for each core.
    """
    is_set = VARIABLE in os.environ or FLAG in os.environ.get("XLA_FLAGS", "")
    mesh = cfg.mesh
    if is_set or (mesh.data, mesh.fsdp, mesh.tensor) != (-1, 1, 1) or discovery.this_process():
        return jax.devices()
    with contextlib.suppress(RuntimeError):  # jax has its devices
        jax.config.update("jax_num_cpu_devices", _cores())
    if jax.default_backend() != "cpu":
        return jax.devices()
    return jax.devices()[: suitable(cfg, jax.device_count())]


def suitable(cfg: ConfigDict, cores: int) -> int:
    """The most devices, one a core, over which the config's batches split; 1 for a large model."""
    if cfg.model.source or presets.model_config(cfg.model, vocab_size=1).width > WIDEST:
        return 1
    micro_batch = cfg.batch_size // cfg.micro_batches
    of_a_group = max(1, cfg.mesh.sampling_tensor)
    for count in range(cores, 1, -1):
        batches_split = micro_batch % count == 0 and cfg.sampling.batch_size % count == 0
        if batches_split and count % of_a_group == 0:
            return count
    return 1


def _cores() -> int:
    """The cores that this process may use: those of its affinity, or of a container's quota."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no quota
        quota, period = QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
