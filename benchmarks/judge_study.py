"""How good a judge of pairs a model is, beside four judges that read nothing.

    python benchmarks/judge_study.py --model=PATH [--chat] | --workdir=DIR
        [--data=natural,neighbor,gptinst,gptout,manual] [--num=N] [--template=pairwise]
        [--max_new_tokens=256 | --likelihood] [--config.KEY=VALUE ...]

The model is a published one on disk, or the best round of a run; it is asked greedily, about each
pair in both orders. With --likelihood it writes nothing: its verdict is the likelier of [[A]] and
[[B]], which a model has too that does not write what a template asks for. --data names parts of
LLMBar (splits of tasks/llmbar.py) or files in the format of RewardBench, with commas between; --num
takes so many pairs of each, at even distances. A line of the table is a judge on a part (of a file:
a subset), in percent:

    as given, swapped    right in this order; a tie, or what cannot be read, is wrong
    both                 right in both orders: position-consistent accuracy
    ties, unread         of all judgements
    A                    of those that name one: the response that is shown first

The others: always A; the longer response (a tie where none is longer); chance; the right one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from side_by_side import at_least  # beside this file

from reasoning_jax import (
    config,
    default,
    experiment,
    extraction,
    loaded,
    metrics,
    overrides,
    published,
    templates,
)
from reasoning_jax import tasks as all_tasks
from reasoning_jax.answers.judgements import FIRST, SECOND, TIE
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import llmbar
from reasoning_jax.tasks.comparisons import Comparison
from reasoning_jax.training import data
from reasoning_jax.training.rows import completion_row

PARTS = "natural,neighbor,gptinst,gptout,manual"
RIGHT = {"A": FIRST, "B": SECOND}
HEADS = ("part", "judge", "pairs", "as given", "swapped", "both", "ties", "unread", "A")


# ---- pairs ---------------------------------------------------------------------------------------


def load(name: str, count: int | None) -> list[Comparison]:
    """The pairs of a part of LLMBar, or of a file; UserError where there is neither."""
    is_part = name in llmbar.SPLITS
    if not is_part and not data.holds_records(name):
        known = ", ".join(llmbar.SPLITS)
        raise UserError(f"--data: {name!r} is no file of records, and no part of LLMBar: {known}.")
    cfg = default.section(all_tasks, "llmbar" if is_part else "reward_bench")
    if not is_part:
        cfg.path = name
    pairs = all_tasks.get(cfg.name).load(extraction.settle(cfg), name if is_part else "test")
    count = min(count or len(pairs), len(pairs))
    return [pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, count)]


# ---- judges --------------------------------------------------------------------------------------


def of_model(
    rollout: Rollout, pairs: Sequence[Comparison], template: str, max_new_tokens: int
) -> list[Verdicts]:
    return judge.compare(
        rollout,
        [(pair.instruction, pair.first, pair.second) for pair in pairs],
        template,
        max_new_tokens=max_new_tokens,
        purpose="compare",
    )


def by_likelihood(
    rollout: Rollout, pairs: Sequence[Comparison], template_name: str
) -> list[Verdicts]:
    """In each order the likelier of [[A]] and [[B]]; UserError for a pair that is too long."""
    template = templates.read(template_name, templates.PAIR_FIELDS, "template")
    tokenizer = rollout.tokenizer
    space = "" if rollout.chat else " "
    letters = [tokenizer.encode(f"{space}[[{letter}]]") for letter in "AB"]
    rows = []
    for pair in pairs:
        for first, second in ((pair.first, pair.second), (pair.second, pair.first)):
            text = template.fill(instruction=pair.instruction, first=first, second=second)
            message = [{"role": "user", "content": text}]
            ids = tokenizer.chat(message) if rollout.chat else tokenizer.prompt(text)
            rows += [completion_row(np.asarray(ids, np.int32), letter) for letter in letters]
            if len(rows[-1]["tokens"]) > rollout.max_length:
                raise UserError(
                    f"{pair.where}: {len(rows[-1]['tokens'])} tokens exceed config.sequence_length "
                    f"{rollout.max_length}."
                )
    sums = np.array([float(p.sum()) for p in rollout.policy.logprobs(rows)]).reshape(-1, 2, 2)
    likelier = np.where(sums[:, :, 0] >= sums[:, :, 1], FIRST, SECOND)
    return [Verdicts(str(shown), judge.SWAPPED[str(swapped)]) for shown, swapped in likelier]


def without_reading(pairs: Sequence[Comparison]) -> dict[str, list[Verdicts]]:
    """The verdicts of the four judges that read nothing."""
    rng = np.random.default_rng(0)
    chance = rng.choice([FIRST, SECOND], size=(len(pairs), 2))
    return {
        "always A": [Verdicts(FIRST, SECOND)] * len(pairs),
        "longer": [Verdicts(longer(pair), longer(pair)) for pair in pairs],
        "chance": [Verdicts(str(shown), str(swapped)) for shown, swapped in chance],
        "oracle": [Verdicts(RIGHT[pair.answer], RIGHT[pair.answer]) for pair in pairs],
    }


def longer(pair: Comparison) -> str:
    if len(pair.first) == len(pair.second):
        return TIE
    return FIRST if len(pair.first) > len(pair.second) else SECOND


# ---- figures -------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """Fractions; ``a`` is None where no judgement names a response."""

    count: int
    shown: float
    swapped: float
    both: float
    ties: float
    unread: float
    a: float | None


def figures(pairs: Sequence[Comparison], verdicts: Sequence[Verdicts]) -> Figures:
    """What a judge's verdicts are worth, as the head of this file says."""
    count = len(pairs)
    right = np.zeros((count, 2), bool)
    said: list[str | None] = []  # the place that each judgement names, as it was shown
    for i, (pair, verdict) in enumerate(zip(pairs, verdicts, strict=True)):
        right[i] = [one == RIGHT[pair.answer] for one in verdict]
        said += [verdict.shown, judge.SWAPPED.get(verdict.swapped or "")]
    named = [place for place in said if place in (FIRST, SECOND)]
    return Figures(
        count=count,
        shown=float(right[:, 0].mean()),
        swapped=float(right[:, 1].mean()),
        both=float(right.all(axis=1).mean()),
        ties=said.count(TIE) / len(said),
        unread=said.count(None) / len(said),
        a=named.count(FIRST) / len(named) if named else None,
    )


