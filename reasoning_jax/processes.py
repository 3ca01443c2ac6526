"""The same program as n processes, one a host: how they find each other, and what they tell one another.

Every process computes the same plan from the same seed, so that little has to be said: what process 0 alone has read or
written, verdicts of samples, and that it is time to stop. With one process everything here is the identity.

What is called on all processes must be called on all of them, in the same order: nothing here stands under "if first()".
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import json
import os
import platform
import re
import socket
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PORT = "8476"  # open where firewalls were set up for TPU VMs; jax's own default of today, 8482, may not be
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
Place = tuple[str, int, int]  # the coordinator's HOST:PORT, the number of processes, which of them this is

# ---- where this process stands ---------------------------------------------------------------------------------------


def place() -> Place | None:
    """What the environment says about the other processes; None where this is the only one. ValueError: it says half.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else those of a Cloud TPU slice of several hosts or of
    several slices. A single host, such as Colab's or Kaggle's, is none of these, whatever its variables look like.
    """
    address, count, index = (os.environ.get(name, "") for name in VARIABLES)
    if not count and not index:
        return _slice(address)
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ValueError(f"{missing[0]} is not set: many processes need {', '.join(VARIABLES)}.")
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address}: this must be HOST:PORT.")
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise ValueError(f"JAX_PROCESS_ID={index}: this must be 0 ... JAX_NUM_PROCESSES - 1, and that is {count}.")
    return address, int(count), int(index)


def _slice(address: str = "") -> Place | None:
    """The place of this host in a TPU slice, or in several: from its variables (GKE), else from the metadata server."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
    alone = os.environ.get("TPU_PROCESS_BOUNDS") == "1,1,1"  # somebody wants this host by itself
    if alone or "tpu" not in platforms or not chips or importlib.util.find_spec("libtpu") is None:
        return None
    known = dict(re.findall(r"^(\w+): *'?(.*?)'?$", _metadata("tpu-env"), re.MULTILINE)) | os.environ
    names = known.get("TPU_PROCESS_ADDRESSES") or known.get("TPU_WORKER_HOSTNAMES") or _metadata("worker-network-endpoints")
    hosts = [name.split(":")[2] if name.count(":") == 2 else name.split(":")[0] for name in names.split(",") if name.strip()]
    slices, slice_id = int(known.get("MEGASCALE_NUM_SLICES") or 1), int(known.get("MEGASCALE_SLICE_ID") or 0)
    if len(hosts) * slices < 2:
        return None
    worker = int(known.get("TPU_WORKER_ID") or _metadata("agent-worker-number"))
    first = (known.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]).split(":")[0]
    address = address or f"{first}:{os.environ.get('JAX_COORDINATOR_PORT', PORT)}"
    return address, len(hosts) * slices, slice_id * len(hosts) + worker


