"""Policy gradients and TRICE from one base model: accuracy over samples drawn, and what weighs a question in each.

    python benchmarks/gradient_study.py --out=runs/gradient_study [--tasks=boolean_expressions] [--seeds=3] [--plot=FILE]

RLOO, GRPO and Dr. GRPO draw 8 samples for each of 8 questions, TRICE's Algorithm 1 one for each of 64; an update each. TRICE's
samples include those of its hinted guide. The left panel is exact: for a question that a sample answers rightly with
probability p, the expected coefficient on the gradient of log p; TRICE's is 1.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file
import trice_study  # beside this file

from reasoning_jax.algorithms import policy_gradient

KINDS = {"RLOO": "rloo", "GRPO": "grpo", "Dr. GRPO": "dr_grpo"}
METHODS = (*KINDS, "TRICE, ours")
COLOURS = dict(zip(METHODS, ("#2f6fb0", "#b5762a", "#7a3f9d", "#1a8f5a"), strict=True))
GROUP = 8


def config(task: str, method: str, seed: int):
    c = trice_study.config(task, "TRICE, ours", seed)
    if method in KINDS:
        a, drawn = c.algorithm, c.task.num_train + c.algorithm.num_rounds * c.algorithm.examples_per_round
        a.name, a.kind, a.num_samples = "policy_gradient", KINDS[method], GROUP
        a.examples_per_round //= GROUP
        rounds = drawn // (a.examples_per_round * GROUP)  # TRICE's first states are samples too
        a.num_rounds = rounds - rounds % c.eval.every
        c.optim.clip_norm = 1.0
        c.optim.learning_rate = 3e-4
    return c


def coefficient(kind: str, p: float, group: int) -> float:
    """E[A s] / (1 - p) for one sample of a group of independent verdicts: what multiplies the gradient of log p, exactly.

    s is the sample's verdict; the score of a right sample has mean grad log p, that of a wrong one -p / (1 - p) of it.
    """
    total = 0.0
    for right in range(group + 1):
        verdicts = np.array([[1.0] * right + [0.0] * (group - right)])
        gains = policy_gradient.advantages(verdicts, kind)[0]
        ways = np.exp(sum(np.log(range(group - right + 1, group + 1))) - sum(np.log(range(1, right + 1))))
        of_right, of_wrong = gains[:right].sum() / group, gains[right:].sum() / group
        total += ways * p**right * (1 - p) ** (group - right) * (of_right - of_wrong * p / (1 - p))
    return total


def plot(runs: list[study.Run], path: Path) -> None:
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, axes = plt.subplots(1, 1 + len(tasks), figsize=(4.2 * (1 + len(tasks)), 3.6), squeeze=False)
    exact, ps = axes[0][0], np.linspace(0.01, 0.99, 99)
    for name, kind in KINDS.items():
        exact.plot(ps, [coefficient(kind, p, GROUP) for p in ps], color=COLOURS[name], linewidth=1.4)
    exact.axhline(1, color=COLOURS["TRICE, ours"], linewidth=1.4)
    exact.set(title=f"coefficient on grad log p, groups of {GROUP}", xlabel="p(correct) of the question")
    exact.grid(alpha=0.3)
    for axis, task in zip(axes[0][1:], tasks, strict=True):
        study.draw_accuracy(axis, runs, task, COLOURS)
        axis.set_ylabel("test accuracy, %")
    study.save(figure, axes[0][1], path)


def main() -> None:
    args = study.arguments(__doc__, ("boolean_expressions",), METHODS)
    runs = study.run_all(args, trice_study.experiment, config)
    lines = ["| p(correct) | " + " | ".join(KINDS) + " | TRICE |", "|---" * (len(KINDS) + 2) + "|"]
    for p in (0.02, 0.1, 0.5, 0.9, 0.98):
        lines.append(f"| {p} | {' | '.join(f'{coefficient(kind, p, GROUP):.4f}' for kind in KINDS.values())} | 1 |")
    print(f"{study.table(runs, METHODS)}\n\n" + "\n".join(lines))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
