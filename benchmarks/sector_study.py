"""SECToR from 6 digits to 15, with and without its checks: a table of lengths, and one of labels.

    python benchmarks/sector_study.py --out=runs/sector [--seeds=3] [--arms=commutativity,none]

Runs what is missing (a run that is done is not run again). The arms of a seed start from one base
model. Of each last round, test sums of every length (not the best round: that would be chosen by
answers that the method must not know): the fast answer, and the vote of simplify-then-guess.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reasoning_jax import config, experiment, metrics
from reasoning_jax.algorithms.sector import guesses
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.training import checkpoint

ARMS = ("commutativity", "vote", "none")
NUM_TEST = 200  # sums of a length
CONFIG = "configs/sector_addition.py"


def run(out: Path, arm: str, seed: int) -> Path:
    """One run to its end; its work directory."""
    directory = out / f"{arm}_{seed}"
    flags = [f"--config={CONFIG}:{arm}", f"--workdir={directory}", f"--config.seed={seed}"]
    if arm != ARMS[0]:
        base = out / f"{ARMS[0]}_{seed}" / "base"
        flags += ["--config.base.num_updates=0", f"--config.base.init_from={base}"]
    subprocess.run([sys.executable, "-m", "reasoning_jax.main", *flags], check=True, cwd=ROOT)
    return directory


def assess(directory: Path, arm: str, folder: str) -> dict[int, tuple[float, float]]:
    """Length -> accuracy of the fast answer and of the vote, of a model of this run.

    folder: "base", or "checkpoints" for the last round's.
    """
    cfg = config.load(f"{ROOT / CONFIG}:{arm}")
    cfg.task.num_eval = NUM_TEST
    exp = experiment.make(cfg, jax.devices()[:1])
    restored = checkpoint.restore(directory / folder, exp.abstract_state().params)
    rollout = exp.rollout(restored.params, "study", 0, temperature=0.0)
    problems = [simplify.asked(e.question) for e in exp.load("test")]
    width, steps = cfg.task.max_digits, cfg.algorithm.num_simplifications
    fast = [s.correct for s in guesses.ask(rollout, simplify.FAST, problems, width)]
    solved = guesses.solve(rollout, problems, steps, width)
    right = []
    for problem, solution in zip(problems, solved, strict=True):
        vote = guesses.majority(solution.guesses)
        if len(problem.pairs) == 1:  # the only guess has no second vote
            vote = solution.from_first
        right.append(vote == simplify.digits(problem))
    lengths = np.array([len(p.pairs) for p in problems])
    return {
        n: (float(np.mean(np.array(fast)[lengths == n])), np.mean(np.array(right)[lengths == n]))
        for n in range(1, width + 1)
    }


def mean_and_error(values: list[float]) -> str:
    """In percent; the standard error of the mean over seeds."""
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {100 * np.std(values, ddof=1) / np.sqrt(len(values)):.1f}"


def labels(directory: Path) -> dict[int, tuple[float, float]]:
    """Length -> the fraction kept, and the fraction of false labels among them, of its round."""
    lines = [m for m in metrics.read(directory) if m["phase"] == "collect" and m["round"]]
    learned = [m for m in lines if "collect/digits" in m]
    return {
        int(m["collect/digits"]): (m["collect/kept"], m["collect/label_error"]) for m in learned
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS), type=lambda text: text.split(","))
    args = parser.parse_args()
    out = args.out.resolve()
    for seed in range(args.seeds):
        for arm in args.arms:
            run(out, arm, seed)
    shown = (6, 7, 9, 11, 13, 15)
    print(f"| model | mode | {' | '.join(f'{n} digits' for n in shown)} |")
    models = [("base", ARMS[0], "base"), *((arm, arm, "checkpoints") for arm in args.arms)]
    for title, arm, folder in models:
        seeds = [assess(out / f"{arm}_{seed}", arm, folder) for seed in range(args.seeds)]
        for number, mode in enumerate(("fast", "slow")):
            cells = [mean_and_error([accuracy[n][number] for accuracy in seeds]) for n in shown]
            print(f"| {title} | {mode} | {' | '.join(cells)} |", flush=True)
    print()
    print("| arm | labels | " + " | ".join(f"{n} digits" for n in range(7, 16)) + " |")
    for arm in args.arms:
        rounds = [labels(out / f"{arm}_{seed}") for seed in range(args.seeds)]
        for number, name in enumerate(("kept", "false")):
            cells = []
            for n in range(7, 16):
                values = [r[n][number] for r in rounds if n in r]
                cells.append(mean_and_error(values) if values else "")
            print(f"| {arm} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
