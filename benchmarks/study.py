"""What the studies of methods share: runs to their end, accuracy over samples drawn, a table and a plot of it."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/reasoning_jax").expanduser()))  # before jax is there

from reasoning_jax import metrics  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Run:
    task: str
    method: str
    seed: int
    directory: Path


def arguments(doc: str, tasks: Sequence[str], methods: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; what is done there is not run again")
    parser.add_argument("--tasks", default=",".join(tasks), type=lambda text: text.split(","))
    parser.add_argument("--methods", default=";".join(methods), type=lambda text: text.split(";"), help="semicolons between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    return parser.parse_args()


def run_all(args: argparse.Namespace, base: Callable[[str], Any], config: Callable[[str, str, int], Any]) -> list[Run]:
    """Every run to its end, in one process, so that what is compiled once serves them all.

    base: the config that trains a task's base model, from which all methods and seeds start; config: that of a run.
    """
    from reasoning_jax import loop

    out, runs = args.out.resolve(), []
    for seed in range(args.seeds):
        for task in args.tasks:
            start = out / task / "base_model"
            if not (start / "base").exists():
                c = base(task)
                c.algorithm.num_rounds = 0
                loop.train(c, start)
            for method in args.methods:
                name = f"{method.replace(',', '').replace(' ', '_').replace(chr(39), '')}_{seed}"
                c = config(task, method, seed)
                c.seed, c.base.init_from, c.base.num_updates = seed, str(start / "base"), 0
                runs.append(Run(task, method, seed, out / task / name))
                loop.train(c, runs[-1].directory)
    return runs


def curve(run: Run, split: str = "test") -> np.ndarray:
    """[n, 2]: samples drawn and accuracy in % at each evaluation."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "eval" and m["split"] == split]
    found = {m["samples"]: 100 * m["eval/accuracy"] for m in lines if m.get("samples") is not None}
    return np.array(sorted(found.items()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; the error of a single one is not known."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def table(runs: Sequence[Run], methods: Sequence[str]) -> str:
    """Last test accuracy, and the mean over the whole curve (how fast it rose): means over seeds, standard errors."""
    lines = ["| task | base | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        curves = {r: curve(r) for r in runs if r.task == task}
        most, cells = min(c[-1, 0] for c in curves.values()), []
        for method in methods:
            found = [c for r, c in curves.items() if r.method == method]
            area = [np.trapezoid(np.interp(np.linspace(0, most, 200), *c.T)) / 199 for c in found]
            last, rise = mean_and_error([c[-1, 1] for c in found]), mean_and_error(area)
            cells.append("{:.1f} ± {:.1f} ({:.1f} ± {:.1f})".format(*last, *rise) if found else "")
        first = np.mean([c[0, 1] for c in curves.values()])
        lines.append(f"| {task.replace('_', ' ')} | {first:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(axis: Any, lines: Mapping[str, Sequence[np.ndarray]], colours: Mapping[str, str], **style: Any) -> None:
    """For each name the mean of its curves [n, 2], one a seed, with one standard error around it."""
    for name, curves in lines.items():
        if not curves:
            continue
        x = curves[0][:, 0] if len({tuple(c[:, 0]) for c in curves}) == 1 else np.mean([c[:, 0] for c in curves], axis=0)
        y = np.array([np.interp(x, *c.T) for c in curves])
        error = y.std(0, ddof=1) / len(y) ** 0.5 if len(y) > 1 else 0 * y[0]
        axis.plot(x, y.mean(0), color=colours[name], linewidth=1.4, label=name, **style)
        axis.fill_between(x, y.mean(0) - error, y.mean(0) + error, color=colours[name], alpha=0.18, linewidth=0)
    axis.grid(alpha=0.3)


def draw_accuracy(axis: Any, runs: Sequence[Run], task: str, colours: Mapping[str, str]) -> None:
    """A panel: a task's test accuracy over samples drawn."""
    found = {m: [curve(r) for r in runs if r.task == task and r.method == m] for m in colours}
    draw(axis, found, colours, marker="o", markersize=2.5)
    axis.set(title=task.replace("_", " "), xlabel="samples drawn")
    axis.locator_params(axis="x", nbins=5)


def save(figure: Any, axis: Any, path: Path) -> None:
    """With the legend of this panel below all of them."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(len(labels), max(2, int(figure.get_figwidth() / 2.2)))
    figure.legend(handles, labels, loc="lower center", ncol=columns, fontsize=8, frameon=False)
    below = 0.12 + 0.2 * -(-len(labels) // columns)  # inches
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
