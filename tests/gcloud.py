"""A stand-in for gcloud, which keeps slices in the folder $STANDIN.

It runs ``ssh --command`` in a folder for each worker. calls.jsonl records the arguments of every
call. plan.json says what is to happen; every key may be missing:
  logged_out: true               no account
  hosts: n                       workers of a node (1)
  creations: [[state, ...], ...] the states of the 1st, 2nd ... request, one a ``describe``, the
                                 last for ever ([["ACTIVE"]])
  errors: {"create": text}       what a command answers instead of doing it
  preempt: [n, ...]              the 1st, 2nd ... slice is gone at its nth ``describe`` as ACTIVE
  nodes: [state, ...]            states of the nodes, one a ``describe``, then READY; "READY?" has
                                 no address yet
  deaf: [worker, ...]            workers that ssh does not reach
  says: {"count": text}          what it says is the number of nodes, or of "workers"
"""

import json
import os
import re
import sys
from pathlib import Path

HOME = Path(os.environ["STANDIN"])


def read(name, default):
    return json.loads((HOME / name).read_text()) if (HOME / name).exists() else default


def keep(name, value):
    (HOME / f"{name}.{os.getpid()}").write_text(json.dumps(value))
    (HOME / f"{name}.{os.getpid()}").rename(HOME / name)  # two launchers may ask at once


def fail(text):
    print(f"ERROR: (gcloud.compute.tpus) {text}", file=sys.stderr)
    sys.exit(1)


def wipe():
    """The machines are gone, and all that ran on them."""
    import shutil  # here, as this script is started some hundred times
    import signal

    for path in HOME.glob("workers/*/*/reasoning_jax_run/pid"):
        process = Path("/proc") / path.read_text().strip()
        if process.exists() and str(path.parent).encode() in (process / "cmdline").read_bytes():
            os.killpg(os.getpgid(int(process.name)), signal.SIGKILL)
    shutil.rmtree(HOME / "workers", ignore_errors=True)


def printed(flags, resource):
    """--format=value[separator=","](a.b,c.len()) of a resource."""
    separator, fields = re.fullmatch(
        r'value(?:\[separator="(.*)"\])?\((.*)\)', flags["format"]
    ).groups()
    values = []
    for field in fields.split(","):
        value = resource
        for part in field.replace("[0]", ".0").split("."):
            if part == "len()":
                value = value if isinstance(value, str) else len(value)
            elif isinstance(value, list):
                value = value[int(part)] if int(part) < len(value) else ""
            else:
                value = value.get(part, "")
            if value == "":
                break
        values.append(str(value))
    print((separator or "\t").join(values))


def queued(verb, name, flags, plan):
    request = read("request.json", None)
    if verb == "create":
        if request:
            fail("ALREADY_EXISTS: Resource already exists.")
        number = read("number.json", 0)
        keep("number.json", number + 1)
        creations = plan.get("creations", [["ACTIVE"]])
        count = int(flags.get("node-count", 1))
        names = (
            [f"{flags['node-prefix']}-{i}" for i in range(count)]
            if count > 1
            else [flags["node-id"]]
        )
        states = creations[min(number, len(creations) - 1)]
        keep(
            "request.json",
            {"states": states, "number": number, "seen": 0, "count": count, "nodes": names},
        )
    elif not request:
        fail(f"NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/{name}' was not found")
    elif verb == "describe":
        state = request["states"][0]
        preempt = plan.get("preempt", [])
        request["seen"] += state == "ACTIVE"
        if request["number"] < len(preempt) and request["seen"] == preempt[request["number"]]:
            wipe()
            state, request["states"] = "SUSPENDED", ["SUSPENDED"]
        request["states"] = request["states"][1:] or request["states"]
        keep("request.json", request)
        node_spec = (
            {"multisliceParams": {"nodeCount": request["count"]}}
            if request["count"] > 1
            else {"nodeId": name}
        )
        failed = (
            {"failedData": {"error": {"message": "no capacity, try later"}}}
            if state == "FAILED"
            else {}
        )
        if "count" in plan.get("says", {}):
            node_spec = {"multisliceParams": {"nodeCount": plan["says"]["count"]}}
        printed(flags, {"state": {"state": state, **failed}, "tpu": {"nodeSpec": [node_spec]}})
    elif verb == "delete":
        if "force" not in flags:
            fail("FAILED_PRECONDITION: nodes exist; use --force")
        wipe()
        (HOME / "request.json").unlink()


def vm(verb, words, flags, plan):
    request, hosts = read("request.json", {"nodes": []}), plan.get("hosts", 1)
    target = words[-1] if verb == "scp" else words[0]
    name, _, path = target.partition(":")
    if name not in request["nodes"]:
        fail(f"NOT_FOUND: Resource 'nodes/{name}' was not found")
    if verb == "describe":
        states = read("nodes.json", plan.get("nodes", []))
        keep("nodes.json", states[1:])
        state = (states or ["READY"])[0]
        endpoints = [{}] * hosts if state == "READY" else []
        endpoints = plan.get("says", {}).get("workers", endpoints)
        printed(
            flags,
            {"state": state.removesuffix("?"), "health": "HEALTHY", "networkEndpoints": endpoints},
        )
        return
    chosen = range(hosts) if flags["worker"] == "all" else [int(flags["worker"])]
    import shutil
    import subprocess

    processes, code = [], 0
    for worker in chosen:
        home = HOME / "workers" / name / str(worker)
        home.mkdir(parents=True, exist_ok=True)
        if worker in plan.get("deaf", []):
            print("ssh: connect to host port 22: Connection refused", file=sys.stderr)
            code = 255
        elif verb == "scp":
            shutil.copy(words[0], home / path)
        else:
            log = (
                (Path(flags["output-directory"]) / f"{worker}.log").open("w")
                if "output-directory" in flags
                else None
            )
            env = {
                "HOME": str(home),
                "PATH": f"{HOME}/machine:{os.environ['REALPATH']}",
                "HOSTNAME": f"t1v-n-1-w-{worker}",
            }
            env |= {"LAUNCH_LOCK": str(home / "lockfile"), "STANDIN": str(HOME)}
            env |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}  # as if left in ~/.bashrc
            env |= {k: os.environ[k] for k in ("LAUNCH_GRACE",) if k in os.environ}
            processes.append(
                subprocess.Popen(
                    ["bash", "-c", flags["command"]], cwd=home, env=env, stdout=log, stderr=log
                )
            )
    sys.exit(max([code, *(p.wait() for p in processes)]))


def main():
    words, flags = [], {}
    for argument in sys.argv[1:]:
        if argument.startswith("--"):
            key, _, value = argument[2:].partition("=")
            flags[key] = value
        else:
            words.append(argument)
    with (HOME / "calls.jsonl").open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    plan = read("plan.json", {})
    if words[:2] == ["auth", "list"]:
        print("" if plan.get("logged_out") else "somebody@example.com")
        return
    assert words[:2] == ["compute", "tpus"] and flags["zone"] and "quiet" in flags, sys.argv
    error = plan.get("errors", {}).get(words[3])
    if error:
        fail(error)
    if words[2] == "queued-resources":
        queued(words[3], words[4], flags, plan)
    else:
        assert words[2] == "tpu-vm", sys.argv
        vm(words[3], words[4:], flags, plan)


main()
