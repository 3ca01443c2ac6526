"""How fast updates on pairs (DPO) and groups (GRPO) are, beside the likelihood's.

    python benchmarks/losses.py [--preset=0.4m] [--rows=12] [--quick]

All on one batch of packed pairs of worked sums, 256 tokens a packed row; each loss reads the arrays
that it needs, the reference's log-likelihoods among them, as in a run. The updates take turns; the
figures are medians, and a line of JSON ends the output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))

import cases  # beside this file
import jax
import machine  # beside this file
import numpy as np
import optax
from ml_collections import ConfigDict

from reasoning_jax import algorithms, config, default, experiment
from reasoning_jax.model import decoder, sharding
from reasoning_jax.training import optim, packing, state, train_step
from reasoning_jax.training.rows import attach, pair_row

SHARED = ("tokens", "positions", "segment_ids", "weights")


@dataclasses.dataclass(frozen=True)
class Case:
    """A method, the keys of its config that are not the defaults, and what its loss also reads."""

    algorithm: str
    values: Mapping[str, float]
    arrays: tuple[str, ...]


CASES = {
    "NLL": Case("sft", {}, ()),
    "pairs (DPO)": Case("irpo", {"alpha": 0.0}, ("ref",)),
    "pairs (DPO + NLL)": Case("irpo", {"alpha": 1.0}, ("ref",)),
    "groups (GRPO)": Case("policy_gradient", {"kl": 0.0}, ("advantage", "old", "normaliser")),
    "groups (GRPO, KL)": Case(
        "policy_gradient", {"kl": 0.04}, ("advantage", "old", "normaliser", "ref")
    ),
}
NUMBERS = {"advantage": 0.5, "old": -0.1, "normaliser": 0.02}  # of the right kind for every loss


def make_batch(exp: experiment.Experiment, params: decoder.Params) -> dict[str, np.ndarray]:
    """Pairs of a sum's worked rationale and the next sum's, packed."""
    rollout = exp.rollout(params, "benchmark", 0)
    examples = exp.load("given")
    completions = []
    for example in examples:
        worked = rollout.worked_row(example)
        if worked is not None:
            completions.append(worked["tokens"][worked["weights"] > 0])
    rows = []
    for example, own, other in zip(examples, completions, completions[1:], strict=False):
        row = pair_row(rollout.prompt_ids(example), [own, other])
        row = attach(row, "ref", (-1.0, -2.0))
        rows.append(row | {key: row["weights"] * value for key, value in NUMBERS.items()})
    cfg = exp.cfg
    stream = packing.batches(rows, batch_size=cfg.batch_size, length=cfg.sequence_length, seed=0)
    return next(iter(stream))


def update_case(
    case: Case,
    exp: experiment.Experiment,
    optimizer: optax.GradientTransformation,
    batch: dict[str, np.ndarray],
) -> cases.Run:
    """A function of i that makes one update with the case's loss."""
    cfg = default.get_config(algorithm=case.algorithm)
    cfg.algorithm.update(case.values)
    method = algorithms.get(case.algorithm)
    step = train_step.make_train_step(method, exp.model_cfg, optimizer, cfg)
    arrays = {key: batch[key][None] for key in (*SHARED, *case.arrays)}
    on_device = sharding.put(arrays, exp.mesh, None, "batch", None)
    rate = sharding.put(np.float32(1e-5), exp.mesh)
    current = [state.init(0, exp.model_cfg, optimizer, exp.mesh)]

    def run(i: int) -> jax.Array:
        current[0], metrics = step(current[0], on_device, rate)
        return metrics["loss"]

    return run


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--preset", default="0.4m", help="a size in reasoning_jax/model/presets.py")
    flags.add_argument("--rows", type=int, default=12, help="packed rows an update")
    flags.add_argument("--quick", action="store_true", help="few repeats: to see that it works")
    return flags.parse_args()


def make_config(args: argparse.Namespace, device: jax.Device) -> ConfigDict:
    cfg = config.load(f"{ROOT}/configs/irpo_addition.py")
    cfg.model.preset = args.preset
    cfg.model.dtype = "float32" if device.platform == "cpu" else "bfloat16"
    cfg.batch_size = args.rows
    return cfg


def main() -> None:
    args = arguments()
    device = jax.devices()[0]
    cfg = make_config(args, device)
    exp = experiment.make(cfg, [device])
    about = machine.describe(device)
    optimizer = optim.make(cfg.optim)
    params = state.init(0, exp.model_cfg, optimizer, exp.mesh).params
    batch = make_batch(exp, params)
    runs = {name: update_case(case, exp, optimizer, batch) for name, case in CASES.items()}
    repeats, least = (2, 0.0) if args.quick else (15, 0.3)
    seconds = cases.timed(runs, repeats, least).seconds
    tokens = int((batch["segment_ids"] > 0).sum())
    # Of each turn, in which all have run, the ratio to the likelihood's update: the machine's load
    # cancels.
    ratio = {}
    for name, values in seconds.items():
        turns = zip(values, seconds["NLL"], strict=True)
        ratio[name] = statistics.median(plain / value for value, plain in turns)
    rate = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    print("{device}, {cores} cores, load {load}, jax {jax}".format(**about))
    size = f"{cfg.batch_size} x {cfg.sequence_length}"
    print(f"{cfg.model.preset}, {size} tokens, of which {tokens:,} are used")
    print(f"{'update on':20}{'tokens/s':>12}{'of NLL':>9}")
    for name in runs:
        print(f"{name:20}{rate[name]:>12,.0f}{ratio[name]:>9.2f}")
    updates = {
        name: {"tokens_per_s": round(rate[name]), "of_nll": round(ratio[name], 4)} for name in runs
    }
    print(json.dumps({**about, "preset": cfg.model.preset, "tokens": tokens, "updates": updates}))


if __name__ == "__main__":
    main()
