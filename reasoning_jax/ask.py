"""Asks a trained model: prints its rationale and its answer.

    python -m reasoning_jax.ask --workdir=DIR [--temperature=0] "123+456"

Without a question it reads questions from standard input, one a line ("\\n" in a question starts a
new line).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line
from reasoning_jax.errors import UserError

if TYPE_CHECKING:
    from reasoning_jax.api import SavedRun


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    from reasoning_jax import api

    run = api.SavedRun(directory, cfg)
    if values.question is not None:
        print(_answer(run, values.question, values.temperature))
        return
    is_terminal = sys.stdin.isatty()
    failed = _ask_lines(run, values.temperature, "question> " if is_terminal else "")
    if is_terminal:
        print()
    elif failed:
        sys.exit(1)


def _ask_lines(run: SavedRun, temperature: float, prompt: str) -> bool:
    """Answers each line of standard input; whether one of them could not be asked."""
    failed = False
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return failed
        if not line:
            continue
        try:
            print(_answer(run, line.replace("\\n", "\n"), temperature), flush=True)
        except UserError as error:  # the next question may be asked
            print(error, file=sys.stderr, flush=True)
            failed = True


def _answer(run: SavedRun, question: str, temperature: float) -> str:
    [record] = run.sample([question], temperature)
    return f"{record['rationale']}\n\nanswer: {_shown(record, run.config)}"


def _shown(record: Mapping[str, object], cfg: ConfigDict) -> str:
    answer = "none" if record["answer"] is None else str(record["answer"])
    if not record["finished"]:
        answer += f" (cut off after {cfg.sampling.max_new_tokens} tokens)"
    return answer


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


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys at the prompt)
    command_line.run(main, _define, words="question")
