"""What the commands share: flags, the experiment's config, and one sentence for a user's mistake.

Neither this file nor a command's imports jax at its top: ``run`` first sets what jax reads at its
import, and then reads the config, whose sections belong to methods and tasks, which import jax.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import discovery, interrupts, streams, workdir
from reasoning_jax.arguments import check_used, parse_into, with_sections
from reasoning_jax.errors import UserError

Main = Callable[[ConfigDict, Path, flags.FlagValues], None]
# Failures of the machine, not of the program, whichever library meets them.
MACHINE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
    errno.EPIPE,
}
HELP_FLAGS = {"-h", "-help", "--help", "--helpfull", "--helpshort"}


NO_KEYS: Mapping[str, str] = {}
NewConfig = Callable[[flags.FlagValues], ConfigDict | None]


def _no_config(values: flags.FlagValues) -> None:
    """For a command whose config is always that of --config, or of a run."""


def _no_flags(values: flags.FlagValues) -> None:
    """For a command without flags of its own."""


def run(
    main: Main,
    define: Callable[[flags.FlagValues], None] = _no_flags,
    *,
    words: str = "",
    interrupted: str = "Interrupted.",
    needs_run: bool = True,
    needs_config: bool = True,
    new_config: NewConfig = _no_config,
    unused: Mapping[str, str] = NO_KEYS,
    sections: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> None:
    """Calls ``main(cfg, workdir, flags)``. A user's mistake is one sentence and exit code 1.

    define: adds the command's own flags. words: the flag that takes the arguments that belong to no
    flag. interrupted: what Ctrl-C prints, with exit code 130. needs_run: False lets --workdir be
    left out, and where --config is left out too, ``cfg`` is empty. needs_config: False for a
    command that reads none and has no --config. new_config: the config that other flags make, to be
    changed by --config.KEY=VALUE; None = that of --config or of the run. unused: keys of the config
    that the command does not read, each with the reason: they are refused. sections: flags that
    name what --config.SECTION.name does. A user's mistake is a UserError, an error of absl's flags,
    or an OSError of the machine; every other error keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    values = flags.FlagValues()
    _define_common(values, needs_config, needs_run)
    define(values)
    try:
        streams.open_closed()
        if HELP_FLAGS & set(arguments):
            print(_usage(sys.modules[main.__module__].__doc__ or "", values))
        else:
            _prepare()
            check_used(arguments, unused)
            rest = parse_into(values, arguments, known_only=needs_config)
            rest = with_sections(rest, values, sections)
            cfg, folder = _parse(rest, values, words, needs_run, needs_config, new_config)
            main(cfg, folder, values)
        sys.stdout.flush()  # what cannot be written is an error of the command
    except SystemExit:
        streams.silence_broken()
        raise
    except interrupts.Preempted:
        _fail("Stopped by SIGTERM and saved; the same command goes on where it stopped.", 143)
    except KeyboardInterrupt:
        _fail(interrupted, 130)
    except Exception as error:
        problem = sentence(error)
        if problem is not None:
            _fail(problem)
        if "reasoning_jax.multihost" in sys.modules:
            _end_with_others(error)
        raise


def _define_common(values: flags.FlagValues, needs_config: bool, needs_run: bool) -> None:
    if needs_config:
        flags.DEFINE_string(
            "config",
            None,
            "The experiment: configs/X.py or configs/X.py:ARGUMENT; where it is left out, that of "
            "the run in --workdir. --config.KEY=VALUE replaces one value.",
            values,
        )
    if needs_config or needs_run:
        flags.DEFINE_string("workdir", None, "The run's folder.", values)


def define_shared(values: flags.FlagValues) -> None:
    """Adds the flags of the commands that run on several hosts."""
    flags.DEFINE_boolean(
        "allow_local_workdir",
        False,
        "Processes on several hosts take a --workdir without gs://: a folder of a network file "
        "system that all of them see.",
        values,
    )


def join(folder: Path, values: flags.FlagValues) -> None:
    """Waits for the other processes, where there are others; the first to use jax.

    UserError where they are on other hosts, and the work directory is on this one.
    """
    from reasoning_jax import multihost

    multi_host = discovery.is_multi_host()
    if multi_host and workdir.is_local(folder) and not values.allow_local_workdir:
        raise UserError(
            f"--workdir={folder} is on this host alone: with several hosts it must be one that all "
            "of them see, such as gs://BUCKET/FOLDER, or a network file system and "
            "--allow_local_workdir."
        )
    multihost.initialize()


