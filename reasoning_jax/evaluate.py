"""How good a model is: accuracy with its standard error, by difficulty; and as curves over k = 1, 2, 4 ... samples a question,
all from the same samples and without bias: pass@k, maj@k, and, where the run has trained a verifier, best-of-k.

    python -m reasoning_jax.evaluate --workdir=DIR [--config=configs/X.py] [--split=test] [--samples=k] [--temperature=0.7]

Evaluates the best round of the run in DIR, prints a table and writes DIR/evaluation_SPLIT.json.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from reasoning_jax import command_line, grading, workdir
from reasoning_jax.tasks import CORRECT, WRONG

if TYPE_CHECKING:  # the rest imports jax, and flags are parsed before that
    from reasoning_jax.rollout import Sample


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of P(one of k samples is correct) from n samples: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least k samples and 0 <= correct <= n, got n={n}, correct={correct}.")
    return 1.0 - float(Fraction(math.comb(n - correct, k), math.comb(n, k)))


def best_of_k(correct: Sequence[bool], k: int) -> float:
    """The unbiased estimate of P(the best of k samples is correct), from n of them in the verifier's order, the best first:
    sum_i correct_i C(n-i-1, k-1) / C(n, k), i = 0 ... n-k (V-STaR, Hosseini et al. 2024, arXiv 2402.06457, eq. 3)."""
    n = len(correct)
    if not 1 <= k <= n:
        raise ValueError(f"best-of-{k} needs at least k samples, got {n}.")
    ways = sum(math.comb(n - i - 1, k - 1) for i, right in enumerate(correct) if right)
    return float(Fraction(ways, math.comb(n, k)))


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


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], sizes: Sequence[int]) -> list[float]:
    """For each k of ``sizes`` the mean of ``majority`` over all choices of k of these samples, by counting them.

    For each right answer and each r: the choices in which it has r votes and no other more, by how many others have r too.
    """
    n, most = len(answers), max(sizes)
    if not 1 <= min(sizes) or most > n:
        raise ValueError(f"maj@{most} needs at least k samples, got {n}.")
    votes = Counter(a for a in answers if a is not None)
    wins = np.zeros(most + 1)  # by k
    for answer in {a for a, r in zip(answers, right, strict=True) if r and a is not None}:
        for r in range(1, min(votes[answer], most) + 1):
            ways = np.zeros((most // r, most - r + 1))  # [others with r votes, votes of the others]
            ways[0, 0] = 1
            for other, count in votes.items():
                if other != answer:
                    added = [_chosen(ways, count, m) for m in range(min(count, r - 1) + 1)]
                    if count >= r:
                        added.append(np.pad(_chosen(ways, count, r)[:-1], ((1, 0), (0, 0))))
                    ways = sum(added)
            ways = sum(_chosen(ways, n - votes.total(), m) for m in range(n - votes.total() + 1))  # those that do not vote
            wins[r:] += math.comb(votes[answer], r) * (ways / (1 + np.arange(len(ways)))[:, None]).sum(0)
    return [float(wins[k] / math.comb(n, k)) for k in sizes]


def _chosen(ways: np.ndarray, count: int, m: int) -> np.ndarray:
    """The numbers of ways [T, K] to choose so many in all where m of ``count`` more ones are among them."""
    out = np.zeros_like(ways)
    out[:, m:] = math.comb(count, m) * ways[:, : max(ways.shape[1] - m, 0)]
    return out


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


def vote_metrics(samples: Sequence[Sample], k: int, scores: Mapping[str, Sequence[float]] | None = None) -> dict[str, float]:
    """maj@j and pass@j for j = 1, 2, 4 ... k over k samples an example, with their standard errors over examples.

    Answers vote in the form that grading.normalize gives them ("72.0" with "72"); what was cut off does not vote. scores:
    of the samples, by the name of a verifier's curve: a best-of-j each. Ties are broken at random, the same in every run.
    """
    groups: dict[int, list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault(s.example.id, []).append(i)

    def ballot(s: Sample) -> str | None:
        return grading.normalize(s.answer or "") if s.verdict in (CORRECT, WRONG) else None

    sizes = sorted({k, *(1 << i for i in range(k.bit_length()))})
    curves: dict[str, list[list[float]]] = {}
    for id, members in groups.items():
        right = [samples[i].correct for i in members]
        found = {
            "maj_at": maj_at_k([ballot(samples[i]) for i in members], right, sizes),
            "pass_at": [pass_at_k(len(right), sum(right), j) for j in sizes],
        }
        tie = np.random.default_rng(id).permutation(len(members))
        for name, score in (scores or {}).items():
            ranked = sorted(range(len(members)), key=lambda n: (-score[members[n]], tie[samples[members[n]].index]))  # noqa: B023
            found[name] = [best_of_k([right[n] for n in ranked], j) for j in sizes]
        for name, curve in found.items():
            curves.setdefault(name, []).append(curve)
    out = {}
    for name, curve in curves.items():
        table = np.array(curve)  # [examples, sizes]
        for j, mean, error in zip(sizes, table.mean(0), table.std(0) / math.sqrt(len(table)), strict=True):
            out |= {f"eval/{name}_{j}": float(mean), f"eval/{name}_{j}_stderr": float(error)}
    return out


def verifier_scores(samples: Sequence[Sample], exp: Any, folder: Path) -> dict[str, np.ndarray]:
    """What the run's verifier gives each sample: best_of, its log-likelihood (the paper's score, which favours what is short),
    and best_of_ratio, that less the base model's. The lowest of all for what is cut off or has no answer; {} without verifier.
    """
    from reasoning_jax import checkpoint

    def log_likelihood(params: Any) -> np.ndarray:
        judge = exp.rollout(params, "verify", 0)
        return np.array([p.sum() for p in judge.logprobs([s.example for s in samples], [s.tokens for s in samples])])

    abstract = exp.abstract_state().params
    if not (found := checkpoint.restore(folder / "verifier", abstract)):
        return {}
    candidate = np.array([s.verdict in (CORRECT, WRONG) for s in samples])
    own, base = (log_likelihood(p) for p in (found[0], checkpoint.load_params(folder / "base", abstract)[0]))
    return {name: np.where(candidate, x, -np.inf) for name, x in (("best_of", own), ("best_of_ratio", own - base))}


# ---- command line ----------------------------------------------------------------------------------------------------


def main(cfg: Any, folder: Path, flags: Any) -> None:
    command_line.join(folder, flags)
    from reasoning_jax import checkpoint, experiment, metrics, processes, sampling

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
        scores = verifier_scores(samples, exp, folder)
        votes = vote_metrics(samples, k, scores)
        names |= {_title(name): name for name in votes if not name.endswith("_stderr")}
        levels: dict[str, list[int]] = {}
        for i, s in enumerate(samples):
            levels.setdefault("{}_{}".format(*exp.task.difficulty(s.example)), []).append(i)
        for level, part in levels.items():
            own = {name: [score[i] for i in part] for name, score in scores.items()}
            values |= {f"{n}_{level}": v for n, v in vote_metrics([samples[i] for i in part], k, own).items()}
        values |= votes
    about = {"split": split, "round": meta["round"], "samples": k, "temperature": flags.temperature if k else 0.0}
    path = folder / f"evaluation_{re.sub(r'[^A-Za-z0-9_.-]+', '_', split)}.json"
    if processes.first():
        workdir.write(path, (json.dumps(about | values, indent=1) + "\n").encode())
    rows = [(name, {k.replace(key, "eval/accuracy", 1): v for k, v in values.items() if k.startswith(key)})
            for name, key in names.items()]  # fmt: skip
    processes.say(metrics.accuracy_table(rows))
    processes.say(f"{split} split, {len(examples)} examples, round {meta['round']}: {path}")


def _title(name: str) -> str:
    """eval/maj_at_8 -> maj@8, eval/best_of_8 -> best-of-8"""
    return name.removeprefix("eval/").replace("_at_", "@").replace("_", "-")


def _define(values: Any) -> None:
    from absl import flags

    command_line.define_shared(values)
    flags.DEFINE_string("split", "test", "Which examples: test, validation, train, ...", values)
    flags.DEFINE_integer("samples", 0, "Also so many samples an example, for maj@k and pass@k.", 0, flag_values=values)
    flags.DEFINE_float("temperature", 0.7, "That of these samples.", flag_values=values)


if __name__ == "__main__":
    command_line.run(main, _define)
