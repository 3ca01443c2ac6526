"""SECToR from 6 digits to 15, with and without its checks: a table of lengths, and one of labels.

    python benchmarks/sector_study.py --out=runs/sector [--seeds=3] [--arms=commutativity,none]
        [--at_once=1] [--config.KEY=VALUE ...]

Runs what is missing (a run that is done is not run again). The arms of a seed start from one base
model. Of each last round, test sums of every length (not the best round: that would be chosen by
answers that the method must not know): the fast answer, and the vote of simplify-then-guess.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import side_by_side
from side_by_side import Job, job_of, mean_and_error, run_all

from reasoning_jax import config, experiment, metrics
from reasoning_jax.algorithms.sector import guesses
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.training import checkpoint

ARMS = ("commutativity", "vote", "none")
NUM_TEST = 200  # sums of a length
NUM_SIMPLIFICATIONS = 3  # of the slow mode, of whatever arm
CONFIG = "configs/sector_addition.py"


def job(out: Path, arm: str, seed: int, flags: Sequence[str]) -> Job:
    """The run of an arm; all but the first begin from the first one's base model."""
    base = None
    if arm != ARMS[0]:
        base = out / f"{ARMS[0]}_{seed}"
        flags = [*flags, "--config.base.num_updates=0"]
    return job_of(f"{CONFIG}:{arm}", out / f"{arm}_{seed}", seed, flags, base)


def assess(directory: Path, folder: str) -> dict[int, tuple[float, float]]:
    """Length -> accuracy of the fast answer and of the vote, of a model of this run.

    folder: "base", or "checkpoints" for the last round's.
    """
    cfg = config.rebuild(directory)
    cfg.task.num_eval = NUM_TEST
    exp = experiment.make(cfg, jax.devices()[:1])
    restored = checkpoint.restore(directory / folder, exp.abstract_state().params)
    rollout = exp.rollout(restored.params, "study", 0, temperature=0.0)
    problems = [simplify.asked(e.question) for e in exp.load("test")]
    width = cfg.task.max_digits
    fast = [s.correct for s in guesses.ask(rollout, simplify.FAST, problems, width)]
    solved = guesses.solve(rollout, problems, NUM_SIMPLIFICATIONS, width)
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


def labels(directory: Path) -> dict[int, tuple[float, float]]:
    """Length -> the fraction kept, and the fraction of false labels among them, of its round."""
    lines = [m for m in metrics.read(directory) if m["phase"] == "collect" and m["round"]]
    learned = [m for m in lines if "collect/digits" in m]
    return {
        int(m["collect/digits"]): (m["collect/kept"], m["collect/label_error"]) for m in learned
    }


def main() -> None:
    parser = side_by_side.parser_of(__doc__, ARMS, has_smoke=False)
    args, flags = parser.parse_known_args()
    unknown = sorted(set(args.arms) - set(ARMS))
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(ARMS)}.")
    out = args.out.resolve()
    arms = dict.fromkeys([ARMS[0], *args.arms])  # the first has the base model of all
    jobs = [job(out, arm, seed, flags) for seed in range(args.seeds) for arm in arms]
    run_all(jobs, args.at_once)
    last = config.rebuild(jobs[0].directory).task.max_digits
    shown = [6, 7, *range(9, last + 1, 3)]
    print(f"| model | mode | {' | '.join(f'{n} digits' for n in shown)} |")
    models = [("base", ARMS[0], "base"), *((arm, arm, "checkpoints") for arm in args.arms)]
    for title, arm, folder in models:
        seeds = [assess(out / f"{arm}_{seed}", folder) for seed in range(args.seeds)]
        for number, mode in enumerate(("fast", "slow")):
            cells = [mean_and_error([accuracy[n][number] for accuracy in seeds]) for n in shown]
            print(f"| {title} | {mode} | {' | '.join(cells)} |", flush=True)
    print()
    print("| arm | labels | " + " | ".join(f"{n} digits" for n in range(7, last + 1)) + " |")
    for arm in args.arms:
        rounds = [labels(out / f"{arm}_{seed}") for seed in range(args.seeds)]
        for number, name in enumerate(("kept", "false")):
            cells = []
            for n in range(7, last + 1):
                values = [r[n][number] for r in rounds if n in r]
                cells.append(mean_and_error(values) if values else "")
            print(f"| {arm} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