def table(pairs: Sequence[Comparison], judges: Mapping[str, Sequence[Verdicts]]) -> str:
    """A line for each judge on each part, and on all where there are several."""
    parts = list(dict.fromkeys(pair.part for pair in pairs))
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for part in [*parts, "all"] if len(parts) > 1 else parts:
        members = [i for i, pair in enumerate(pairs) if part in ("all", pair.part)]
        own = [pairs[i] for i in members]
        for name, verdicts in judges.items():
            found = figures(own, [verdicts[i] for i in members])
            lines.append(f"| {' | '.join([part, name, *cells(found)])} |")
    return "\n".join(lines)


def cells(found: Figures) -> list[str]:
    """Percentages, those of pairs with their standard errors."""
    right = []
    for value in (found.shown, found.swapped, found.both):
        error = (value * (1 - value) / found.count) ** 0.5
        right.append(metrics.percent(value, error))
    others = [metrics.percent(value) for value in (found.ties, found.unread, found.a)]
    return [f"{found.count}", *right, *others]


# ---- the command ---------------------------------------------------------------------------------


def restored(args: argparse.Namespace, changes: list[str]) -> Rollout:
    """The model that is named; changes: --config.KEY=VALUE. UserError for what cannot be."""
    if args.model:
        options = {"chat": True} if args.chat else {}
        cfg = published.config(args.model, "llmbar", options)
    else:
        cfg = config.rebuild(args.workdir)
    unknown = overrides.override(cfg, changes, flags.FlagValues())
    if unknown:
        raise UserError(f"{unknown[0]!r}: this is no flag.")
    default.check(cfg)
    exp = experiment.make(cfg)
    if args.model:
        return exp.rollout(loaded.load_source(exp), "judge", 0, temperature=0.0)
    params = exp.params_of_run(str(args.workdir))
    return exp.rollout(params, "judge", 0, temperature=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a published model: a folder or a file")
    model.add_argument("--workdir", type=Path, help="a run")
    parser.add_argument("--chat", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--data", default=PARTS, type=lambda text: text.split(","))
    parser.add_argument("--num", type=at_least(1), help="pairs of each; else all")
    parser.add_argument("--template", default="pairwise")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--max_new_tokens", type=at_least(2), default=256, help="of a judgement")
    how.add_argument("--likelihood", action="store_true", help="the likelier of [[A]] and [[B]]")
    args, changes = parser.parse_known_args()
    if args.chat and args.workdir:
        parser.error("--chat goes with --model: a run has its own config")
    try:
        pairs = [pair for name in args.data for pair in load(name, args.num)]
        rollout = restored(args, changes)
        if args.likelihood:
            own = by_likelihood(rollout, pairs, args.template)
        else:
            own = of_model(rollout, pairs, args.template, args.max_new_tokens)
    except UserError as error:
        sys.exit(f"{error}")
    name = "model, likelier" if args.likelihood else "model"
    print(table(pairs, {name: own} | without_reading(pairs)))


if __name__ == "__main__":
    main()
