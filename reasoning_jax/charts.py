"""What the report draws: the charts of every method and those that a method adds, as values."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from reasoning_jax import metrics, svg
from reasoning_jax.workdir import Line


@dataclasses.dataclass(frozen=True)
class Curve:
    """The values of ``key`` in the lines of metrics.jsonl that are of one phase.

    ``phase`` is "collect", "update" or "eval".
    """

    phase: str
    key: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """Some curves over rounds (``axis="round"``) or updates (``axis="step"``).

    Where a run has a single round, the charts over rounds are drawn over updates. ``fraction``: y
    is from 0 to 100 %. ``log``: y is logarithmic where it spans more than a factor of thirty.
    """

    title: str
    note: str = ""
    curves: tuple[Curve, ...]
    axis: str = "round"
    fraction: bool = False
    log: bool = False


COMMON = (
    Chart(
        title="What was collected",
        note="of the examples or samples of a round",
        curves=(
            Curve("collect", "collect/kept", "kept"),
            Curve("collect", "collect/unparsed", "unparsed"),
            Curve("collect", "collect/truncated", "truncated"),
        ),
        fraction=True,
    ),
    Chart(
        title="Rationales with true lines only",
        note="of the kept ones, and of all answers evaluated",
        curves=(
            Curve("collect", "collect/true_lines", "kept"),
            Curve("eval", "eval/true_lines", "evaluation"),
        ),
        fraction=True,
    ),
    Chart(
        title="Rationale length",
        note="mean tokens of a completion",
        curves=(
            Curve("collect", "collect/tokens", "collected"),
            Curve("eval", "eval/tokens", "evaluation"),
        ),
    ),
    Chart(title="Loss", curves=(Curve("update", "update/loss", "loss"),), axis="step", log=True),
    Chart(
        title="Samples a second",
        note="sampling throughput",
        curves=(Curve("collect", "collect/samples_per_second", "collect"),),
    ),
    Chart(
        title="Tokens a second",
        note="sampling and training throughput",
        curves=(
            Curve("collect", "collect/tokens_per_second", "collect"),
            Curve("update", "update/tokens_per_second", "update"),
        ),
        log=True,
    ),
    Chart(
        title="Gradient norm",
        curves=(Curve("update", "update/grad_norm", "gradient norm"),),
        axis="step",
        log=True,
    ),
)
AXES = ("round", "step", "samples")
# A number beyond it is not finite where it was computed, and has no place in a picture.
LARGEST = float(np.finfo(np.float32).max)
OVER_K = {  # metric of an evaluation with k samples a question -> its curve's label
    "pass_at": "pass@k",
    "best_of": "best-of-k",
    "best_of_ratio": "best-of-k by log-ratio",
    "maj_at": "maj@k",
}


class Columns:
    """Some keys of many lines as arrays, NaN where a line has none: of these a curve is drawn.

    A run has millions of lines, and their objects would fill the memory.
    """

    def __init__(self, keys: Iterable[str], prefix: str | None = None):
        self._arrays = {key: array("d") for key in keys}
        self._prefix = prefix  # keys that begin with it are kept too
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def append(self, line: Line) -> None:
        """Adds what is kept of a line."""
        if self._prefix is not None:
            for key in line:
                if key not in self._arrays and key.startswith(self._prefix):
                    self._arrays[key] = array("d", [math.nan] * self._count)
        for key, values in self._arrays.items():
            value = line.get(key)
            values.append(math.nan if value is None else cast(float, value))
        self._count += 1

    def __getitem__(self, key: str) -> np.ndarray:
        """[n] float64, NaN where a line has no such key."""
        return np.array(self._arrays.get(key, [math.nan] * self._count))


def columns(method_charts: Sequence[Chart] = ()) -> dict[str, Columns]:
    """What the charts of a run draw, for each phase but the evaluations: still without lines."""
    keys: dict[str, set[str]] = {"collect": {*AXES}, "update": {*AXES}}
    for chart in (*COMMON, *method_charts):
        for curve in chart.curves:
            keys.setdefault(curve.phase, {*AXES}).add(curve.key)
    # Without evaluations, it is the accuracy by difficulty of what was collected that is drawn.
    prefixes = {"collect": "collect/correct"}
    return {p: Columns(names, prefixes.get(p)) for p, names in keys.items() if p != "eval"}


def plots(
    phases: Mapping[str, Columns],
    evals: Sequence[Line],
    votes: Sequence[Line] = (),
    method_charts: Sequence[Chart] = (),
) -> str:
    """The charts of a run as HTML; a chart without data is left out.

    ``phases``: what ``columns`` has kept of the run's lines. ``evals`` are the evaluations to draw,
    ``votes`` those with several samples a question (the files that evaluate.py writes). A chart of
    the method replaces the common one of the same title. The common charts without data are listed
    at the end.
    """
    evaluated = Columns(AXES, prefix="eval/")
    for line in evals:
        evaluated.append(line)
    phases = {**phases, "eval": evaluated}
    of_rounds = next((phases[p] for p in ("eval", "collect", "update") if len(phases[p])), None)
    rounds = 0 if of_rounds is None else len(np.unique(of_rounds["round"]))
    axis = "round" if rounds > 2 else "step"
    charts = {chart.title: chart for chart in (*COMMON, *method_charts)}

    accuracy, equal_cost = accuracy_figures(phases, axis)
    figures = [accuracy, equal_cost]
    figures += [figure(chart, phases, axis) for chart in charts.values()]
    figures += [over_k_figure(line) for line in votes]

    expected = {accuracy.title, *(chart.title for chart in COMMON)}
    missing = [f.title.lower() for f in figures if f.title in expected and not f.drawing]
    page = "<div class=plots>" + "".join(f.markup() for f in figures if f.drawing) + "</div>"
    if missing:
        listed = html.escape(", ".join(missing))
        page += f"<p class=muted>Not logged in this run: {listed}.</p>"
    return page


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn chart; ``drawing`` is "" where there was nothing to draw."""

    title: str
    note: str
    drawing: str

    def markup(self) -> str:
        title, note = html.escape(self.title), html.escape(self.note, quote=False)
        caption = f"<figcaption><b>{title}</b> <span>{note}</span></figcaption>"
        return f"<figure>{caption}{self.drawing}</figure>"


