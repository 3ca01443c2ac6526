"""V-STaR on held-out problems: pass@k, maj@k and the verifier's best-of-k over k.

    python benchmarks/verifier_study.py --out=runs/verifier_study [--tasks=object_counting] \\
        [--seeds=3] [--plot=FILE]

Two rounds of a generator from the studies' base model, 8 samples for each of 600 questions, then a
verifier, the rest as in ``configs/vstar_addition.py``. All curves are of the same 64 samples of
each test problem, by the generator's best round.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file
from ml_collections import ConfigDict

import reasoning_jax

METHODS = ("V-STaR",)
BEST = "best-of-k by log V"
CURVES = {
    "pass_at": "pass@k",
    "best_of": BEST,
    "best_of_ratio": f"{BEST} / base",
    "maj_at": "maj@k",
}
COLOURS = dict(zip(CURVES.values(), ("#888888", "#1a8f5a", "#2f6fb0", "#b5762a"), strict=True))
SAMPLES = 64
SIZES = [1 << i for i in range(SAMPLES.bit_length())]  # 1, 2, 4 ... SAMPLES


def config(task: str, method: str, seed: int) -> ConfigDict:
    cfg = trice_study.experiment(task)
    vstar = study.experiment("vstar_addition")
    for section in ("algorithm", "rounds", "optim", "sequence_length", "batch_size"):
        cfg[section] = vstar[section]
    cfg.rounds.count = 3
    cfg.task.num_train = 600
    cfg.sampling.temperature = vstar.sampling.temperature
    cfg.eval.every = 1
    cfg.eval.test_every = 4
    cfg.eval.num_examples = 100
    cfg.eval.num_test = 250
    return cfg


def evaluate(run: study.Run) -> dict[str, float]:
    """The run's figures on the test split, computed once."""
    path = run.directory / "evaluation_test.json"
    if not path.exists():
        trained = reasoning_jax.open(run.directory)
        trained.evaluate(split="test", samples=SAMPLES, temperature=1.0)
    return json.loads(path.read_text())


def curves(runs: Sequence[study.Run], task: str) -> dict[str, list[np.ndarray]]:
    """For each curve's title [n, 2] of every seed: k and the figure in %."""
    seeds = [evaluate(r) for r in runs if r.task == task]
    out = {}
    for name, title in CURVES.items():
        points = [[(k, 100 * figures[f"eval/{name}_{k}"]) for k in SIZES] for figures in seeds]
        out[title] = [np.array(curve) for curve in points]
    return out


def table(runs: Sequence[study.Run]) -> str:
    """Means over seeds, standard errors over seeds and, in brackets, over one seed's problems."""
    lines = ["| task | curve | k = 1 | 4 | 16 | 64 |", "|---" * 6 + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        seeds = [evaluate(r) for r in runs if r.task == task]
        for name, title in CURVES.items():
            cells = [table_cell(seeds, f"eval/{name}_{k}") for k in (1, 4, 16, 64)]
            lines.append(f"| {task.replace('_', ' ')} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_cell(seeds: Sequence[dict[str, float]], key: str) -> str:
    mean, error = study.mean_and_error([100 * figures[key] for figures in seeds])
    error_of_one = np.mean([100 * figures[f"{key}_stderr"] for figures in seeds])
    return f"{mean:.1f} ± {error:.1f} ({error_of_one:.1f})"


def plot(runs: Sequence[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 3.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        study.draw(axis, curves(runs, task), COLOURS, marker="o", markersize=3)
        axis.set_xscale("log", base=2)
        title = task.replace("_", " ")
        axis.set(title=title, xlabel="samples a problem, k", ylabel="test problems right, %")
        axis.set_xticks(SIZES, [str(k) for k in SIZES])
    study.save(figure, axes[0][0], path)


def main() -> None:
    args = study.arguments(__doc__, ("object_counting",), METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    print(table(runs))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
