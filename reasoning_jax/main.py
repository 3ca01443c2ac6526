"""Trains a model, or goes on where a run stopped.

    python -m reasoning_jax.main --config=configs/X.py --workdir=DIR [--config.optim.learning_rate=3e-4 ...]

The same command again resumes the run in DIR, or says that it is finished. Inside DIR are config.json, metrics.jsonl,
checkpoints and, at the end, report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasoning_jax import command_line


def main(cfg: Any, workdir: Path, flags: Any) -> None:
    from reasoning_jax import loop  # not above: it imports jax

    loop.train(cfg, workdir)


if __name__ == "__main__":
    command_line.run(main, interrupted="Interrupted; the same command goes on where it stopped.")
