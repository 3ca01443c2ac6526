"""Iterated preferences: fine-tuning on the chosen side, DPO alone and DPO + NLL, at equal numbers of samples and updates.

    python benchmarks/preference_study.py --out=runs/preference_study [--tasks=addition,...] [--seeds=3] [--plot=FILE]

Four rounds of 8 samples for each of 375 questions, as ``configs/irpo_addition.py`` makes them. For each task one base model,
that of the other studies. The plot has test accuracy over samples drawn above, and the mechanism below: how far the
log-likelihoods of the chosen and of the rejected side are from where the round began.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file

from configs import irpo_addition
from reasoning_jax import metrics

TASKS = ("addition", "object_counting", "boolean_expressions")
METHODS = ("SFT on the chosen", "DPO", "DPO + NLL", "DPO + 10 NLL")
COLOURS = dict(zip(METHODS, ("#888888", "#b5762a", "#1a8f5a", "#2f6fb0"), strict=True))


def config(task: str, method: str, seed: int):
    c, i = trice_study.experiment(task), irpo_addition.get_config({"DPO": "dpo", "SFT on the chosen": "nll"}.get(method, ""))
    c.algorithm, c.optim, c.sequence_length, c.batch_size = i.algorithm, i.optim, i.sequence_length, i.batch_size
    c.algorithm.examples_per_round, c.task.num_train = 375, 1500
    c.algorithm.start_updates, c.optim.decay = 40, 0.5
    if method != "DPO":
        c.algorithm.alpha = 10.0 if method == "DPO + 10 NLL" else 1.0
    c.eval.every = c.eval.test_every = 1
    c.eval.num_examples, c.eval.num_test = 20, 250  # the test split is what is looked at
    return c


def drift(run: study.Run, side: str) -> np.ndarray:
    """[n, 2]: updates, and log p of a side less that of the round's start model, in nats, the mean over the batch's pairs."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "update" and m["round"] > 0]
    return np.array([(m["step"], m[f"update/{side}_reward"] / config(run.task, run.method, 0).algorithm.beta) for m in lines])


def ends(runs: list[study.Run]) -> str:
    """Where the drift is at the end of a round: means over rounds, tasks and seeds, with the standard error over runs."""
    lines = ["| task | side | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 2) + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        for side in ("chosen", "rejected"):
            cells = []
            for method in METHODS:
                each = []
                for run in (r for r in runs if r.task == task and r.method == method):
                    last = {m["round"]: m for m in metrics.read(run.directory) if m["phase"] == "update" and m["round"] > 0}
                    beta = config(task, method, 0).algorithm.beta
                    each.append(np.mean([m[f"update/{side}_reward"] / beta for m in last.values()]))
                cells.append("{:+.1f} ± {:.1f}".format(*study.mean_and_error(each)) if each else "")
            lines.append(f"| {task.replace('_', ' ')} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: list[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(3, len(tasks), figsize=(3.8 * len(tasks), 7.6), squeeze=False)
    for column, task in zip(axes.T, tasks, strict=True):
        study.draw_accuracy(column[0], runs, task, COLOURS)
        for axis, side in zip(column[1:], ("chosen", "rejected"), strict=True):
            found = {m: [drift(r, side) for r in runs if r.task == task and r.method == m] for m in METHODS}
            study.draw(axis, found, COLOURS)
            axis.axhline(0, color="black", linewidth=0.6)
            axis.set(xlabel="updates", title=f"log p({side}) since the round began")
    axes[0][0].set_ylabel("test accuracy, %")
    for row in axes[1:]:
        row[0].set_ylabel("nats")
    study.save(figure, axes[0][0], path)


def main() -> None:
    args = study.arguments(__doc__, TASKS, METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    print(f"{study.table(runs, METHODS)}\n\n{ends(runs)}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
