"""Hostile values for every flag and argument of every command, and damaged files of a run.

    python benchmarks/fuzz_commands.py --tries 300 --seed 0 [--run DIR]

Each try is a command in this process (the launcher: one of its own) that must end well, or with one
sentence on standard error and exit code 1. A traceback, several lines, or no end is wrong, and
printed. DIR is a finished run, of which a copy is damaged; without one, a smoke run of
configs/star_addition.py is made first. Checkpoints stay as they are.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from reasoning_jax import ask, command_line, evaluate, main, plan, report

OK, SENTENCE, TRACEBACK, HANG, LINES = "ok", "one sentence", "TRACEBACK", "HANG", "NOT ONE SENTENCE"
OUTCOMES = (OK, SENTENCE, TRACEBACK, HANG, LINES)
LIMIT = 150  # seconds of a try
CONFIG = str(ROOT / "configs/star_addition.py")
NOTHING = ["--config.rounds.count=0", "--config.base.num_updates=1", "--config.eval.num_examples=2"]
NOTHING += ["--config.eval.num_test=2"]
OPTIONS = {
    "main": {"define": command_line.define_shared},
    "evaluate": {"define": evaluate._define},
    "ask": {"define": ask._define, "words": "question", "new_config": ask._new_config},
    "report": {"define": report.define, "needs_config": False},
    "plan": {"define": plan.define, "needs_run": False},
}
MAINS = {"main": main, "evaluate": evaluate, "ask": ask, "report": report, "plan": plan}
FLAGS = {
    "main": (
        "--config",
        "--workdir",
        "--allow_local_workdir",
        "--config.seed",
        "--config.task.name",
    ),
    "evaluate": ("--split", "--samples", "--temperature", "--workdir", "--config"),
    "ask": ("--question", "--temperature", "--workdir", "--model", "--system", "--chat", ""),
    "report": ("--workdir", ""),
    "plan": ("--topology", "--slices", "--fit", "--workdir", "--config", "--json", "--doctor"),
    "launch": (
        "--name",
        "--zone",
        "--type",
        "--slices",
        "--worker",
        "--env",
        "--timeout",
        "--workdir",
    ),
}
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "-1",
    "-0",
    "0",
    "1",
    "1_000",
    "0x10",
    "²",
    "1e3",
)
NUMBERS += ("1000000000000", "9" * 5000, "0.5", "١")
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\udcff",
    "é",
    "x" * 300,
    "y/" * 3000,
    "\n",
    "--",
    "-",
    "%s%n",
    "$(id)",
)
TEXTS += ("None", "True", "[1]", "{}", "a=b", ":", ":smoke", "=", "\u202e", "\x1b[31m", "'", '"')
PATHS = (
    "~nosuchuser/x",
    "ftp://x",
    "file:///x",
    "gs://",
    "gs://b/x",
    "://",
    "/dev/null",
    "/dev/null/x",
)
PATHS += (
    "dangling",
    "loop",
    "loop/x",
    "dangling/x",
    "file",
    "file/x",
    "empty",
    "/proc/self/x",
    "fifo",
)
NAMES = ("tst", "train", "given", "v5e-8", "v5e:2x2", "v5e-7", "v5e:0x0", "v4-8", "batch", "mesh")
NAMES += (f"{CONFIG}:nope", f"{CONFIG}:smoke", "all", "A=b")
JSON = (
    None,
    True,
    -1,
    0,
    1.5,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    [],
    {},
)
JSON += ([1], {"a": {"b": 1}}, "nan", 2**63, 10**4000, "9" * 50, ["digits", 3], "../x")
WHOLE = (b"", b"[1]", b"5", b"null", b"{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"\0", b'{"a":')
WHOLE += (b"[" * 100_000, b'{"a":' * 990 + b"1" + b"}" * 990, b'{"step": ' + b"1" * 5000 + b"}\n")
WHOLE += (b"{}\n5\n{}\n", b"{}\n\xff\n{}\n", b'{"a": 1}{"a": 1}\n')
VARIABLES = (
    "JAX_COORDINATOR_PORT",
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
VARIABLES += ("REASONING_DATA", "JAX_COMPILATION_CACHE_DIR", "HOME", "TPU_WORKER_HOSTNAMES")
VARIABLES += ("TPU_LIBRARY_PATH", "REASONING_START_SECONDS")


@dataclasses.dataclass(kw_only=True)
class Try:
    """A command to be called, and what is done to the run, or the environment, before."""

    kind: str  # flag, run file, environment
    command: str
    arguments: list[str]
    damage: Callable[[Path], str] | None = None  # what it did to the run
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


class Hang(BaseException):
    """A try that did not end in time."""


# ---- what is tried -------------------------------------------------------------------------------


def hostile_value(rng: random.Random) -> str:
    """A text for a flag that wants a number, a name, a path or a text."""
    return rng.choice(rng.choice((NUMBERS, TEXTS, PATHS, NAMES)))


def of_flag(rng: random.Random, command: str, run: Path) -> Try:
    flag, value = rng.choice(FLAGS[command]), hostile_value(rng)
    if command == "launch":
        verb = rng.choice(("create", "setup", "run", "status", "logs", "stop", "delete", "babysit"))
        words = [verb, "--dry-run", "--name=n", "--zone=z", "--type=v5e-8", f"{flag}={value}"]
        if verb in ("run", "babysit"):
            words += ["--", "--config=x", "--workdir=gs://b/x"][: 2 if flag == "--workdir" else 3]
        return Try(kind="flag", command=command, arguments=words)
    words = [] if flag == "--workdir" else [f"--workdir={run}"]
    words.append(f"{flag}={value}" if flag else value)
    if command == "main" and flag == "--workdir":
        words += [f"--config={CONFIG}:smoke", *NOTHING]
    if command == "ask" and flag not in ("", "--question"):
        words.append("1+2")
    return Try(kind="flag", command=command, arguments=words)


def of_file(rng: random.Random, command: str, run: Path) -> Try:
    words = [f"--workdir={run}"]
    if command == "ask":
        words.append("1+2")
    seed = rng.random()
    return Try(
        kind="run file",
        command=command,
        arguments=words,
        damage=lambda folder: damage(random.Random(seed), folder),
    )


def of_environment(rng: random.Random, command: str, run: Path) -> Try:
    words = [f"--workdir={run}"]
    if command == "plan":
        words.append("--doctor")
    if command == "ask":
        words.append("1+2")
    value = hostile_value(rng).replace("\0", "").encode("utf-8", "surrogateescape")
    names = rng.sample(VARIABLES, rng.choice((1, 1, 3)))
    environment = {name: os.fsdecode(value) for name in names}
    return Try(kind="environment", command=command, arguments=words, environment=environment)


def damage(rng: random.Random, run: Path) -> str:
    """Damages one file of a run; says how."""
    files = [run / "config.json", run / "metrics.jsonl", *sorted(run.glob("rounds/*/*.jsonl"))]
    path = rng.choice([*files, run / "evaluation_test.json", run / "rounds/0001/chains.jsonl"])
    content = path.read_bytes() if path.exists() else b""
    content = content or b'{"split": "test", "samples": 2, "id": 1}\n'
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    way = rng.choice((_whole, _value, _value, _value, _bytes, _no_file))
    return f"{path.relative_to(run)}: {way(rng, path, content)}"


def _whole(rng: random.Random, path: Path, content: bytes) -> str:
    path.write_bytes(rng.choice(WHOLE))
    return f"now {path.read_bytes()[:30]!r}"


def _value(rng: random.Random, path: Path, content: bytes) -> str:
    """Another value for a key, or none, or another key, in one of the file's objects."""
    texts = [content] if path.suffix == ".json" else content.splitlines(keepends=True)
    number = rng.randrange(len(texts))
    record = json.loads(texts[number])
    holder, key = (
        record,
        rng.choice([*record, "new", "eval/pass_at_4", "eval/accuracy_x_" + "9" * 50]),
    )
    if isinstance(holder.get(key), dict):
        holder = holder[key]
        key = rng.choice([*holder, "new"])
    value = rng.choice(JSON)
    holder[key] = value
    if rng.random() < 0.15:
        del holder[key]
    sys.set_int_max_str_digits(0)
    texts[number] = json.dumps(record).encode() + b"\n"
    sys.set_int_max_str_digits(4300)
    path.write_bytes(b"".join(texts))
    return f"line {number + 1}, {key[:40]} = {'a long number' if value == 10**4000 else value!r}"


