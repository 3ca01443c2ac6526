"""Quiet-STaR on text with computations hidden in it: which tokens do thoughts help, and how?

    python benchmarks/quiet_star_study.py --out=runs/quiet_star [--seeds=3] [--documents=300]
        [--at_once=1] [--smoke] [--config.KEY=VALUE ...]

Trains what is missing: a model that looks symbols up, from it the language model of the text, and
from that as many updates with thoughts as without. Then, on silent documents that none has seen:
negative log-likelihood of each kind of token without thoughts, with greedy ones, and with those of
another document; how often a thought before a computed token is its working; and the accuracy of
answers by the length of a thought. Means over seeds, with the standard error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import side_by_side
import thought_scores
from side_by_side import Job, job_of, mean_and_error, run_all

from reasoning_jax.experiment import Experiment
from reasoning_jax.model import decoder
from reasoning_jax.tasks import multi_hop_text as text
from reasoning_jax.tasks.multi_hop_text import Document
from reasoning_jax.training.rows import completion_row

CONFIG = "configs/quiet_star_text.py"
BEGINS_FROM = {"plain": "walk", "thoughts": "plain"}
LENGTHS = (0, 1, 2, 3, 4, 6, 8)  # of a thought; 0: none
KINDS = (text.EASY_TOKEN, text.BEFORE_COMPUTED, text.COMPUTED, text.OTHER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    out: Path
    flags: list[str]  # --config.KEY=VALUE
    documents: int
    smoke: bool

    def job(self, arm: str, seed: int) -> Job:
        argument = f"{arm},smoke" if self.smoke else arm
        base = self.directory(BEGINS_FROM[arm], seed) if arm in BEGINS_FROM else None
        own = f"{CONFIG}:{argument}"
        return job_of(own, self.directory(arm, seed), seed, self.flags, base)

    def directory(self, arm: str, seed: int) -> Path:
        return self.out / f"{arm}_{seed}"

    def model(
        self, arm: str, seed: int, folder: str = "checkpoints", **forward: int | bool
    ) -> tuple[Experiment, decoder.Params]:
        """The experiment, with these keys of config.forward, and parameters of its run."""
        changes = {f"forward.{name}": value for name, value in forward.items()}
        changes["task.num_held_out"] = self.documents
        return side_by_side.restored(self.directory(arm, seed), folder, **changes)


# ---- the likelihood of each kind of token --------------------------------------------------------


def silent(exp: Experiment) -> list[Document]:
    return [document for document in exp.load("validation") if not document.is_worked]


def rows_of(exp: Experiment, documents: Sequence[Document]) -> list[thought_scores.Row]:
    """All of one length: silent documents have as many tokens."""
    first = exp.tokenizer.prompt("")
    rows = [completion_row(first, exp.tokenizer.encode(document.text)) for document in documents]
    assert len({len(row["tokens"]) for row in rows}) == 1
    return rows


def by_kind(values: np.ndarray, documents: Sequence[Document]) -> dict[str, float]:
    """The mean over the tokens of each kind; values: [n, S], of which the last are the text's."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row, document in zip(values, documents, strict=True):
        for value, kind in zip(row[-len(document.kinds) :], document.kinds, strict=True):
            found[kind].append(float(value))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def working_accuracy(exp: Experiment, thoughts: np.ndarray, documents: Sequence[Document]) -> float:
    """The fraction of thoughts before a computed token that write its whole working."""
    found = []
    for row, document in zip(thoughts, documents, strict=True):
        tokens = document.tokens
        facts = [i for i, token in enumerate(tokens) if token == "f"]
        following = {tokens[i + 1]: tokens[i + 2] for i in facts}
        of_text = row[-len(tokens) :]
        for place, kind in enumerate(document.kinds):
            if kind != text.BEFORE_COMPUTED:
                continue
            steps = [tokens[place - 1]]  # "? c ->"
            while steps[-1] != tokens[place + 1]:
                steps.append(following[steps[-1]])
            said = exp.tokenizer.decode(of_text[place].tolist()).split()
            found.append(said[: len(steps)] == steps)
    return float(np.mean(found))


# ---- answers -------------------------------------------------------------------------------------


def accuracy(exp: Experiment, params: decoder.Params) -> float:
    """Of the greedy answers to the last question of silent test documents."""
    rollout = exp.rollout(params, "study", 1, temperature=0.0)
    documents = [document for document in exp.load("test") if not document.is_worked]
    return float(np.mean([sample.correct for sample in rollout(documents)]))


# ---- tables --------------------------------------------------------------------------------------


Table = dict[str, dict[str, float]]  # row -> kind of token -> figure


def likelihoods(study: Study, seed: int) -> tuple[Table, Table]:
    """Negative log-likelihoods in nats; and figures of the thoughts."""
    exp, base = study.model("plain", seed, "base")
    documents = silent(exp)
    rows = rows_of(exp, documents)
    without = thought_scores.without_thoughts
    found = {"base": by_kind(-without(exp, base, rows), documents)}
    exp, longer = study.model("plain", seed)
    found["as many updates without thoughts"] = by_kind(-without(exp, longer, rows), documents)
    exp, params = study.model("thoughts", seed)
    found["thoughts, left out"] = by_kind(-without(exp, params, rows), documents)
    own = thought_scores.with_thoughts(exp, params, rows)
    found["thoughts"] = by_kind(-own.logprobs, documents)
    other = thought_scores.with_thoughts(exp, params, rows, others=True)
    found["thoughts of another document"] = by_kind(-other.logprobs, documents)
    _, before = study.model("thoughts", seed, "base")
    before |= exp.forward.begin(before, exp.tokenizer.encode, exp.model_cfg, exp.forward_cfg)
    first = thought_scores.with_thoughts(exp, before, rows)
    of_thoughts = {"mixing weight": by_kind(own.mixing_weights, documents)}
    for name, scored in (("right working", own), ("right working, before training", first)):
        share = working_accuracy(exp, scored.thoughts, documents)
        of_thoughts[name] = {text.BEFORE_COMPUTED: share}
    return found, of_thoughts


def print_table(title: str, seeds: Sequence[Table]) -> None:
    print(f"| {title} | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name in seeds[0]:
        cells = []
        for kind in KINDS:
            values = [found[name][kind] for found in seeds if kind in found[name]]
            cells.append(mean_and_error(values, 3, 1) if values else "")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


def main() -> None:
    parser = side_by_side.parser_of(__doc__)
    held_out = side_by_side.at_least(2)
    parser.add_argument("--documents", type=held_out, default=300, help="of validation and of test")
    args, flags = parser.parse_known_args()
    study = Study(out=args.out.resolve(), flags=flags, documents=args.documents, smoke=args.smoke)
    arms = ("walk", "plain", "thoughts")
    run_all([study.job(arm, seed) for seed in range(args.seeds) for arm in arms], args.at_once)
    found, of_thoughts = zip(*(likelihoods(study, seed) for seed in range(args.seeds)), strict=True)
    print_table("nats a token", found)
    print_table("of the thought before a token", of_thoughts)
    print("| tokens of a thought | right answers, % |\n|---|---|")
    for length in LENGTHS:
        keys = {"thought_length": length} if length else {"thinks": False}
        values = [accuracy(*study.model("thoughts", seed, **keys)) for seed in range(args.seeds)]
        print(f"| {length} | {mean_and_error(values)} |", flush=True)


if __name__ == "__main__":
    main()
