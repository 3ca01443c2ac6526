"""Filler tokens: what is learned with them, without, and with them in fine-tuning alone.

    python benchmarks/filler_study.py --out=runs/fillers [--arms=mixed,immediate,...] [--seeds=3]
        [--task=three_sum] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing of the arms of configs/filler_tokens.py (``worked`` only where it is named),
and asks the test questions of each arm's last round; of ``mixed`` also with fewer fillers than it
has seen. Accuracies of greedy answers in percent: mean, standard error and (each seed).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import side_by_side
from side_by_side import job_of, mean_and_error, run_all

CONFIG = "configs/filler_tokens.py"
TASKS = ("parity", "three_sum")
BEGINS_FROM = {"finetuned": "immediate"}
ARMS = ("mixed", "immediate", "fillers", "finetuned")
FEWER = (0.75, 0.5, 0.0)  # of the fillers that were trained with


def accuracy(directory: Path, num_fillers: int | None = None) -> float:
    """Of the last round; None: with as many fillers as in training."""
    changes = {} if num_fillers is None else {"task.num_fillers": num_fillers}
    exp, params = side_by_side.restored(directory, **changes)
    rollout = exp.rollout(params, "study", exp.cfg.rounds.count, temperature=0.0)
    return float(np.mean([sample.correct for sample in rollout(exp.load_eval("test"))]))


def main() -> None:
    parser = side_by_side.parser_of(__doc__, ARMS)
    parser.add_argument("--task", default=TASKS[0], choices=TASKS)
    args, flags = parser.parse_known_args()
    known = (*ARMS, "worked")
    unknown = sorted(set(args.arms) - set(known))
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(known)}.")
    out = args.out.resolve()
    jobs = []
    for seed in range(args.seeds):
        for arm in side_by_side.with_beginnings(args.arms, BEGINS_FROM):
            base = out / f"{BEGINS_FROM[arm]}_{seed}" if arm in BEGINS_FROM else None
            own = ",".join([arm, args.task, *(["smoke"] if args.smoke else [])])
            jobs.append(job_of(f"{CONFIG}:{own}", out / f"{arm}_{seed}", seed, flags, base))
    run_all(jobs, args.at_once)
    print("| arm | right answers, % |\n|---|---|")
    for arm in args.arms:
        directories = [out / f"{arm}_{seed}" for seed in range(args.seeds)]
        print_row(arm, [accuracy(directory) for directory in directories])
        if arm != "mixed":
            continue
        exp, _ = side_by_side.restored(directories[0])
        for kept in FEWER:
            fewer = int(kept * exp.cfg.task.num_fillers)
            found = [accuracy(directory, fewer) for directory in directories]
            print_row(f"mixed, asked with {fewer} fillers", found)


def print_row(name: str, accuracies: list[float]) -> None:
    each = ", ".join(f"{100 * one:.1f}" for one in accuracies)
    print(f"| {name} | {mean_and_error(accuracies)} ({each}) |", flush=True)


if __name__ == "__main__":
    main()
