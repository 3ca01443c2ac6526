"""Policy gradients and TRICE from one base model: accuracy, and what weighs a question in each.

    python benchmarks/gradient_study.py --out=runs/gradient_study [--tasks=boolean_expressions] \\
        [--seeds=3] [--plot=FILE]

RLOO, GRPO and Dr. GRPO draw 8 samples for each of 8 questions, TRICE's Algorithm 1 one for each of
64; an update each. TRICE's samples include those of its hinted guide. The left panel is exact: for
a question that a sample answers rightly with probability p, the expected coefficient on the
gradient of log p; TRICE's is 1. The others are accuracy over samples drawn.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file
from ml_collections import ConfigDict

from reasoning_jax.algorithms.policy_gradient.advantages import advantages

TRICE = trice_study.OURS
KINDS = {"RLOO": "rloo", "GRPO": "grpo", "Dr. GRPO": "dr_grpo"}
METHODS = (*KINDS, TRICE)
COLOURS = dict(zip(METHODS, ("#2f6fb0", "#b5762a", "#7a3f9d", "#1a8f5a"), strict=True))
GROUP = 8


def config(task: str, method: str, seed: int) -> ConfigDict:
    cfg = trice_study.config(task, TRICE, seed)
    if method == TRICE:
        return cfg
    samples = cfg.task.num_train + cfg.rounds.count * cfg.rounds.examples  # its first states too
    study.use_algorithm(cfg, "policy_gradient", kind=KINDS[method], num_samples=GROUP)
    cfg.rounds.examples //= GROUP
    rounds = samples // (cfg.rounds.examples * GROUP)
    cfg.rounds.count = rounds - rounds % cfg.eval.every
    cfg.rounds.updates = 1
    cfg.optim.clip_norm = 1.0
    cfg.optim.learning_rate = 3e-4
    return cfg


def coefficient(kind: str, p: float, group: int) -> float:
    """E[A s] / (1 - p) for one sample of a group: what multiplies the gradient of log p, exactly.

    s is the sample's verdict, which is independent of the others'. The score vector of a right
    sample has mean grad log p, that of a wrong one -p / (1 - p) of it.
    """
    total = 0.0
    for right in range(group + 1):
        verdicts = np.array([[1.0] * right + [0.0] * (group - right)])
        of_samples = advantages(verdicts, kind)[0]
        of_right = of_samples[:right].sum() / group
        of_wrong = of_samples[right:].sum() / group
        probability = math.comb(group, right) * p**right * (1 - p) ** (group - right)
        total += probability * (of_right - of_wrong * p / (1 - p))
    return total


def plot(runs: Sequence[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    panels = 1 + len(tasks)
    figure, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 3.6), squeeze=False)
    exact = axes[0][0]
    rates = np.linspace(0.01, 0.99, 99)
    for name, kind in KINDS.items():
        values = [coefficient(kind, p, GROUP) for p in rates]
        exact.plot(rates, values, color=COLOURS[name], linewidth=1.4)
    exact.axhline(1, color=COLOURS[TRICE], linewidth=1.4)
    title = f"coefficient on grad log p, groups of {GROUP}"
    exact.set(title=title, xlabel="p(correct) of the question")
    exact.grid(alpha=0.3)
    for axis, task in zip(axes[0][1:], tasks, strict=True):
        study.draw_accuracy(axis, runs, task, COLOURS)
        axis.set_ylabel("test accuracy, %")
    study.save(figure, axes[0][1], path)


def coefficients() -> str:
    """``coefficient`` at some rates, as a table."""
    header = "| p(correct) | " + " | ".join(KINDS) + " | TRICE |"
    lines = [header, "|---" * (len(KINDS) + 2) + "|"]
    for p in (0.02, 0.1, 0.5, 0.9, 0.98):
        cells = [f"{coefficient(kind, p, GROUP):.4f}" for kind in KINDS.values()]
        lines.append(f"| {p} | {' | '.join(cells)} | 1 |")
    return "\n".join(lines)


def main() -> None:
    args = study.arguments(__doc__, ("boolean_expressions",), METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    print(f"{study.table(runs, METHODS)}\n\n{coefficients()}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
