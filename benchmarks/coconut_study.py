"""Continuous thoughts and the arms beside them: accuracy, tokens, and what the thoughts are worth.

    python benchmarks/coconut_study.py --out=runs/coconut [--arms=coconut,cot,...] [--seeds=3]
        [--task=prosqa_symbols] [--questions=500] [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Runs what is missing (a run that is done is not run again), and asks each last round test questions.
A choice is the candidate whose answer is likelier. In the arm ``coconut`` the thoughts are then
left out, or give way to zeros, to those of another question, and to their mean; and what their
distributions over next tokens give to each kind of node is printed: to all of the kind, and to each
node of it. Accuracies are in percent, with the standard error over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
from side_by_side import Job, job_of, mean_and_error, run_all
from thought_scores import batch_of

from reasoning_jax.experiment import Experiment
from reasoning_jax.forwards import coconut
from reasoning_jax.forwards.coconut import passes
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.tasks.graphs import GraphExample, shortcuts
from reasoning_jax.training.rows import completion_row

CONFIG = "configs/coconut_graphs.py"
TASKS = ("graph_search", "prosqa_symbols")
# Arm -> the arm whose base model it begins from. Stage 0 is that of the paths.
ARMS = {
    "cot": "walk",
    "direct": "walk",
    "at_once": "walk",
    "coconut": "cot",
    "learned": "cot",
    "dropped": "cot",
}
BEFORE = "paths, where the stages begin"
KINDS = ("on_path", "frontier", "reached", "later", "unreachable")
WITHOUT = ("left out", "zeros", "another's", "their mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    out: Path
    task: str
    flags: list[str]  # --config.KEY=VALUE
    questions: int
    smoke: bool

    def job(self, arm: str, seed: int) -> Job:
        """The run of an arm, after the one that it begins from."""
        argument = ",".join([arm, self.task, *(["smoke"] if self.smoke else [])])
        base = self.directory(ARMS[arm], seed) if arm in ARMS else None
        own = f"{CONFIG}:{argument}"
        return job_of(own, self.directory(arm, seed), seed, self.flags, base)

    def directory(self, arm: str, seed: int) -> Path:
        return self.out / f"{arm}_{seed}"

    def model(
        self, arm: str, seed: int, folder: str = "checkpoints"
    ) -> tuple[Experiment, decoder.Params]:
        """The experiment, on one device, and parameters of its run: by default the last round's."""
        changes = {"eval.num_test": self.questions}
        return side_by_side.restored(self.directory(arm, seed), folder, **changes)


# ---- what a model answers ------------------------------------------------------------------------


def answers(exp: Experiment, params: decoder.Params, round: int) -> dict[str, float]:
    """Greedy answers: accuracy by the number of steps and of all; mean tokens, with thoughts."""
    rollout = exp.rollout(params, "study", round, temperature=0.0)
    samples = rollout(exp.load_eval("test"))
    found: dict[str, list[float]] = {}
    for sample in samples:
        for group in (f"steps {sample.example.graph.num_steps}", "all"):
            found.setdefault(group, []).append(sample.correct)
    thoughts = len(exp.prompts.suffix(round))
    tokens = np.mean([len(sample.tokens) + thoughts for sample in samples])
    means = {group: float(np.mean(found[group])) for group in sorted(found)}
    return means | {"tokens": float(tokens)}


def candidate_rows(
    exp: Experiment, examples: Sequence[GraphExample], thinks: bool = True
) -> list[dict[str, np.ndarray]]:
    """Of each question, a row that ends with its answer, and one that ends with the decoy."""
    suffix = exp.prompts.suffix(exp.cfg.rounds.count)
    thought = decoder.thought_id(exp.abstract_state().params, exp.model_cfg)
    if not thinks:
        suffix = [id for id in suffix if id != thought]
    rows = []
    for example in examples:
        words = exp.tokenizer.prompt(exp.task.prompt(example, exp.task_cfg))
        answer, decoy = (
            example.names[node].strip() for node in (example.graph.answer, example.graph.decoy)
        )
        for name in (answer, decoy):
            stated = example.answer.replace(answer, name)
            text = exp.task.target(dataclasses.replace(example, answer=stated), direct=True)
            rows.append(completion_row(words + suffix, exp.tokenizer.encode(text)))
    return rows


def choices(scores: np.ndarray) -> float:
    """The fraction of questions whose answer has a larger score than its decoy."""
    return float(np.mean(scores[0::2] > scores[1::2]))


# ---- what thoughts are worth ---------------------------------------------------------------------


