"""Asks a trained model: prints its rationale and its answer.

    python -m reasoning_jax.ask --workdir=DIR [--temperature=0] "123+456"

Without a question it reads questions from standard input, one a line ("\\n" in a question starts a new line).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasoning_jax import command_line


def main(cfg: Any, folder: Path, flags: Any) -> None:
    answer = _answerer(cfg, folder, flags.temperature)
    if flags.question:
        print(answer(flags.question))
        return
    terminal, failed = sys.stdin.isatty(), 0
    while True:
        try:
            line = input("question> " if terminal else "").strip()
        except EOFError:
            break
        try:
            if line:
                print(answer(line.replace("\\n", "\n")), flush=True)
        except ValueError as error:  # this question was no good; the next one may be
            print(error, file=sys.stderr, flush=True)
            failed = 1
    if terminal:
        print()
    elif failed:
        sys.exit(1)


def _answerer(cfg: Any, folder: Path, temperature: float) -> Callable[[str], str]:
    """The function from a question to what is printed; ValueError for a question that cannot be asked."""
    import jax

    from reasoning_jax import checkpoint, experiment, sampling
    from reasoning_jax.tasks import Example

    # One question needs no data parallelism: as few devices as the model is split over.
    fsdp, tensor = max(1, cfg.mesh.fsdp), max(1, cfg.mesh.tensor)
    if fsdp * tensor > jax.device_count():
        fsdp = tensor = 1
    cfg.mesh.update(data=1, fsdp=fsdp, tensor=tensor, sampling_tensor=0)
    cfg.batch_size, cfg.micro_batches, cfg.sampling.batch_size = fsdp, 1, fsdp
    exp = experiment.make(cfg, jax.devices()[: fsdp * tensor])
    params, _ = checkpoint.load_params(folder, exp.abstract_state().params)
    roll = exp.rollout(params, "ask", 0, sampling.make_rule(temperature))
    alphabet = getattr(exp.tokenizer, "alphabet", None)
    asked = 0

    def answer(question: str) -> str:
        nonlocal asked
        if alphabet is not None:  # people write "12 + 34 = ?"
            question = "".join(c for c in question if c in alphabet or c not in " \t=?")
        if not question:
            raise ValueError("The question is empty.")
        example = Example(0, question, "")
        try:
            ids = roll.prompt_ids(example)
        except ValueError as error:
            raise ValueError(f"The question cannot be asked: {error}") from None
        if len(ids) + roll.max_new_tokens > roll.max_length:
            raise ValueError(
                f"The question is too long: {len(ids)} tokens, and with sampling.max_new_tokens={roll.max_new_tokens} "
                f"there is room for {roll.max_length - roll.max_new_tokens}."
            )
        host = jax.device_get(roll._sample([(example, asked, ids)]))
        asked += 1  # asked again at a temperature, it gets another sample
        text = exp.tokenizer.decode(host.tokens[0, : host.lengths[0]].tolist())
        found = exp.task.extract(text) if host.finished[0] else None
        cut = "" if host.finished[0] else f" (cut off after {roll.max_new_tokens} tokens)"
        return f"{text.strip()}\n\nanswer: {'none' if found is None else found}{cut}"

    return answer


def _define(values: Any) -> None:
    from absl import flags

    flags.DEFINE_float("temperature", 0.0, "0 = the most likely token each time.", 0.0, flag_values=values)
    flags.DEFINE_string("question", None, "The question; it may also stand by itself, in quotes.", values)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys at the prompt)
    command_line.run(main, _define, words="question")
