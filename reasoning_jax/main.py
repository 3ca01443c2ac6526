"""Trains a model, or goes on where a run stopped.

    python -m reasoning_jax.main --config=configs/X.py --workdir=DIR [--config.KEY=VALUE ...]

The same command again resumes the run in DIR, or says that it is finished. Inside DIR are
config.json, metrics.jsonl, checkpoints and, at the end, report.html.

As one of several processes, on the hosts of a TPU slice or where JAX_COORDINATOR_ADDRESS
(HOST:PORT), JAX_NUM_PROCESSES and JAX_PROCESS_ID say so, DIR is one that all of them see, such as
gs://BUCKET/DIR. Exit codes: 0 done, 130 after Ctrl-C, 143 after SIGTERM; after the last two the run
is saved and the same command goes on.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line, huge_pages


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    command_line.join(directory, values)
    from reasoning_jax import loop

    loop.train(cfg, directory)


if __name__ == "__main__":
    huge_pages.use()
    command_line.run(
        main,
        command_line.define_shared,
        interrupted="Interrupted; the same command goes on where it stopped.",
    )
