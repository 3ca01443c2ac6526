"""The variance of TRICE's gradient under each control variate, as questions become certain.

    python benchmarks/variance.py [--out=DIR] [--workdir=RUN] [--checkpoint=base]

Without a control variate, with that of the paper (Phan et al. 2023, arXiv:2312.02179) and with
ours. Prints sweeps of p(correct) on two toys whose rationales can all be listed (tests/exact.py):
exact numbers, and for the first toy a table of numbers from an independent calculation beside the
same by enumeration. With a run of configs/star_addition.py, also estimates for a trained model
(variance_estimates.py). Writes DIR/variance.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import exact
import variance_estimates  # beside this file
from variance_estimates import MINIBATCH

COLOURS = {"none": "#777777", "the paper's": "#d1495b", "ours": "#00798c"}
TICKS = (0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)  # of p(correct)


# ---- the toys, exactly ---------------------------------------------------------------------------


def table() -> str:
    """The numbers of exact.TABLE, each beside the same by enumeration."""
    columns = "none              the paper's       |mean gradient|     (given / enumeration)"
    lines = [f"shift  mean p(correct)    {columns}"]
    for shift, *given in exact.TABLE:
        questions = exact.of_softmax(shift)
        mean, none = exact.of_trice(questions, np.zeros(3))
        enumerated = [
            np.mean([exact.pi(q) for q in questions]),
            none,
            exact.of_trice(questions)[1],
            np.linalg.norm(mean),
        ]
        pairs = zip(given, enumerated, strict=True)
        lines.append(f"{shift:5}  " + "  ".join(f"{a:.4f} / {b:.4f} " for a, b in pairs))
    return "\n".join(lines)


def point(questions: Sequence[exact.Question]) -> list[float]:
    """Mean p(correct), then variances: as in COLOURS, and of the paper's with subsampling.

    The latter to as many terms as there are questions.
    """
    rates = np.array([exact.pi(q) for q in questions])
    count = len(questions)
    coefficients = (np.zeros(count), None, exact.rho(questions) * rates)
    variances = [exact.of_trice(questions, beta)[1] for beta in coefficients]
    subsampled = exact.of_trice(questions, subsample=count)[1]
    return [rates.mean(), *variances, subsampled]


def transformer(levels: Sequence[float] | np.ndarray, seed: int = 1) -> list[list[float]]:
    """A ``point`` for each mean p(correct), of a tiny transformer on the way there."""
    params, points = exact.params(seed), []
    for level in levels:
        params = exact.reach(level, params)
        points.append(point(exact.of_model(params)))
    return points


def sweep(name: str, points: Sequence[Sequence[float]]) -> str:
    """``point``s as lines: the variances with a control variate as fractions of that without."""
    lines = [name, "p(correct)   variance   the paper's   ours   the paper's, subsampled"]
    for rate, none, *others in points:
        fractions = "".join(f"{x / none:11.3f}" for x in others)
        lines.append(f"{rate:10.3f} {none:10.4g}{fractions}")
    return "\n".join(lines)


# ---- the plot ------------------------------------------------------------------------------------


def plot(panels: Mapping[str, np.ndarray], path: Path) -> None:
    """One panel a title: columns p(correct) and the variances, as in COLOURS."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.7), squeeze=False)
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        draw(axis, points)
        axis.set(xscale="logit", yscale="log", xlabel="mean p(correct)")
        axis.set_title(title, fontsize=10, loc="left")
        low, high = points[0, 0] / 2, 1 - (1 - points[-1, 0]) / 2
        ticks = [t for t in TICKS if low < t < high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("variance of the minibatch's gradient")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw(axis: plt.Axes, points: np.ndarray) -> None:
    """The curves of a panel, with their names at their ends."""
    rates, variances = points[:, 0], points[:, 1:]
    ranks = np.argsort(np.argsort(variances[-1]))  # names apart where curves end close together
    for i, (name, colour) in enumerate(COLOURS.items()):
        width = 3 - 0.7 * i
        axis.plot(rates, variances[:, i], color=colour, marker="o", markersize=3, linewidth=width)
        axis.annotate(
            name,
            (rates[-1], variances[-1, i]),
            color=colour,
            xytext=(6, 7 * (ranks[i] - 1)),
            textcoords="offset points",
            va="center",
        )


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("."))
    workdir = "a run of configs/star_addition.py"
    parser.add_argument("--workdir", type=Path, default=None, help=workdir)
    checkpoint = "which of its models: base or best"
    parser.add_argument("--checkpoint", default="base", help=checkpoint)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--points", type=int, default=16, help="of each sweep")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    args = arguments(words)
    print(table())
    levels = 1 / (1 + np.exp(-np.linspace(-3, 7, args.points)))  # 0.05 to 0.999
    shifts = np.linspace(-2, 8.5, args.points)
    toys = {
        "softmax toy, 3 questions (exact)": [point(exact.of_softmax(s)) for s in shifts],
        "tiny transformer, 3 questions (exact)": transformer(levels),
    }
    for name, points in toys.items():
        print(sweep(name, points))
    panels = {name: np.array(points)[:, :4] for name, points in toys.items()}
    if args.workdir:
        title = f"addition, {args.checkpoint} model, minibatch of {MINIBATCH} (estimates)"
        panels[title] = estimated_panel(args)
    plot(panels, args.out / "variance.png")


def estimated_panel(args: argparse.Namespace) -> np.ndarray:
    """Prints the estimates for a trained model; the points of their panel."""
    groups, left_out = variance_estimates.measure(
        args.workdir, args.checkpoint, args.questions, args.samples
    )
    model = f"{args.workdir}, {args.checkpoint}"
    print(f"{model}: {left_out} of {args.questions} questions have too few right samples")
    print(variance_estimates.table(groups))
    points = []
    for group in groups[:-1]:  # the last is all of them
        variances = [x / MINIBATCH for x in group.variances["full"]]
        points.append([min(group.rate, 1 - 1 / args.samples), *variances])
    return np.array(points)


if __name__ == "__main__":
    main()
