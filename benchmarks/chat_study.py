"""STaR, TRICE, IRPO and GRPO on a published chat model: accuracy over samples, seeds, a plot.

    python benchmarks/chat_study.py --out=runs/chat_study [--methods="STaR;TRICE"] [--seeds=3] \\
        [--plot=FILE]

"STaR, GRPO" is one round of STaR and then GRPO, whose curve counts the samples of both. The runs
are those of configs/smollm2_gym.py, with test accuracy at their beginning and end and validation
accuracy between. A run that is done is not run again; one that was stopped goes on. On two CPU
cores a run takes about half an hour.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
from ml_collections import ConfigDict

from reasoning_jax import config as configuration
from reasoning_jax import metrics

METHODS = {"STaR": "star", "TRICE": "trice", "IRPO": "dpo", "GRPO": "grpo", "STaR, GRPO": "grpo"}
COLOURS = dict(zip(METHODS, ("#2f6fb0", "#1a8f5a", "#b5762a", "#b9a3cc", "#7a3f9d"), strict=True))
TASK = "smollm2_gym"


def run_all(methods: Sequence[str], seeds: int, out: Path) -> list[study.Run]:
    """Every run to its end."""
    runs = []
    for seed in range(seeds):
        for method in methods:
            cfg = config(METHODS[method], seed)
            if method == "STaR, GRPO":
                first = one_round_of_star(seed, out)
                cfg.base.init_from = str(first / "best")
            directory = out / f"{study.folder_name(method)}_{seed}"
            study.train(cfg, directory)
            runs.append(study.Run(task=TASK, method=method, seed=seed, directory=directory))
    return runs


def config(argument: str, seed: int) -> ConfigDict:
    cfg = configuration.load(f"{study.ROOT}/configs/{TASK}.py:{argument}")
    cfg.seed = seed
    cfg.task.num_eval = 200
    return cfg


def one_round_of_star(seed: int, out: Path) -> Path:
    """Its work directory."""
    cfg = config("star", seed)
    cfg.rounds.count = 1
    directory = out / f"one_round_of_STaR_{seed}"
    study.train(cfg, directory)
    return directory


def curve(run: study.Run) -> np.ndarray:
    """[n, 2]: samples drawn, those of a first round of STaR too, and validation accuracy in %."""
    points = study.accuracy(run, "validation")
    first = first_run(run)
    if first == run:
        return points
    before = study.accuracy(first, "validation")
    points[:, 0] += before[-1, 0]
    return np.concatenate([before, points[1:]])


def first_run(run: study.Run) -> study.Run:
    """The run that this one goes on from, or itself."""
    if run.method != "STaR, GRPO":
        return run
    folder = run.directory.with_name(f"one_round_of_STaR_{run.seed}")
    return dataclasses.replace(run, directory=folder)


def first_and_last(run: study.Run) -> tuple[float, float]:
    """Test accuracy in % of the model as it is published, and after the last round."""
    return min(tests(first_run(run)))[1], max(tests(run))[1]


def tests(run: study.Run) -> list[tuple[int, float]]:
    """The rounds that were tested, and their accuracy in %."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "eval"]
    return [(m["round"], 100 * m["eval/accuracy"]) for m in lines if m["split"] == "test"]


def table(runs: Sequence[study.Run]) -> str:
    lines = ["| | samples | before | after (each seed) | mean |", "|---" * 5 + "|"]
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        before, after = zip(*map(first_and_last, own), strict=True)
        samples = np.mean([curve(run)[-1, 0] for run in own])
        each = ", ".join(f"{value:.1f}" for value in after)
        mean = "{:.1f} ± {:.1f}".format(*study.mean_and_error(after))
        lines.append(f"| {method} | {samples:,.0f} | {before[0]:.1f} | {each} | {mean} |")
    return "\n".join(lines)


def plot(runs: Sequence[study.Run], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    curves: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for run in runs:
        curves[run.method].append(curve(run))
    study.draw(axis, curves, COLOURS, marker="o", markersize=2.5)
    title = "SmolLM2-135M-Instruct, LoRA, sums of two numbers"
    axis.set(title=title, xlabel="samples drawn", ylabel="validation accuracy, %")
    study.save(figure, axis, path)


def main() -> None:
    args = study.arguments(__doc__, (TASK,), tuple(METHODS))
    runs = run_all(args.methods, args.seeds, args.out.resolve())
    print(table(runs))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
