"""Which of several processes this one is: from its environment, or from the TPU slice it is on."""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
import re
import urllib.request
from collections.abc import Mapping

from reasoning_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Open where firewalls were set up for TPU VMs; jax's own default, 8482, may be closed there.
PORT = "8476"
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """Which one of several processes this is."""

    coordinator: str  # HOST:PORT of process 0
    count: int
    index: int


def this_process() -> Process | None:
    """Which process this is, as the environment says; None where it is the only one.

    Read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else from the
    variables and the metadata of a Cloud TPU slice of several hosts, or of several slices. A single
    host, such as Colab's or Kaggle's, is the only process, even where it has some of these
    variables. UserError where a variable is missing or malformed.
    """
    address, count, index = (os.environ.get(name, "") for name in VARIABLES)
    if not count and not index:
        return _process_of_slice(address)
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(f"{missing[0]} is not set: many processes need {', '.join(VARIABLES)}.")
    num_processes = number("JAX_NUM_PROCESSES", count, 1)
    return Process(
        coordinator=_checked_address(address),
        count=num_processes,
        index=number("JAX_PROCESS_ID", index, 0, num_processes - 1),
    )


def coordinator_port(env: Mapping[str, str] = os.environ) -> int:
    """Where process 0 listens if no address says so; UserError where the variable is no port."""
    return number("JAX_COORDINATOR_PORT", env.get("JAX_COORDINATOR_PORT") or PORT, 1, 65535)


def number(name: str, value: str, least: int, most: int = 10**6) -> int:
    """The value of a variable; UserError where it is not a whole number from least to most."""
    if not re.fullmatch("[0-9]{1,9}", value) or not least <= int(value) <= most:
        raise UserError(f"{name}={value}: this must be a whole number from {least} to {most}.")
    return int(value)


def _checked_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address}: this must be HOST:PORT.")
    return address


def _process_of_slice(address: str) -> Process | None:
    """Which process this host is in a TPU slice, or in several; None where it is the only host.

    address: HOST:PORT of the coordinator, where it is known; else it is the first host of all.
    """
    if not _is_tpu_host():
        return None
    attributes = _slice_attributes()
    hosts = _slice_hosts(attributes)
    if not hosts:
        return None
    num_slices = _attribute(attributes, "MEGASCALE_NUM_SLICES", "1", 1)
    slice_index = _attribute(attributes, "MEGASCALE_SLICE_ID", "0", 0, num_slices - 1)
    if len(hosts) * num_slices < 2:
        return None
    number = _metadata("agent-worker-number")
    worker = _attribute(attributes, "TPU_WORKER_ID", number, 0, len(hosts) - 1)
    if not address:
        coordinator = attributes.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
        host = coordinator.split(":")[0]
        address = f"{host}:{coordinator_port()}"
    return Process(
        coordinator=_checked_address(address),
        count=len(hosts) * num_slices,
        index=slice_index * len(hosts) + worker,
    )


def _attribute(
    attributes: Mapping[str, str], name: str, default: str, least: int, most: int = 10**6
) -> int:
    """A number among a slice's variables, of which an empty one is as good as none."""
    return number(name, attributes.get(name) or default, least, most)


def _is_tpu_host() -> bool:
    """Whether jax will use TPU chips of this machine, and not of this machine only."""
    if os.environ.get("TPU_PROCESS_BOUNDS") == "1,1,1":  # asks for this host without the others
        return False
    if "tpu" not in (os.environ.get("JAX_PLATFORMS") or "tpu"):
        return False
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _slice_attributes() -> dict[str, str]:
    """A slice's variables: the environment's (GKE), and the metadata server's where it has none."""
    lines = re.findall(r"^(\w+): *'?(.*?)'?$", _metadata("tpu-env"), re.MULTILINE)
    return dict(lines) | dict(os.environ)


def _slice_hosts(attributes: Mapping[str, str]) -> list[str]:
    """The host names of one slice, in the order of its workers."""
    names = (
        attributes.get("TPU_PROCESS_ADDRESSES")
        or attributes.get("TPU_WORKER_HOSTNAMES")
        or _metadata("worker-network-endpoints")
    )
    hosts = []
    for name in names.split(","):
        fields = name.split(":")
        if len(fields) == 3:  # the metadata server's "unknown:unknown:10.0.0.5"
            hosts.append(fields[2])
        elif name.strip():
            hosts.append(fields[0])
    return hosts


def _metadata(key: str) -> str:
    """An attribute of this Google Cloud VM; "" where it has none or is no such VM."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:
        return ""
    try:
        request = urllib.request.Request(METADATA + key, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read().decode(errors="replace")
    except OSError:
        return ""


def is_multi_host() -> bool:
    """Whether some processes may be on other machines: the coordinator's is not named localhost."""
    process = this_process()
    if process is None or process.count < 2:
        return False
    host = process.coordinator.rpartition(":")[0]
    return host not in ("localhost", "127.0.0.1", "[::1]")