def figure(chart: Chart, phases: Mapping[str, Columns], axis: str) -> Figure:
    """``chart`` of these lines, by phase; ``axis`` is that of the charts over rounds."""
    x = axis if chart.axis == "round" else chart.axis
    series = [(curve.label, points(phases[curve.phase], x, curve.key)) for curve in chart.curves]
    return Figure(chart.title, chart.note, svg.draw(series, x, chart.fraction, chart.log))


def accuracy_figures(phases: Mapping[str, Columns], axis: str) -> tuple[Figure, Figure]:
    """Accuracy by difficulty over ``axis``, and over the samples drawn.

    Without evaluations it is that of the samples collected.
    """
    lines, key = phases["eval"], "eval/accuracy"
    if not len(lines):
        lines, key = phases["collect"], "collect/correct"
    levels = list(metrics.by_difficulty(dict.fromkeys(lines), key))
    suffixes = [(f"_{name}_{value}", f"{name} {value}") for name, value in levels]
    suffixes.append(("", "all"))

    def draw(x: str) -> str:
        series = [
            (label, points(lines, x, f"{key}{suffix}", f"{key}_stderr{suffix}"))
            for suffix, label in suffixes
        ]
        return svg.draw(series, x, fraction=True)

    title = f"Accuracy by {levels[0][0]}" if levels else "Accuracy"
    note = "" if len(phases["eval"]) else "of the unhinted samples collected"
    return (
        Figure(title, note, draw(axis)),
        Figure("Accuracy at equal cost", "over the samples drawn so far", draw("samples")),
    )


def over_k_figure(line: Line) -> Figure:
    """The curves over k of one evaluation."""
    title = f"Accuracy over k, {line.get('split', 'unknown split')}"
    note = "shaded: standard error over questions"
    return Figure(title, note, svg.draw(over_k(line), "k", fraction=True))


def over_k(line: Line) -> list[svg.Series]:
    """The curves of an evaluation with several samples a question.

    Each is (label, [n, 3] of k, mean and standard error).
    """
    curves = []
    for name, label in OVER_K.items():
        keys = {}
        for key in line:
            match = re.fullmatch(rf"eval/{name}_([0-9]{{1,9}})", key)
            if match:
                keys[int(match[1])] = key
        values = [(k, line[key], line.get(f"{key}_stderr", 0)) for k, key in sorted(keys.items())]
        drawn = _drawable(np.array(values, float).reshape(-1, 3))
        if len(drawn):
            curves.append((label, drawn))
    return curves


def _drawable(table: np.ndarray) -> np.ndarray:
    """Those of the lines [n, 3] whose numbers are all finite."""
    return table[(np.abs(table) <= LARGEST).all(axis=1)]


def points(lines: Columns, x: str, key: str, error_key: str = "") -> np.ndarray:
    """[n, 3]: x, the value of ``key`` and its standard error (0 without one), in the order of x.

    Lines with the same x become their mean; lines without ``key`` and numbers that are not finite
    are left out.
    """
    errors = lines[error_key]
    errors[np.isnan(errors)] = 0
    table = _drawable(np.stack([lines[x], lines[key], errors], axis=1))
    _, group = np.unique(table[:, 0], return_inverse=True)
    counts = np.bincount(group)
    means = [np.bincount(group, column) / counts for column in table.T]
    return np.stack(means, axis=1)
