"""One HTML page about a run: accuracy, curves, what the method remembers, samples.

    python -m reasoning_jax.report --workdir=DIR [--workdir=DIR ...]

Writes DIR/report.html, which needs no network and no other file.
"""

from __future__ import annotations

import dataclasses
import datetime
import html
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import (
    algorithms,
    charts,
    command_line,
    metrics,
    report_histories,
    report_samples,
    workdir,
)
from reasoning_jax.charts import Chart
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json, Line, parse_object
from reasoning_jax.metric_line import checked

TABLE_ROUNDS = 6  # rounds of a split in the table of accuracies, besides the best
ASIDES = ("unparsed", "truncated", "true_lines")  # columns of that table that are no accuracy


def write(directory: str | os.PathLike[str]) -> Path:
    """Writes report.html into ``directory`` and returns its path; the errors are ``build``'s."""
    path = workdir.path(directory) / "report.html"
    workdir.write(path, build(directory).encode(errors="replace"))
    return path


def build(directory: str | os.PathLike[str]) -> str:
    """The page as text; whatever the run has not written is left out.

    Raises MissingFileError where ``directory`` holds no run, UserError where a file is broken.
    """
    directory = workdir.path(directory)
    metrics_file = directory / "metrics.jsonl"
    expected = (directory / "config.json", metrics_file, directory / "rounds")
    if not any(path.exists() for path in expected):
        reason = "no config.json, no metrics.jsonl and no rounds"
        raise MissingFileError(f"{directory} holds no run: {reason}.")
    config = read_config(directory)
    own_charts = method_charts(config)
    history = read_history(directory if metrics_file.exists() else None, own_charts)
    samples, total = report_samples.choose_samples(directory)
    data = {"samples": samples, "total": total}
    script = json.dumps(data, allow_nan=False, separators=(",", ":"))
    parts = {
        "TITLE": html.escape(directory.resolve().name),
        "HEADER": header(history, config, total),
        "TABLE": table(history.evals),
        "PLOTS": charts.plots(
            history.columns, evaluations(history.evals), votes(directory), own_charts
        ),
        "HISTORIES": report_histories.sections(directory),
        # "<" never stands in the data, so that no sample can end the script element early.
        "DATA": script.replace("<", "\\u003c"),
    }
    template = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], template)


def read_config(directory: Path) -> dict[str, Json]:
    """The leaves of config.json by their dotted keys; {} where there is none."""
    if not (directory / "config.json").exists():
        return {}
    return workdir.flat(workdir.read_config(directory))


@dataclasses.dataclass(kw_only=True)
class History:
    """What the page says of the lines of metrics.jsonl."""

    evals: list[Line]  # the lines of evaluations
    columns: dict[str, charts.Columns]  # by phase
    count: int = 0
    rounds: int = 0
    updates: int = 0
    begin: float = math.inf  # seconds since 1970
    end: float = -math.inf


def read_history(directory: Path | None, method_charts: Sequence[Chart]) -> History:
    """Reads metrics.jsonl once, a line at a time, as it may be large; None: there is none."""
    history = History(evals=[], columns=charts.columns(method_charts))
    for line in () if directory is None else metrics.lines(directory):
        phase = line.get("phase")
        if phase == "eval":
            history.evals.append(line)
        elif phase in history.columns:
            history.columns[phase].append(line)
        history.count += 1
        history.rounds = max(history.rounds, line.get("round", 0))
        history.updates = max(history.updates, line.get("step", 0))
        history.begin = min(history.begin, line.get("time", math.inf))
        history.end = max(history.end, line.get("time", -math.inf))
    return history


def method_charts(config: dict[str, Json]) -> tuple[Chart, ...]:
    """The charts of the run's method; none where this version has no such method."""
    name = config.get("algorithm.name")
    if not isinstance(name, str):
        return ()
    try:
        return algorithms.get(name).CHARTS
    except UserError:
        return ()


def header(history: History, config: dict[str, Json], total: int) -> str:
    """What ran and when, the most important numbers, and the whole config, folded away."""
    about = [str(config[key]) for key in ("algorithm.name", "task.name") if config.get(key)]
    about += model_name(config)
    tiles = []
    accuracies = [
        line["eval/accuracy"] for line in evaluations(history.evals) if "eval/accuracy" in line
    ]
    if accuracies:
        first, last = metrics.percent(accuracies[0]), metrics.percent(accuracies[-1])
        tiles.append(("accuracy, first → last", f"{first} → {last} %"))
    if history.count:
        tiles.append(("rounds", f"{history.rounds:,}"))
        tiles.append(("updates", f"{history.updates:,}"))
    tiles.append(("samples written", f"{total:,}"))
    if math.isfinite(history.begin):
        duration = datetime.timedelta(seconds=round(history.end - history.begin))
        tiles.append(("first to last line", str(duration)))
        about.append(f"ran {datetime.datetime.fromtimestamp(history.begin):%Y-%m-%d %H:%M}")
    about.append(f"reported {datetime.datetime.now():%Y-%m-%d %H:%M}")
    boxes = [f"<div class=tile><b>{value}</b><span>{name}</span></div>" for name, value in tiles]
    summary = f"<p class=muted>{html.escape(' · '.join(about))}</p>"
    return f"{summary}<div class=tiles>{''.join(boxes)}</div>{folded_config(config)}"


