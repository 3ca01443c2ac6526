"""On a CPU, a device for each core: XLA splits few operations of a small model over cores.

With two cores updates of the demo's model take 0.7 and its samples 0.5 of the time (docs/speed.md).
"""

from __future__ import annotations

import contextlib
import os

import jax
from ml_collections import ConfigDict

from reasoning_jax import discovery
from reasoning_jax.model import presets

WIDEST = 256  # model: the products of wider ones are large enough to be split
VARIABLE = "JAX_NUM_CPU_DEVICES"
FLAG = "--xla_force_host_platform_device_count"


def use(cfg: ConfigDict) -> None:
    """Lets jax have as many CPU devices as suit the config; other devices are not touched.

    Nothing happens where jax has made its devices already, where the environment or config.mesh
    says how many there are, and in one of several processes.
    """
    is_said = VARIABLE in os.environ or FLAG in os.environ.get("XLA_FLAGS", "")
    mesh = cfg.mesh
    if is_said or (mesh.data, mesh.fsdp, mesh.tensor) != (-1, 1, 1) or discovery.this_process():
        return
    with contextlib.suppress(RuntimeError):  # jax has its devices
        jax.config.update("jax_num_cpu_devices", number(cfg, _cores()))


def number(cfg: ConfigDict, cores: int) -> int:
    """The most devices, one a core, over which the config's batches split; 1 for a large model."""
    if cfg.model.source or presets.model_config(cfg.model, vocab_size=1).width > WIDEST:
        return 1
    micro_batch = cfg.batch_size // cfg.micro_batches
    for count in range(cores, 1, -1):
        if micro_batch % count == 0 and cfg.sampling.batch_size % count == 0:
            return count
    return 1


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
