"""Filler tokens: what is learned with them, without, and with them in fine-tuning alone.

    python benchmarks/filler_study.py --out=runs/fillers [--arms=mixed,immediate,...] [--seeds=3]
        [--task=three_sum] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing of configs/filler_tokens.py, and asks the test questions of each arm's last
round; of ``mixed`` also with fewer fillers than it has seen. Accuracies of greedy answers in
percent, with the standard error over seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from side_by_side import job_of, mean_and_error, run_all

from reasoning_jax import config, experiment
from reasoning_jax.training import checkpoint

CONFIG = "configs/filler_tokens.py"
TASKS = ("parity", "three_sum")
BEGINS_FROM = {"finetuned": "immediate"}
ARMS = ("mixed", "immediate", "fillers", "finetuned")
FEWER = (0.75, 0.5, 0.0)  # of the fillers that were trained with


def accuracy(directory: Path, kept: float = 1.0) -> float:
    """Of the last round, with this fraction of its fillers."""
    cfg = config.rebuild(directory)
    cfg.task.num_fillers = int(kept * cfg.task.num_fillers)
    exp = experiment.make(cfg, jax.devices()[:1])
    params = checkpoint.restore(directory / "checkpoints", exp.abstract_state().params).params
    rollout = exp.rollout(params, "study", cfg.rounds.count, temperature=0.0)
    return float(np.mean([sample.correct for sample in rollout(exp.load_eval("test"))]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS), type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--task", default=TASKS[0], choices=TASKS)
    parser.add_argument("--at_once", type=int, default=1, help="runs side by side")
    parser.add_argument("--smoke", action="store_true", help="models that learn nothing")
    args, flags = parser.parse_known_args()
    known = (*ARMS, "worked")
    unknown = sorted(set(args.arms) - set(known))
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(known)}.")
    out = args.out.resolve()
    jobs = []
    for seed in range(args.seeds):
        for arm in with_beginnings(args.arms):
            base = out / f"{BEGINS_FROM[arm]}_{seed}" if arm in BEGINS_FROM else None
            own = ",".join([arm, args.task, *(["smoke"] if args.smoke else [])])
            jobs.append(job_of(f"{CONFIG}:{own}", out / f"{arm}_{seed}", seed, flags, base))
    run_all(jobs, args.at_once)
    print("| arm | right answers, % |\n|---|---|")
    for arm in args.arms:
        print_row(arm, [accuracy(out / f"{arm}_{seed}") for seed in range(args.seeds)])
        if arm != "mixed":
            continue
        for kept in FEWER:
            found = [accuracy(out / f"{arm}_{seed}", kept) for seed in range(args.seeds)]
            print_row(f"mixed, {100 * kept:.0f} % of its fillers", found)


def with_beginnings(arms: list[str]) -> list[str]:
    """The arms, each once and after the one that it begins from."""
    first = [BEGINS_FROM[arm] for arm in arms if arm in BEGINS_FROM]
    return list(dict.fromkeys([*first, *arms]))


def print_row(name: str, accuracies: list[float]) -> None:
    each = ", ".join(f"{100 * one:.1f}" for one in accuracies)
    print(f"| {name} | {mean_and_error(accuracies)} ({each}) |", flush=True)


if __name__ == "__main__":
    main()
