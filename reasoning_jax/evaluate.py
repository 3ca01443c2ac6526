"""How good a model is: accuracy with its standard error, by difficulty; and as curves over samples.

    python -m reasoning_jax.evaluate --workdir=DIR [--split=test] [--samples=k] [--temperature=0.7]

Evaluates the best round of the run in DIR, prints a table and writes DIR/evaluation_SPLIT.json.
With --samples=k also pass@j, maj@j and, where the run has trained a verifier, best-of-j for j = 1,
2, 4 ... k, all from the same samples and without bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line
from reasoning_jax.estimators import MOST_SAMPLES


def main(cfg: ConfigDict, directory: Path, values: flags.FlagValues) -> None:
    command_line.join(directory, values)
    from reasoning_jax import api, metrics, multihost

    run = api.SavedRun(directory, cfg)
    found = run.evaluate(values.split, values.samples, values.temperature)
    multihost.print_once(metrics.accuracy_table(table_rows(found)))
    count = found["eval/count"]
    path = run.evaluation_path(values.split)
    multihost.print_once(f"{values.split} split, {count} examples, round {found['round']}: {path}")


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
        rows.append((title, {k.replace(name, "eval/accuracy", 1): v for k, v in own.items()}))
    return rows


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
    flags.DEFINE_float("temperature", 0.7, "That of these samples.", flag_values=values)


if __name__ == "__main__":
    command_line.run(main, _define)