def _bytes(rng: random.Random, path: Path, content: bytes) -> str:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 3, 50))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    end = rng.choice((len(damaged), rng.randrange(len(damaged))))
    path.write_bytes(damaged[:end])
    return f"bytes changed, {end} left"


def _no_file(rng: random.Random, path: Path, content: bytes) -> str:
    kind = rng.choice(("gone", "folder", "dangling", "loop", "fifo", "device"))
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return f"is now: {kind}"


# ---- what comes of it ----------------------------------------------------------------------------


def attempt(one: Try, folder: Path) -> tuple[str, str]:
    """The outcome, and what was printed on standard error."""
    if one.command == "launch":
        return _attempt_launch(one)
    out, err = io.StringIO(), io.StringIO()
    before, where = dict(os.environ), Path.cwd()
    os.environ.update(one.environment)
    os.chdir(folder)
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LIMIT)
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module = MAINS[one.command]
            command_line.run(module.main, argv=one.arguments, **OPTIONS[one.command])
    except SystemExit as stopped:
        code = stopped.code or 0
    except Hang:
        return HANG, "".join(traceback.format_stack()[-1:])
    except BaseException:
        return TRACEBACK, traceback.format_exc()
    finally:
        signal.alarm(0)
        os.chdir(where)
        os.environ.clear()
        os.environ.update(before)
    return _classify(one, code, out.getvalue(), err.getvalue()), err.getvalue()


