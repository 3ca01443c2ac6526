"""The commands as people use them: mistakes, and runs that are stopped, damaged or out of space."""

from __future__ import annotations

import collections
import errno
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings

import jax
import numpy as np
import pytest
from absl import flags
from compiling import XLA_FLAGS
from orbax.checkpoint import v1 as ocp

from reasoning_jax import ask, command_line, errors, evaluate, main
from reasoning_jax.training import checkpoint_folders

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = """
from reasoning_jax import default

def get_config(arg=""):
    c = default.get_config(algorithm="sft")
    c.sequence_length, c.batch_size, c.log_every = 96, 8, 4
    c.model.preset = "tiny"
    c.task.max_digits, c.task.given, c.task.num_train, c.task.num_eval = 2, (20, 20), 40, 8
    c.base.num_updates = 12
    c.rounds.split, c.rounds.count, c.rounds.updates = "given", 2, 30
    c.rounds.patience, c.rounds.min_kept_rows = 0, 0
    c.sampling.max_new_tokens, c.sampling.batch_size = 40, 16
    c.checkpoint.every, c.eval.test_every = 8, 0
    if arg == "bad":
        raise ValueError("there is no variant 'bad'.")
    return c
"""


def environment(path: pathlib.Path = ROOT) -> dict[str, str]:
    """One device, whatever the tests' own process has."""
    return {**os.environ, "PYTHONPATH": str(path), "XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}


def start(
    command: str, *arguments: object, cwd: pathlib.Path, path: pathlib.Path = ROOT
) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", f"reasoning_jax.{command}", *map(str, arguments)]
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(path),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(
    command: str, *arguments: object, cwd: pathlib.Path, path: pathlib.Path = ROOT
) -> tuple[int, str, list[str]]:
    process = start(command, *arguments, cwd=cwd, path=path)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err.splitlines()


def saved(run: pathlib.Path) -> dict[str, bytes]:
    """Every array of the newest checkpoint, bit by bit."""
    folder = (run / "checkpoints").resolve()
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    with (
        ocp.training.Checkpointer(folder) as checkpointer,
        warnings.catch_warnings(action="ignore"),
    ):
        tree = checkpointer.load_checkpointables(step)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("elsewhere") / "experiments" / "tiny.py"
    path.parent.mkdir()
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(config: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A whole run, started from a folder that is not the repository's. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    code, out, err = finish("main", f"--config={config}", "--workdir=run", cwd=folder)
    assert (code, err) == (0, []), err
    assert "best round" in out
    return folder / "run"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs a command that must fail, in this process; returns its one line on standard error."""
    mesh = jax.sharding.get_mesh()
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def run(*arguments: object, command=main.main, **options) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command_line.run(command, argv=list(map(str, arguments)), **options)
        err = capsys.readouterr().err
        assert stopped.value.code == 1
        assert err.count("\n") == 1, err
        return err

    yield run
    jax.set_mesh(mesh)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "{config} --config.optim.learning_rat=1",
            ["config.optim.learning_rat;", "config.optim.learning_rate"],
        ),
        (
            "{config} --config.learning_rate=1",
            ["config.optim.learning_rate", "config.base.learning_rate"],
        ),
        ("{config} --config.optim=1", ["config.optim is a section", "config.optim.b1"]),
        (
            "{config} --config.algorithm.beta=0.5",
            ["config.algorithm.beta: sft has no key beta; dpo, ", "irpo", " and vstar have."],
        ),
        ("{config} --config.algorithm.num_rounds=3", ["is now config.rounds.count."]),
        ("{config} --config.batch_size=abc", ["config.batch_size=abc", "integer"]),
        ("{config} --config.batch_size 1.5", ["config.batch_size=1.5", "integer"]),
        ("{config} --config.task.given=abc", ["config.task.given", "tuple"]),
        ("{config} --config.batch_size=0", ["config.batch_size", "0"]),
        ("{config} --config.batch_size=12", ["config.batch_size", "12"]),
        (
            "{config} --config.sampling.batch_size=12",
            ["config.sampling.batch_size", "12", "8 device groups"],
        ),
        (
            "{config} --config.mesh.data=1 --config.mesh.tensor=8 --config.mesh.sampling_tensor=2 "
            "--config.sampling.batch_size=2",
            ["config.sampling.batch_size", "4 device groups"],
        ),
        ("{config} --config.mesh.sampling_tensor=3", ["config.mesh.sampling_tensor", "8 devices"]),
        ("{config} --config.sampling.temperature=-1", ["config.sampling", "temperature"]),
        ("{config} --config.mesh.data=3", ["config.mesh", "3"]),
        ("{config} --config.task.name=adition", ["config.task.name", "adition", "addition"]),
        ("{config} --config.algorithm.name=sta", ["config.algorithm.name", "'sta'", "star"]),
        ("{config} --config.model.preset=tny", ["config.model.preset", "tny", "tiny"]),
        ("{config} --config.tokenizer.name=words", ["config.tokenizer.name", "words"]),
        ("{config} --config.task.num_eval=0", ["validation split", "empty"]),
        ("{config} --config.base.init_from={new}x", ["{new}x", "no checkpoint"]),
        ("--config={path}:bad --workdir={new}", ["there is no variant 'bad'"]),
        ("{config} --wrkdir=x", ["--wrkdir", "--workdir"]),
        ("{config} more", ["'more'"]),
        ("--config={path}", ["--workdir"]),
        ("--config={path} --workdir", ["--workdir"]),
        ("--workdir={new}", ["--config", "{new}"]),
        ("--config={new}.py --workdir={new}", ["{new}.py"]),
        ("--config={path} --workdir={path}", ["tiny.py"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(said, config, tmp_path, arguments, words):
    names = {
        "path": config,
        "new": tmp_path / "new",
        "config": f"--config={config} --workdir={tmp_path / 'new'}",
    }
    line = said(*arguments.format(**names).split())
    for word in words:
        assert word.format(**names) in line


def test_a_mistake_leaves_no_claim_on_the_folder(said, config, tmp_path):
    """A mistake that is seen before the run has begun leaves the folder to the corrected config."""
    said(f"--config={config}", f"--workdir={tmp_path / 'new'}", "--config.task.num_eval=0")
    said(
        f"--config={config}", f"--workdir={tmp_path / 'new'}", f"--config.base.init_from={tmp_path}"
    )
    line = said(
        f"--config={config}",
        f"--workdir={tmp_path / 'new'}",
        f"--config.base.init_from={tmp_path / 'other'}",
    )
    assert str(tmp_path / "other") in line and "no checkpoint" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "line 1"),
        ("x = 1", "get_config"),
        (
            "from reasoning_jax import default\n"
            "def get_config(arg):\n"
            "    c = default.get_config()\n"
            "    c.batch_sze = 1",
            "line 4",
        ),
    ],
)
def test_a_broken_config_file_is_named(said, tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    line = said(f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert str(tmp_path / "mine.py") in line and words in line


def gsm8k(config: pathlib.Path, folder: pathlib.Path, data: pathlib.Path) -> list[str]:
    overrides = {
        "task.name": "gsm8k",
        "task.path": data,
        "tokenizer.name": "bytes",
        "sequence_length": 1024,
    }
    return [
        f"--config={config}",
        f"--workdir={folder}",
        *(f"--config.{k}={v}" for k, v in overrides.items()),
    ]


def test_data_that_is_missing_or_malformed_is_named(said, config, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    arguments = gsm8k(config, tmp_path / "run", data)
    assert str(data / "train.jsonl") in said(*arguments)
    row = json.dumps({"question": "1 + 1?", "answer": "It is 2.\n#### 2"})
    for broken in (
        '{"question": "1 + 1?"',
        "3",
        '{"question": "1 + 1?"}',
        '{"question": "?", "answer": "two"}',
    ):
        (data / "train.jsonl").write_text("\n".join([row] * 600 + [broken] + [row] * 5) + "\n")
        line = said(*arguments)
        assert str(data / "train.jsonl") in line and "line 601" in line
    (data / "train.jsonl").write_text("")
    assert str(data / "train.jsonl") in said(*arguments)
    (data / "train.jsonl").write_text("\n".join([row] * 600) + "\n")
    (data / "test.jsonl").write_text(
        f"{row}\n{{\n"
    )  # read only after the first round's training, but said at once
    line = said(*arguments)
    assert str(data / "test.jsonl") in line and "line 2" in line


def test_the_advice_about_pairs_works(said, config, tmp_path, capsys):
    """skip_bad, which the first command's sentence names, in the same work directory."""
    pairs = [{"prompt": f"{i}+1\n", "chosen": f"{i + 1}", "rejected": "3"} for i in range(3, 9)]
    pairs[2]["chosen"] = "9" * 100  # with the other side over the limit
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    arguments = [
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        "--config.algorithm.name=dpo",
        f"--config.algorithm.pairs={path}",
        "--config.base.num_updates=1",
        "--config.rounds.count=1",
        "--config.rounds.updates=1",
    ]
    line = said(*arguments)
    assert f"{path}, line 3: it is longer than config.sequence_length" in line
    advice = re.search(r"config\.algorithm\.skip_bad=True", line)
    assert not (tmp_path / "run").exists()
    command_line.run(main.main, argv=[*arguments, f"--{advice[0]}"])
    out, err = capsys.readouterr()
    assert "best round" in out
    assert err.count("WARNING: dpo: 1 rows are left out, as it is longer") == 1
    assert f"{path}, line 3." in err


def test_folders_that_are_not_this_runs_are_refused(said, config, finished, tmp_path):
    line = said(f"--config={config}", f"--workdir={finished}", "--config.optim.learning_rate=0.5")
    assert str(finished) in line and "optim.learning_rate was 0.001 and is now 0.5" in line
    (tmp_path / "letter.txt").write_text("Dear")
    assert str(tmp_path) in said(f"--config={config}", f"--workdir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_checkpoints_of_another_model_are_one_sentence(said, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    written = json.loads((run / "config.json").read_text())
    written["model"]["width"] = 64
    (run / "config.json").write_text(json.dumps(written))
    assert "not the config that the run wrote" in said(f"--workdir={run}")
    (run / "run.json").unlink()  # as an older version's
    line = said(f"--workdir={run}")
    assert str(run / "checkpoints") in line and "another model" in line and "(20, 64)" in line
    line = said(f"--workdir={run}", "1+2", command=ask.main, define=ask._define, words="question")
    assert "another model" in line
    written["model"]["wdth"] = 64
    (run / "config.json").write_text(json.dumps(written))
    assert "model.wdth" in said(f"--workdir={run}", "--config.seed=0")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.UserError("config.seed: this is wrong."), "config.seed: this is wrong."),
        (errors.MissingFileError("a.jsonl: there is no such file."), "a.jsonl: there is no such"),
        (errors.NonFiniteError("Loss was not finite."), "Loss was not finite."),
        (flags.IllegalFlagValueError("flag --x: no"), "flag --x: no."),
        (OSError(errno.EACCES, "Permission denied", "a.jsonl"), "a.jsonl: Permission denied."),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
    ],
)
def test_mistakes_and_failures_of_the_machine_are_one_sentence(said, error, words):
    def broken(cfg, folder, flags):
        raise error

    assert words in said(command=broken, needs_run=False)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("could not broadcast"),
        KeyError("tokens"),
        FloatingPointError("invalid value"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jsonl"),
    ],
)
def test_what_is_not_the_users_mistake_keeps_its_traceback(error):
    def broken(cfg, folder, flags):
        raise error

    with pytest.raises(type(error)) as caught:
        command_line.run(broken, argv=[], needs_run=False)
    assert caught.value is error