# ---- errors --------------------------------------------------------------------------------------


def sentence(error: Exception) -> str | None:
    """The sentence about a user's mistake or a failure of the machine; None for other errors."""
    if isinstance(error, flags.Error):
        return f"{str(error).rstrip('.')}."
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return f"{str(error).rstrip('.')}."
    if isinstance(error, BrokenPipeError):
        return "Nobody reads the standard output any more."
    if not isinstance(error, OSError) or error.errno not in MACHINE_ERRORS:
        return None
    if error.filename:
        return f"{error.filename}: {error.strerror}."
    return f"{error.strerror}."


def _end_with_others(error: Exception) -> None:
    """Ends one of several processes, as the others would wait for it; returns where it is alone."""
    from reasoning_jax import multihost

    problem = multihost.explain(error)
    if problem is not None:
        _fail(problem)
    multihost.give_up(error)


def _ignore(event: object) -> None:
    """A hook that reports nothing."""


def _fail(problem: str, code: int = 1) -> NoReturn:
    with contextlib.suppress(OSError):  # the reader may have gone
        print(" ".join(problem.split()), file=sys.stderr, flush=True)
    streams.silence_broken()
    # On a full disk, libraries fail again in threads and exit handlers: their reports add nothing.
    sys.unraisablehook = _ignore
    threading.excepthook = _ignore
    # Where it is not imported, no other process has been met, and jax need not be imported now.
    if "reasoning_jax.multihost" in sys.modules:
        from reasoning_jax import multihost

        multihost.leave(code)
    sys.exit(code)


# ---- flags ---------------------------------------------------------------------------------------


def _usage(text: str, values: flags.FlagValues) -> str:
    lines = [text.strip(), "", "Flags:"]
    for name in values:
        line = f"  --{name}  {values[name].help}"
        if values[name].default is not None:
            line += f" (default: {values[name].default})"
        lines.append(line)
    return "\n".join(lines)


def _prepare() -> None:
    """Sets what jax reads at its import: quiet logs, and a cache of compiled programs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    flags.FLAGS.mark_as_parsed()  # libraries that read absl's global flags find their defaults
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.path.expanduser("~/.cache/reasoning_jax"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home to write to: programs are compiled anew each time
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


def _parse(
    arguments: list[str],
    values: flags.FlagValues,
    words: str,
    needs_run: bool,
    needs_config: bool,
    new_config: NewConfig,
) -> tuple[ConfigDict, Path]:
    """The config and the work directory.

    The command's own flags are parsed already: with them the config is known, and its overrides.
    """
    made = new_config(values)
    if needs_run and made is None and not values.workdir:
        or_model = "" if new_config is _no_config else " (or --model: a published model)"
        raise UserError(f"--workdir is missing: it names the run's folder{or_model}.")
    if needs_config:
        folder = _folder(values.workdir or ".")
        cfg = _config(values.config, folder, needs_run) if made is None else made
        free = _override(cfg, arguments, values)
    else:
        folder = _folder(".")
        cfg = ConfigDict()
        free = arguments
    if words and values[words].flag_type().startswith("multi"):
        values[words].value = [*(values[words].value or []), *free]
    elif words and free:
        given = values[words].value
        values[words].value = " ".join(free if given is None else [given, *free])
    elif free:
        raise UserError(f"{free[0]!r} belongs to no flag.")
    return cfg, folder


def _folder(name: str) -> Path:
    try:
        return workdir.path(name)
    except UserError as error:
        raise UserError(f"--workdir: {error}") from error


def _override(cfg: ConfigDict, arguments: list[str], values: flags.FlagValues) -> list[str]:
    """Sets what --config.KEY=VALUE asks for; the arguments that belong to no flag."""
    if not arguments:
        return []
    from reasoning_jax import overrides

    return overrides.override(cfg, arguments, values)


def _config(argument: str | None, folder: Path, needs_run: bool) -> ConfigDict:
    """The config that --config names, else that of the run in the folder, else an empty one."""
    has_run = (folder / "config.json").exists()
    if argument or has_run:
        from reasoning_jax import config

        return config.load(argument) if argument else config.rebuild(folder)
    if (folder / "model.json").exists():
        raise UserError(f"{folder}: {workdir.PUBLISHED}")
    if needs_run:
        raise UserError(
            f"{folder} holds no run (there is no config.json); "
            "a new one needs --config=configs/X.py too."
        )
    return ConfigDict()