def _hang(*_: object) -> None:
    raise Hang


def _attempt_launch(one: Try) -> tuple[str, str]:
    words = [str(ROOT / "launch_tpu.sh"), *(w.replace("\0", "") for w in one.arguments)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return HANG, ""
    except OSError as error:  # too long for the system
        return OK, str(error)
    err = done.stderr.decode(errors="replace")
    if done.returncode and not err.startswith("launch_tpu.sh: "):
        return TRACEBACK, err
    return _classify(one, done.returncode, "", err), err


def _classify(one: Try, code: object, out: str, err: str) -> str:
    if code == 0:
        return OK
    if "--doctor" in " ".join(one.arguments) and code == 1 and "found something wrong" in out:
        return OK
    is_sentence = err.endswith("\n") and err.strip() and (err.count("\n") == 1)
    expected = (1, 2, 3) if one.command in ("plan", "launch") else (1,)
    if one.command == "launch":  # a flag's value may hold line ends
        is_sentence = err.startswith("launch_tpu.sh: ")
    return SENTENCE if is_sentence and code in expected else LINES


def tries(rng: random.Random, count: int, commands: Sequence[str], run: Path) -> Iterator[Try]:
    """So many of them, each a function of the state of ``rng``."""
    for _ in range(count):
        command = rng.choice(commands)
        ways = [of_flag, of_flag, of_file, of_file, of_environment]
        way = of_flag if command == "launch" else rng.choice(ways)
        yield way(rng, command, run)


def fuzz(
    count: int, seed: int, finished: Path, folder: Path, commands: Sequence[str] = tuple(FLAGS)
) -> dict[tuple[str, str], collections.Counter[str]]:
    """Outcomes by (kind, command); prints what is wrong. folder: for copies of the run."""
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("text")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "fifo")
    os.environ["HOME"] = str(folder / "empty")
    run = folder / "run"
    table: dict[tuple[str, str], collections.Counter[str]] = {}
    for number, one in enumerate(tries(random.Random(seed), count, commands, run)):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        done = one.damage(run) if one.damage else ""
        outcome, text = attempt(one, folder)
        table.setdefault((one.kind, one.command), collections.Counter())[outcome] += 1
        if outcome not in (OK, SENTENCE):
            shown = [word[:120] for word in one.arguments]
            print(f"try {number}: {outcome}: {one.command} {shown!r} {one.environment} {done}")
            print(
                "    " + "\n    ".join(ascii(line) for line in text.splitlines()[-6:]), flush=True
            )
    return table


def print_table(table: dict[tuple[str, str], collections.Counter[str]]) -> None:
    print(f"{'kind':<12} {'command':<9} {'tried':>6} " + " ".join(f"{o:>16}" for o in OUTCOMES))
    whole: collections.Counter[str] = collections.Counter()
    for (kind, command), counts in sorted(table.items()):
        _print_line(kind, command, counts)
        whole += counts
    _print_line("all", "", whole)


def _print_line(kind: str, command: str, counts: collections.Counter[str]) -> None:
    numbers = " ".join(f"{counts[outcome]:>16}" for outcome in OUTCOMES)
    print(f"{kind:<12} {command:<9} {counts.total():>6} {numbers}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--commands", nargs="*", default=tuple(FLAGS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        finished = args.run
        if finished is None:
            finished = Path(temporary) / "finished"
            command_line.run(
                main.main,
                argv=[f"--config={CONFIG}:smoke", f"--workdir={finished}"],
                **OPTIONS["main"],
            )
        (Path(temporary) / "fuzz").mkdir()
        folder = Path(temporary) / "fuzz"
        table = fuzz(args.tries, args.seed, finished.resolve(), folder, args.commands)
    print_table(table)
    wrong = sum(counts[o] for counts in table.values() for o in (TRACEBACK, HANG, LINES))
    sys.exit(1 if wrong else 0)