def _metadata(key: str) -> str:
    """An attribute of this Google Cloud VM; "" where it has none or is no such VM."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:
        return ""
    try:
        request = urllib.request.Request(METADATA + key, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def several_hosts() -> bool:
    """Whether there are processes on other machines: always, but where the coordinator's address is this machine's own."""
    here = place()
    return here is not None and here[1] > 1 and here[0].rpartition(":")[0] not in ("localhost", "127.0.0.1", "[::1]")


# ---- from the beginning to the end -----------------------------------------------------------------------------------


def initialize() -> None:
    """Waits for the other processes, where there are others; before anything else of jax is used.

    $REASONING_START_SECONDS (300) is how long, $REASONING_HEARTBEAT_SECONDS (100) how soon a process that is gone is missed.
    ValueError where the processes run different software.
    """
    here = place()
    if here is None or jax.distributed.is_initialized():
        return
    address, count, index = here
    limit, heartbeat = (_seconds(name, value) for name, value in (("START", 300), ("HEARTBEAT", 100)))
    print(f"process {index} of {count}, waiting for the others at {address}", flush=True)
    # When jax has waited for long enough, it aborts with a stack of C++; this is a second earlier.
    alarm = threading.Timer(limit, _late, (address, count, index, limit))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            address, count, index, cluster_detection_method="deactivate", initialization_timeout=limit + 60,
            heartbeat_timeout_seconds=heartbeat,
        )  # fmt: skip
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Process {index} of {count} cannot begin at {address}: {reason}.") from error
    print(f"process {index} of {count}, {jax.device_count()} devices, here {jax.local_devices()}", flush=True)
    alarm.cancel()
    same({"Python": platform.python_version()} | {name: sys.modules[name].__version__ for name in ("jax", "jaxlib", "numpy")})


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(f"REASONING_{name}_SECONDS") or str(default)
    if not value.isdigit() or not int(value):
        raise ValueError(f"REASONING_{name}_SECONDS={value}: this must be a number of seconds.")
    return int(value)


def _late(address: str, count: int, index: int, limit: int) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        fault = f"not all of the {count} processes have come to {address}: start the command on every host"
    except OSError as error:
        fault = f"there is no answer from the coordinator, process 0, at host {host}, port {port} ({error}): start the " \
                "command on every host, and open that port between them"  # fmt: skip
    print(f"Process {index} of {count} has waited for {limit} seconds, and {fault}.", file=sys.stderr, flush=True)
    os._exit(1)


def leave(code: int) -> NoReturn:
    """Ends this process after an error: at once where there are others, as jax would wait for them, and they for this one."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if first():
        time.sleep(1)  # they have something to say too, and lose their coordinator
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody may be there to read it
            stream.flush()
    os._exit(code)


def explain(error: BaseException) -> str | None:
    """One sentence about an error that another process's end has caused; None for all others."""
    lost = r"(?i)gloo|peer|UNAVAILABLE|ABORTED|heartbeat|coordination service|barrier|slice health"
    if several() and isinstance(error, jax.errors.JaxRuntimeError) and re.search(lost, str(error)):
        return (f"Process {jax.process_index()} of {jax.process_count()} has lost another one, which has ended or cannot be "
                "reached; the same command on all hosts goes on from the last checkpoint.")  # fmt: skip
    return None


def give_up(error: BaseException) -> None:
    """Ends this process after an error that nobody expected, where others would wait for it; else does nothing."""
    if jax.distributed.is_initialized():
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
        leave(1)


# ---- what they tell one another --------------------------------------------------------------------------------------


def several() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, the one that writes files and speaks."""
    return jax.process_index() == 0


def say(sentence: str, file: Any = None) -> None:
    """Prints it, once."""
    if first():
        print(sentence, file=file, flush=True)


def gather(value: Any) -> list[Any]:
    """Every process's value, in their order; anything that JSON can hold. On all processes."""
    if not several():
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    width = max(1024, 1 << int(max(sizes) - 1).bit_length())  # few widths: each is compiled
    padded = np.zeros(width, np.uint8)
    padded[: len(content)] = content
    found = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(found, sizes, strict=True)]


def of_first(work: Callable[[], Any]) -> Any:
    """The value, in JSON, of ``work()`` on process 0, or its ValueError or OSError, on all processes."""
    value = error = None
    if first():
        try:
            value = work()
        except (ValueError, OSError) as caught:
            if not several():
                raise
            error = caught
    value, told = gather([value, None if error is None else str(error)])[0]
    if error is not None:
        raise error
    if told is not None:
        raise ValueError(told)
    return value


def same(values: dict[str, Any]) -> None:
    """ValueError, on all processes, that names the first of these values which they do not all have."""
    told = gather(values)
    for index, other in enumerate(told):
        for name in {**told[0], **other}:
            if other.get(name) != told[0].get(name):
                raise ValueError(f"{name} is {other.get(name)} on process {index} and {told[0].get(name)} on process 0.")


_asked = 0


def reached_stop() -> bool:
    """Whether all processes are to stop here, since one of them got SIGTERM: true at the same call on each of them.

    Costs no communication until then. Where there are others, jax has put its own handler in the place of SIGTERM's.
    """
    global _asked
    _asked += 1
    return multihost_utils.reached_preemption_sync_point(_asked)
