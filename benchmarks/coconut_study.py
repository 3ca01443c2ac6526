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

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from side_by_side import Job, job_of, mean_and_error, run_all

from reasoning_jax import config, experiment
from reasoning_jax.experiment import Experiment
from reasoning_jax.forwards import coconut
from reasoning_jax.forwards.coconut import passes
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.tasks.graphs import GraphExample, shortcuts
from reasoning_jax.training import checkpoint
from reasoning_jax.training.rows import completion_row

CONFIG = "configs/coconut_graphs.py"
TASKS = ("graph_search", "prosqa_symbols", "prosqa")
# Arm -> the arm whose base model it begins from. Stage 0 is that of the paths.
ARMS = {
    "cot": "walk",
    "direct": "walk",
    "at_once": "walk",
    "coconut": "cot",
    "learned": "cot",
    "dropped": "cot",
}
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

    def last_round(self, arm: str, seed: int) -> tuple[Experiment, decoder.Params]:
        """The experiment and its last round's parameters, on one device."""
        directory = self.directory(arm, seed)
        cfg = config.rebuild(directory)
        cfg.eval.num_test = self.questions
        exp = experiment.make(cfg, jax.devices()[:1])
        restored = checkpoint.restore(directory / "checkpoints", exp.abstract_state().params)
        return exp, restored.params


# ---- what a model answers ------------------------------------------------------------------------


def answers(exp: Experiment, params: decoder.Params) -> tuple[float, float]:
    """Accuracy of the greedy answers, and their mean number of tokens with all thoughts."""
    rollout = exp.rollout(params, "study", exp.cfg.rounds.count, temperature=0.0)
    samples = rollout(exp.load_eval("test"))
    thoughts = len(exp.prompts.suffix(exp.cfg.rounds.count))
    tokens = [len(sample.tokens) + thoughts for sample in samples]
    return float(np.mean([sample.correct for sample in samples])), float(np.mean(tokens))


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
    batch = as_batch(candidate_rows(exp, examples), exp)
    size = exp.cfg.sequence_length
    room = passes.Room(size, coconut.max_thoughts(exp.forward_cfg), size)

    @jax.jit
    def scored(batch: dict, given: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        hidden, fed = passes.with_thoughts(params, batch, exp.model_cfg, room, given)
        found = logprobs.of_hidden(params, hidden, batch, exp.model_cfg)
        return jnp.sum(found * batch["weights"], axis=1), fed

    scores, fed = scored(batch, None)
    found = {"their own": choices(np.asarray(scores))}
    fewer = as_batch(candidate_rows(exp, examples, thinks=False), exp)
    found["left out"] = choices(np.asarray(scored(fewer, None)[0]))
    mean = jnp.broadcast_to(jnp.mean(fed, axis=0), fed.shape)
    # Two rows a question: another's are those of the next question.
    others = {"zeros": jnp.zeros_like(fed), "another's": jnp.roll(fed, 2, 0), "their mean": mean}
    for name, given in others.items():
        found[name] = choices(np.asarray(scored(batch, given)[0]))
    return found | masses(exp, examples, policy, fed[0::2])


def as_batch(rows: list[dict[str, np.ndarray]], exp: Experiment) -> dict[str, jax.Array]:
    size = exp.cfg.sequence_length
    tokens = np.zeros((len(rows), size), np.int32)
    weights = np.zeros((len(rows), size), np.float32)
    segments = np.zeros((len(rows), size), np.int32)
    for i, row in enumerate(rows):
        n = len(row["tokens"])
        tokens[i, :n], weights[i, :n], segments[i, :n] = row["tokens"], row["weights"], 1
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), tokens.shape)
    named = {
        "tokens": tokens,
        "weights": weights,
        "segment_ids": segments,
        "positions": positions,
    }
    return {name: jnp.asarray(x) for name, x in named.items()}


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS), type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--task", default=TASKS[0], choices=TASKS)
    parser.add_argument("--at_once", type=int, default=1, help="runs side by side")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="models that learn nothing")
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
        jobs += [study.job(arm, seed) for arm in with_beginnings(args.arms)]
    run_all(jobs, args.at_once)
    print_arms(study, args.arms, args.seeds)
    if "coconut" in args.arms:
        print_probes(study, args.seeds)


def with_beginnings(arms: Sequence[str]) -> list[str]:
    """The arms, each once and after those that it begins from."""
    found: dict[str, None] = {}
    for arm in arms:
        chain = [arm]
        while chain[0] in ARMS:
            chain.insert(0, ARMS[chain[0]])
        found |= dict.fromkeys(chain)
    return list(found)


def print_arms(study: Study, arms: Sequence[str], seeds: int) -> None:
    print("| arm | accuracy | tokens |\n|---|---|---|")
    for arm in arms:
        found = []
        for seed in range(seeds):
            exp, params = study.last_round(arm, seed)
            found.append(answers(exp, params))
        accuracy, tokens = zip(*found, strict=True)
        cells = [mean_and_error(accuracy), mean_and_error(tokens, scale=1)]
        print(f"| {arm} | {' | '.join(cells)} |", flush=True)
    graphs = [example.graph for example in exp.load_eval("test")]
    for rule, accuracy in shortcuts.accuracies(graphs).items():
        print(f"| the candidate with {rule.replace('_', ' ')} | {100 * accuracy:.1f} | |")


def print_probes(study: Study, seeds: int) -> None:
    found = [probe(*study.last_round("coconut", seed)) for seed in range(seeds)]
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
