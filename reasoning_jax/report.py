"""One HTML page about a run: accuracy, curves, samples.

python -m reasoning_jax.report --workdir=DIR        writes DIR/report.html, which needs no network and no other file
"""

from __future__ import annotations

import collections
import datetime
import html
import io
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from reasoning_jax import metrics

PER_ROUND, IN_ALL, FEWEST, LONGEST = 60, 4000, 8, 6000  # samples a round, in all, at least a round; characters of one
INK, GRID, COLOURS = "#000001", "#000002", [f"#0000f{i}" for i in range(8)]  # stand for the page's CSS variables
MARKERS = list(zip("os^Dvphd", "●■▲◆▼⬟⬢♦", strict=True))  # in a chart, in its legend
Line = dict[str, Any]


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Write report.html into ``workdir`` and return its path; the errors are those of ``build``."""
    page, path = build(workdir), pathlib.Path(workdir) / "report.html"
    path.with_suffix(".tmp").write_text(page, encoding="utf-8", errors="replace")
    path.with_suffix(".tmp").replace(path)
    return path


def build(workdir: str | os.PathLike[str]) -> str:
    """The page as text; whatever the run has not written is left out.

    Raises FileNotFoundError where ``workdir`` holds no run, ValueError where one of its files is broken.
    """
    workdir = pathlib.Path(workdir)
    config_file, metrics_file = workdir / "config.json", workdir / "metrics.jsonl"
    if not any(path.exists() for path in (config_file, metrics_file, workdir / "rounds")):
        raise FileNotFoundError(f"{workdir} holds no run: no config.json, no metrics.jsonl and no rounds.")
    lines = metrics.read(workdir) if metrics_file.exists() else []
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{config_file} is not JSON: {error}.") from None
    samples, total = choose_samples(workdir)
    # "<" never stands in the data, so no sample can end the script element early.
    data = json.dumps({"samples": samples, "total": total}, allow_nan=False, separators=(",", ":"))
    parts = {
        "TITLE": html.escape(workdir.resolve().name),
        "HEADER": header(lines, config, total),
        "TABLE": table(lines),
        "PLOTS": plots(lines),
        "DATA": data.replace("<", "\\u003c"),
    }
    page = pathlib.Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], page)


def header(lines: Sequence[Line], config: Any, total: int) -> str:
    """What ran and when, the numbers one asks for first, and the whole config, folded away."""
    flat = dict(flatten(config))
    about = [str(flat[key]) for key in ("algorithm.name", "task.name", "model.name", "model.preset") if flat.get(key)]
    scores = [metrics.percent(line["eval/accuracy"]) for line in evaluations(lines) if "eval/accuracy" in line]
    tiles = [("accuracy, first → last", f"{scores[0]} → {scores[-1]} %")] if scores else []
    for name, key in (("rounds", "round"), ("updates", "step")):
        tiles += [(name, f"{max(line.get(key, 0) for line in lines):,}")] if lines else []
    tiles.append(("samples written", f"{total:,}"))
    times = [line["time"] for line in lines if "time" in line]
    if times:
        tiles.append(("first to last line", str(datetime.timedelta(seconds=round(max(times) - min(times))))))
        about.append(f"ran {datetime.datetime.fromtimestamp(min(times)):%Y-%m-%d %H:%M}")
    about.append(f"reported {datetime.datetime.now():%Y-%m-%d %H:%M}")
    boxes = "".join(f"<div class=tile><b>{value}</b><span>{name}</span></div>" for name, value in tiles)
    pairs = [(html.escape(key), html.escape(json.dumps(value, ensure_ascii=False))) for key, value in flat.items()]
    keys = "".join(f"<div><span>{key}</span> {value}</div>" for key, value in pairs)
    page = f"<p class=muted>{html.escape(' · '.join(about))}</p><div class=tiles>{boxes}</div>"
    folded = f"<details><summary>Config, {len(flat)} keys</summary><div class=config>{keys}</div></details>"
    return page + folded * bool(flat)


def flatten(config: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested dict."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield from flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else [(f"{prefix}.{key}"[1:], value)]


def evaluations(lines: Sequence[Line], split: str | None = None) -> list[Line]:
    """One split's evaluations in the run's order (validation where there is one), the last where one was repeated."""
    found = [line for line in lines if line.get("phase") == "eval"]
    splits = [line.get("split", "validation") for line in found]
    split = split or ("validation" if "validation" in splits or not splits else splits[0])
    return list({(m.get("round"), m.get("step")): m for m, s in zip(found, splits, strict=True) if s == split}.values())


def table(lines: Sequence[Line]) -> str:
    """Accuracy by difficulty of base, some rounds, the best and the last, for each split there is."""
    evals = [line for line in lines if line.get("phase") == "eval"]
    if not evals:
        return "<p class=muted>This run has no evaluations.</p>"
    levels = sorted({level for line in evals for level in metrics.by_difficulty(line)})
    asides = [key for key in ("unparsed", "truncated", "true_lines") if any(f"eval/{key}" in line for line in evals)]
    heads = ["all", *(html.escape(f"{name} {value}") for name, value in levels)]
    rows = "<tr><th>accuracy, %" + "".join(f"<th>{head}" for head in heads)
    rows += "".join(f"<th class=aside>{key.replace('_', ' ')}" for key in asides)
    for split in dict.fromkeys(line.get("split", "validation") for line in evals):
        scores = evaluations(lines, split)
        rounds = len({score.get("round") for score in scores}) == len(scores)  # else rows are told by their updates
        last, best = len(scores) - 1, max(range(len(scores)), key=lambda i: scores[i].get("eval/accuracy", -1.0))
        rows += f"<tr><th class=split colspan={1 + len(heads) + len(asides)}>{html.escape(split)}"
        for i in sorted({best, *evenly(range(len(scores)), 6)}):
            line, by_level = scores[i], metrics.by_difficulty(scores[i])
            cells = [(line.get("eval/accuracy"), line.get("eval/accuracy_stderr"))]
            cells += [by_level.get(level, (None, None)) for level in levels]
            name = f"round {line.get('round')}" if rounds else f"update {line.get('step')}"
            name = name if line.get("step") or line.get("round") else "base"
            notes = ", ".join(word for word, here in (("best", i == best), ("last", i == last)) if here and last > 0)
            rows += f"<tr><th>{name} <i>{notes}</i>"
            for value, stderr in cells:
                tint = 0.0 if value is None or not math.isfinite(value) else 0.4 * value
                number, _, error = metrics.percent(value, stderr).partition(" ")
                rows += f"<td style='--tint:{tint:.3f}'>{number}<small>{error}</small>"
            rows += "".join(f"<td class=aside>{metrics.percent(line.get(f'eval/{key}'))}" for key in asides)
    return f"<div class=scroll><table>{rows}</table></div>"


def plots(lines: Sequence[Line]) -> str:
    """The charts, each over rounds (over updates where a run has a single round)."""
    collects = [line for line in lines if line.get("phase") == "collect"]
    updates = [line for line in lines if line.get("phase") == "update"]
    evals = evaluations(lines)
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
    accuracy = [curve(scored, key + part, label, error=f"{key}_stderr{part}") for part, label in parts]
    shares = [curve(collects, f"collect/{x}", x) for x in ("kept", "rationalized", "unparsed", "truncated")]
    title = f"Accuracy by {levels[0][0]}" if levels else "Accuracy"
    charts = [
        (title, "" if evals else "of the unhinted samples collected", chart(accuracy, axis, fraction=True)),
        ("What was collected", "of the examples or samples of a round", chart(shares, axis, fraction=True)),
        ("Rationales with true lines only", "of the kept ones, and of all answers evaluated", chart(
            [curve(collects, "collect/true_lines", "kept"),
             curve(collects, "collect/hinted_true_lines", "kept, hinted"),
             curve(evals, "eval/true_lines", "evaluation")], axis, fraction=True)),
        ("Rationale length", "mean tokens of a completion", chart(
            [curve(collects, "collect/tokens", "collected"), curve(evals, "eval/tokens", "evaluation")], axis)),
        ("Loss", "each point the mean of neighbouring updates", chart(
            [curve(updates, "update/loss", "loss", x="step")], "step", log=True)),
        ("Samples a second", "sampling throughput", chart(
            [curve(collects, "collect/samples_per_second", "collect")], axis)),
        ("Tokens a second", "sampling and training throughput", chart(
            [curve(collects, "collect/tokens_per_second", "collect"),
             curve(updates, "update/tokens_per_second", "update")], axis, log=True)),
        ("Gradient norm", "each point the mean of neighbouring updates", chart(
            [curve(updates, "update/grad_norm", "gradient norm", x="step")], "step", log=True)),
    ]  # fmt: skip
    figure = "<figure><figcaption><b>{}</b> <span>{}</span></figcaption>{}</figure>"
    drawn = "".join(figure.format(html.escape(title), note, svg) for title, note, svg in charts if svg)
    missing = html.escape(", ".join(title.lower() for title, _, svg in charts if not svg))
    return f"<div class=plots>{drawn}</div>" + f"<p class=muted>Not logged in this run: {missing}.</p>" * bool(missing)


def chart(series: Sequence[tuple[str, np.ndarray]], axis: str, fraction: bool = False, log: bool = False) -> str:
    """An inline SVG with its legend in HTML; a series is (label, [n, 3] array of x, y and y's standard error).

    ``log`` scales y logarithmically where it spans more than a factor of thirty. Colours are the page's CSS
    variables, so that one drawing serves light and dark; markers tell the series apart without colour.
    """
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
        values = np.concatenate([points[:, 1] for _, points in series])
        axes.set_xlabel("updates" if axis == "step" else axis, labelpad=2)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.margins(x=0.02)
        if axis == "round":  # from 0, the base, in every chart
            last = max(points[-1, 0] for _, points in series) or 1
            axes.set_xlim(-0.02 * last, 1.02 * last)
        if fraction:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        elif log and values.min() > 0 and values.max() > 30 * values.min():
            axes.set_yscale("log")
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


def thin(points: np.ndarray, most: int = 240) -> np.ndarray:
    """At most ``most`` points, each the mean of its neighbours."""
    return np.array([part.mean(axis=0) for part in np.array_split(points, min(len(points), most))])


def choose_samples(workdir: pathlib.Path) -> tuple[list[Line], int]:
    """The samples to show, and of how many: evenly from the rounds and, within one, evenly from every kind."""
    paths = [path for path in (workdir / "rounds").glob("*/samples.jsonl") if path.parent.name.isdigit()]
    paths.sort(key=lambda path: int(path.parent.name))
    shown = set(evenly(paths, IN_ALL // FEWEST))
    chosen, total = [], 0
    for path in paths:
        rows = metrics.read_lines(path)
        total += len(rows)
        if path in shown:
            chosen += [entry(row, int(path.parent.name)) for row in pick(rows, min(PER_ROUND, IN_ALL // len(shown)))]
    return chosen, total


def pick(rows: Sequence[Line], limit: int) -> list[Line]:
    """At most ``limit`` rows, in order: every kind gets an equal share, what a rare kind leaves goes to the others."""
    kinds = collections.defaultdict(list)
    for i, row in enumerate(rows):
        kinds[row.get("verdict"), row.get("wrong_line") is None, bool(row.get("hinted"))].append(i)
    chosen, room = [], limit
    for left, members in zip(range(len(kinds), 0, -1), sorted(kinds.values(), key=len), strict=True):
        chosen += evenly(members, room // left)
        room = limit - len(chosen)
    return [rows[i] for i in sorted(chosen)]


def evenly(items: Sequence[Any], number: int) -> list[Any]:
    """At most ``number`` of ``items`` at even distances, the first and (where there are two) the last among them."""
    number = min(number, len(items))
    return [items[i * (len(items) - 1) // max(number - 1, 1)] for i in range(number)]


def entry(row: Line, round: int) -> Line:
    """A sample as the page's script takes it."""
    text = str(row.get("rationale") or "")
    cut = f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]" if len(text) > LONGEST else text
    texts = {k: None if row.get(k) is None else str(row[k]) for k in ("id", "question", "answer", "gold", "verdict")}
    numbers = {key: row[key] if isinstance(row.get(key), int) else None for key in ("wrong_line", "tokens")}
    marks = {key: bool(row.get(key)) for key in ("hinted", "kept")}
    level = " ".join(str(part) for part in row.get("difficulty") or ())
    return {"round": round, "rationale": cut, "difficulty": level, **texts, **numbers, **marks}


def main(argv: Sequence[str]) -> None:
    try:
        print(f"Wrote {write(flags.FLAGS.workdir)}")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":  # not at import: main.py has a flag of this name too
    flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
    app.run(main)
