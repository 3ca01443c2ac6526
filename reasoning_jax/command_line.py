"""What the commands share: flags, the experiment's config, and a plain sentence for every mistake of the user's.

jax is imported by the commands' own functions, after the flags are parsed, so that a typo is answered at once.
"""

from __future__ import annotations

import contextlib
import difflib
import dis
import errno
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from reasoning_jax import interrupts, workdir

PACKAGE = Path(__file__).resolve().parent
# What goes wrong outside of the program, whichever library meets it first.
OUTSIDE = {getattr(errno, name) for name in "ENOSPC EDQUOT EACCES EPERM EROFS ENOTDIR ENAMETOOLONG EIO EPIPE".split()}

Main = Callable[[ConfigDict, Path, flags.FlagValues], None]


def run(
    main: Main,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    *,
    words: str = "",
    interrupted: str = "Interrupted.",
    needs_run: bool = True,
    argv: Sequence[str] | None = None,
) -> None:
    """Calls ``main(cfg, workdir, flags)``; what the user got wrong is one sentence on standard error and exit code 1.

    define: adds the command's own flags. words: the flag that takes the arguments that belong to none. interrupted: what
    Ctrl-C says, with exit code 130. needs_run: False lets --workdir be left out, and where --config is
    left out too ``cfg`` is empty. An error that is no mistake of the user's keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "The experiment: configs/X.py or configs/X.py:ARGUMENT; where it is left out, "
                        "that of the run in --workdir. --config.KEY=VALUE replaces one value.", values)  # fmt: skip
    flags.DEFINE_string("workdir", None, "The run's folder.", values)
    define(values)
    if {"-h", "-help", "--help", "--helpfull", "--helpshort"} & set(arguments):
        print(_usage(sys.modules[main.__module__].__doc__ or "", values))
        return
    try:
        cfg, folder = _parse(arguments, values, words, needs_run)
        _prepare()
        main(cfg, folder, values)
    except interrupts.Preempted:
        _fail("Stopped by SIGTERM and saved; the same command goes on where it stopped.", 143)
    except KeyboardInterrupt:
        _fail(interrupted, 130)
    except flags.Error as error:
        _fail(f"{str(error).rstrip('.')}.")
    except Exception as error:
        told = _raised_here(error.__traceback__) or (isinstance(error, OSError) and error.errno in OUTSIDE)
        if isinstance(error, (ValueError, OSError, FloatingPointError)) and told:
            _fail(_told(error))
        if processes := sys.modules.get("reasoning_jax.processes"):
            if sentence := processes.explain(error):
                _fail(sentence)
            processes.give_up(error)
        raise


def _fail(sentence: str, code: int = 1) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        print(" ".join(sentence.split()), file=sys.stderr, flush=True)
    # On a full disk libraries fail a second time on the way out, in threads and exit handlers: that adds nothing.
    sys.unraisablehook = threading.excepthook = lambda *_: None
    if processes := sys.modules.get("reasoning_jax.processes"):  # which imports jax
        processes.leave(code)
    sys.exit(code)


def define_shared(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("allow_local_workdir", False, "Processes on several hosts take a --workdir without gs://: a folder "
                         "of a network file system that all of them see.", values)  # fmt: skip


def join(folder: Path, values: flags.FlagValues) -> None:
    """Waits for the other processes, where the environment tells of others; the first to use jax.

    ValueError where they are on other hosts, and the work directory is on this one.
    """
    from reasoning_jax import processes  # which imports jax

    if processes.several_hosts() and workdir.is_local(folder) and not values.allow_local_workdir:
        raise ValueError(
            f"--workdir={folder} is on this host alone: with several hosts it must be one that all of them see, such as "
            "gs://BUCKET/FOLDER, or a network file system and --allow_local_workdir."
        )
    processes.initialize()


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is a ``raise`` of this package: a sentence that was written to be read.

    A call of numpy's that fails in the same frame is a bug, and so is everything else.
    """
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    here = PACKAGE in Path(code.co_filename).resolve().parents
    return here and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _usage(text: str, values: flags.FlagValues) -> str:
    lines = [text.strip(), "", "Flags:"]
    for name in values:
        default = values[name].default
        lines.append(f"  --{name}  {values[name].help}" + (f" (default: {default})" if default is not None else ""))
    return "\n".join(lines)


