"""The charts of the report: inline SVG, a legend in HTML."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reasoning_jax import metrics

MOST = 240  # points of a curve
INK, GRID, COLOURS = "#000001", "#000002", [f"#0000f{i}" for i in range(8)]  # stand for the page's CSS variables
MARKERS = list(zip("os^Dvphd", "●■▲◆▼⬟⬢♦", strict=True))  # in a chart, in its legend
AXES = {"step": "updates", "samples": "samples drawn", "k": "samples a question, k"}
CURVES = {"pass_at": "pass@k", "best_of": "best-of-k", "best_of_ratio": "best-of-k by log-ratio", "maj_at": "maj@k"}
Line = dict[str, Any]


def plots(lines: Sequence[Line], evals: Sequence[Line], votes: Sequence[Line] = ()) -> str:
    """The charts of a run's lines, each over rounds (over updates where a run has a single round).

    ``evals`` are the evaluations to draw, ``votes`` those of several samples a question (evaluate.py's files). A chart
    without data is left out; of those that every method has, it is said.
    """
    collects = [line for line in lines if line.get("phase") == "collect"]
    updates = [line for line in lines if line.get("phase") == "update"]
    scored, key = (evals, "eval/accuracy") if evals else (collects, "collect/correct")
    levels = sorted({level for line in scored for level in metrics.by_difficulty(line, key)})
    axis = "round" if len({line.get("round") for line in scored or lines}) > 2 else "step"

    def curve(source: Sequence[Line], of: str, label: str, x: str = axis, error: str = "") -> tuple[str, np.ndarray]:
        points = [(line.get(x), line.get(of), line.get(error, 0.0)) for line in source if of in line]
        found = np.array(points, dtype=float).reshape(-1, 3)
        found = found[np.isfinite(found).all(axis=1)]
        xs, where = np.unique(found[:, 0], return_inverse=True)  # lines of one x become their mean
        return label, np.stack([np.bincount(where, column) / np.bincount(where) for column in found.T], axis=1)

    parts = [(f"_{name}_{value}", f"{name} {value}") for name, value in levels] + [("", "all")]

    def accuracy(x: str) -> str:
        curves = [curve(scored, key + part, label, x, f"{key}_stderr{part}") for part, label in parts]
        return chart(curves, x, fraction=True)

    shares = [curve(collects, f"collect/{x}", x) for x in ("kept", "rationalized", "unparsed", "truncated")]
    title = f"Accuracy by {levels[0][0]}" if levels else "Accuracy"
    charts = [
        (title, "" if evals else "of the unhinted samples collected", accuracy(axis)),
        ("What was collected", "of the examples or samples of a round", chart(shares, axis, fraction=True)),
        ("Rationales with true lines only", "of the kept ones, and of all answers evaluated", chart(
            [curve(collects, "collect/true_lines", "kept"),
             curve(collects, "collect/hinted_true_lines", "kept, hinted"),
             curve(evals, "eval/true_lines", "evaluation")], axis, fraction=True)),
        ("Rationale length", "mean tokens of a completion", chart(
            [curve(collects, "collect/tokens", "collected"), curve(evals, "eval/tokens", "evaluation")], axis)),
        ("Loss", "", chart(
            [curve(updates, "update/loss", "loss", x="step")], "step", log=True)),
        ("Samples a second", "sampling throughput", chart(
            [curve(collects, "collect/samples_per_second", "collect")], axis)),
        ("Tokens a second", "sampling and training throughput", chart(
            [curve(collects, "collect/tokens_per_second", "collect"),
             curve(updates, "update/tokens_per_second", "update")], axis, log=True)),
        ("Gradient norm", "", chart(
            [curve(updates, "update/grad_norm", "gradient norm", x="step")], "step", log=True)),
    ]  # fmt: skip
    missing = html.escape(", ".join(title.lower() for title, _, svg in charts if not svg))
    charts.insert(1, ("Accuracy at equal cost", "over the samples drawn so far", accuracy("samples")))
    charts += [  # of the methods that keep a chain of rationales for each question
        ("Chains", "accepted: of a round's proposals; valid, expired: of all chains", chart(
            [curve(collects, f"collect/{x}", x) for x in ("accepted", "valid", "expired")], axis, fraction=True)),
        ("Age of the chains", "visits since the last acceptance", chart(
            [curve(collects, f"collect/age_{x}", x) for x in ("mean", "max")], axis)),
        ("Distinct rationales accepted", "so far", chart([curve(collects, "collect/distinct", "distinct")], axis)),
        ("Gradient variance", "of the estimators on one batch", chart(
            [curve(collects, f"collect/variance_{x}", x) for x in ("basic", "paper", "ours")], axis, log=True)),
        ("Coefficient of the control variate", "", chart([curve(collects, "collect/beta", "mean β")], axis)),
        # of preferences
        ("Log-likelihood of the sides", "sum over tokens, mean over an update's pairs", chart(
            [curve(updates, f"update/{x}_logprob", x, x="step") for x in ("chosen", "rejected")], "step")),
        ("Drift from the reference", "log-likelihood less the reference's, times beta", chart(
            [curve(updates, f"update/{x}_reward", x, x="step") for x in ("chosen", "rejected")], "step")),
        ("Preference", "pairs whose margin is above 0", chart(
            [curve(updates, "update/accuracy", "accuracy", x="step")], "step", fraction=True)),
        ("Length of the sides", "tokens", chart(
            [curve(updates, f"update/{x}_length", x, x="step") for x in ("chosen", "rejected")], "step")),
        # of policy gradients
        ("Groups and clipping", "groups whose samples all earn the same; tokens of an update", chart(
            [curve(collects, "collect/zero_spread", "zero spread"), curve(updates, "update/clip_fraction", "clipped")],
            axis, fraction=True)),
        ("Largest ratio", "of the policy to the one that drew the samples", chart(
            [curve(updates, "update/ratio_max", "largest ratio")], axis, log=True)),
        ("KL divergence from the base model", "a token, mean over samples", chart([curve(updates, "update/kl", "KL")], axis)),
    ]  # fmt: skip
    charts += [(f"Accuracy over k, {v['split']}", "shaded: standard error over questions", chart(
        over_k(v), "k", fraction=True)) for v in votes]  # fmt: skip
    figure = "<figure><figcaption><b>{}</b> <span>{}</span></figcaption>{}</figure>"
    drawn = "".join(figure.format(html.escape(title), note, svg) for title, note, svg in charts if svg)
    return f"<div class=plots>{drawn}</div>" + f"<p class=muted>Not logged in this run: {missing}.</p>" * bool(missing)


def over_k(values: Line) -> list[tuple[str, np.ndarray]]:
    """The curves of an evaluation over k samples a question: (name, [n, 3] of k, mean and standard error)."""
    curves = {}
    for name, label in CURVES.items():
        found = {int(m[1]): key for key in values if (m := re.fullmatch(rf"eval/{name}_(\d+)", key))}
        points = [(k, values[key], values[f"{key}_stderr"]) for k, key in sorted(found.items())]
        curves |= {label: np.array(points, float)} if points else {}
    return list(curves.items())


def chart(series: Sequence[tuple[str, np.ndarray]], axis: str, fraction: bool = False, log: bool = False) -> str:
    """An inline SVG with its legend in HTML; a series is (label, [n, 3] array of x, y and y's standard error).

    ``log`` scales y logarithmically where it spans more than a factor of thirty; zero has its place below.
    Curves of many points are drawn as means of neighbours, and the legend says so. Colours are the page's CSS
    variables, so that one drawing serves light and dark; markers tell the series apart without colour.
    """
    averaged = any(len(points) > MOST for _, points in series)
    series = [(label, thin(points)) for label, points in series if len(points)]
    if not series:
        return ""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9, "text.color": INK, "axes.edgecolor": GRID,
        "axes.labelcolor": INK, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": INK,
        "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "grid.color": GRID,
        "grid.linewidth": 0.6, "axes.axisbelow": True,
    }  # fmt: skip
    legend = ""
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.6, 2.5))
        axes = figure.add_axes((0.085, 0.155, 0.9, 0.81))  # the same frame for all, so that a grid of charts lines up
        axes.grid(axis="y")
        for i, (label, points) in enumerate(series):
            x, y, error = points.T
            whole = label == "all"
            colour, (marker, sign) = (INK, ("", "– –")) if whole else (COLOURS[i % 8], MARKERS[i % 8])
            dots = {"marker": marker, "markersize": 3.5} if len(x) <= 40 else {}
            dashes = "--" if whole else "-" if i < 8 else ":"
            axes.plot(x, y, color=colour, linewidth=1.4, linestyle=dashes, clip_on=False, **dots)
            if error.any() and not whole:
                axes.fill_between(x, y - error, y + error, color=colour, alpha=0.16, linewidth=0)
            legend += f"<span><i style='color:{colour}'>{sign}</i> {html.escape(label)}</span>"
        legend += "<span class=muted>each point the mean of neighbours</span>" * averaged
        values = np.concatenate([points[:, 1] for _, points in series])
        axes.set_xlabel(AXES.get(axis, axis), labelpad=2)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if axis == "samples" else 8, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.margins(x=0.02)
        if axis != "step":  # from 0, the base, in every chart
            last = max(points[-1, 0] for _, points in series) or 1
            axes.set_xlim(-0.02 * last, 1.02 * last)
        if fraction:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        elif log and values.min() >= 0 and values.max() > 30 * (least := values[values > 0].min(initial=np.inf)):
            decade = 10 ** np.floor(np.log10(max(least, values.max() / 1e5)))
            axes.set_yscale("symlog", linthresh=decade, linscale=0.5)
            axes.set_ylim(bottom=0)
        elif values.min() >= 0:
            axes.set_ylim(0, 1.08 * values.max() or 1.0)
        if not fraction:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y / 1000:g}k" if abs(y) >= 1000 else f"{y:g}"))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.S)
    svg = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    page = f"<div class=legend>{legend}</div>{svg}"
    for i, colour in enumerate(COLOURS):
        page = page.replace(colour, f"var(--c{i})")
    return page.replace(INK, "currentColor").replace(GRID, "var(--line)")


def thin(points: np.ndarray, most: int = MOST) -> np.ndarray:
    """At most ``most`` points, each the mean of as many neighbours."""
    size = -(-len(points) // most)
    return np.array([points[i : i + size].mean(axis=0) for i in range(0, len(points), size)])
