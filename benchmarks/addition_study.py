"""STaR on addition, with and without rationalization, beside direct answers: a table and a plot.

    python benchmarks/addition_study.py --out=runs/study [--seeds=3] [--plot=FILE] [--only=star]

Runs what is missing (a run that is done is not run again), then reads the work directories. The
runs without rationalization start from the base models of those with it.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reasoning_jax import metrics

VARIANTS = {
    "star": ["--config=configs/star_addition.py"],
    "no rationalization": [
        "--config=configs/star_addition.py",
        "--config.algorithm.rationalize=False",
        "--config.base.num_updates=0",
    ],
    "direct": ["--config=configs/sft_addition.py:direct"],
}


def run(out: Path, variant: str, seed: int) -> Path:
    """One run to its end; its work directory."""
    out = out.resolve()
    directory = out / f"{variant.replace(' ', '_')}_{seed}"
    flags = [*VARIANTS[variant], f"--workdir={directory}", f"--config.seed={seed}"]
    if variant == "no rationalization":
        flags.append(f"--config.base.init_from={out / f'star_{seed}' / 'base'}")
    subprocess.run([sys.executable, "-m", "reasoning_jax.main", *flags], check=True, cwd=ROOT)
    return directory


def evaluations(directory: Path, split: str) -> dict[int, dict]:
    """round -> its evaluation on this split."""
    lines = [m for m in metrics.read(directory) if m["phase"] == "eval"]
    return {m["round"]: m for m in lines if m["split"] == split}


def mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.0f}–{max(values):.0f})"


def table(runs: dict[str, list[Path]]) -> str:
    """Test accuracy by digits of the last round: mean over seeds, and the range."""
    lines = []
    for label, directories in runs.items():
        rounds = [evaluations(directory, "test") for directory in directories]
        if label == "star":
            lines.append(table_line(f"{label}, base", [r[min(r)] for r in rounds]))
        lines.append(table_line(f"{label}, last", [r[max(r)] for r in rounds]))
    return "\n".join(lines)


def table_line(title: str, seeds: list[dict]) -> str:
    """One line of the table, from the same evaluation of every seed."""
    cells = []
    for name, value in metrics.by_difficulty(seeds[0]):
        cells.append(mean_and_range([100 * m[f"eval/accuracy_{name}_{value}"] for m in seeds]))
    cells.append(mean_and_range([100 * m["eval/accuracy"] for m in seeds]))
    return f"| {title} | {' | '.join(cells)} |"


def plot(runs: dict[str, list[Path]], path: Path) -> None:
    """Validation accuracy over rounds: one panel a variant, one curve a length.

    The range over seeds is shaded.
    """
    shown = [label for label in runs if label != "direct"]
    size = (5 * len(shown), 3.4)
    figure, axes = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False)
    for axis, label in zip(axes[0], shown, strict=True):
        draw(axis, [evaluations(directory, "validation") for directory in runs[label]])
        axis.set(title=label, xlabel="round", ylim=(-3, 103))
        axis.grid(alpha=0.3)
    if direct := runs.get("direct"):
        seeds = [evaluations(directory, "test")[1] for directory in direct]
        accuracy = np.mean([100 * m["eval/accuracy"] for m in seeds])
        for axis in axes[0]:
            label = "direct answers, all lengths"
            axis.axhline(accuracy, color="grey", linestyle="--", label=label)
    axes[0][0].set_ylabel("validation accuracy, %")
    axes[0][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw(axis: plt.Axes, seeds: list[dict[int, dict]]) -> None:
    """One panel: a curve for each number of digits."""
    rounds = sorted(set.intersection(*(set(evaluated) for evaluated in seeds)))
    for i, (name, value) in enumerate(metrics.by_difficulty(seeds[0][0])):
        key = f"eval/accuracy_{name}_{value}"
        values = np.array([[100 * evaluated[n][key] for n in rounds] for evaluated in seeds])
        colour = plt.get_cmap("viridis")(i / 5)
        label = f"{value} {name}"
        axis.plot(rounds, values.mean(0), color=colour, marker="o", markersize=3, label=label)
        low, high = values.min(0), values.max(0)
        axis.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--only", choices=list(VARIANTS), default=None)
    args = parser.parse_args()
    variants = [args.only] if args.only else list(VARIANTS)
    runs = {v: [run(args.out, v, seed) for seed in range(args.seeds)] for v in variants}
    print(table(runs))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
