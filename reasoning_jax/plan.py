"""Says whether an experiment fits a TPU slice, and how fast it could be there, without the slice.

    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e:8x8
        [--slices=2] [--json] [--config.KEY=VALUE ...]
    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e-64 --fit=batch
                                                            the largest batches that fit
    python -m reasoning_jax.plan --config=configs/X.py --topology=v5e-64 --fit=mesh
                                                            the best mesh that fits
    python -m reasoning_jax.plan --doctor [--workdir=DIR]   what is wrong with this machine

The programs that the experiment would run are compiled by TPU's own compiler (pip install
"jax[tpu]"; no TPU is needed): memory and collectives are the compiler's, times are ceilings by the
formulas of tpu/ceilings.py, which nothing real reaches. Exit code 3 where a program does not fit.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line
from reasoning_jax.errors import UserError
from reasoning_jax.tpu import chips, doctor

DOES_NOT_FIT = 3
# As the user set it, for the doctor: jax, which reading a config imports, adds to it.
ENVIRONMENT = dict(os.environ)


def environment() -> None:
    """Sets the environment of a compiler without its chips; before libtpu is loaded."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # libtpu asks for these, says so at length where they are missing, and then does without.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")

    import jax

    jax.config.update(
        "jax_platforms", "cpu"
    )  # jax has read JAX_PLATFORMS if it was imported before


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string(
        "topology", None, "The slice: v5e:8x8, or by its order name, v5e-64.", values
    )
    flags.DEFINE_integer("slices", 1, "How many such slices.", 1, flag_values=values)
    flags.DEFINE_enum(
        "fit",
        None,
        ["batch", "mesh"],
        "Searches for the largest batches, or for the best mesh.",
        values,
    )
    flags.DEFINE_boolean("json", False, "Prints one JSON object instead.", values)
    flags.DEFINE_boolean("doctor", False, "Checks this machine's environment instead.", values)


def main(cfg: ConfigDict, workdir: Path, values: flags.FlagValues) -> None:
    """The command: exit code 3 where a program does not fit, the doctor's where it was asked."""
    if values.doctor:
        sys.exit(doctor.main(ENVIRONMENT, values.workdir))
    if not len(cfg) and values.workdir:
        raise UserError(f"--workdir={values.workdir} holds no run (there is no config.json).")
    if not len(cfg):
        raise UserError(
            "--config is missing: plan needs --config=configs/X.py, or the --workdir of a run."
        )
    if not values.topology:
        raise UserError(f"--topology is missing; {chips.valid_names()}")
    topology = chips.topology(values.topology)
    environment()

    from reasoning_jax.tpu import planner

    print_line = _print_nothing if values.json else print
    plan = planner.plan(cfg, topology, values.slices, values.fit, print_line)
    if values.json:
        print(json.dumps({"config": values.config or values.workdir} | plan.as_json()))
    if not plan.fits:
        print(plan.advice, file=sys.stderr)
        sys.exit(DOES_NOT_FIT)


def _print_nothing(line: str) -> None:
    """What is said with --json, besides the JSON."""


if __name__ == "__main__":
    command_line.run(main, define, needs_run=False)
