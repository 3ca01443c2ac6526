"""What the studies of methods share: runs to their end, accuracy over samples, a table, a plot."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CACHE = Path("~/.cache/reasoning_jax").expanduser()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # before jax is imported

import reasoning_jax
from reasoning_jax import config as configuration
from reasoning_jax import default, metrics

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    task: str
    method: str
    seed: int
    directory: Path


def arguments(doc: str, tasks: Sequence[str], methods: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = "folder of the runs; what is done there is not run again"
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--tasks", default=",".join(tasks), type=lambda text: text.split(","))
    parser.add_argument(
        "--methods",
        default=";".join(methods),
        type=lambda text: text.split(";"),
        help="semicolons between",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    return parser.parse_args()


def experiment(name: str) -> ConfigDict:
    """The config of "trice_addition" or "trice_addition:ARGUMENT" in configs/."""
    name, _, argument = name.partition(":")
    return configuration.load(f"{ROOT}/configs/{name}.py:{argument}")


def use_algorithm(cfg: ConfigDict, name: str, **values: str | int | float | bool) -> None:
    """Gives a config another method, with that method's defaults but for these values."""
    section = default.get_config(algorithm=name).algorithm
    section.update(values)
    with cfg.unlocked():
        cfg.algorithm = section


def run_all(
    args: argparse.Namespace,
    base: Callable[[str], ConfigDict],
    config: Callable[[str, str, int], ConfigDict],
) -> list[Run]:
    """Every run to its end, in one process, so that what is compiled once serves them all.

    base: the config that trains a task's base model, from which all methods and seeds start;
    config: that of a run.
    """
    out, runs = args.out.resolve(), []
    for seed in range(args.seeds):
        for task in args.tasks:
            start = out / task / "base_model"
            if not (start / "base").exists():
                cfg = base(task)
                cfg.rounds.count = 0
                train(cfg, start)
            for method in args.methods:
                cfg = config(task, method, seed)
                cfg.seed = seed
                cfg.base.init_from = str(start / "base")
                cfg.base.num_updates = 0
                directory = out / task / f"{folder_name(method)}_{seed}"
                runs.append(Run(task=task, method=method, seed=seed, directory=directory))
                train(cfg, directory)
    return runs


def train(cfg: ConfigDict, directory: Path) -> None:
    for _ in reasoning_jax.train(cfg, directory):
        pass


def folder_name(method: str) -> str:
    return method.replace(",", "").replace(" ", "_").replace("'", "")


def accuracy(run: Run, split: str = "test") -> np.ndarray:
    """[n, 2]: samples drawn and accuracy in % at each evaluation."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "eval" and m["split"] == split]
    counted = [m for m in lines if m.get("samples") is not None]
    points = {m["samples"]: 100 * m["eval/accuracy"] for m in counted}
    return np.array(sorted(points.items()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; the error of a single one is not known."""
    error = float("nan")
    if len(values) > 1:
        error = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return float(np.mean(values)), error


def table(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """Last test accuracy and, in brackets, the mean over the whole curve (how fast it rose).

    Means over seeds, with standard errors.
    """
    header = "| task | base | " + " | ".join(methods) + " |"
    lines = [header, "|---" * (len(methods) + 2) + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        curves = {r: accuracy(r) for r in runs if r.task == task}
        most = min(curve[-1, 0] for curve in curves.values())
        cells = []
        for method in methods:
            cells.append(table_cell([c for r, c in curves.items() if r.method == method], most))
        first = np.mean([curve[0, 1] for curve in curves.values()])
        lines.append(f"| {task.replace('_', ' ')} | {first:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_cell(curves: Sequence[np.ndarray], most: float) -> str:
    """Of one method's curves, one a seed; "" where there are none. most: samples drawn."""
    if not curves:
        return ""
    samples = np.linspace(0, most, 200)
    areas = [np.trapezoid(np.interp(samples, *curve.T)) / 199 for curve in curves]
    last = mean_and_error([curve[-1, 1] for curve in curves])
    rise = mean_and_error(areas)
    return "{:.1f} ± {:.1f} ({:.1f} ± {:.1f})".format(*last, *rise)


def draw(
    axis: Axes,
    curves: Mapping[str, Sequence[np.ndarray]],
    colours: Mapping[str, str],
    **style: str | float,
) -> None:
    """For each name the mean of its curves [n, 2], one a seed, and a standard error around it."""
    for name, seeds in curves.items():
        if not seeds:
            continue
        x = np.mean([curve[:, 0] for curve in seeds], axis=0)
        if len({tuple(curve[:, 0]) for curve in seeds}) == 1:
            x = seeds[0][:, 0]
        y = np.array([np.interp(x, *curve.T) for curve in seeds])
        mean = y.mean(0)
        error = np.zeros_like(mean)
        if len(seeds) > 1:
            error = y.std(0, ddof=1) / len(seeds) ** 0.5
        colour = colours[name]
        axis.plot(x, mean, color=colour, linewidth=1.4, label=name, **style)
        axis.fill_between(x, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
    axis.grid(alpha=0.3)


def draw_accuracy(axis: Axes, runs: Sequence[Run], task: str, colours: Mapping[str, str]) -> None:
    """A panel: a task's test accuracy over samples drawn."""
    of_task = [r for r in runs if r.task == task]
    curves = {m: [accuracy(r) for r in of_task if r.method == m] for m in colours}
    draw(axis, curves, colours, marker="o", markersize=2.5)
    axis.set(title=task.replace("_", " "), xlabel="samples drawn")
    axis.locator_params(axis="x", nbins=5)


def save(figure: Figure, axis: Axes, path: Path) -> None:
    """With the legend of this panel below all of them."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(len(labels), max(2, int(figure.get_figwidth() / 2.2)))
    lines = -(-len(labels) // columns)
    style = {"loc": "lower center", "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, ncol=columns, **style)
    below = 0.12 + 0.2 * lines  # inches
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
