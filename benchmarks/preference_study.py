"""Iterated preferences: fine-tuning on the chosen side, DPO alone and DPO + NLL.

    python benchmarks/preference_study.py --out=runs/preference_study [--tasks=addition,...] \\
        [--seeds=3] [--plot=FILE]

At equal numbers of samples and updates: four rounds of 8 samples for each of 375 questions, as
``configs/irpo_addition.py`` makes them. For each task one base model, that of the other studies.
The plot has test accuracy over samples drawn above, and the mechanism below: how far the
log-likelihoods of the chosen and of the rejected side are from where the round began.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file
from ml_collections import ConfigDict

from reasoning_jax import metrics

TASKS = ("addition", "object_counting", "boolean_expressions")
METHODS = ("SFT on the chosen", "DPO", "DPO + NLL", "DPO + 10 NLL")
COLOURS = dict(zip(METHODS, ("#888888", "#b5762a", "#1a8f5a", "#2f6fb0"), strict=True))
ARGUMENTS = {"DPO": "dpo", "SFT on the chosen": "nll"}  # of configs/irpo_addition.py
SIDES = ("chosen", "rejected")


def config(task: str, method: str, seed: int) -> ConfigDict:
    cfg = trice_study.experiment(task)
    irpo = study.experiment(f"irpo_addition:{ARGUMENTS.get(method, '')}")
    for section in ("algorithm", "rounds", "optim", "sequence_length", "batch_size"):
        cfg[section] = irpo[section]
    cfg.task.num_train = 1500
    cfg.rounds.examples = 375
    cfg.rounds.updates = 40
    cfg.optim.decay = 0.5
    if method != "DPO":
        cfg.algorithm.alpha = 10.0 if method == "DPO + 10 NLL" else 1.0
    cfg.eval.every = cfg.eval.test_every = 1
    cfg.eval.num_examples = 20
    cfg.eval.num_test = 250  # the test split is what is looked at
    return cfg


def updates(run: study.Run) -> list[dict]:
    """The lines of metrics about the updates of the rounds."""
    lines = metrics.read(run.directory)
    return [m for m in lines if m["phase"] == "update" and m["round"] > 0]


def drift(run: study.Run, side: str) -> np.ndarray:
    """[n, 2]: updates, and log p of a side less that of the round's start model.

    In nats, the mean over the batch's pairs.
    """
    beta = config(run.task, run.method, 0).algorithm.beta
    return np.array([(m["step"], m[f"update/{side}_reward"] / beta) for m in updates(run)])


def ends(runs: Sequence[study.Run]) -> str:
    """The drift at the end of a round: means over rounds and seeds, standard errors over runs."""
    header = "| task | side | " + " | ".join(METHODS) + " |"
    lines = [header, "|---" * (len(METHODS) + 2) + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        of_task = [r for r in runs if r.task == task]
        for side in SIDES:
            cells = []
            for method in METHODS:
                drifts = [end_of_rounds(r, side) for r in of_task if r.method == method]
                mean = "{:+.1f} ± {:.1f}".format(*study.mean_and_error(drifts)) if drifts else ""
                cells.append(mean)
            lines.append(f"| {task.replace('_', ' ')} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def end_of_rounds(run: study.Run, side: str) -> float:
    """The mean over rounds of the drift at their last update."""
    last = {m["round"]: m for m in updates(run)}
    beta = config(run.task, run.method, 0).algorithm.beta
    return float(np.mean([m[f"update/{side}_reward"] / beta for m in last.values()]))


def plot(runs: Sequence[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(3, len(tasks), figsize=(3.8 * len(tasks), 7.6), squeeze=False)
    for column, task in zip(axes.T, tasks, strict=True):
        study.draw_accuracy(column[0], runs, task, COLOURS)
        of_task = [r for r in runs if r.task == task]
        for axis, side in zip(column[1:], SIDES, strict=True):
            curves = {m: [drift(r, side) for r in of_task if r.method == m] for m in METHODS}
            study.draw(axis, curves, COLOURS)
            axis.axhline(0, color="black", linewidth=0.6)
            axis.set(xlabel="updates", title=f"log p({side}) since the round began")
    axes[0][0].set_ylabel("test accuracy, %")
    for panels in axes[1:]:
        panels[0].set_ylabel("nats")
    study.save(figure, axes[0][0], path)


def main() -> None:
    args = study.arguments(__doc__, TASKS, METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    print(f"{study.table(runs, METHODS)}\n\n{ends(runs)}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
