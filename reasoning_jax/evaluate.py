"""How good a model is: accuracy with its standard error, by difficulty; and as curves over samples.

    python -m reasoning_jax.evaluate --workdir=DIR [--split=test] [--samples=k] [--temperature=0.7]

    python -m reasoning_jax.evaluate --model=PATH --task=gsm8k [--shots=8] [--chat] [--samples=k]
        [--prompting=zero_shot] [--num_examples=N] [--output=FILE.json] [--config.KEY=VALUE]

    python -m reasoning_jax.evaluate ... --system=cove [--config.system.variant=joint]

Evaluates the best round of the run in DIR, prints a table and writes DIR/evaluation_SPLIT.json.
With --samples=k also pass@j, maj@j and, where the run has trained a verifier, best-of-j for j = 1,
2, 4 ... k, all from the same samples and without bias. With --model it evaluates a published model
without any run, and writes what it found only where --output or --workdir is given: to that file,
or to DIR/evaluation_TASK_SPLIT.json. With --system the model answers in several calls
(systems/*.py): the table then has the tokens of an answer over all its calls, and the file's name
that of the system.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line, huge_pages
from reasoning_jax.errors import UserError
from reasoning_jax.estimators import MOST_SAMPLES

# Flags that go with --model, as published.OPTIONS names them.
OPTIONS = ("shots", "chat", "prompting", "num_examples", "max_new_tokens")
TEMPERATURE = 0.7
MANY_CUT_OFF = 0.2  # of the completions: more are told of
UNUSED = {
    "sampling.temperature": "it is 0, and of --samples --temperature",
    "sampling.top_k": "nothing is truncated",
    "sampling.top_p": "nothing is truncated",
    "eval.split": "--split says which examples",
}


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    command_line.join(directory, values)
    from reasoning_jax import api, metrics, multihost, published

    path = _path_of_figures(directory, values, cfg)
    temperature = TEMPERATURE if values.temperature is None else values.temperature
    if values.model:
        published.check(cfg, _options(values))
        found = api.LoadedModel(cfg).evaluate(values.split, values.samples, temperature)
        del found["round"]
        asked = {"model": values.model, "task": cfg.task.name, "config": published.changed(cfg)}
        if path is not None:
            api.write_evaluation(path, asked | found)
        of = values.model
    else:
        run = api.SavedRun(directory, cfg)
        found = run.evaluate(values.split, values.samples, temperature)
        of = f"round {found['round']}"
    multihost.print_once(metrics.accuracy_table(table_rows(found)))
    where = "" if path is None else f": {path}"
    count = found["eval/count"]
    multihost.print_once(f"{values.split} split, {count} examples, {of}{where}")
    score = float(found["eval/score"])
    if score != float(found["eval/accuracy"]):
        multihost.print_once(f"mean score {metrics.percent(score)}")
    cut_off = float(found.get("eval/truncated", 0.0))
    if cut_off > MANY_CUT_OFF:
        limit = f"sampling.max_new_tokens={cfg.sampling.max_new_tokens}"
        multihost.print_once(f"{cut_off:.0%} of the completions were cut off at {limit}.")


def _path_of_figures(directory: Path, values: flags.FlagValues, cfg: ConfigDict) -> Path | None:
    """Where the figures are written; None = nowhere. UserError for a place that cannot be."""
    from reasoning_jax import api, workdir

    if values.output:
        path = workdir.path(values.output)
        if workdir.is_local(path) and (path.is_dir() or not path.parent.is_dir()):
            what = "this is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise UserError(f"--output={values.output}: {what}.")
        return path
    if not values.workdir:
        return None
    if values.model and (directory / "config.json").exists():
        raise UserError(f"--workdir={values.workdir} holds a run, of which --model is no part.")
    if values.model:
        directory.mkdir(parents=True, exist_ok=True)
        return api.evaluation_path(directory, f"{values.task}_{values.split}", cfg)
    return api.evaluation_path(directory, values.split, cfg)


# ---- flags ---------------------------------------------------------------------------------------


def _options(values: flags.FlagValues) -> dict[str, object]:
    """The flags of a published model that are given, by their names."""
    given = {name: values[name].value for name in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def _new_config(values: flags.FlagValues) -> ConfigDict | None:
    """The config of a published model; None where a run is evaluated."""
    if values.temperature is not None and not values.samples:
        raise UserError("--temperature goes with --samples: without it the model is asked at 0.")
    if not values.model:
        for name in ("task", "output", *OPTIONS):
            if values[name].value is not None:
                raise UserError(f"--{name} goes with --model; a run has its own config.")
        return None
    if values.config:
        raise UserError("--config and --model: with --model, --task says what is asked.")
    if not values.task:
        raise UserError("--task is missing: it says what the model is asked, such as gsm8k.")
    if values.output and values.workdir:
        raise UserError("--output and --workdir both say where the figures are written.")
    from reasoning_jax import published

    return published.config(values.model, values.task, _options(values))


def table_rows(values: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
    """A line of the table for greedy accuracy and for each curve at each k.

    The values by difficulty of each are found under its own name: they are renamed to those of an
    accuracy.
    """
    names = {"greedy": "eval/accuracy"}
    for key in values:
        measured = f"{key}_stderr" in values and not key.startswith("eval/accuracy")
        if measured and key.rpartition("_")[2].isdigit() and _is_of_all(key):
            names[_title(key)] = key
    rows = []
    for title, name in names.items():
        own = {k: v for k, v in values.items() if k == name or k.startswith(f"{name}_")}
        row = {k.replace(name, "eval/accuracy", 1): v for k, v in own.items()}
        rows.append((title, row | _tokens(name, values)))
    return rows


def _tokens(name: str, values: Mapping[str, object]) -> dict[str, object]:
    """What an answer takes of a system's tokens: of pass@8 and the like, eight samples do."""
    if "eval/drawn_tokens" not in values:
        return {}
    if name == "eval/accuracy":
        return {"eval/drawn_tokens": values["eval/drawn_tokens"]}
    return {"eval/drawn_tokens": int(name.rpartition("_")[2]) * values["eval/vote_tokens"]}


