"""V-STaR on held-out problems: pass@k, maj@k and the verifier's best-of-k over k, from the same samples.

    python benchmarks/verifier_study.py --out=runs/verifier_study [--tasks=object_counting] [--seeds=3] [--plot=FILE]

Two rounds of a generator from the studies' base model, 8 samples for each of 600 questions, then a verifier, the rest as in
``configs/vstar_addition.py``; 64 samples for each of the test problems, by the generator's best round.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file

from configs import vstar_addition

METHODS = ("V-STaR",)
BEST = "best-of-k by log V"
CURVES = {"pass_at": "pass@k", "best_of": BEST, "best_of_ratio": f"{BEST} / base", "maj_at": "maj@k"}
COLOURS = dict(zip(CURVES, ("#888888", "#1a8f5a", "#2f6fb0", "#b5762a"), strict=True))
SAMPLES = 64


def config(task: str, method: str, seed: int):
    c, v = trice_study.experiment(task), vstar_addition.get_config()
    c.algorithm, c.optim, c.sequence_length, c.batch_size = v.algorithm, v.optim, v.sequence_length, v.batch_size
    c.algorithm.num_rounds, c.task.num_train = 3, 600
    c.sampling.temperature = v.sampling.temperature
    c.eval.every, c.eval.test_every = 1, 4
    c.eval.num_examples, c.eval.num_test = 100, 250
    return c


def evaluate(run: study.Run) -> dict[str, float]:
    """The run's figures on the test split, computed once."""
    from reasoning_jax import command_line
    from reasoning_jax import evaluate as command

    path = run.directory / "evaluation_test.json"
    if not path.exists():
        flags = SimpleNamespace(samples=SAMPLES, split="test", temperature=1.0)
        command.main(command_line.rebuild(run.directory), run.directory, flags)
    return json.loads(path.read_text())


def curves(runs: list[study.Run], task: str) -> dict[str, list[np.ndarray]]:
    """For each curve [n, 2] of every seed: k and the figure in %."""
    found, sizes = [evaluate(r) for r in runs if r.task == task], [1 << i for i in range(SAMPLES.bit_length())]
    return {name: [np.array([(k, 100 * f[f"eval/{name}_{k}"]) for k in sizes]) for f in found] for name in CURVES}


def table(runs: list[study.Run]) -> str:
    """Means over seeds, standard errors over seeds and, in brackets, over the problems of one seed."""
    lines = ["| task | curve | k = 1 | 4 | 16 | 64 |", "|---" * 6 + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        found = [evaluate(r) for r in runs if r.task == task]
        for name, title in CURVES.items():
            cells = []
            for k in (1, 4, 16, 64):
                mean, error = study.mean_and_error([100 * f[f"eval/{name}_{k}"] for f in found])
                cells.append(f"{mean:.1f} ± {error:.1f} ({np.mean([100 * f[f'eval/{name}_{k}_stderr'] for f in found]):.1f})")
            lines.append(f"| {task.replace('_', ' ')} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: list[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 3.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        found = curves(runs, task)
        lines, colours = {CURVES[n]: c for n, c in found.items()}, {CURVES[n]: COLOURS[n] for n in CURVES}
        study.draw(axis, lines, colours, marker="o", markersize=3)
        axis.set_xscale("log", base=2)
        axis.set(title=task.replace("_", " "), xlabel="samples a problem, k", ylabel="test problems right, %")
        axis.set_xticks([1 << i for i in range(SAMPLES.bit_length())], [str(1 << i) for i in range(SAMPLES.bit_length())])
    study.save(figure, axes[0][0], path)


def main() -> None:
    args = study.arguments(__doc__, ("object_counting",), METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    print(table(runs))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