def test_what_jax_cannot_use_is_one_sentence(said):
    def broken(cfg, folder, flags):
        raise RuntimeError("Unable to initialize backend 'tpu': it is in use.")

    assert said(command=broken, needs_run=False).startswith("Unable to initialize backend 'tpu'")


@pytest.mark.parametrize("command", ["main", "plan"])
def test_standard_output_that_cannot_be_written(tmp_path, command):
    """Closed, without a reader, full: at most one sentence, and nothing from Python's end."""
    call = f"{sys.executable} -m reasoning_jax.{command} --help"
    cases = {
        f"{call} >&-": (0, ""),
        f"{call} <&- >&- 2>&-": (0, ""),
        f"set -o pipefail; {call} | head -c0": (1, "Nobody reads the standard output any more.\n"),
        f"{call} >/dev/full": (1, "No space left on device.\n"),
        f"{call} >/dev/full 2>&1": (1, ""),
    }
    for line, (code, err) in cases.items():
        words = ["bash", "-c", line]
        done = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stderr.decode()) == (code, err), line


def test_hostile_values_and_damaged_files_are_one_sentence(finished, tmp_path, monkeypatch):
    """The quick part of benchmarks/fuzz_commands.py: without what trains or compiles."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    path = ROOT / "benchmarks" / "fuzz_commands.py"
    spec = importlib.util.spec_from_file_location("fuzz_commands", path)
    fuzz_commands = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_commands"] = fuzz_commands
    spec.loader.exec_module(fuzz_commands)
    without_model = tmp_path / "run"
    folders = shutil.ignore_patterns("checkpoints", "best", "base", "events*")
    shutil.copytree(finished, without_model, ignore=folders)
    for seed, commands in ((0, ("evaluate", "ask", "plan")), (2, ("report",))):
        folder = tmp_path / f"fuzz_{seed}"
        folder.mkdir()
        table = fuzz_commands.fuzz(22, seed, without_model, folder, commands)
        outcomes = sum(table.values(), collections.Counter())
        assert outcomes.keys() == {"ok", "one sentence"}, table


def test_help_does_not_wait_for_jax(tmp_path):
    code, out, err = finish("main", "--help", cwd=tmp_path)
    assert (code, err) == (0, []) and "--config=configs/X.py" in out and "--workdir" in out
    for command, flag in (("evaluate", "--samples"), ("ask", "--temperature")):
        code, out, err = finish(command, "--help", cwd=tmp_path)
        assert (code, err) == (0, []) and flag in out
    script = """if True:
        import sys
        from reasoning_jax import ask, command_line, evaluate, main, plan
        for command in (ask, evaluate, main, plan):
            command_line.run(command.main, argv=["--help"])
        assert "jax" not in sys.modules
    """
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_jax_reads_at_its_import_is_set_before(tmp_path, config):
    """The cache of compiled programs, whichever module is the first to import jax."""
    script = """if True:
        import sys
        from reasoning_jax import command_line
        def main(cfg, folder, flags):
            import jax
            assert jax.config.jax_compilation_cache_dir.endswith(".cache/reasoning_jax")
        command_line.run(main, argv=sys.argv[1:])
    """
    words = [sys.executable, "-c", script, f"--config={config}", "--workdir=run"]
    env = environment() | {"HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- runs that end early -------------------------------------------------------------------------


def test_a_finished_run_says_so(config, finished, tmp_path):
    code, out, err = finish("main", f"--config={config}", f"--workdir={finished}", cwd=tmp_path)
    assert (code, err) == (0, []) and out.startswith(f"{finished}: this run is finished.\n")


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_bits(config, finished, tmp_path):
    arguments = (f"--config={config}", "--workdir=run")
    process = start("main", *arguments, cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("round 1 update: 0/30"):
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "Interrupted; the same command goes on where it stopped.\n"
    code, out, err = finish("main", *arguments, cwd=tmp_path)
    assert code == 0 and not err
    match = re.search(r"going on in round 1 after (\d+) updates", out.splitlines()[0])
    assert match and int(match[1]) > 0  # saved then, and not at the last full checkpoint
    assert saved(tmp_path / "run") == saved(finished)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(config, finished, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.name != checkpoint_folders.RECORD:
            content = bytearray(path.read_bytes())
            if damage == "truncated" and content:
                path.write_bytes(content[: len(content) // 2])
            elif path.parent.name == "d":
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
    code, out, err = finish("main", f"--workdir={run}", cwd=tmp_path)
    assert code == 0 and f"{run}: going on in round 2" in out
    assert len(err) == 1 and f"checkpoint {newest.name}" in err[0] and "damaged" in err[0]
    assert saved(run) == saved(finished)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB, and what gives it 50 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(path)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield path, lambda: subprocess.run(["mount", "-o", "remount,size=50m", str(path)], check=True)
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_one_sentence_and_nothing_saved_is_lost(
    config, finished, small_disk, tmp_path
):
    disk, grow = small_disk
    arguments = (f"--config={config}", f"--workdir={disk / 'run'}")
    code, out, err = finish("main", *arguments, cwd=tmp_path)
    assert (
        code == 1
        and len(err) == 1
        and str(disk / "run") in err[0]
        and "no space left" in err[0].lower()
    )
    grow()
    code, out, err = finish("main", *arguments, cwd=tmp_path)
    assert (code, err) == (0, []) and "going on in round 0 after 8 updates" in out.splitlines()[0]
    assert saved(disk / "run") == saved(finished)


# ---- evaluate and ask ----------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_writes_a_file(finished, tmp_path):
    """From another folder, with nothing of the repository but the package."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "reasoning_jax").symlink_to(ROOT / "reasoning_jax")
    before = (run / "metrics.jsonl").read_bytes()
    arguments = (f"--workdir={run}", "--split=validation", "--samples=3")
    code, out, err = finish("evaluate", *arguments, cwd=tmp_path, path=tmp_path / "installed")
    assert (code, err) == (0, [])
    for name in ("greedy", "maj@3", "pass@1", "pass@2", "pass@3", "digits 2", "±"):
        assert name in out
    written = json.loads((run / "evaluation_validation.json").read_text())
    logged = [json.loads(line) for line in before.decode().splitlines()]
    same = [
        m
        for m in logged
        if m["phase"] == "eval" and m["split"] == "validation" and m["round"] == written["round"]
    ]
    for key in (
        "eval/accuracy",
        "eval/accuracy_digits_1",
        "eval/accuracy_stderr",
        "eval/truncated",
    ):
        assert written[key] == same[-1][key]
    assert written["eval/pass_at_1"] <= written["eval/pass_at_2"] <= written["eval/pass_at_3"]
    assert written["samples"] == 3 and written["split"] == "validation"
    assert (run / "metrics.jsonl").read_bytes() == before


