"""Judges that teach themselves, on fixed pairs of responses to rule cards, beside the rules.

    python benchmarks/evaluator_study.py --out=runs/evaluators [--arms=taught,planner,...]
        [--seeds=3] [--pairs=500] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing of the arms of configs/taught_evaluator_cards.py: the seed model by the arm
``seeds``, and the others from it. Then judges, greedily and in both orders, pairs of responses to
test cards that no judge was trained on:

    near     one of the two follows one rule more
    rules    of these, the pairs whose card has four or five rules
    wide     it follows three rules more

Each has the accuracy over both orders and, after a slash, that in both orders at once
(position-consistent), in percent; what cannot be read is wrong. A: of the judgements of near pairs
that name a response, those for the first. The first lines are judges that are no models. Then, of
each round, what its collection says of the labels and of the judge that it began with; and of
plans, which fraction of a card's rules they name. Means over seeds with standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import judge_study
import numpy as np
import side_by_side
from side_by_side import at_least, job_of, mean_and_error, run_all

from reasoning_jax import metrics, templates
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import Example, cards
from reasoning_jax.tasks.cards import Card, writing
from reasoning_jax.tasks.comparisons import Comparison

CONFIG = "configs/taught_evaluator_cards.py"
ARMS = ("taught", "verdict_only", "planner", "planner_sft")
BASE = "seeds"
NEAR, WIDE = "near", "wide"
MARGINS = {NEAR: (1, 1), WIDE: (3, cards.MOST_RULES)}  # rules that one response follows more
MANY_RULES = 4  # of a card
HEADS = ("near", "rules 4-5", "wide", "A")
PLAIN, PLANNED = "cards_pair", "cards_pair_planned"
JUDGE_TOKENS = 32  # of a plan, its execution and a verdict
OF_ROUNDS = (
    "labels_wrong",
    "labels_tied",
    "correct",
    "right_in_both",
    "consistent",
    "said_first",
    "kept",
)


# ---- pairs ---------------------------------------------------------------------------------------


def fixed_pairs(examples: Sequence[Example], count: int) -> list[Comparison]:
    """``count`` near pairs and ``count`` wide ones, of responses to the cards in their order.

    The better one is first in every other pair.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for part, (low, high) in MARGINS.items():
        able = [cards.read_card(example.question) for example in examples]
        able = [card for card in able if len(card) >= low]
        for i in range(count):
            card = able[i % len(able)]
            better, worse = two_responses(rng, card, low, high)
            is_first = i % 2 == 0
            first, second = (better, worse) if is_first else (worse, better)
            pairs.append(
                Comparison(
                    id=len(pairs),
                    question=cards.text_of(card),
                    instruction=cards.text_of(card),
                    answer="A" if is_first else "B",
                    first=" ".join(first),
                    second=" ".join(second),
                    part=part,
                )
            )
    return pairs


def two_responses(
    rng: np.random.Generator, card: Card, low: int, high: int
) -> tuple[list[str], list[str]]:
    """Two responses of which the first follows so many rules more."""
    while True:
        better = writing.draw_response(rng, card, rng.uniform(0.6, 1))
        worse = writing.draw_response(rng, card, rng.uniform(0.2, 0.8))
        if low <= cards.quality(card, better) - cards.quality(card, worse) <= high:
            return better, worse


# ---- figures -------------------------------------------------------------------------------------


def figures(pairs: Sequence[Comparison], verdicts: Sequence[Verdicts]) -> dict[str, float]:
    """By the name of a column, and of it with " both": fractions."""
    found = {}
    near = [i for i, pair in enumerate(pairs) if pair.part == NEAR]
    rules = [i for i in near if pairs[i].instruction.count(";") + 1 >= MANY_RULES]
    wide = [i for i, pair in enumerate(pairs) if pair.part == WIDE]
    for name, members in zip(HEADS, (near, rules, wide), strict=False):
        if not members:
            continue
        own = judge_study.figures([pairs[i] for i in members], [verdicts[i] for i in members])
        found[name] = (own.shown + own.swapped) / 2
        found[f"{name} both"] = own.both
        if name == NEAR and own.a is not None:
            found["A"] = own.a
    return found


def line(title: str, found: Sequence[Mapping[str, float]]) -> str:
    """Of the figures of each seed."""
    cells = []
    for name in HEADS:
        parts = []
        for column in (name, f"{name} both"):
            values = [one[column] for one in found if column in one]
            if values:
                parts.append(mean_and_error(values))
        cells.append(" / ".join(parts))
    return f"| {title} | {' | '.join(cells)} |"


