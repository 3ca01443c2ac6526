"""TRICE beside STaR and rejection sampling, at equal numbers of samples and updates.

    python benchmarks/trice_study.py --out=runs/trice_study [--tasks=addition,web_of_lies,...] \\
        [--seeds=3] [--plot=FILE]

The plot is accuracy over samples drawn. For each task one base model, from which all methods and
seeds start. Forms of BIG-Bench Hard are tested on the published problems, which no generator makes.
Runs what is missing (a run that is done is not run again), then reads the work directories. TRICE's
samples include those of its hinted guide, STaR's its hinted attempts.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
from ml_collections import ConfigDict

from reasoning_jax import metrics

FORMS = ("boolean_expressions", "navigate", "object_counting", "web_of_lies")
STAR, PARTICLES, OURS = "STaR", "rejection, 4 particles", "TRICE, ours"
CONTROL_VARIATES = {
    "TRICE, no control variate": "none",
    "TRICE, the paper's": "batch",
    OURS: "history",
}
METHODS = (STAR, PARTICLES, *CONTROL_VARIATES)
COLOURS = dict(zip(METHODS, ("#888888", "#b5762a", "#2f6fb0", "#7a3f9d", "#1a8f5a"), strict=True))
STAR_ROUNDS = 5


def experiment(task: str) -> ConfigDict:
    """The paper's Algorithm 1 on this task."""
    if task != "addition":
        return study.experiment(f"trice_bbh:{task}")
    cfg = study.experiment("trice_addition:online")
    cfg.task.num_train = 1000
    cfg.rounds.count = 120
    cfg.eval.every = 30
    return cfg


def config(task: str, method: str, seed: int) -> ConfigDict:
    """TRICE's config of the task, or that of another method with as many samples and updates."""
    cfg = experiment(task)
    cfg.eval.test_every = cfg.eval.every
    cfg.eval.num_examples = 20  # the test split is what is looked at, in every evaluation
    cfg.eval.num_test = 250
    updates = cfg.rounds.count
    samples = cfg.task.num_train + updates * cfg.rounds.examples
    if method == STAR:
        use_star(cfg, samples, updates)
    elif method == PARTICLES:
        study.use_algorithm(cfg, "rejection", per_question=True, num_samples=4)
        cfg.rounds.examples = samples // updates // 4
        # At 1e-3, with the few questions that it has a sample of, it forgets the format.
        cfg.optim.learning_rate = 3e-4
    else:
        cfg.algorithm.control_variate = CONTROL_VARIATES[method]
    return cfg


def use_star(cfg: ConfigDict, samples: int, updates: int) -> None:
    """STaR with about so many samples and updates, in a few long rounds."""
    study.use_algorithm(cfg, "star")
    cfg.eval.every = cfg.eval.test_every = 1
    cfg.task.num_train = max(cfg.task.num_train, 10_000)  # it visits each question once or twice
    cfg.rounds.online = False
    cfg.rounds.restart = True
    cfg.rounds.count = STAR_ROUNDS
    # About a third of the attempts are made again, with a hint.
    cfg.rounds.examples = int(samples / STAR_ROUNDS / 1.35)
    cfg.rounds.growth = 1.0
    cfg.rounds.increment = updates // 20
    mean_increment = cfg.rounds.increment * (STAR_ROUNDS - 1) // 2
    cfg.rounds.updates = updates // STAR_ROUNDS - mean_increment
    cfg.sampling.temperature = 0.0
    cfg.optim.clip_norm = 1.0
    cfg.optim.decay = 0.2


def variances(runs: Sequence[study.Run]) -> str:
    """What is left of the gradient's variance under each control variate.

    On the same batches, those of the runs with ours.
    """
    lines = [
        "| task | the paper's | ours | p(correct), first and last tenth of the rounds |",
        "|---|---|---|---|",
    ]
    for task in dict.fromkeys(r.task for r in runs):
        of_task = [r for r in runs if r.task == task and r.method == OURS]
        every = [m for r in of_task for m in metrics.read(r.directory)]
        collected = [m for m in every if m["phase"] == "collect" and m["round"] > 0]
        measured = [m for m in collected if "collect/variance_basic" in m]
        # The first measurement of a run is what ours begins to learn from: until then it is no
        # control variate.
        first = min((m["round"] for m in measured), default=0)
        measured = [m for m in measured if m["round"] > first]
        if not measured:
            continue
        totals = {
            name: sum(m[f"collect/variance_{name}"] for m in measured)
            for name in ("basic", "paper", "ours")
        }
        paper = totals["paper"] / totals["basic"]
        ours = totals["ours"] / totals["basic"]
        last = max(m["round"] for m in collected)
        early = np.mean([m["collect/correct"] for m in collected if m["round"] / last <= 0.1])
        late = np.mean([m["collect/correct"] for m in collected if m["round"] / last > 0.9])
        name = task.replace("_", " ")
        lines.append(f"| {name} | {paper:.2f} | {ours:.2f} | {early:.2f}, {late:.2f} |")
    return "\n".join(lines)


def plot(runs: Sequence[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.6 * len(tasks), 3.4), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        study.draw_accuracy(axis, runs, task, COLOURS)
    axes[0][0].set_ylabel("test accuracy, %")
    study.save(figure, axes[0][0], path)


def main() -> None:
    args = study.arguments(__doc__, ("addition", *FORMS), METHODS)
    runs = study.run_all(args, experiment, config)
    print(f"{study.table(runs, METHODS)}\n\n{variances(runs)}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
