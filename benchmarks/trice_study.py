"""TRICE beside STaR and rejection sampling, at equal numbers of samples and updates: accuracy over samples drawn.

    python benchmarks/trice_study.py --out=runs/trice_study [--tasks=addition,web_of_lies,...] [--seeds=3] [--plot=FILE]

For each task one base model, from which all methods and seeds start. Forms of BIG-Bench Hard are tested on the published
rows, which no generator makes. Runs what is missing (a run that is done is not run again), then reads the work directories.
TRICE's samples include those of its hinted guide, STaR's its hinted attempts.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file

from configs import trice_addition, trice_bbh
from reasoning_jax import metrics

FORMS = ("boolean_expressions", "navigate", "object_counting", "web_of_lies")
METHODS = ("STaR", "rejection, 4 particles", "TRICE, no control variate", "TRICE, the paper's", "TRICE, ours")
COLOURS = dict(zip(METHODS, ("#888888", "#b5762a", "#2f6fb0", "#7a3f9d", "#1a8f5a"), strict=True))
STAR_ROUNDS = 5


def experiment(task: str):
    """The paper's Algorithm 1 on this task."""
    if task != "addition":
        return trice_bbh.get_config(task)
    c = trice_addition.get_config("online")
    c.task.num_train, c.algorithm.num_rounds, c.eval.every = 1000, 120, 30
    return c


def config(task: str, method: str, seed: int):
    """TRICE's config of the task, or that of another method with as many samples and updates."""
    c = experiment(task)
    c.eval.test_every = c.eval.every
    c.eval.num_examples = 20  # the test split is what is looked at, in every evaluation
    c.eval.num_test = 250
    a, updates = c.algorithm, c.algorithm.num_rounds
    samples = c.task.num_train + updates * a.examples_per_round
    if method == "STaR":
        a.name, a.online, a.restart, a.schedule = "star", False, True, "linear"
        a.num_rounds, c.eval.every, c.eval.test_every = STAR_ROUNDS, 1, 1
        c.task.num_train = max(c.task.num_train, 10_000)  # it visits each question once or twice
        a.examples_per_round = int(samples / STAR_ROUNDS / 1.35)  # about a third of the attempts are made again, with a hint
        a.increment = updates // 20
        a.start_updates = updates // STAR_ROUNDS - a.increment * (STAR_ROUNDS - 1) // 2
        c.sampling.temperature, c.optim.clip_norm, c.optim.decay = 0.0, 1.0, 0.2
    elif method == "rejection, 4 particles":
        a.name, a.per_question = "rejection", True
        a.examples_per_round = samples // updates // 4
        c.optim.learning_rate = 3e-4  # at 1e-3, with the few questions that it has a sample of, it forgets the format
    else:
        a.control_variate = ("none", "batch", "history")[METHODS.index(method) - 2]
    return c


def first_measured(collected: list[dict]) -> int:
    return min((m["round"] for m in collected if "collect/variance_basic" in m), default=0)


def variances(runs: list[study.Run]) -> str:
    """What is left of the gradient's variance under each control variate, on the same batches of the runs with ours."""
    lines = ["| task | the paper's | ours | p(correct), first and last tenth of the rounds |", "|---|---|---|---|"]
    for task in dict.fromkeys(r.task for r in runs):
        found = [m for r in runs if r.task == task and r.method == METHODS[-1] for m in metrics.read(r.directory)]
        collected = [m for m in found if m["phase"] == "collect" and m["round"] > 0]
        # The first measurement of a run is what ours begins to learn from: until then it is no control variate.
        measured = [m for m in collected if "collect/variance_basic" in m and m["round"] > first_measured(collected)]
        if not measured:
            continue
        total = {k: sum(m[f"collect/variance_{k}"] for m in measured) for k in ("basic", "paper", "ours")}
        last = max(m["round"] for m in collected)
        ends = [[m["collect/correct"] for m in collected if where(m["round"] / last)]
                for where in (lambda x: x <= 0.1, lambda x: x > 0.9)]  # fmt: skip
        cells = [f"{total[k] / total['basic']:.2f}" for k in ("paper", "ours")] + [f"{np.mean(e):.2f}" for e in ends]
        lines.append(f"| {task.replace('_', ' ')} | {cells[0]} | {cells[1]} | {cells[2]}, {cells[3]} |")
    return "\n".join(lines)


def plot(runs: list[study.Run], path: Path) -> None:
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