def completeness(rollout: Rollout, examples: Sequence[Example]) -> float:
    """The mean fraction of a card's rules that a greedy plan for it names."""
    template = templates.read("cards_plan", ("instruction",), "plan_template")
    written = rollout.write(
        [template.fill(instruction=example.question) for example in examples],
        num_samples=1,
        temperature=0.0,
        max_new_tokens=cards.MOST_RULES + 2,
        purpose="study plan",
    )
    fractions = []
    for example, [plan] in zip(examples, written, strict=True):
        kinds = {rule.kind for rule in cards.read_card(example.question)}
        fractions.append(len(kinds & set(plan.text.split())) / len(kinds))
    return float(np.mean(fractions))


# ---- models --------------------------------------------------------------------------------------


def template_of(arm: str) -> str:
    return PLANNED if arm.startswith("planner") else PLAIN


def judged(
    directories: Sequence[Path], round: int, template: str, pairs: Sequence[Comparison]
) -> list[dict[str, float]]:
    """The figures of each run's judge after a round."""
    found = []
    for directory in directories:
        exp, params = side_by_side.restored(directory, "base")
        if round:
            params = side_by_side.params_after(exp, directory, round)
        rollout = exp.rollout(params, "study", round, temperature=0.0)
        verdicts = judge_study.of_model(rollout, pairs, template, JUDGE_TOKENS)
        own = figures(pairs, verdicts)
        if template == PLANNED:
            own["plan"] = completeness(rollout, exp.load("test"))
        found.append(own)
    return found


def main() -> None:
    parser = side_by_side.parser_of(__doc__, ARMS)
    parser.add_argument("--pairs", type=at_least(2), default=500, help="of each kind")
    args, flags = parser.parse_known_args()
    unknown = sorted(set(args.arms) - set(ARMS))
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(ARMS)}.")
    out = args.out.resolve()
    smoke = ",smoke" if args.smoke else ""
    jobs = []
    for seed in range(args.seeds):
        base = out / f"{BASE}_{seed}"
        jobs.append(job_of(f"{CONFIG}:{BASE}{smoke}", base, seed, [], None))
        for arm in args.arms:
            own = [*flags, "--config.base.num_updates=0"]
            directory = out / f"{arm}_{seed}"
            jobs.append(job_of(f"{CONFIG}:{arm}{smoke}", directory, seed, own, base))
    run_all(jobs, args.at_once)
    runs = {arm: [out / f"{arm}_{s}" for s in range(args.seeds)] for arm in (BASE, *args.arms)}
    print_judges(runs, args.pairs)
    print_rounds({arm: runs[arm] for arm in args.arms})


def print_judges(runs: Mapping[str, Sequence[Path]], count: int) -> None:
    exp, _ = side_by_side.restored(runs[BASE][0], "base")
    pairs = fixed_pairs(exp.load("test"), count)
    print(f"| judge | {' | '.join(HEADS)} |\n|---|{'---|' * len(HEADS)}")
    for name, verdicts in judge_study.without_reading(pairs).items():
        print(line(name, [figures(pairs, verdicts)]))
    plans = {}
    for template, title in ((PLAIN, "seed"), (PLANNED, "seed, with a plan")):
        found = judged(runs[BASE], 0, template, pairs)
        print(line(title, found), flush=True)
        if template == PLANNED:
            plans[title] = found
    for arm, directories in runs.items():
        rounds = side_by_side.restored(directories[0], "base")[0].cfg.rounds.count
        for round in range(1, rounds + 1):
            found = judged(directories, round, template_of(arm), pairs)
            title = f"{arm}, round {round}"
            print(line(title, found), flush=True)
            if template_of(arm) == PLANNED:
                plans[title] = found
    for title, found in plans.items():
        print(f"rules that plans name, {title}: {mean_and_error([one['plan'] for one in found])} %")


def print_rounds(runs: Mapping[str, Sequence[Path]]) -> None:
    """What each round's collection says, of the judge that it began with."""
    print(f"\n| arm | round | {' | '.join(name.replace('_', ' ') for name in OF_ROUNDS)} |")
    print(f"|---|---|{'---|' * len(OF_ROUNDS)}")
    for arm, directories in runs.items():
        of_seeds = []
        for directory in directories:
            lines = metrics.read(directory)
            of_seeds.append([m for m in lines if m["phase"] == "collect" and m["round"]])
        for number, own in enumerate(zip(*of_seeds, strict=True), start=1):
            cells = []
            for name in OF_ROUNDS:
                values = [m[f"collect/{name}"] for m in own if f"collect/{name}" in m]
                cells.append(mean_and_error(values) if values else "")
            print(f"| {arm} | {number} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
