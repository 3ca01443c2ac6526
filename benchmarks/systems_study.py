"""Systems of several calls beside the model alone, in small worlds.

    python benchmarks/systems_study.py --out=runs/systems [--seeds=3] [--at_once=1] [--smoke]
        [--arms=people,opinions,clean,distracted,cards] [--config.KEY=VALUE ...]

Trains what is missing. ``people`` (configs/cove_people.py): the precision and the recall of drafts,
of the variants of the chain of verification, and of votes over as many drafts as cost the tokens of
the factored variant; and how many facts the model knows when it is asked for them, without which no
check can help. ``opinions`` (configs/s2a_opinions.py): accuracy without an opinion, with the right
and with a wrong one, and what System 2 attention makes of it. ``clean`` and ``distracted``
(configs/s2a_distractors.py): accuracy with distractors, by their kind; macro counts a problem only
where all its distractors leave it right, and norm divides by the accuracy of clean problems.
``cards`` (configs/bsm_cards.py): verdicts on pairs of responses to rule cards, of which one follows
one rule more, by one pass, by votes over about as many passes as cost the tokens of branch, solve,
merge (an odd number, at least three), and by that: how many are right in both orders, also by the
number of rules; how many differ in the orders; and of those for one response how many are for the
longer one. Tokens are all that are drawn for an answer. Percent, with standard errors over seeds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import card_judges
import numpy as np
import side_by_side
from side_by_side import job_of, mean_and_error, run_all

from reasoning_jax import default, systems
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.samples import groups_of
from reasoning_jax.systems import cove
from reasoning_jax.tasks import Example, facts, opinions, people

CONFIGS = {
    "people": "configs/cove_people.py:",
    "opinions": "configs/s2a_opinions.py:",
    "clean": "configs/s2a_distractors.py:clean,",
    "distracted": "configs/s2a_distractors.py:distracted,",
    "cards": "configs/bsm_cards.py:",
}
NUM_FACTS = 300  # asked alone
NUM_PAIRS = 300  # of responses to cards
OF_VOTES = 0.7  # the temperature of passes that vote
Row = dict[str, float]
Rows = dict[str, Row]


def main() -> None:
    parser = side_by_side.parser_of(__doc__, tuple(CONFIGS))
    args, flags = parser.parse_known_args()
    unknown = sorted(set(args.arms) - CONFIGS.keys())
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(CONFIGS)}.")
    jobs = {}
    for seed in range(args.seeds):
        for arm in args.arms:
            own = f"{CONFIGS[arm]}{'smoke' if args.smoke else ''}"
            directory = args.out.resolve() / f"{arm}_{seed}"
            jobs[arm, seed] = job_of(own, directory, seed, flags, None)
    run_all(list(jobs.values()), args.at_once)
    for arm in args.arms:
        found = [STUDIES[arm](jobs[arm, seed].directory) for seed in range(args.seeds)]
        print(f"\n{arm}")
        print_table(found)


def print_table(found: Sequence[Rows]) -> None:
    """A line for each condition, of the means over seeds."""
    columns = [*dict.fromkeys(name for row in found[0].values() for name in row)]
    print(f"\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for title in found[0]:
        cells = []
        for column in columns:
            values = [rows[title][column] for rows in found if column in rows[title]]
            cells.append(mean_and_error(values, scale=SCALES.get(column, 100)) if values else "")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


SCALES = {"calls": 1, "tokens": 1, "right names": 1, "wrong names": 1}


def rollout_of(directory: Path, temperature: float | None = 0.0) -> tuple[Rollout, list[Example]]:
    """The run's last model on one device, and the questions of its test split.

    temperature: None is the config's.
    """
    exp, params = side_by_side.restored(directory)
    return exp.rollout(params, "study", 0, temperature=temperature), exp.load_eval("test")


def answers(
    rollout: Rollout, examples: Sequence[Example], system: str, variant: str
) -> list[Sample]:
    cfg = default.section(systems, system)
    cfg.update({"variant": variant, "prompts": "symbols"})
    return systems.get(system).answer(rollout, examples, cfg)


def cost(samples: Sequence[Sample]) -> Row:
    return {
        "calls": float(np.mean([max(len(sample.calls), 1) for sample in samples])),
        "tokens": float(np.mean([sample.num_drawn for sample in samples])),
    }


# ---- chain of verification -----------------------------------------------------------------------


def lists(directory: Path) -> Rows:
    rollout, examples = rollout_of(directory, None)
    drafts = rollout(examples)
    rows = {"draft": list_figures(drafts) | cost(drafts)}
    for variant in cove.FILES:
        samples = answers(rollout, examples, "cove", variant)
        rows[variant.replace("_", " ")] = list_figures(samples) | cost(samples)
    times = max(2, round(rows["factored"]["tokens"] / rows["draft"]["tokens"]))
    drawn = rollout(examples, num_samples=times)
    own = {"calls": times, "tokens": times * cost(drawn)["tokens"]}
    rows["in 2 of as many drafts"] = list_figures(voted(drawn, times)) | own
    rows["facts asked alone"] = {"right": known_facts(rollout)}
    return rows


def list_figures(samples: Sequence[Sample]) -> Row:
    """Names right and wrong of a list, the precision over all lists, and the mean recall."""
    counts = []
    recalls = []
    for sample in samples:
        answer = sample.answer if sample.finished and sample.answer else people.NONE
        right, wrong = people.right_and_wrong(answer, sample.example)
        counts.append((right, wrong))
        recalls.append(right / len(sample.example.answer.split()))
    right, wrong = np.mean(counts, axis=0)
    return {
        "precision": float(right / max(right + wrong, 1e-9)),
        "recall": float(np.mean(recalls)),
        "right names": float(right),
        "wrong names": float(wrong),
    }


def voted(samples: Sequence[Sample], size: int) -> list[Sample]:
    """Of each question the names that two or more of its ``size`` samples hold."""
    found = []
    for group in groups_of(samples, size):
        votes = Counter(name for one in group for name in (one.answer or "").split())
        names = [name for name, count in votes.items() if count > 1 and name != people.NONE]
        answer = " ".join(names) or people.NONE
        found.append(dataclasses.replace(group[0], answer=answer, finished=True))
    return found


def known_facts(rollout: Rollout) -> float:
    """The fraction of facts that are said rightly when they are asked for."""
    asked = facts.World(rollout.task_cfg).facts[:NUM_FACTS]
    examples = []
    for number, fact in enumerate(asked):
        examples.append(Example(id=number, question=fact.question, answer=fact.value))
    samples = rollout(examples)
    right = [s.text.strip() == s.example.answer for s in samples]
    return float(np.mean(right))


# ---- system 2 attention --------------------------------------------------------------------------

TITLES = {
    opinions.WITHOUT: "no opinion",
    opinions.RIGHT: "right opinion",
    opinions.WRONG: "wrong opinion",
}


def asked_with_opinions(directory: Path) -> Rows:
    rollout, examples = rollout_of(directory)
    rows = {}
    for kind, title in TITLES.items():
        own = [example for example in examples if example.kind == kind]
        rows[title] = right_answers(rollout(own))
    for kind in (opinions.RIGHT, opinions.WRONG):
        own = [example for example in examples if example.kind == kind]
        for variant in ("discard", "keep"):
            samples = answers(rollout, own, "s2a", variant)
            suffix = "S2A" if variant == "discard" else "S2A that keeps the original"
            rows[f"{TITLES[kind]}, {suffix}"] = right_answers(samples) | rewrites(samples)
    wrong = [example for example in examples if example.kind == opinions.WRONG]
    oracle = [dataclasses.replace(example, question=example.plain) for example in wrong]
    rows["wrong opinion, written anew by the oracle"] = right_answers(rollout(oracle))
    again = answers(rollout, oracle, "s2a", "discard")
    rows["the oracle's text, S2A"] = right_answers(again) | rewrites(again)
    return rows


def right_answers(samples: Sequence[Sample]) -> Row:
    right = [sample.correct for sample in samples]
    return {"accuracy": float(np.mean(right))} | cost(samples)


def rewrites(samples: Sequence[Sample]) -> Row:
    """How often the text that is written anew is the question alone."""
    same = [sample.calls[0].text.strip() == sample.example.plain for sample in samples]
    return {"rewrites as the oracle": float(np.mean(same))}


def asked_with_distractors(directory: Path) -> Rows:
    rollout, examples = rollout_of(directory)
    rows = {"alone": distracted(rollout(examples))}
    for variant, title in (("discard", "S2A"), ("keep", "S2A that keeps the original")):
        samples = answers(rollout, examples, "s2a", variant)
        rows[title] = distracted(samples) | rewrites(samples)
    return rows


def distracted(samples: Sequence[Sample]) -> Row:
    """The accuracy of clean problems, and what the distractors leave of it (arXiv:2302.00093)."""
    clean = [sample.correct for sample in samples if sample.example.distractor is None]
    others = [sample for sample in samples if sample.example.distractor is not None]
    by_problem: dict[str, list[bool]] = {}
    for sample in others:
        by_problem.setdefault(sample.example.plain, []).append(sample.correct)
    found = {"clean": float(np.mean(clean)), "micro": float(np.mean([s.correct for s in others]))}
    found["macro"] = float(np.mean([all(right) for right in by_problem.values()]))
    found["norm"] = found["micro"] / max(found["clean"], 1e-9)
    for factor, (yes, no) in FACTORS.items():
        for name, value in ((yes, True), (no, False)):
            own = [s.correct for s in others if getattr(s.example.distractor, factor) is value]
            found[name] = float(np.mean(own))
    return found | cost(samples)


FACTORS = {
    "in_topic": ("in topic", "off topic"),
    "role_overlap": ("role overlaps", "another role"),
    "in_range": ("in range", "out of range"),
}


# ---- branch, solve, merge ------------------------------------------------------------------------


def compared_responses(directory: Path) -> Rows:
    rollout, examples = rollout_of(directory)
    pairs = card_judges.near_pairs(examples, NUM_PAIRS)
    judged = {"one pass": card_judges.by_passes(rollout, pairs, 1, 0.0)}
    by_rules = card_judges.by_system(answers(rollout, pairs, "bsm", "judge"))
    votes = num_votes(tokens_of(by_rules) / tokens_of(judged["one pass"]))
    judged["votes"] = card_judges.by_passes(rollout, pairs, votes, OF_VOTES)
    judged["bsm"] = by_rules
    judged["oracle"] = card_judges.oracle(pairs)
    return {title: card_judges.figures(pairs, own) for title, own in judged.items()}


def tokens_of(judged: Sequence[card_judges.Judged]) -> float:
    return float(np.mean([one.tokens for one in judged]))


def num_votes(times: float) -> int:
    """The odd number that is nearest, or three: fewer have no majority."""
    return max(3, 2 * int(times // 2) + 1)


STUDIES = {
    "people": lists,
    "opinions": asked_with_opinions,
    "clean": asked_with_distractors,
    "distracted": asked_with_distractors,
    "cards": compared_responses,
}


if __name__ == "__main__":
    main()
