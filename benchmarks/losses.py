"""How fast an update on pairs (DPO) and on groups (GRPO) is, beside the plain likelihood's on the very same tokens.

    python benchmarks/losses.py [--preset=0.4m] [--rows=12] [--quick]

One batch of packed pairs of worked sums, 256 tokens a row; each loss reads the arrays that it needs of it, the reference's
log-likelihoods among them, as in a run. The updates take turns; the figures are medians, and a line of JSON ends the output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import machine  # beside this file
import numpy as np
import throughput  # beside this file

from configs import irpo_addition
from reasoning_jax import data, experiment, optim, preferences, sharding, state, update
from reasoning_jax.algorithms import irpo, policy_gradient, sft

SHARED = ("tokens", "positions", "segment_ids", "weights")
CASES = {  # the method, and what its loss reads besides
    "NLL": (sft, ()),
    "pairs (DPO)": (irpo, ("ref",)),
    "pairs (DPO + NLL)": (irpo, ("ref",)),
    "groups (GRPO)": (policy_gradient, ("advantage", "old", "share")),
    "groups (GRPO, KL)": (policy_gradient, ("advantage", "old", "share", "ref")),
}


def batch(exp: experiment.Experiment, params) -> dict[str, np.ndarray]:
    """Pairs of a sum's worked rationale and the next sum's, with numbers of the right kind for every loss."""
    roll, rows = exp.rollout(params, "benchmark", 0), []
    given = exp.load("given")
    answers = [row["tokens"][row["weights"] > 0] for e in given if (row := roll.worked_row(e))]
    for e, own, other in zip(given, answers, answers[1:], strict=False):
        row = preferences.mark(preferences.pair(roll.prompt_ids(e), [own, other]), "ref", (-1.0, -2.0))
        rows.append(row | {k: row["weights"] * v for k, v in (("advantage", 0.5), ("old", -0.1), ("share", 0.02))})
    return next(iter(data.batches(rows, batch_size=exp.cfg.batch_size, length=exp.cfg.sequence_length, seed=0)))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--preset", default="0.4m", help="a size in reasoning_jax/presets.py")
    flags.add_argument("--rows", type=int, default=12, help="packed rows an update")
    flags.add_argument("--quick", action="store_true", help="few repeats: to see that it works")
    args = flags.parse_args()
    device = jax.devices()[0]
    cfg = irpo_addition.get_config()
    cfg.model.preset, cfg.model.dtype = args.preset, "float32" if device.platform == "cpu" else "bfloat16"
    cfg.batch_size = args.rows
    exp, about, optimizer = experiment.make(cfg, [device]), machine.describe(device), optim.make(cfg.optim)
    rate = sharding.put(np.float32(1e-5), exp.mesh)
    host, runs = None, {}
    for name, (method, more) in CASES.items():
        own = cfg.copy_and_resolve_references()
        own.algorithm.alpha, own.algorithm.kl = float("NLL" in name), 0.04 * ("KL" in name)
        now = [state.init(0, exp.model_cfg, optimizer, exp.mesh)]
        host = batch(exp, now[0].params) if host is None else host
        arrays = sharding.put({k: host[k][None] for k in (*SHARED, *more)}, exp.mesh, None, "batch", None)
        step = update.make_update(method, exp.model_cfg, optimizer, own)

        def run(i: int, now=now, step=step, arrays=arrays) -> jax.Array:
            now[0], metrics = step(now[0], arrays, rate)
            return metrics["loss"]

        runs[name] = run
    _, seconds, _ = throughput.timed(runs, 2 if args.quick else 15, 0.0 if args.quick else 0.3)
    tokens = int((host["segment_ids"] > 0).sum())
    mid = {name: statistics.median(found) for name, found in seconds.items()}
    # Of each turn, in which all have run, the ratio to the likelihood's update: the machine's load cancels.
    plain = seconds["NLL"]
    ratio = {name: statistics.median(b / a for a, b in zip(found, plain, strict=True)) for name, found in seconds.items()}
    print("{device}, {cores} cores, load {load}, jax {jax}".format(**about))
    print(f"{cfg.model.preset}, {cfg.batch_size} x {cfg.sequence_length} tokens, of which {tokens:,} are used")
    print(f"{'update on':20}{'tokens/s':>12}{'of NLL':>9}")
    for name in runs:
        print(f"{name:20}{tokens / mid[name]:>12,.0f}{ratio[name]:>9.2f}")
    figures = {name: {"tokens_per_s": round(tokens / mid[name]), "of_nll": round(ratio[name], 4)} for name in runs}
    print(json.dumps(about | {"preset": cfg.model.preset, "tokens": tokens} | {"updates": figures}))


if __name__ == "__main__":
    main()
