"""charts.py: which charts a run's lines give, and what they draw."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reasoning_jax import charts


def lines(phase: str, **values) -> list[dict]:
    """A line a round, from 1; a value is a list over rounds, in which None stands for a round without it."""
    rounds = range(max(len(column) for column in values.values()))
    keys = {name: name if name == "samples" else f"{phase}/{name}" for name in values}
    found = [{keys[k]: column[i] for k, column in values.items() if column[i] is not None} for i in rounds]
    return [{"phase": phase, "round": i + 1, "step": 10 * (i + 1)} | line for i, line in zip(rounds, found, strict=True)]


def figures(page: str) -> dict[str, str]:
    return {title: body for title, body in re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figure>", page, re.S)}


def legend(figure: str) -> list[str]:
    return re.findall(r"</i> (.*?)</span>", figure)


def ticks(figure: str) -> list[str]:
    return [tick.replace("−", "-") for tick in re.findall(r"<text[^>]*>(.*?)</text>", figure)]


def curve(figure: str, number: int) -> np.ndarray:
    """The points of a curve in the picture, y upwards."""
    [path] = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c{number}\)', figure)
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) * (1, -1)


@pytest.mark.parametrize(
    "title, values, labels",
    [
        ("Chains", {"accepted": [0.1, 0.2, 0.4], "valid": [0.2, 0.5, 0.6], "expired": [0, 0, 0.1]},
         ["accepted", "valid", "expired"]),
        ("Chains", {"accepted": [0.1, 0.2, 0.4]}, ["accepted"]),
        ("Age of the chains", {"age_mean": [1.0, 2.0, 3.0], "age_max": [1, 5, 9]}, ["mean", "max"]),
        ("Distinct rationales accepted", {"distinct": [3, 9, 11]}, ["distinct"]),
        ("Gradient variance", {"variance_basic": [4, None, 3], "variance_paper": [2, None, 2], "variance_ours": [1, None, 1]},
         ["basic", "paper", "ours"]),
        ("Coefficient of the control variate", {"beta": [0.1, 0.5, 0.6]}, ["mean β"]),
        ("Groups and clipping", {"zero_spread": [0.1, 0.5, 0.6]}, ["zero spread"]),
    ],
)  # fmt: skip
def test_a_chart_appears_with_its_data_and_alone(title, values, labels):
    page = charts.plots(lines("collect", **values), [])
    found = figures(page)
    assert list(found) == [title] and legend(found[title]) == labels
    assert ">round</text>" in found[title] and "Not logged in this run: accuracy, " in page
    heights = curve(found[title], 0)
    assert len(heights) == sum(value is not None for value in values[next(iter(values))])
    rising = next(iter(values.values()))[-1] > next(iter(values.values()))[0]
    assert (heights[-1, 1] > heights[0, 1]) == rising


def test_what_only_some_methods_have_is_not_missed():
    missing = charts.plots(lines("update", loss=[2.0, 1.0]), []).split("Not logged in this run: ")[1]
    assert "what was collected" in missing
    assert not re.search("chains|distinct|variance|variate|equal cost", missing)


def test_accuracy_over_the_samples_drawn():
    evals = lines("eval", accuracy=[0.1, 0.4, 0.5, 0.9], samples=[0, 600, 3000, None])
    evals[3]["samples"] = None  # not known
    found = figures(charts.plots(evals, evals))
    assert list(found) == ["Accuracy", "Accuracy at equal cost"]
    assert "samples drawn" in ticks(found["Accuracy at equal cost"]) and "3,000" in ticks(found["Accuracy at equal cost"])
    for line in evals:
        line |= {"eval/accuracy_digits_1": line["eval/accuracy"]}
    over_rounds, over_samples = (curve(figure, 0) for figure in figures(charts.plots(evals, evals)).values())
    assert len(over_rounds) == 4 and len(over_samples) == 3
    assert np.allclose(over_rounds[:3, 1], over_samples[:, 1])
    left, middle, right = over_samples[:, 0]
    assert middle - left == pytest.approx(0.2 * (right - left), rel=1e-3)
    assert list(figures(charts.plots(evals[3:], evals[3:]))) == ["Accuracy by digits"]


def test_a_curve_of_many_rounds_is_of_means_and_says_so():
    noisy = [float(i % 2) for i in range(2000)]
    many, few = (figures(charts.plots(lines("collect", accepted=noisy[:n]), []))["Chains"] for n in (2000, charts.MOST))
    assert "each point the mean of neighbours" in many and "each point the mean of neighbours" not in few
    assert np.ptp(curve(many, 0)[:, 1]) < 0.2 * np.ptp(curve(few, 0)[:, 1]) and len(curve(many, 0)) <= charts.MOST


@pytest.mark.parametrize("count", [1, 239, 240, 241, 400, 2000])
def test_every_point_counts_as_much(count):
    points = np.stack([np.arange(count), np.arange(count) ** 2, np.ones(count)], axis=1).astype(float)
    found = charts.thin(points)
    size = -(-count // 240)
    assert len(found) <= 240 and len(found) == -(-count // size)
    assert np.allclose(found[0], points[:size].mean(axis=0)) and (np.diff(found[:, 0]) > 0).all()
    assert np.allclose(found[: count // size], points[: count // size * size].reshape(-1, size, 3).mean(axis=1))


def test_the_variance_is_logarithmic_and_zero_has_a_place():
    def drawn(*values: float) -> str:
        return figures(charts.plots(lines("collect", variance_basic=list(values)), []))["Gradient variance"]

    figure = drawn(100.0, 10.0, 1.0, 0.1, 0.0)
    assert {"100", "10", "1", "0.1", "0"} <= set(ticks(figure)) and not any(tick.startswith("-") for tick in ticks(figure))
    steps = -np.diff(curve(figure, 0)[:, 1])
    assert np.allclose(steps[:3], steps[0], rtol=0.01) and 0 < steps[3] < steps[0]  # equal factors, equal distances
    figure = drawn(10.0, 5.0, 1.0)  # not where a linear one shows it as well
    assert np.allclose(np.diff(curve(figure, 0)[:, 1]) / (5, 4), np.diff(curve(figure, 0)[:, 1])[0] / 5, rtol=0.01)
    assert "<svg" in drawn(0.0, 0.0, 0.0)
    assert {"1", "1e-05", "0"} <= set(ticks(drawn(1.0, 1e-30, 0.0)))  # five decades at most


def test_curves_over_k():
    """Each with its standard errors; those by difficulty and of a greedy evaluation are none."""
    names = ("maj_at", "pass_at", "best_of", "best_of_ratio")
    values = {f"eval/{name}_{k}": k / 100 + i / 10 for i, name in enumerate(names) for k in (1, 16, 2)}
    values |= {f"{key}_stderr": 0.01 for key in values}
    values |= {f"{key}_digits_2": 0.99 for key in values} | {"eval/accuracy": 0.5, "split": "test", "samples": 16}
    curves = dict(charts.over_k(values))
    assert list(curves) == ["pass@k", "best-of-k", "best-of-k by log-ratio", "maj@k"]
    assert np.allclose(curves["best-of-k"], [[1, 0.21, 0.01], [2, 0.22, 0.01], [16, 0.36, 0.01]])
    page = charts.plots([], [], [values])
    [figure] = figures(page).values()
    assert legend(figure) == list(curves) and "samples a question, k" in ticks(figure) and len(curve(figure, 1)) == 3
    assert charts.over_k({"eval/accuracy": 0.5}) == []
