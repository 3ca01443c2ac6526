"""Models that judge themselves, on rule cards: quality by the rules, and what the judge is worth.

    python benchmarks/self_rewarding_study.py --out=runs/self_rewarding [--arms=self,frozen,...]
        [--config=self_rewarding_cards] [--seeds=3] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing of the arms of a config (self_rewarding_cards, meta_rewarding_cards or
thought_preference_cards): M1 by the arm ``seeds``, and the others from it. Then, of M1 and of each
round: the quality of responses to the test cards in percent of their rules, of those that are drawn
as a round draws them, also of the easy and of the hard rules alone, and of greedy ones; the length
of the former; and the judge's accuracy on fixed pairs of responses to these cards, which people who
follow the rules with probability .6 might have written; beside it what constant, length, random and
the rules would say. Then what each round's collection says. Means over seeds with standard errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import side_by_side
from side_by_side import job_of, mean_and_error, run_all

from reasoning_jax import metrics, ranking
from reasoning_jax.experiment import Experiment
from reasoning_jax.graders import judge
from reasoning_jax.model.decoder import Params
from reasoning_jax.samples import Sample
from reasoning_jax.tasks import Example, Task, cards
from reasoning_jax.tasks.cards import writing

ARMS = {
    "self_rewarding_cards": ("self", "frozen", "oracle", "random", "positives", "short"),
    "meta_rewarding_cards": ("meta", "actor", "long"),
    "thought_preference_cards": ("thoughts", "direct"),
}
BASE = "seeds"
NUM_PAIRS = 500
OF_ROUNDS = (
    "quality",
    "judge_score",
    "best_quality",
    "gap",
    "agreement",
    "agreement_of_length",
    "length",
    "meta_agreed",
    "meta_first",
    "meta_higher",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    quality: float  # of responses as a round draws them, a fraction of the rules
    easy: float  # of these, the easy rules that are followed
    hard: float  # of these, the hard ones
    greedy: float  # the quality of greedy ones
    length: float  # of what a round draws, in symbols
    judge: float  # its accuracy on the fixed pairs


def fixed_pairs(examples: Sequence[Example]) -> list[tuple[Example, str, str]]:
    """Two responses to each example, of different quality."""
    rng = np.random.default_rng(0)
    pairs = []
    for example in examples[:NUM_PAIRS]:
        card = cards.read_card(example.question)
        while True:
            first, second = (writing.draw_response(rng, card, 0.6) for _ in range(2))
            if cards.quality(card, first) != cards.quality(card, second):
                break
        pairs.append((example, " ".join(first), " ".join(second)))
    return pairs


def accuracy(pairs: Sequence[tuple[Example, str, str]], scores: Sequence[float]) -> float:
    """How often the better of two responses has the higher score; a tie counts a half."""
    found = []
    for i, (example, *responses) in enumerate(pairs):
        card = cards.read_card(example.question)
        quality = [cards.quality(card, response.split()) for response in responses]
        found.append(ranking.agreement(quality, scores[2 * i : 2 * i + 2]))
    return ranking.together(found).fraction


def measure(exp: Experiment, params: Params) -> Measured:
    roll = exp.rollout(params, "study", 0)
    examples = exp.load_eval("test")
    samples = roll(examples)
    greedy = roll(examples, temperature=0.0)
    parts = [exp.task.judged_part(sample.text) or "" for sample in samples]
    pairs = fixed_pairs(examples)
    asked = [(e.question, response) for e, *both in pairs for response in both]
    settings = judge_settings(exp)
    judged = judge.score(roll, asked, settings, "study judge")
    means = [judge.mean_score(group) for group in judged]
    return Measured(
        quality=float(np.mean([sample.score for sample in samples])),
        easy=followed(exp.task, samples, hard=False),
        hard=followed(exp.task, samples, hard=True),
        greedy=float(np.mean([sample.score for sample in greedy])),
        length=float(np.mean([len(part.split()) for part in parts])),
        judge=accuracy(pairs, [-1.0 if mean is None else mean for mean in means]),
    )


def followed(task: Task, samples: Sequence[Sample], hard: bool) -> float:
    """The fraction of all hard rules, or of all easy ones, that the responses follow."""
    found = []
    for sample in samples:
        card = cards.read_card(sample.example.question)
        response = (task.extract(sample.text) or "").split() if sample.finished else []
        for rule, mark in zip(card, cards.marks(card, response), strict=True):
            if (rule.kind in cards.HARD) == hard:
                found.append(mark)
    return float(np.mean(found))


def judge_settings(exp: Experiment) -> judge.JudgeConfig:
    """Of all arms the same: also of those that no model judges."""
    return judge.JudgeConfig(template="cards_score", num_judgements=3, judge_tokens=26)


def dummies(examples: Sequence[Example]) -> dict[str, float]:
    """The accuracy on the fixed pairs of judges that are no models."""
    pairs = fixed_pairs(examples)
    responses = [(e, response.split()) for e, *both in pairs for response in both]
    rng = np.random.default_rng(1)
    by_rules = [cards.quality(cards.read_card(e.question), r) for e, r in responses]
    return {
        "constant": accuracy(pairs, [0.0] * len(responses)),
        "length": accuracy(pairs, [len(response) for _, response in responses]),
        "random": accuracy(pairs, rng.random(len(responses)).tolist()),
        "the rules": accuracy(pairs, by_rules),
    }


def of_rounds(directory: Path) -> list[dict[str, float]]:
    """What each round's collection says of its responses and its judge."""
    lines = metrics.read(directory)
    return [m for m in lines if m["phase"] == "collect" and m["round"]]