def probe(exp: Experiment, params: decoder.Params) -> dict[str, float]:
    """The accuracy of choices with the thoughts and without, and the mass on each kind of node."""
    examples = exp.load_eval("test")
    policy = exp.policy(params)
    size = exp.cfg.sequence_length
    batch = batch_of(candidate_rows(exp, examples), size)
    room = passes.Room(size, coconut.max_thoughts(exp.forward_cfg), size)

    @jax.jit
    def scored(batch: dict, given: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        hidden, fed = passes.with_thoughts(params, batch, exp.model_cfg, room, given)
        found = logprobs.of_hidden(params, hidden, batch, exp.model_cfg)
        return jnp.sum(found * batch["weights"], axis=1), fed

    scores, fed = scored(batch, None)
    found = {"their own": choices(np.asarray(scores))}
    fewer = batch_of(candidate_rows(exp, examples, thinks=False), size)
    found["left out"] = choices(np.asarray(scored(fewer, None)[0]))
    mean = jnp.broadcast_to(jnp.mean(fed, axis=0), fed.shape)
    # Two rows a question: another's are those of the next question.
    others = {"zeros": jnp.zeros_like(fed), "another's": jnp.roll(fed, 2, 0), "their mean": mean}
    for name, given in others.items():
        found[name] = choices(np.asarray(scored(batch, given)[0]))
    return found | masses(exp, examples, policy, fed[0::2])


def masses(
    exp: Experiment, examples: Sequence[GraphExample], policy: Policy, fed: jax.Array
) -> dict[str, float]:
    """Of each thought and kind of node: the mean mass on all, and (per node) on one of them."""
    distributions = np.asarray(
        jax.nn.softmax(decoder.logits(policy.params, fed, exp.model_cfg), axis=-1)
    )
    found: dict[str, list[float]] = {}
    for example, distribution in zip(examples, distributions, strict=True):
        ids = np.array([exp.tokenizer.encode(name)[0] for name in example.names])
        for step in range(1, min(len(distribution), example.graph.num_steps) + 1):
            for kind, nodes in example.graph.groups(step).items():
                mass = distribution[step - 1, ids[list(nodes)]].sum() if nodes else 0.0
                found.setdefault(f"thought {step} {kind}", []).append(float(mass))
                if nodes:
                    each = f"thought {step} {kind} each"
                    found.setdefault(each, []).append(float(mass) / len(nodes))
    return {name: float(np.mean(values)) for name, values in found.items()}


# ---- tables --------------------------------------------------------------------------------------


def main() -> None:
    parser = side_by_side.parser_of(__doc__, tuple(ARMS))
    parser.add_argument("--task", default=TASKS[0], choices=TASKS)
    parser.add_argument("--questions", type=side_by_side.at_least(2), default=500)
    args, flags = parser.parse_known_args()
    study = Study(
        out=args.out.resolve(),
        task=args.task,
        flags=flags,
        questions=args.questions,
        smoke=args.smoke,
    )
    unknown = sorted(set(args.arms) - ARMS.keys())
    if unknown:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(ARMS)}.")
    jobs = []
    for seed in range(args.seeds):
        jobs += [study.job(arm, seed) for arm in side_by_side.with_beginnings(args.arms, ARMS)]
    run_all(jobs, args.at_once)
    print_arms(study, args.arms, args.seeds)
    if "coconut" in args.arms:
        print_probes(study, args.seeds)


def print_arms(study: Study, arms: Sequence[str], seeds: int) -> None:
    models = {arm: (arm, "checkpoints") for arm in arms}
    if any(ARMS.get(arm) == "cot" for arm in arms):
        models[BEFORE] = ("cot", "base")
    for name, (arm, folder) in models.items():
        found = []
        for seed in range(seeds):
            exp, params = study.model(arm, seed, folder)
            found.append(answers(exp, params, 0 if folder == "base" else exp.cfg.rounds.count))
        if name == arms[0]:
            print(f"| arm | {' | '.join(found[0])} |\n|---|{'---|' * len(found[0])}")
        cells = []
        for column in found[0]:
            scale = 1 if column == "tokens" else 100
            cells.append(mean_and_error([one[column] for one in found], scale=scale))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    graphs = [example.graph for example in exp.load_eval("test")]
    for rule, accuracy in shortcuts.accuracies(graphs).items():
        print(f"the candidate with {rule.replace('_', ' ')}: {100 * accuracy:.1f} %")


def print_probes(study: Study, seeds: int) -> None:
    found = [probe(*study.model("coconut", seed)) for seed in range(seeds)]
    print("\n| thoughts | right choices |\n|---|---|")
    for name in ("their own", *WITHOUT):
        print(f"| {name} | {mean_and_error([one[name] for one in found])} |")
    print(f"\n| mass, % | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    numbers = sorted({name.split()[1] for name in found[0] if name.startswith("thought ")})
    for number in numbers:
        for of, suffix in (("all", ""), ("each", " each")):
            names = [f"thought {number} {kind}{suffix}" for kind in KINDS]
            cells = [mean_and_error([one.get(name, np.nan) for one in found]) for name in names]
            print(f"| thought {number}, {of} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
