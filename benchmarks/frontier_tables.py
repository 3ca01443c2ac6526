"""The tables and the plot of ``frontier.py``: reward over KL, of each arm and of best-of-n."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import study  # beside this file

BEST, OPTIMUM = "best-of-n (bound of its KL)", "the optimum"
EQUAL_KL = (0.5, 1.0, 2.0, 3.0, 8.0, 16.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured, a curve for each seed: [points, 2] of KL and reward, from KL 0 on."""

    totals: list[int]  # updates
    sizes: list[int]  # of best-of-n
    arms: dict[str, list[np.ndarray]]
    best: list[np.ndarray]  # over n, at the bound of its KL
    best_kl: list[float]  # over n, of the rewards that were seen
    optimum: np.ndarray  # of the samples of all seeds


def at_kl(curve: np.ndarray, kl: float) -> float:
    """The reward at this KL, between points straight over its root; NaN beyond the last."""
    curve = curve[np.argsort(curve[:, 0])]
    root = np.sqrt(curve[:, 0].clip(0))
    return float(np.interp(kl**0.5, root, curve[:, 1], right=np.nan))


def figures(results: Results) -> dict[str, list]:
    """All points: means over seeds and standard errors."""
    points = []
    for arm, curves in results.arms.items():
        for i, updates in enumerate(results.totals, 1):
            about = {"arm": arm, "updates": updates}
            points.append(about | point([curve[i] for curve in curves]))
    best = []
    for i, n in enumerate(results.sizes):
        own = point([curve[i] for curve in results.best])
        best.append({"n": n} | own | {"kl_with_ties": results.best_kl[i]})
    return {"points": points, "best_of_n": best, "optimum": results.optimum.tolist()}


def point(seeds: Sequence[np.ndarray]) -> dict[str, float]:
    kl, kl_error = study.mean_and_error([seed[0] for seed in seeds])
    mean, error = study.mean_and_error([seed[1] for seed in seeds])
    return {"kl": kl, "kl_error": kl_error, "reward": mean, "reward_error": error}


def tables(results: Results) -> str:
    """Every measurement; best-of-n; and rewards at equal KL."""
    found = figures(results)
    lines = ["| | updates | KL | reward |", "|---" * 4 + "|"]
    for p in found["points"]:
        cells = "{kl:.2f} ± {kl_error:.2f} | {reward:.2f} ± {reward_error:.2f}".format(**p)
        lines.append(f"| {p['arm']} | {p['updates']} | {cells} |")
    lines += ["", "| best of n | KL is at most | its KL, with ties | reward |", "|---" * 4 + "|"]
    for b in found["best_of_n"]:
        cells = "{n} | {kl:.2f} | {kl_with_ties:.2f} | {reward:.2f} ± {reward_error:.2f}"
        lines.append(f"| {cells.format(**b)} |")
    head = " | ".join(f"KL {kl:g}" for kl in EQUAL_KL)
    lines += ["", f"| reward at | {head} |", "|---" * (len(EQUAL_KL) + 1) + "|"]
    for name, curves in (results.arms | {BEST: results.best, OPTIMUM: [results.optimum]}).items():
        cells = [table_cell([at_kl(curve, kl) for curve in curves]) for kl in EQUAL_KL]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_cell(rewards: Sequence[float]) -> str:
    """ "" where a seed has not come so far."""
    mean, error = study.mean_and_error(rewards)
    if np.isnan(mean):
        return ""
    return f"{mean:.2f}" if np.isnan(error) else f"{mean:.2f} ± {error:.2f}"


def plot(results: Results, colours: Mapping[str, str], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7.2, 4.8))
    found = figures(results)
    for arm in results.arms:
        own = [p for p in found["points"] if p["arm"] == arm]
        columns = {key: [p[key] for p in own] for key in own[0]}
        axis.errorbar(
            [0.0, *columns["kl"]],
            [results.optimum[0, 1], *columns["reward"]],
            xerr=[0.0, *columns["kl_error"]],
            yerr=[0.0, *columns["reward_error"]],
            color=colours[arm],
            marker="o",
            markersize=3.5,
            linewidth=1.2,
            label=arm,
        )
    best = found["best_of_n"]
    style = {"color": "black", "marker": "s", "markersize": 3.5, "linestyle": "--"}
    axis.plot([b["kl"] for b in best], [b["reward"] for b in best], label=BEST, **style)
    axis.plot(*results.optimum.T, color="black", linewidth=0.9, label=OPTIMUM)
    axis.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
    axis.set(xlabel="KL(policy || reference), nats a continuation, on a root scale")
    axis.set_ylabel("mean reward: happy words in a continuation")
    ticks = [0, 0.25, 1, 2, 4, 8, 16, 32, 64]
    axis.set_xticks(ticks, [f"{kl:g}" for kl in ticks])
    axis.grid(alpha=0.3)
    study.save(figure, axis, path)