def model_name(config: dict[str, Json]) -> list[str]:
    """The published model's file or folder with what of it is trained, or the preset."""
    if config.get("model.source"):
        tuned = str(config.get("tune.name", "full"))
        own = [] if tuned == "full" else [tuned]
        return [Path(str(config["model.source"])).name, *own]
    keys = ("model.name", "model.preset")
    return [str(config[key]) for key in keys if config.get(key)]


def folded_config(config: dict[str, Json]) -> str:
    if not config:
        return ""
    keys = ""
    for key, value in config.items():
        text = html.escape(json.dumps(value, ensure_ascii=False))
        keys += f"<div><span>{html.escape(key)}</span> {text}</div>"
    summary = f"<summary>Config, {len(config)} keys</summary>"
    return f"<details>{summary}<div class=config>{keys}</div></details>"


def evaluations(evals: Sequence[Line], split: str | None = None) -> list[Line]:
    """One split's evaluations in the run's order, the last where one was repeated.

    Without ``split`` those of "validation", or, where it has none, of the first split.
    """
    splits = [split_of(line) for line in evals]
    if split is None:
        split = splits[0] if splits and "validation" not in splits else "validation"
    chosen = [line for line in evals if split_of(line) == split]
    return list({(line.get("round"), line.get("step")): line for line in chosen}.values())


def split_of(line: Line) -> Json:
    return line.get("split", "validation")


def votes(directory: Path) -> list[Line]:
    """The evaluations with several samples a question that ``evaluate`` has written."""
    evals = []
    paths = directory.glob("evaluation_*.json")
    for path in sorted(path for path in paths if path.is_file()):
        try:
            evals.append(checked(parse_object(path.read_bytes()), str(path)))
        except UserError:
            raise
        except ValueError:
            raise UserError(f"{path}: this is not the file of an evaluation.") from None
    return [line for line in evals if line.get("samples")]


def table(evals: Sequence[Line]) -> str:
    """Accuracy by difficulty of base, some rounds, the best and the last, for each split."""
    if not evals:
        return "<p class=muted>This run has no evaluations.</p>"
    levels = sorted({level for line in evals for level in metrics.by_difficulty(line)})
    asides = [key for key in ASIDES if any(f"eval/{key}" in line for line in evals)]
    heads = ["all", *(html.escape(f"{name} {value}") for name, value in levels)]
    rows = "<tr><th>accuracy, %" + "".join(f"<th>{head}" for head in heads)
    rows += "".join(f"<th class=aside>{key.replace('_', ' ')}" for key in asides)
    columns = 1 + len(heads) + len(asides)
    for split in dict.fromkeys(split_of(line) for line in evals):
        rows += f"<tr><th class=split colspan={columns}>{html.escape(split)}"
        rows += split_rows(evaluations(evals, split), levels, asides)
    return f"<div class=scroll><table>{rows}</table></div>"


def split_rows(
    evals: Sequence[Line], levels: Sequence[metrics.Level], asides: Sequence[str]
) -> str:
    """The table's rows of one split."""
    # Where several evaluations are of one round, rows are named by their updates.
    by_round = len({line.get("round") for line in evals}) == len(evals)
    last = len(evals) - 1
    best = max(range(len(evals)), key=lambda i: evals[i].get("eval/accuracy", -1.0))
    rows = ""
    for i in sorted({best, *report_samples.evenly(range(len(evals)), TABLE_ROUNDS)}):
        line = evals[i]
        notes = []
        if i == best and last > 0:
            notes.append("best")
        if i == last and last > 0:
            notes.append("last")
        rows += f"<tr><th>{row_name(line, by_round)} <i>{', '.join(notes)}</i>"
        by_level = metrics.by_difficulty(line)
        rows += cell(line.get("eval/accuracy"), line.get("eval/accuracy_stderr"))
        rows += "".join(cell(*by_level.get(level, (None, None))) for level in levels)
        for key in asides:
            rows += f"<td class=aside>{metrics.percent(line.get(f'eval/{key}'))}"
    return rows


def row_name(line: Line, by_round: bool) -> str:
    if not line.get("step") and not line.get("round"):
        return "base"
    return f"round {line.get('round')}" if by_round else f"update {line.get('step')}"


def cell(value: float | None, stderr: float | None) -> str:
    """An accuracy and its standard error, the more tinted the higher it is."""
    tint = 0.0
    if value is not None and math.isfinite(value):
        tint = 0.4 * value
    number, _, error = metrics.percent(value, stderr).partition(" ")
    return f"<td style='--tint:{tint:.3f}'>{number}<small>{error}</small>"


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    failed = False
    for name in values.workdir:
        try:
            print(f"Wrote {write(name)}", flush=True)
        except (UserError, OSError) as error:  # the other runs have their page
            sentence = command_line.sentence(error)
            if sentence is None:
                raise
            print(sentence, file=sys.stderr, flush=True)
            failed = True
    if failed:
        sys.exit(1)


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_multi_string(
        "workdir",
        None,
        "The run's folder; several of them get a page each.",
        values,
        allow_override=True,
    )


if __name__ == "__main__":
    command_line.run(main, define, needs_config=False)
