"""Few-shot prompts: worked examples before the question, and their hinted form for rationalization."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from reasoning_jax.tasks import Example

SEPARATOR = "\n\n"  # between shots


def read_shots(path: str | Path, task: ModuleType) -> list[Example]:
    """The worked examples of a few-shot file in the format of STaR's (arXiv:2203.14465).

    Blank lines separate shots, "Q: " begins a question and "A: " its rationale. FileNotFoundError or ValueError, naming
    file and line, for a shot that ``task`` would not write so, and for one whose question holds the hint already.
    """
    try:
        blocks = Path(path).read_text(encoding="utf-8").strip("\n").split(SEPARATOR)
    except OSError:
        raise FileNotFoundError(f"config.task.shots: there is no file {str(path)!r}.") from None
    shots, line = [], 1
    for i, block in enumerate(blocks):
        question, found, rationale = block.removeprefix("Q: ").partition("\nA: ")
        answer = task.extract(f" {rationale}")
        if not found or answer is None:
            raise ValueError(f"{path}, line {line}: a shot needs lines 'Q: ...' and 'A: ...' and an answer at the end.")
        shot = Example(id=-1 - i, question=question, answer=answer, rationale=rationale)
        plain, hinted = task.prompt(shot), task.prompt(shot, hint=answer)
        if plain + task.target(shot) != block:
            name = task.__name__.rpartition(".")[2]
            raise ValueError(f"{path}, line {line}: this shot is not in the format of the task {name}.")
        at = len(os.path.commonprefix([plain, hinted]))
        if (hint := hinted[at : at + len(hinted) - len(plain)]) in plain:
            raise ValueError(f"{path}, line {line}: the question already holds the hint {hint.strip()!r}.")
        shots.append(shot)
        line += block.count("\n") + 2
    return shots


def build(task: ModuleType, example: Example, shots: Sequence[Example] = (), hint: str | None = None) -> str:
    """The prompt of an example after its shots; with a hint, every shot is hinted with its own answer too."""
    worked = [task.prompt(shot, hint=None if hint is None else shot.answer) + task.target(shot) for shot in shots]
    return SEPARATOR.join([*worked, task.prompt(example, hint=hint)])
