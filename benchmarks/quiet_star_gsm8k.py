"""Quiet-STaR on GSM8K's solutions: do thoughts help the tokens that are hard to predict?

    python benchmarks/quiet_star_gsm8k.py --out=runs/quiet_gsm8k --config.tokenizer.path=DIR
        [--seeds=3] [--questions=300] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing: a language model, and from it as many updates with thoughts as without, the
latter of four times as many solutions. Then the negative log-likelihood of the test solutions'
tokens, by the decile of the language model's own (the tenth are the hardest): with greedy thoughts,
without, and with those of another solution at the same place, of the tokens whose place there is in
a solution too. As the language model chooses the deciles, any other model is better in the tenth:
compare the rows below its own. Means over seeds, in nats, with the standard error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import side_by_side
import thought_scores
from side_by_side import job_of, mean_and_error, restored, run_all

from reasoning_jax.experiment import Experiment
from reasoning_jax.training.rows import completion_row

CONFIG = "configs/quiet_star_gsm8k.py"
DECILES = 10
SHOWN = (1, 5, 9, 10)


def rows_of(exp: Experiment, count: int) -> list[thought_scores.Row]:
    """Of the first test questions, each with its solution."""
    rows = []
    for example in exp.load("test")[:count]:
        prompt = exp.tokenizer.prompt(exp.task.prompt(example, exp.task_cfg))
        rows.append(completion_row(prompt, exp.tokenizer.encode(exp.task.target(example))))
    return rows


def losses(out: Path, seed: int, count: int) -> dict[str, np.ndarray]:
    """Of each model, the mean loss of each decile of tokens, and of all of them."""
    exp, base = restored(out / f"plain_{seed}", "base")
    rows = rows_of(exp, count)
    without = thought_scores.without_thoughts
    found = {"language model": -without(exp, base, rows)}
    exp, longer = restored(out / f"plain_{seed}")
    found["as many updates without thoughts"] = -without(exp, longer, rows)
    exp, params = restored(out / f"thoughts_{seed}")
    found["thoughts, left out"] = -without(exp, params, rows)
    found["thoughts"] = -thought_scores.with_thoughts(exp, params, rows).logprobs
    other = thought_scores.with_thoughts(exp, params, rows, others=True)
    found["thoughts of another solution"] = -other.logprobs
    size = found["language model"].shape[1]
    counted = np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        counted[i, : len(row["weights"])] = row["weights"] > 0
    counted &= counted[thought_scores.rows_before(len(rows))]
    return by_decile({name: values[counted] for name, values in found.items()})


def by_decile(losses: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each model [11]: the mean over each decile by the language model's losses, and over all.

    losses: of the same tokens.
    """
    order = np.argsort(losses["language model"], kind="stable")
    parts = np.array_split(order, DECILES)
    return {
        name: np.array([*(values[part].mean() for part in parts), values.mean()])
        for name, values in losses.items()
    }


def main() -> None:
    parser = side_by_side.parser_of(__doc__)
    questions = side_by_side.at_least(2)
    parser.add_argument("--questions", type=questions, default=300, help="of the test split")
    args, flags = parser.parse_known_args()
    out = args.out.resolve()
    smoke = ",smoke" if args.smoke else ""
    jobs = []
    for seed in range(args.seeds):
        plain, thoughts = out / f"plain_{seed}", out / f"thoughts_{seed}"
        jobs.append(job_of(f"{CONFIG}:plain{smoke}", plain, seed, flags, None))
        jobs.append(job_of(f"{CONFIG}:thoughts{smoke}", thoughts, seed, flags, plain))
    run_all(jobs, args.at_once)
    found = [losses(out, seed, args.questions) for seed in range(args.seeds)]
    print(f"| decile | {' | '.join(map(str, SHOWN))} | all |\n|---|{'---|' * (len(SHOWN) + 1)}")
    for name in found[0]:
        cells = []
        for column in [*(decile - 1 for decile in SHOWN), DECILES]:
            cells.append(mean_and_error([one[name][column] for one in found], 3, 1))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
