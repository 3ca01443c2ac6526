"""charts.py: which charts a run's lines give, and what they draw."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from reasoning_jax import algorithms, charts, svg
from reasoning_jax.charts import Chart, Curve

TRICE, POLICY_GRADIENT = (algorithms.get(name).CHARTS for name in ("trice", "policy_gradient"))


def lines(phase: str, **columns) -> list[dict]:
    """A line a round, from 1; a column is over rounds, with None for a round without it."""
    result = []
    for i in range(max(len(column) for column in columns.values())):
        line = {"phase": phase, "round": i + 1, "step": 10 * (i + 1)}
        for name, column in columns.items():
            if column[i] is not None:
                line[name if name == "samples" else f"{phase}/{name}"] = column[i]
        result.append(line)
    return result


def plots(lines, evals, votes=(), method_charts=()) -> str:
    """The charts of these lines."""
    columns = charts.columns(method_charts)
    for line in lines:
        if line["phase"] in columns:
            columns[line["phase"]].append(line)
    return charts.plots(columns, evals, votes, method_charts)


def figures(page: str) -> dict[str, str]:
    return {
        title: body
        for title, body in re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figure>", page, re.S)
    }


def legend(figure: str) -> list[str]:
    return re.findall(r"</i> (.*?)</span>", figure)


def ticks(figure: str) -> list[str]:
    return [tick.replace("−", "-") for tick in re.findall(r"<text[^>]*>(.*?)</text>", figure)]


def curve(figure: str, number: int) -> np.ndarray:
    """The points of a curve in the picture, y upwards."""
    [path] = re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c{number}\)', figure
    )
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) * (1, -1)


@pytest.mark.parametrize(
    "method, title, columns, labels",
    [
        (
            TRICE,
            "Chains",
            {"accepted": [0.1, 0.2, 0.4], "valid": [0.2, 0.5, 0.6], "expired": [0, 0, 0.1]},
            ["accepted", "valid", "expired"],
        ),
        (TRICE, "Chains", {"accepted": [0.1, 0.2, 0.4]}, ["accepted"]),
        (
            TRICE,
            "Age of the chains",
            {"age_mean": [1.0, 2.0, 3.0], "age_max": [1, 5, 9]},
            ["mean", "max"],
        ),
        (TRICE, "Distinct rationales accepted", {"distinct": [3, 9, 11]}, ["distinct"]),
        (
            TRICE,
            "Gradient variance",
            {
                "variance_basic": [4, None, 3],
                "variance_paper": [2, None, 2],
                "variance_ours": [1, None, 1],
            },
            ["basic", "paper", "ours"],
        ),
        (TRICE, "Coefficient of the control variate", {"beta": [0.1, 0.5, 0.6]}, ["mean β"]),
        (
            POLICY_GRADIENT,
            "Groups and clipping",
            {"zero_spread": [0.1, 0.5, 0.6]},
            ["zero spread"],
        ),
    ],
)
def test_a_chart_of_a_method_appears_with_its_data_and_alone(method, title, columns, labels):
    collected = lines("collect", **columns)
    page = plots(collected, [], method_charts=method)
    drawn = figures(page)
    assert list(drawn) == [title] and legend(drawn[title]) == labels
    assert ">round</text>" in drawn[title] and "Not logged in this run: accuracy, " in page
    first = next(iter(columns.values()))
    heights = curve(drawn[title], 0)
    assert len(heights) == sum(value is not None for value in first)
    assert (heights[-1, 1] > heights[0, 1]) == (first[-1] > first[0])
    assert figures(plots(collected, [])) == {}  # another method does not have it


@pytest.mark.parametrize("name", ["dpo", "irpo", "vstar"])
def test_preferences_are_drawn_over_updates(name):
    columns = {"accuracy": [0.5, 0.7], "chosen_logprob": [-9, -8], "rejected_logprob": [-9, -12]}
    updates = lines("update", **columns)
    drawn = figures(plots(updates, [], method_charts=algorithms.get(name).CHARTS))
    assert list(drawn) == ["Log-likelihood of the sides", "Preference"]
    assert legend(drawn["Log-likelihood of the sides"]) == ["chosen", "rejected"]
    assert ">updates</text>" in drawn["Preference"] and "100 %" in ticks(drawn["Preference"])


def test_a_chart_of_a_method_takes_the_place_of_the_common_one_of_its_title():
    collected = lines("collect", kept=[0.1, 0.2, 0.3], rationalized=[0.3, 0.2, 0.1])
    collected = [line | {"collect/tokens": 40} for line in collected]
    common = figures(plots(collected, []))
    drawn = figures(plots(collected, [], method_charts=algorithms.get("star").CHARTS))
    assert list(common) == list(drawn) == ["What was collected", "Rationale length"]
    assert legend(common["What was collected"]) == ["kept"]
    assert legend(drawn["What was collected"]) == ["kept", "rationalized"]


def test_a_chart_over_updates_stays_so_where_there_are_rounds():
    chart = Chart(title="T", note="a < b", curves=(Curve("update", "update/x", "x"),), axis="step")
    by_round = dataclasses.replace(chart, title="R", axis="round")
    page = plots(lines("update", x=[1.0, 2.0, 3.0]), [], method_charts=(chart, by_round))
    drawn = figures(page)
    assert ">updates</text>" in drawn["T"] and ">round</text>" in drawn["R"]
    assert "<span>a &lt; b</span>" in page


def test_what_only_some_methods_have_is_not_missed():
    page = plots(lines("update", loss=[2.0, 1.0]), [], method_charts=TRICE)
    missing = page.split("Not logged in this run: ")[1]
    assert "what was collected" in missing
    assert not re.search("chains|distinct|variance|variate|equal cost", missing)


def test_accuracy_over_the_samples_drawn():
    evals = lines("eval", accuracy=[0.1, 0.4, 0.5, 0.9], samples=[0, 600, 3000, None])
    evals[3]["samples"] = None  # not known
    drawn = figures(plots(evals, evals))
    assert list(drawn) == ["Accuracy", "Accuracy at equal cost"]
    assert {"samples drawn", "3,000"} <= set(ticks(drawn["Accuracy at equal cost"]))
    for line in evals:
        line["eval/accuracy_digits_1"] = line["eval/accuracy"]
    drawn = figures(plots(evals, evals))
    over_rounds, over_samples = (curve(figure, 0) for figure in drawn.values())
    assert len(over_rounds) == 4 and len(over_samples) == 3
    assert np.allclose(over_rounds[:3, 1], over_samples[:, 1])
    left, middle, right = over_samples[:, 0]
    assert middle - left == pytest.approx(0.2 * (right - left), rel=1e-3)
    assert list(figures(plots(evals[3:], evals[3:]))) == ["Accuracy by digits"]


def test_a_curve_of_many_rounds_is_of_means_and_says_so():
    noisy = [float(i % 2) for i in range(2000)]

    def drawn(count: int) -> str:
        collected = lines("collect", accepted=noisy[:count])
        return figures(plots(collected, [], method_charts=TRICE))["Chains"]

    many, few = drawn(2000), drawn(svg.MAX_POINTS)
    sentence = "each point the mean of neighbours"
    assert sentence in many and sentence not in few
    assert len(curve(many, 0)) <= svg.MAX_POINTS
    assert np.ptp(curve(many, 0)[:, 1]) < 0.2 * np.ptp(curve(few, 0)[:, 1])


@pytest.mark.parametrize("count", [1, 239, 240, 241, 400, 2000])
def test_every_point_counts_as_much(count):
    points = np.stack([np.arange(count), np.arange(count) ** 2, np.ones(count)], axis=1)
    points = points.astype(float)
    thinned = svg.thin(points)
    size = -(-count // 240)
    assert len(thinned) <= 240 and len(thinned) == -(-count // size)
    assert np.allclose(thinned[0], points[:size].mean(axis=0))
    assert (np.diff(thinned[:, 0]) > 0).all()
    whole = count // size  # of these points every one is of as many
    groups = points[: whole * size].reshape(-1, size, 3)
    assert np.allclose(thinned[:whole], groups.mean(axis=1))


def test_the_variance_is_logarithmic_and_zero_has_a_place():
    def drawn(*values: float) -> str:
        collected = lines("collect", variance_basic=list(values))
        return figures(plots(collected, [], method_charts=TRICE))["Gradient variance"]

    figure = drawn(100.0, 10.0, 1.0, 0.1, 0.0)
    assert {"100", "10", "1", "0.1", "0"} <= set(ticks(figure))
    assert not any(tick.startswith("-") for tick in ticks(figure))
    steps = -np.diff(curve(figure, 0)[:, 1])
    assert np.allclose(steps[:3], steps[0], rtol=0.01)  # equal factors, equal distances
    assert 0 < steps[3] < steps[0]
    steps = np.diff(curve(drawn(10.0, 5.0, 1.0), 0)[:, 1])  # linear, which shows it as well
    assert np.allclose(steps / (5, 4), steps[0] / 5, rtol=0.01)
    assert "<svg" in drawn(0.0, 0.0, 0.0)
    assert {"1", "1e-05", "0"} <= set(ticks(drawn(1.0, 1e-30, 0.0)))  # five decades at most


def test_curves_over_k():
    """Each with its standard errors; those by difficulty and of a greedy evaluation are none."""
    values = {}
    for i, name in enumerate(("maj_at", "pass_at", "best_of", "best_of_ratio")):
        values |= {f"eval/{name}_{k}": k / 100 + i / 10 for k in (1, 16, 2)}
    values |= {f"{key}_stderr": 0.01 for key in values}
    values |= {f"{key}_digits_2": 0.99 for key in values}
    values |= {"eval/accuracy": 0.5, "split": "test", "samples": 16}
    curves = dict(charts.over_k(values))
    assert list(curves) == ["pass@k", "best-of-k", "best-of-k by log-ratio", "maj@k"]
    expected = [[1, 0.21, 0.01], [2, 0.22, 0.01], [16, 0.36, 0.01]]
    assert np.allclose(curves["best-of-k"], expected)
    [figure] = figures(plots([], [], [values])).values()
    assert legend(figure) == list(curves) and len(curve(figure, 1)) == 3
    assert "samples a question, k" in ticks(figure)
    assert charts.over_k({"eval/accuracy": 0.5}) == []


def test_numbers_that_no_picture_can_show_are_left_out():
    columns = {"loss": [2.0, 1e300, float("nan"), -1e300, 1.0], "grad_norm": [1e38] * 5}
    drawn = figures(plots(lines("update", **columns), []))
    assert list(drawn) == ["Loss", "Gradient norm"] and len(curve(drawn["Loss"], 0)) == 2
    values = {"eval/pass_at_1": 1e300, "eval/pass_at_2": 0.5, "samples": 2}  # no standard errors
    assert charts.over_k(values)[0][1].tolist() == [[2, 0.5, 0]]