def _is_of_all(key: str) -> bool:
    """Whether a key such as eval/pass_at_8 is of all examples, not of one difficulty."""
    name, _, _ = key.removeprefix("eval/").rpartition("_")
    return name in ("maj_at", "pass_at", "best_of", "best_of_ratio")


def _title(name: str) -> str:
    """eval/maj_at_8 -> maj@8, eval/best_of_8 -> best-of-8"""
    return name.removeprefix("eval/").replace("_at_", "@").replace("_", "-")


def _define(values: flags.FlagValues) -> None:
    command_line.define_shared(values)
    flags.DEFINE_string("split", "test", "Which examples: test, validation, train, ...", values)
    flags.DEFINE_integer(
        "samples",
        0,
        "Also so many samples an example, for maj@k and pass@k.",
        lower_bound=0,
        upper_bound=MOST_SAMPLES,
        flag_values=values,
    )
    flags.DEFINE_float(
        "temperature", None, f"That of these samples; else {TEMPERATURE}.", flag_values=values
    )
    define_text = functools.partial(flags.DEFINE_string, default=None, flag_values=values)
    define_text("model", help="A published model, in place of a run: a folder or a file.")
    define_text("task", help="With --model: what it is asked.")
    define_text("system", help="Who answers: plain, or a system of several calls, such as cove.")
    define_text("prompting", help="With --model: few_shot, or zero_shot (step by step).")
    define_text("output", help="With --model: the JSON file that the figures are written to.")
    define_count = functools.partial(
        flags.DEFINE_integer, default=None, lower_bound=1, flag_values=values
    )
    define_count("shots", help="With --model: so many worked examples before each question.")
    define_count("num_examples", help="With --model: so many examples of the split; else all.")
    define_count("max_new_tokens", help="With --model: the longest completion.")
    flags.DEFINE_boolean(
        "chat", None, "With --model: ask in the model's chat template.", flag_values=values
    )


if __name__ == "__main__":
    huge_pages.use()
    command_line.run(main, _define, new_config=_new_config, unused=UNUSED, sections=["system"])
