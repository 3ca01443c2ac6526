"""STaR, TRICE, DPO and GRPO on a published chat model: accuracy over samples, seeds, a plot.

    python benchmarks/chat_study.py --out=runs/chat_study [--methods="STaR;TRICE"] [--seeds=3] \\
        [--plot=FILE]

The runs are those of configs/smollm2_gym.py, with test accuracy at their beginning and end and
validation accuracy between. A run that is done is not run again; one that was stopped goes on. On
two CPU cores a run takes about half an hour.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file

from reasoning_jax import config as configuration
from reasoning_jax import metrics

METHODS = {"STaR": "star", "TRICE": "trice", "DPO": "dpo", "GRPO": "grpo"}
COLOURS = dict(zip(METHODS, ("#2f6fb0", "#1a8f5a", "#b5762a", "#7a3f9d"), strict=True))
TASK = "smollm2_gym"


def run_all(methods: Sequence[str], seeds: int, out: Path) -> list[study.Run]:
    """Every run to its end."""
    runs = []
    for seed in range(seeds):
        for method in methods:
            path = f"{study.ROOT}/configs/{TASK}.py:{METHODS[method]}"
            cfg = configuration.load(path)
            cfg.seed = seed
            cfg.task.num_eval = 200
            directory = out / f"{METHODS[method]}_{seed}"
            study.train(cfg, directory)
            runs.append(study.Run(task=TASK, method=method, seed=seed, directory=directory))
    return runs


def first_and_last(run: study.Run) -> tuple[float, float]:
    """Test accuracy in % before round 1 and after the last."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "eval"]
    tests = {m["round"]: 100 * m["eval/accuracy"] for m in lines if m["split"] == "test"}
    return tests[0], tests[max(tests)]


def table(runs: Sequence[study.Run]) -> str:
    lines = ["| | samples | before | after (each seed) | mean |", "|---" * 5 + "|"]
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        before, after = zip(*map(first_and_last, own), strict=True)
        samples = np.mean([study.accuracy(run, "validation")[-1, 0] for run in own])
        each = ", ".join(f"{value:.1f}" for value in after)
        mean = "{:.1f} ± {:.1f}".format(*study.mean_and_error(after))
        lines.append(f"| {method} | {samples:,.0f} | {before[0]:.1f} | {each} | {mean} |")
    return "\n".join(lines)


def plot(runs: Sequence[study.Run], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    curves: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for run in runs:
        curves[run.method].append(study.accuracy(run, "validation"))
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