def main() -> None:
    parser = side_by_side.parser_of(__doc__, ("all",))
    parser.add_argument("--config", default="self_rewarding_cards", choices=tuple(ARMS))
    args, flags = parser.parse_known_args()
    known = ARMS[args.config]
    arms = known if args.arms == ["all"] else args.arms
    unknown = sorted(set(arms) - set(known))
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(known)}.")
    out = args.out.resolve()
    smoke = ",smoke" if args.smoke else ""
    jobs = []
    for seed in range(args.seeds):
        base = out / f"{BASE}_{seed}"
        jobs.append(job_of(f"configs/{args.config}.py:{BASE}{smoke}", base, seed, [], None))
        for arm in arms:
            directory = out / f"{arm}_{seed}"
            own = f"configs/{args.config}.py:{arm}{smoke}"
            jobs.append(job_of(own, directory, seed, flags, base))
    run_all(jobs, args.at_once)
    own_prompts = args.config == "thought_preference_cards"
    print_tables(out, arms, args.seeds, own_prompts)


def print_tables(out: Path, arms: Sequence[str], num_seeds: int, own_prompts: bool) -> None:
    """own_prompts: each arm asks in its own way, and so has its own M1."""
    runs = {arm: [out / f"{arm}_{seed}" for seed in range(num_seeds)] for arm in (BASE, *arms)}
    exp, _ = side_by_side.restored(runs[BASE][0], "base")
    said = [f"{name} {100 * found:.1f}" for name, found in dummies(exp.load_eval("test")).items()]
    print(f"Right on the fixed pairs, %: {', '.join(said)}\n")
    heads = (
        "quality, %",
        "easy rules, %",
        "hard rules, %",
        "greedy, %",
        "length",
        "judge right, %",
    )
    print(f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    if not own_prompts:
        print_models("M1", runs[BASE], 0)
    for arm in arms:
        rounds = side_by_side.restored(runs[arm][0], "base")[0].cfg.rounds.count
        for round in range(0 if own_prompts else 1, rounds + 1):
            print_models(f"{arm}, M{round + 1}", runs[arm], round)
    print(f"\n| arm | round | {' | '.join(name.replace('_', ' ') for name in OF_ROUNDS)} |")
    print(f"|---|---|{'---|' * len(OF_ROUNDS)}")
    for arm in arms:
        collected = [of_rounds(directory) for directory in runs[arm]]
        for number, lines in enumerate(zip(*collected, strict=True), start=1):
            print(f"| {arm} | {number} | {' | '.join(cells_of(lines))} |", flush=True)


def print_models(title: str, directories: Sequence[Path], round: int) -> None:
    """A line: the means over seeds of the models after a round; of 0, as the rounds begin."""
    found = []
    for directory in directories:
        exp, params = side_by_side.restored(directory, "base")
        if round:
            params = side_by_side.params_after(exp, directory, round)
        found.append(measure(exp, params))
    cells = [
        mean_and_error([one.quality for one in found]),
        mean_and_error([one.easy for one in found]),
        mean_and_error([one.hard for one in found]),
        mean_and_error([one.greedy for one in found]),
        mean_and_error([one.length for one in found], 1, 1),
        mean_and_error([one.judge for one in found]),
    ]
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def cells_of(lines: Sequence[Mapping[str, float]]) -> list[str]:
    """What a round's collections say, of all seeds."""
    cells = []
    for name in OF_ROUNDS:
        values = [line[f"collect/{name}"] for line in lines if f"collect/{name}" in line]
        digits_and_scale = (1, 1) if name == "length" else (1, 100)
        cells.append(mean_and_error(values, *digits_and_scale) if values else "")
    return cells


if __name__ == "__main__":
    main()
