"""Drawing a chart: inline SVG, with its legend in HTML."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # importing it takes a while
    from matplotlib.axes import Axes

MAX_POINTS = 240  # of a curve
MAX_MARKERS = 40  # a curve of more points is drawn without markers
WHOLE = "all"  # the label of the curve over all levels of difficulty, which is dashed and black

# These colours stand for the page's CSS variables, which take their place in the finished drawing.
INK, GRID = "#000001", "#000002"
COLOURS = [f"#0000f{i}" for i in range(8)]
MARKERS = list(zip("os^Dvphd", "●■▲◆▼⬟⬢♦", strict=True))  # (in the chart, in its legend)
AXIS_LABELS = {"step": "updates", "samples": "samples drawn", "k": "samples a question, k"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
Series = tuple[str, np.ndarray]  # (label, [n, 3] of x, y and the standard error of y)


def draw(series: Sequence[Series], axis: str, fraction: bool = False, log: bool = False) -> str:
    """The SVG of these curves below a legend in HTML; "" where no curve has a point.

    ``fraction``: y is from 0 to 100 %. ``log``: y is logarithmic where it spans more than a factor
    of thirty; zero has its place below. A curve of many points is drawn as means of neighbours, and
    the legend says so. Colours are the page's CSS variables, so that one drawing serves light and
    dark; markers tell the curves apart without colour.
    """
    averaged = any(len(points) > MAX_POINTS for _, points in series)
    series = [(label, thin(points)) for label, points in series if len(points)]
    if not series:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.5))
        # The same frame in all charts, so that a grid of them lines up.
        axes = figure.add_axes((0.085, 0.155, 0.9, 0.81))
        axes.grid(axis="y")
        for i, (label, points) in enumerate(series):
            _plot(axes, i, label, points)
        _set_x_axis(axes, axis, max(points[-1, 0] for _, points in series))
        _set_y_axis(axes, np.concatenate([points[:, 1] for _, points in series]), fraction, log)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _with_variables(_legend(series, averaged) + _inline(out.getvalue()))


def thin(points: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """At most ``limit`` points, each the mean of equally many neighbours."""
    size = -(-len(points) // limit)
    means = [points[i : i + size].mean(axis=0) for i in range(0, len(points), size)]
    return np.array(means)


def _plot(axes: Axes, i: int, label: str, points: np.ndarray) -> None:
    """Curve number ``i``, shaded by its standard error."""
    x, y, error = points.T
    colour, marker, dashes = COLOURS[i % 8], MARKERS[i % 8][0], "-"
    if label == WHOLE:
        colour, marker, dashes = INK, "", "--"
    elif i >= 8:  # the colours begin again
        dashes = ":"
    markers = {"marker": marker, "markersize": 3.5} if len(x) <= MAX_MARKERS else {}
    axes.plot(x, y, color=colour, linewidth=1.4, linestyle=dashes, clip_on=False, **markers)
    if error.any() and label != WHOLE:
        axes.fill_between(x, y - error, y + error, color=colour, alpha=0.16, linewidth=0)


def _set_x_axis(axes: Axes, axis: str, last: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(AXIS_LABELS.get(axis, axis), labelpad=2)
    ticks = 6 if axis == "samples" else 8
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.margins(x=0.02)
    if axis != "step":  # from 0, the base model, in every chart
        width = last or 1
        axes.set_xlim(-0.02 * width, 1.02 * width)


def _set_y_axis(axes: Axes, values: np.ndarray, fraction: bool, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    if fraction:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        return
    least, most = values[values > 0].min(initial=np.inf), values.max()
    if log and values.min() >= 0 and most > 30 * least:
        decade = 10 ** np.floor(np.log10(max(least, most / 1e5)))
        axes.set_yscale("symlog", linthresh=decade, linscale=0.5)
        axes.set_ylim(bottom=0)
    elif values.min() >= 0:
        axes.set_ylim(0, 1.08 * most or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))


def _tick(y: float) -> str:
    return f"{y / 1000:g}k" if abs(y) >= 1000 else f"{y:g}"


def _legend(series: Sequence[Series], averaged: bool) -> str:
    entries = []
    for i, (label, _) in enumerate(series):
        colour, sign = COLOURS[i % 8], MARKERS[i % 8][1]
        if label == WHOLE:
            colour, sign = INK, "– –"
        entries.append(f"<span><i style='color:{colour}'>{sign}</i> {html.escape(label)}</span>")
    if averaged:
        entries.append("<span class=muted>each point the mean of neighbours</span>")
    return f"<div class=legend>{''.join(entries)}</div>"


def _inline(document: str) -> str:
    """An SVG document as an element of an HTML page, in the page's font and of any width."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.S)
    svg = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)


def _with_variables(page: str) -> str:
    for i, colour in enumerate(COLOURS):
        page = page.replace(colour, f"var(--c{i})")
    return page.replace(INK, "currentColor").replace(GRID, "var(--line)")