def _prepare() -> None:
    """What has to be set before jax is imported: little noise, and compiled programs that outlive the process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    flags.FLAGS.mark_as_parsed()  # libraries that look into it find its defaults
    cache = Path("~/.cache/reasoning_jax").expanduser()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:  # no home to write to: programs are compiled anew each time
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


# ---- flags -----------------------------------------------------------------------------------------------------------


def _parse(arguments: list[str], values: flags.FlagValues, words: str, needs_run: bool) -> tuple[ConfigDict, Path]:
    """The config and the work directory. First the command's own flags, then, as the config is known, its overrides."""
    rest = _into(values, arguments, known_only=True)
    if not values.workdir and needs_run:
        raise ValueError("--workdir is missing: it names the run's folder.")
    folder = workdir.path(values.workdir or ".")
    if values.config:
        cfg = load(values.config)
    elif (folder / "config.json").exists():
        cfg = rebuild(folder)
    elif not needs_run:
        cfg = ConfigDict()
    else:
        raise ValueError(f"{folder} holds no run (there is no config.json); a new one needs --config=configs/X.py too.")
    free = _override(cfg, rest, values)
    if words:
        values[words].value = " ".join([*([values[words].value] if values[words].value else []), *free]) or None
    elif free:
        raise ValueError(f"{free[0]!r} belongs to no flag.")
    return cfg, folder


def _into(values: flags.FlagValues, arguments: list[str], known_only: bool = False) -> list[str]:
    """Parses into ``values`` and returns the arguments that are left; ValueError where a flag's value does not fit."""
    values.set_gnu_getopt(True)  # flags may follow words
    try:
        return values(["", *arguments], known_only=known_only)[1:]
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if not found or found[1] not in values:
            raise
        parser = values[found[1]].parser
        wanted = parser.syntactic_help or f"a value of type {parser.flag_type()}"
        raise ValueError(f"--{found[1]}={found[2]}: this must be {wanted}.") from None


def _override(cfg: ConfigDict, arguments: list[str], known: flags.FlagValues) -> list[str]:
    """Sets what --config.KEY=VALUE asks for; the arguments that belong to no flag."""
    before, keys = cfg.copy_and_resolve_references(), workdir.flat(cfg.to_dict())
    for argument in arguments[: arguments.index("--")] if "--" in arguments else arguments:
        if found := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            _check_key(found[1], keys)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", cfg, flag_values=values, sys_argv=["", *arguments])
    try:
        free = _into(values, arguments)
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f"There is no flag --{error.flagname}{_nearest(error.flagname, [*known], '--')}") from None
    for key in values["config"].override_values:
        old, new = workdir.flat(before.to_dict())[key], workdir.flat(cfg.to_dict())[key]
        if isinstance(old, tuple) and old and not all(isinstance(item, type(old[0])) for item in new):
            raise ValueError(f"--config.{key}={new}: this must be a tuple like {old}.")
    return free


def _check_key(key: str, keys: dict[str, Any]) -> None:
    if key in keys:
        return
    if inside := [k for k in keys if k.startswith(f"{key}.")]:
        raise ValueError(f"config.{key} is a section: set one of {', '.join(f'config.{k}' for k in inside)}.")
    # A key may be in another section than thought: its last part counts too.
    last = [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]]
    raise ValueError(f"The config has no key config.{key}{_nearest(key, [*keys], 'config.', last)}")


def _nearest(name: str, names: list[str], prefix: str, more: Sequence[str] = ()) -> str:
    near = list(dict.fromkeys([*more, *difflib.get_close_matches(name, names, 3)]))[:3]
    return f"; did you mean {' or '.join(prefix + n for n in near)}?" if near else "."


# ---- configs ---------------------------------------------------------------------------------------------------------


def load(argument: str) -> ConfigDict:
    """The config of "path/to/X.py" or "path/to/X.py:ARGUMENT"; FileNotFoundError or ValueError naming the file."""
    name, _, arg = argument.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {name}.")
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {name} is not a Python file.")
    _importable(path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}.") from None
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {name} has no function get_config.")
    try:
        return module.get_config(arg)
    except ValueError as error:
        raise ValueError(f"--config={argument}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:  # a key that the default does not have, or of another type
        where = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(where) if Path(frame.filename) == path), None)
        reason = str(error.args[0] if error.args else error).splitlines()[0].strip("'\"").rstrip(".")
        raise ValueError(f"{name}, line {line}: {reason}.") from error


def rebuild(folder: Path) -> ConfigDict:
    """The config that a run wrote down, on top of configs/default.py, whose types it takes; ValueError names the key."""
    _importable(None)
    from configs import default

    cfg = default.get_config()
    for key, value in workdir.flat(workdir.read_config(folder)).items():
        section, _, name = key.rpartition(".")
        try:
            holder = cfg
            for part in section.split(".") if section else ():
                holder = holder[part]
            if name not in holder:
                raise KeyError(name)
            with cfg.unlocked():
                holder[name] = tuple(value) if isinstance(value, list) else value
        except (KeyError, TypeError):
            raise ValueError(f"{folder / 'config.json'}: {key}={value!r} is not of a config of this version.") from None
    return cfg


def _importable(path: Path | None) -> None:
    """Lets a config say ``from configs import default`` wherever it is run from: this repository's configs come first."""
    for folder, at in ((PACKAGE.parent, 0), *(((path.resolve().parent.parent, len(sys.path) + 1),) if path else ())):
        if str(folder) not in sys.path:
            sys.path.insert(at, str(folder))