def test_evaluate_says_what_it_cannot_do(said, finished, tmp_path):
    options = {"command": evaluate.main, "define": evaluate._define}
    assert "holds no run" in said(f"--workdir={tmp_path}", **options)
    assert "no split 'tst'" in said(f"--workdir={finished}", "--split=tst", **options)
    for more, words in (
        (["--samples=2", "--temperature=0"], "temperature: several samples"),
        (["--temperature=nan"], "temperature=nan"),
        (["--temperature=1e400"], "temperature=inf"),
        (["--temperature=1e-30"], "temperature=1e-30"),
        (["--samples=-1"], "--samples=-1"),
        (["--samples=1000000000000"], "range [0, 16384]"),
    ):
        assert words in said(f"--workdir={finished}", *more, **options)
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    assert "no checkpoint" in said(f"--workdir={tmp_path}", **options)


def test_ask_answers_and_tolerates_spaces(said, finished, capsys, monkeypatch):
    options = {"define": ask._define, "words": "question"}
    answers = []
    for words in (["12+34"], ["12 + 34 ="], ["12", "+", "34", "=", "?"], ["--question=12+34"]):
        command_line.run(ask.main, argv=[f"--workdir={finished}", *words], **options)
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1 and "answer: " in answers[0]
    line = said(f"--workdir={finished}", "what?", command=ask.main, **options)
    assert "'w' is not in the alphabet" in line
    assert "too long" in said(f"--workdir={finished}", "1" * 60, command=ask.main, **options)
    for question, words in (("", "empty"), ("  ", "empty"), ("1+\udcff", "not valid UTF-8")):
        assert words in said(f"--workdir={finished}", question, command=ask.main, **options)
    line = said(f"--workdir={finished}", "1+2", "--temperature=nan", command=ask.main, **options)
    assert "temperature=nan: this must be" in line
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    monkeypatch.setattr("builtins.input", _lines("12+34", "", "x", "1+2"))
    assert "'x' is not in the alphabet" in said(
        f"--workdir={finished}", command=ask.main, **options
    )


def _lines(*lines: str):
    left = iter(lines)

    def read(prompt: str = "") -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read
