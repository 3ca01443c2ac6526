"""TRICE beside STaR and rejection sampling, at equal numbers of samples and updates: accuracy over samples drawn.

    python benchmarks/trice_study.py --out=runs/trice_study [--tasks=addition,web_of_lies,...] [--seeds=3] [--plot=FILE]

For each task one base model, from which all methods and seeds start. Forms of BIG-Bench Hard are tested on the published
rows, which no generator makes. Runs what is missing (a run that is done is not run again), then reads the work directories.
TRICE's samples include those of its hinted guide, STaR's its hinted attempts.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/reasoning_jax").expanduser()))  # before jax is there

from configs import trice_addition, trice_bbh  # noqa: E402
from reasoning_jax import metrics  # noqa: E402

FORMS = ("boolean_expressions", "navigate", "object_counting", "web_of_lies")
METHODS = ("STaR", "rejection, 4 particles", "TRICE, no control variate", "TRICE, the paper's", "TRICE, ours")
COLOURS = dict(zip(METHODS, ("#888888", "#b5762a", "#2f6fb0", "#7a3f9d", "#1a8f5a"), strict=True))
STAR_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Run:
    task: str
    method: str
    seed: int
    directory: Path


def experiment(task: str):
    """The paper's Algorithm 1 on this task."""
    if task != "addition":
        return trice_bbh.get_config(task)
    c = trice_addition.get_config("online")
    c.task.num_train, c.algorithm.num_rounds, c.eval.every = 1000, 120, 30
    return c


def config(task: str, method: str, seed: int, base: Path):
    """TRICE's config of the task, or that of another method with as many samples and updates."""
    c = experiment(task)
    c.seed = seed
    c.base.init_from, c.base.num_updates = str(base / "base"), 0
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


def run_all(out: Path, tasks: list[str], methods: list[str], seeds: int) -> list[Run]:
    """Every run to its end; in one process, so that what is compiled once serves them all."""
    from reasoning_jax import loop

    out, runs = out.resolve(), []
    for seed in range(seeds):
        for task in tasks:
            base = out / task / "base_model"
            if not (base / "base").exists():
                c = experiment(task)
                c.algorithm.num_rounds = 0
                loop.train(c, base)
            for method in methods:
                name = f"{method.replace(',', '').replace(' ', '_').replace(chr(39), '')}_{seed}"
                runs.append(Run(task, method, seed, out / task / name))
                loop.train(config(task, method, seed, base), runs[-1].directory)
    return runs


def curve(run: Run, split: str = "test") -> np.ndarray:
    """[n, 2]: samples drawn and accuracy in % at each evaluation."""
    lines = [m for m in metrics.read(run.directory) if m["phase"] == "eval" and m["split"] == split]
    found = {m["samples"]: 100 * m["eval/accuracy"] for m in lines if m.get("samples") is not None}
    return np.array(sorted(found.items()))


def table(runs: list[Run]) -> str:
    """Last test accuracy, and the mean over the whole curve (how fast it rose): means over seeds, standard errors."""
    lines = ["| task | base | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 2) + "|"]
    for task in dict.fromkeys(r.task for r in runs):
        cells = []
        for method in METHODS:
            curves = [curve(r) for r in runs if r.task == task and r.method == method]
            if not curves:
                cells.append("")
                continue
            most = min(c[-1, 0] for r in runs if r.task == task for c in [curve(r)])
            last = [c[-1, 1] for c in curves]
            area = [np.trapezoid(np.interp(np.linspace(0, most, 200), *c.T)) / 199 for c in curves]
            error = [np.std(x, ddof=1) / len(x) ** 0.5 if len(x) > 1 else float("nan") for x in (last, area)]
            cells.append(f"{np.mean(last):.1f} ± {error[0]:.1f} ({np.mean(area):.1f} ± {error[1]:.1f})")
        first = np.mean([curve(r)[0, 1] for r in runs if r.task == task])
        lines.append(f"| {task.replace('_', ' ')} | {first:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def first_measured(collected: list[dict]) -> int:
    return min((m["round"] for m in collected if "collect/variance_basic" in m), default=0)


def variances(runs: list[Run]) -> str:
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


def plot(runs: list[Run], path: Path) -> None:
    """A panel a task: test accuracy over samples drawn, the mean over seeds and one standard error."""
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.6 * len(tasks), 3.4), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for method, colour in COLOURS.items():
            curves = [curve(r) for r in runs if r.task == task and r.method == method]
            if not curves:
                continue
            x = curves[0][:, 0] if len({tuple(c[:, 0]) for c in curves}) == 1 else np.mean([c[:, 0] for c in curves], axis=0)
            y = np.array([np.interp(x, *c.T) for c in curves])
            error = y.std(0, ddof=1) / len(y) ** 0.5 if len(y) > 1 else 0 * y[0]
            axis.plot(x, y.mean(0), color=colour, marker="o", markersize=2.5, linewidth=1.4, label=method)
            axis.fill_between(x, y.mean(0) - error, y.mean(0) + error, color=colour, alpha=0.18, linewidth=0)
        axis.set(title=task.replace("_", " "), xlabel="samples drawn")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=len(METHODS), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(("addition", *FORMS)))
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=None)
    args = parser.parse_args()
    runs = run_all(args.out, args.tasks.split(","), args.methods.split(";"), args.seeds)
    print(f"{table(runs)}\n\n{variances(runs)}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
