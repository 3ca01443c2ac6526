"""Asks a model, and prints what it writes while it writes it.

    python -m reasoning_jax.ask --workdir=DIR [--temperature=0] "123+456"
    python -m reasoning_jax.ask --model=PATH [--max_new_tokens=N] "Once upon a time"
    python -m reasoning_jax.ask --model=PATH --chat [--system="..."] ["What is a prime?"]

A run is asked as its task asks: the rationale and the answer. A published model, a folder or a
file, goes on from the text. With --chat either is talked to in its chat template. Without a
question, each line of standard input is one ("\\n" in it starts a new line); with --chat they are
one conversation, whose oldest turns are forgotten where they no longer fit.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line
from reasoning_jax.errors import UserError

Ask = Callable[[str], Iterator[str]]  # what is written on a question, in pieces
UNUSED = {
    **dict.fromkeys(("system", "system.name"), "the model alone answers; evaluate has systems"),
    "sampling.temperature": "--temperature says it",
    "sampling.top_k": "nothing is truncated",
    "sampling.top_p": "nothing is truncated",
}


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    _check_flags(values)
    ask = _asked(cfg, directory, values)
    if values.question is not None:
        _print(ask(values.question))
        return
    is_terminal = sys.stdin.isatty()
    prompt = "question> " if is_terminal else ""
    try:
        failed = _ask_lines(ask, prompt)
    except KeyboardInterrupt:
        if not (is_terminal and values.chat):
            raise
        failed = False  # how people end a conversation
    if is_terminal:
        print()
    elif failed:
        sys.exit(1)


def _asked(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> Ask:
    """What asks the model that the flags name."""
    from reasoning_jax import api, conversation, published

    model: api.LoadedModel
    if values.model:
        published.check(cfg, _options(values))
        model = api.LoadedModel(cfg, has_task=False)
    else:
        model = api.SavedRun(directory, cfg)
    if not values.chat:
        return lambda question: model.stream(question, values.temperature)
    talk = conversation.Conversation(model, values.system, values.temperature)

    def say(message: str) -> Iterator[str]:
        before = talk.forgotten
        pieces = talk.say(message)
        count = talk.forgotten - before
        if count:
            turns = "turn is" if count == 1 else f"{count} turns are"
            print(f"(The oldest {turns} forgotten: there is no room.)", file=sys.stderr, flush=True)
        return pieces

    return say


def _ask_lines(ask: Ask, prompt: str) -> bool:
    """Asks each line of standard input; whether one of them could not be asked."""
    failed = False
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return failed
        if not line:
            continue
        try:
            _print(ask(line.replace("\\n", "\n")))
        except UserError as error:  # the next question may be asked
            print(error, file=sys.stderr, flush=True)
            failed = True


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


# ---- flags ---------------------------------------------------------------------------------------


def _options(values: flags.FlagValues) -> dict[str, object]:
    given = values.max_new_tokens
    return {} if given is None else {"max_new_tokens": given}


def _check_flags(values: flags.FlagValues) -> None:
    if values.system is not None and not values.chat:
        raise UserError("--system goes with --chat.")


def _new_config(values: flags.FlagValues) -> ConfigDict | None:
    """The config of a published model; None where a run is asked."""
    if not values.model:
        if values.max_new_tokens is not None:
            raise UserError("--max_new_tokens goes with --model; a run has its own config.")
        return None
    for name in ("workdir", "config"):
        if values[name].value is not None:
            raise UserError(f"--{name} and --model: either a run is asked or a published model.")
    _check_flags(values)
    from reasoning_jax import published

    return published.config(values.model, "", _options(values))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_float(
        "temperature",
        0.0,
        "0 = the most likely token each time.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "question", None, "The question; it may also stand by itself, in quotes.", values
    )
    flags.DEFINE_string("model", None, "A published model, in place of a run.", values)
    flags.DEFINE_integer(
        "max_new_tokens",
        None,
        "With --model: the longest completion.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_boolean("chat", False, "Talk in the model's chat template.", flag_values=values)
    flags.DEFINE_string("system", None, "With --chat: the system message.", values)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys at the prompt)
    command_line.run(main, _define, words="question", new_config=_new_config, unused=UNUSED)
