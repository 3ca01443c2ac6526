"""STaR on addition, with and without rationalization, beside direct answers: three seeds each, one table and one plot.

    python benchmarks/addition_study.py --out=runs/study [--seeds=3] [--plot=docs/addition_study.png] [--only=star]

Runs what is missing (a run that is done is not run again), then reads the work directories. The runs without rationalization
start from the base models of those with it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reasoning_jax import metrics  # noqa: E402

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


def curve(directory: Path, split: str) -> dict[int, dict]:
    """round -> its evaluation on this split."""
    return {m["round"]: m for m in metrics.read(directory) if m["phase"] == "eval" and m["split"] == split}


def table(runs: dict[str, list[Path]]) -> str:
    """Test accuracy by digits of the last round: mean over seeds, and the range."""
    rows = []
    for label, directories in runs.items():
        for when in ("base", "last") if label == "star" else ("last",):
            found = [curve(d, "test") for d in directories]
            lines = [f[min(f) if when == "base" else max(f)] for f in found]
            cells = []
            for (name, value), _ in metrics.by_difficulty(lines[0]).items():
                accuracy = [100 * m[f"eval/accuracy_{name}_{value}"] for m in lines]
                cells.append(f"{np.mean(accuracy):.1f} ({min(accuracy):.0f}–{max(accuracy):.0f})")
            total = [100 * m["eval/accuracy"] for m in lines]
            rows.append(f"| {label}, {when} | {' | '.join(cells)} | {np.mean(total):.1f} ({min(total):.0f}–{max(total):.0f}) |")
    return "\n".join(rows)


def plot(runs: dict[str, list[Path]], path: Path) -> None:
    """Validation accuracy by digits over rounds: one panel a variant, one line a length, the range over seeds shaded."""
    shown = [label for label in runs if label != "direct"]
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown), 3.4), sharey=True, squeeze=False)
    for axis, label in zip(axes[0], shown, strict=True):
        found = [curve(d, "validation") for d in runs[label]]
        rounds = sorted(set.intersection(*(set(f) for f in found)))
        for i, (name, value) in enumerate(metrics.by_difficulty(found[0][0])):
            values = np.array([[100 * f[n][f"eval/accuracy_{name}_{value}"] for n in rounds] for f in found])
            colour = plt.get_cmap("viridis")(i / 5)
            axis.plot(rounds, values.mean(0), color=colour, marker="o", markersize=3, label=f"{value} {name}")
            axis.fill_between(rounds, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.set(title=label, xlabel="round", ylim=(-3, 103))
        axis.grid(alpha=0.3)
    if direct := runs.get("direct"):
        accuracy = np.mean([100 * curve(d, "test")[1]["eval/accuracy"] for d in direct])
        for axis in axes[0]:
            axis.axhline(accuracy, color="grey", linestyle="--", label="direct answers, all lengths")
    axes[0][0].set_ylabel("validation accuracy, %")
    axes[0][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
