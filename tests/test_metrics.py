"""metrics.py and progress.py: what is logged can be cut back, read again and shown."""

from __future__ import annotations

import glob
import json
import math
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from reasoning_jax import metrics
from reasoning_jax.progress import Progress


def _events(workdir) -> list[tuple[str, int, float]]:
    """(tag, step, value) of the scalars that TensorBoard shows after its purges."""
    from tensorboardX.proto.event_pb2 import Event

    shown: list[tuple[str, int, float]] = []
    for path in sorted(glob.glob(f"{workdir}/events.out.tfevents.*")):
        with open(path, "rb") as file:
            data = file.read()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                shown = [scalar for scalar in shown if scalar[1] < event.step]
            shown += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return shown


def test_lines_are_plain_json_and_read_back(tmp_path):
    writer = metrics.Writer(tmp_path)
    values = {
        "update/loss": jnp.float32(0.5),
        "update/skipped": np.int64(3),
        "update/grad_norm": math.nan,
        "update/a": jnp.asarray([2.5], jnp.bfloat16),
        "update/b": -math.inf,
        "update/none": None,
    }
    writer.write(7, 2, "update", values)
    writer.write(8, 2, "eval", {"eval/accuracy": 0.25}, split="test")
    text = (tmp_path / "metrics.jsonl").read_text()  # before close: every line is flushed
    writer.close()
    first, second = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert (first["step"], first["round"], first["phase"]) == (7, 2, "update")
    assert abs(first["time"] - time.time()) < 60
    assert (first["update/loss"], first["update/skipped"], first["update/a"]) == (0.5, 3, 2.5)
    assert (first["update/grad_norm"], first["update/b"]) == ("nan", "-inf")
    assert "update/none" not in first
    assert second["split"] == "test"
    read = metrics.read(tmp_path)
    assert math.isnan(read[0]["update/grad_norm"]) and read[0]["update/b"] == -math.inf
    assert {("update/loss", 7, 0.5), ("eval_test/accuracy", 8, 0.25)} <= set(_events(tmp_path))


def test_an_array_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="update/loss"):
        metrics.Writer(tmp_path).write(0, 0, "update", {"update/loss": np.zeros(2)})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_full_disk_names_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*metrics\.jsonl"):
        metrics.Writer(tmp_path).write(0, 0, "update", {"update/loss": 1.0})


def test_other_processes_write_nothing(tmp_path):
    writer = metrics.Writer(tmp_path / "run", active=False)
    writer.write(0, 0, "update", {"update/loss": 1.0})
    writer.truncate(0, 0)
    writer.close()
    assert writer.size() == 0 and not (tmp_path / "run").exists()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    writer = metrics.Writer(tmp_path)
    assert writer.size() == 0
    for step in range(4):
        writer.write(step, 1, "update", {"update/loss": step})
        if step == 2:
            size = writer.size()
    writer.close()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "rou')
    writer = metrics.Writer(tmp_path)
    writer.truncate(size, 2)  # the line of step 2, which is the checkpoint's, precedes it
    assert writer.size() == size
    writer.write(3, 1, "update", {"update/loss": 30})
    writer.close()
    assert [line["update/loss"] for line in metrics.read(tmp_path)] == [0, 1, 2, 30]
    scalars = [(0, 0), (1, 1), (2, 2), (3, 30)]
    assert _events(tmp_path) == [("update/loss", step, value) for step, value in scalars]


@pytest.mark.parametrize(("keep", "lines"), [(0, 0), (25, 1), (10**6, 2)])
def test_truncating_never_leaves_a_torn_line(tmp_path, keep, lines):
    path = tmp_path / "metrics.jsonl"
    whole = ['{"step": 0, "a": 1}\n', '{"step": 1, "a": 2}\n']
    path.write_text("".join(whole) + '{"step": 2')
    metrics.Writer(tmp_path).truncate(keep, 9)
    assert path.read_text() == "".join(whole[:lines])
    metrics.Writer(tmp_path / "empty").truncate(keep, 0)  # nothing there yet: nothing to forget


