"""A work directory, damaged at random in many ways: what do the commands make of it?

    python benchmarks/damage.py [--count=100] [--seed=0]

Makes one tiny run and stops it amid round 2. Each damage is done to a copy of it, or of the run's
end: a flipped bit, a truncated, emptied, deleted or replaced file, two folders that change names.
Then the run is gone on with, or its end is evaluated. Prints how each kind of damage ended: with
the same bits as without it, in silence or after a warning; refused in one sentence; or WRONG: a
traceback, or other numbers without a word. A few seconds a damage.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from cluster import TINY, final

from reasoning_jax import command_line, config, evaluate, loop, main, metrics, overrides

KINDS = ("flip a bit", "truncate", "empty", "delete", "replace by a folder", "swap folders")
OUTCOMES = ("same bits", "warned, same bits", "warned", "refused", "WRONG")
EXPERIMENT = ROOT / "configs" / "star_addition.py"
SMALLER = TINY | {"checkpoint.every": 4, "log_every": 1}
Seen = dict[str, object]  # the numbers that a command has ended with


# ---- damages -------------------------------------------------------------------------------------


def damage(folder: Path, kind: str, rng: np.random.Generator) -> str:
    """Does one damage to what is in a folder; says to what."""
    if kind == "swap folders":
        return _swap(folder, rng)
    path = _some_file(folder, rng)
    content = bytearray(path.read_bytes())
    if kind == "flip a bit":
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif kind == "truncate":
        path.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if kind == "replace by a folder":
            path.mkdir()
    return str(path.relative_to(folder))


def _some_file(folder: Path, rng: np.random.Generator) -> Path:
    """A file that is not empty: as often one of checkpoints/, with its many, as metrics.jsonl."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    tops = sorted({path.relative_to(folder).parts[0] for path in files})
    top = tops[int(rng.integers(len(tops)))]
    inside = [path for path in files if path.relative_to(folder).parts[0] == top]
    return inside[int(rng.integers(len(inside)))]


def _swap(folder: Path, rng: np.random.Generator) -> str:
    """Two folders of one parent change their names."""
    folders = [path for path in sorted(folder.rglob("*")) if path.is_dir()]
    pairs = [(a, b) for a in folders for b in folders if a < b and a.parent == b.parent]
    first, second = pairs[int(rng.integers(len(pairs)))]
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return f"{first.relative_to(folder)} and {second.name}"


# ---- what becomes of it --------------------------------------------------------------------------


def resume(folder: Path) -> Seen:
    """Goes on to the run's end: every array of its last checkpoint, and its log."""
    arguments = [f"--config={EXPERIMENT}:smoke", f"--workdir={folder}"]
    arguments += [f"--config.{key}={value}" for key, value in SMALLER.items()]
    command_line.run(main.main, command_line.define_shared, argv=arguments)
    with contextlib.redirect_stderr(io.StringIO()):
        arrays, meta = final(folder)
    seen: Seen = {name: array.tobytes() for name, array in arrays.items()}
    del meta["metrics_bytes"]  # a line's length depends on its time
    lines = [{k: v for k, v in line.items() if _is_number(k)} for line in metrics.read(folder)]
    return seen | {"meta": meta, "log": lines}


def evaluate_end(folder: Path) -> Seen:
    """The figures of ``evaluate``."""
    arguments = [f"--workdir={folder}", "--split=validation"]
    command_line.run(evaluate.main, evaluate._define, argv=arguments)
    return json.loads((folder / "evaluation_validation.json").read_text())


def _is_number(key: str) -> bool:
    """Whether a line's value is the same in each run."""
    return "second" not in key and key not in ("time", "collect/compilations")


def outcome(command, folder: Path, expected: Seen) -> tuple[str, str]:
    """How the command ends, and the words that it ends with."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            seen = command(folder)
    except SystemExit:
        lines = errors.getvalue().splitlines()
        sentences = [line for line in lines if not line.startswith("WARNING: ")]
        return "refused" if len(sentences) == 1 else "WRONG", lines[-1]
    except Exception:
        return "WRONG", traceback.format_exc(limit=-2)
    has_warned = "WARNING: " in errors.getvalue()
    differing = [name for name in expected if seen.get(name) != expected[name]]
    if not differing:
        return ("warned, same bits" if has_warned else "same bits"), errors.getvalue()
    return ("warned" if has_warned else "WRONG"), f"other {differing}; {errors.getvalue()}"


# ---- the runs ------------------------------------------------------------------------------------


def make_runs(stopped: Path, ended: Path) -> None:
    """A run that is stopped amid round 2, and the same run at its end."""
    cfg = config.load(f"{EXPERIMENT}:smoke")
    overrides.change(cfg, SMALLER)
    with contextlib.redirect_stdout(io.StringIO()):
        events = loop.events(cfg, stopped)
        for event in events:
            if (event.phase, event.round) == ("update", 2) and event.step >= 54:
                break
        assert event.step == 54, "the run has ended before"
        events.close()
        shutil.copytree(stopped, ended)
        loop.train(cfg, ended)


def run(count: int, seed: int, folder: Path) -> Counter[tuple[str, str]]:
    """How often each kind of damage ended in each way; prints what was WRONG."""
    rng = np.random.default_rng(seed)
    whole = {resume: folder / "stopped", evaluate_end: folder / "ended"}
    make_runs(*whole.values())
    expected: dict[object, Seen] = {}
    for command, source in whole.items():
        shutil.copytree(source, folder / "unharmed")
        with contextlib.redirect_stdout(io.StringIO()):
            expected[command] = command(folder / "unharmed")
        shutil.rmtree(folder / "unharmed")
    found: Counter[tuple[str, str]] = Counter()
    for number in range(count):
        command = evaluate_end if number % 4 == 3 else resume
        kind = KINDS[int(rng.integers(len(KINDS)))]
        copy = folder / "damaged"
        shutil.copytree(whole[command], copy)
        what = damage(copy, kind, rng)
        result, words = outcome(command, copy, expected[command])
        found[kind, result] += 1
        print(f"{number:4} {command.__name__}, {kind}: {what}: {result}", flush=True)
        if result == "WRONG":
            print(words, flush=True)
        shutil.rmtree(copy)
    return found


def table(found: Counter[tuple[str, str]]) -> str:
    width = max(map(len, KINDS))
    lines = [" ".join([" " * width, *(f"{name:>17}" for name in OUTCOMES)])]
    for kind in (*KINDS, "all"):
        counts = []
        for name in OUTCOMES:
            ends = [n for (k, result), n in found.items() if result == name and kind in (k, "all")]
            counts.append(f"{sum(ends):>17}")
        lines.append(" ".join([f"{kind:{width}}", *counts]))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(table(run(args.count, args.seed, Path(name))))
