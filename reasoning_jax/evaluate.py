"""How good a model is: accuracy with its standard error, by difficulty; maj@k and unbiased pass@k over samples.

    python -m reasoning_jax.evaluate --workdir=DIR [--config=configs/X.py] [--split=test] [--samples=k] [--temperature=0.7]

Evaluates the best round of the run in DIR, prints a table and writes DIR/evaluation_SPLIT.json.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reasoning_jax import command_line, grading, workdir
from reasoning_jax.tasks import CORRECT, WRONG

if TYPE_CHECKING:  # the rest imports jax, and flags are parsed before that
    from reasoning_jax.rollout import Sample


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of P(one of k samples is correct) from n samples: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least k samples and 0 <= correct <= n, got n={n}, correct={correct}.")
    return 1.0 - float(Fraction(math.comb(n - correct, k), math.comb(n, k)))


def majority(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """The probability that a vote over these samples is right: the most frequent answer, ties broken at random.

    Answers that could not be parsed do not vote. ``right[i]`` says whether answer i is correct (Wang et al. 2022).
    """
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [a for a, count in votes.items() if count == most]
    return sum(any(r for a, r in zip(answers, right, strict=True) if a == w) for w in winners) / len(winners)


def accuracy_metrics(samples: Sequence[Sample], task: ModuleType) -> dict[str, float]:
    """eval/* of one sample an example: accuracy, its standard error sqrt(p (1 - p) / n), both by difficulty too."""
    from reasoning_jax.rollout import summary

    if not samples:
        raise ValueError("There is nothing to evaluate: the split is empty.")
    stats = summary(samples, task)
    counts = Counter("{}_{}".format(*task.difficulty(s.example)) for s in samples)
    out = {f"eval/{k}": stats[k] for k in ("unparsed", "truncated", "true_lines", "tokens", "steps")}
    for suffix, n in [("", len(samples)), *((f"_{level}", n) for level, n in counts.items())]:
        p = stats[f"correct{suffix}"]
        out |= {
            f"eval/accuracy{suffix}": p,
            f"eval/accuracy_stderr{suffix}": math.sqrt(p * (1 - p) / n),
            f"eval/count{suffix}": n,
        }
    return out


def vote_metrics(samples: Sequence[Sample], k: int) -> dict[str, float]:
    """maj@k and pass@1, pass@2, pass@4 ... pass@k over k samples an example, with their standard errors over examples.

    Answers vote in the form that grading.normalize gives them ("72.0" with "72"); what was cut off does not vote.
    """
    groups: dict[int, list[Sample]] = {}
    for s in samples:
        groups.setdefault(s.example.id, []).append(s)

    def ballot(s: Sample) -> str | None:
        return grading.normalize(s.answer or "") if s.verdict in (CORRECT, WRONG) else None

    sizes = sorted({k, *(1 << i for i in range(k.bit_length()))})
    scores = {f"eval/maj_at_{k}": [majority([ballot(s) for s in g], [s.correct for s in g]) for g in groups.values()]}
    for j in sizes:
        scores[f"eval/pass_at_{j}"] = [pass_at_k(len(g), sum(s.correct for s in g), j) for g in groups.values()]
    out = {}
    for name, values in scores.items():
        out[name] = mean = sum(values) / len(values)
        out[f"{name}_stderr"] = math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)
    return out


# ---- command line ----------------------------------------------------------------------------------------------------


def main(cfg: Any, folder: Path, flags: Any) -> None:
    from reasoning_jax import checkpoint, experiment, metrics, sampling

    k, split = flags.samples, flags.split
    if k and flags.temperature <= 0:
        raise ValueError("--temperature: several samples of a question need a temperature above 0.")
    exp = experiment.make(cfg)
    examples = exp.load_eval(split)
    params, meta = checkpoint.load_params(folder, exp.abstract_state().params)

    roll = exp.rollout(params, f"evaluate {split}", meta["round"], sampling.Greedy())
    values, names = accuracy_metrics(roll(examples), exp.task), {"greedy": "eval/accuracy"}
    if k:
        rule = sampling.make_rule(flags.temperature)
        samples = exp.rollout(params, f"vote {split}", meta["round"], rule)(examples, num_samples=k)
        votes = vote_metrics(samples, k)
        names |= {f"{name.removeprefix('eval/').replace('_at_', '@')}": name for name in votes if not name.endswith("_stderr")}
        levels: dict[str, list[Sample]] = {}
        for s in samples:
            levels.setdefault("{}_{}".format(*exp.task.difficulty(s.example)), []).append(s)
        values |= votes | {f"{n}_{level}": v for level, part in levels.items() for n, v in vote_metrics(part, k).items()}
    about = {"split": split, "round": meta["round"], "samples": k, "temperature": flags.temperature if k else 0.0}
    path = folder / f"evaluation_{re.sub(r'[^A-Za-z0-9_.-]+', '_', split)}.json"
    workdir.write(path, (json.dumps(about | values, indent=1) + "\n").encode())
    rows = [(name, {k.replace(key, "eval/accuracy", 1): v for k, v in values.items() if k.startswith(key)})
            for name, key in names.items()]  # fmt: skip
    print(metrics.accuracy_table(rows))
    print(f"{split} split, {len(examples)} examples, round {meta['round']}: {path}")


def _define(values: Any) -> None:
    from absl import flags

    flags.DEFINE_string("split", "test", "Which examples: test, validation, train, ...", values)
    flags.DEFINE_integer("samples", 0, "Also so many samples an example, for maj@k and pass@k.", 0, flag_values=values)
    flags.DEFINE_float("temperature", 0.7, "That of these samples.", flag_values=values)


if __name__ == "__main__":
    command_line.run(main, _define)