def test_truncating_looks_far_back_for_the_end_of_a_line(tmp_path):
    """The last whole line ends before the part of the file that is read first."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"note": "' + "x" * 200_000)
    metrics.Writer(tmp_path).truncate(200_000, 9)
    assert path.read_text() == '{"step": 0}\n'
    path.write_text("x" * 200_000)
    metrics.Writer(tmp_path).truncate(200_000, 9)
    assert path.read_text() == ""


def test_reading_takes_a_torn_last_line_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*metrics\.jsonl\.$"):
        metrics.read(tmp_path)
    path.write_bytes(b'{"step": 0}\n{"step": 1, "caf\xc3')
    assert metrics.read(tmp_path) == [{"step": 0}]
    path.write_bytes(b"")
    assert metrics.read(tmp_path) == []
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        metrics.read(tmp_path)


LINE = {
    "eval/accuracy": 0.9,
    "eval/accuracy_stderr": 0.01,
    "eval/accuracy_digits_10": 0.5,
    "eval/accuracy_digits_2": 0.974,
    "eval/accuracy_stderr_digits_2": 0.0068,
    "eval/accuracy_hard_steps_1": 0.1,
}


def test_the_accuracy_table(capsys):
    assert list(metrics.by_difficulty(LINE)) == [("digits", 2), ("digits", 10), ("hard_steps", 1)]
    evaluations = {"base": {"eval/accuracy_digits_2": 0.0}, "round 8 (best)": LINE}
    table = metrics.accuracy_table(evaluations)
    assert [re.split(r"\s{2,}", line) for line in table.split("\n")] == [
        ["accuracy, %", "digits 2", "digits 10", "hard_steps 1", "all"],
        ["base", "0.0", "–", "–", "–"],
        ["round 8 (best)", "97.4 ± 0.7", "50.0", "10.0", "90.0 ± 1.0"],
    ]
    assert "\x1b" not in table and metrics.accuracy_table(list(evaluations.items())) == table
    assert metrics.accuracy_table({}) == "accuracy, %  all"


def test_plain_progress_has_lines_only(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("collect", 400, round=3) as shown:
        for done in range(4, 401, 4):
            clock[0] += 0.25
            shown.update(done, tokens=10 * done, kept=0.5, parsed=0.91234)
    with Progress("update", 10, start=10):
        pass
    with Progress("update", 10, active=False) as shown:
        shown.update(3)
    figures = "16.0 samples/s | 160 tokens/s | kept 0.5 | parsed 0.9123"
    assert capsys.readouterr().out.split("\n") == [
        "round 3 collect: 0/400 samples",
        f"round 3 collect: 160/400 {figures} | 0:00:15 left",
        f"round 3 collect: 320/400 {figures} | 0:00:05 left",
        f"round 3 collect: 400/400 {figures} | took 0:00:25",
        "update: 10/10 updates",
        "update: 10/10 0.0 updates/s | took 0:00:00",
        "",
    ]


def test_ctrl_c_gives_the_terminal_back():
    """On a pseudo-terminal: a live bar, then a visible cursor and the exception on its way."""
    program = """
import time
from reasoning_jax.progress import Progress
with Progress("collect", 50, round=1) as shown:
    for i in range(50):
        shown.update(i, kept=0.5)
        print("READY" if i == 3 else "", flush=True)
        time.sleep(0.1)
"""
    terminal, other_end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    root = pathlib.Path(metrics.__file__).parents[1]

    def restore_sigint() -> None:
        """A shell that starts pytest in the background ignores SIGINT, and so do its children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=other_end,
        stderr=other_end,
        env=environment,
        cwd=root,
        preexec_fn=restore_sigint,
    )
    os.close(other_end)
    output, deadline, interrupted = b"", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                output += os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
        if b"READY" in output and not interrupted:
            child.send_signal(signal.SIGINT)
            interrupted = True
    os.close(terminal)
    assert child.wait(10) != 0 and b"KeyboardInterrupt" in output
    hidden, visible = output.rfind(b"\x1b[?25l"), output.rfind(b"\x1b[?25h")
    assert 0 <= hidden < visible and b"samples/s" in output and b"took" in output
