"""How much reward for how much KL: DPO on a published model, beside best-of-n.

    python benchmarks/frontier.py --out=runs/frontier [--seeds=3] [--plot=FILE] [--smoke]

The experiment of the DPO paper's figure 2 (arXiv 2305.18290, section 6.1) in kind. The model is
stories260K, in $REASONING_DATA/stories260k or ../shared/data/stories260k. It continues beginnings
of its own stories by 48 tokens; the reward is how many happy words these have. For each seed, pairs
of its samples whose rewards differ are written as a JSONL file, on which DPO trains a LoRA, with
several beta. "Fine-tuning on the chosen" is the same with the likelihood of the chosen side as the
only term. After 5, 15, 35, 75 updates reward and KL are measured on new samples for held-out
beginnings. Beside them: best-of-n of the reference, and the highest reward that a KL allows.

What is done in OUT is not done again. The tables are printed; OUT/frontier.json has the figures,
OUT/measured/ those of single samples. --smoke is a tiny size, which shows nothing but that it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import frontier_tables  # beside this file
import numpy as np
import study  # beside this file
import study_kl  # beside this file
from ml_collections import ConfigDict

import reasoning_jax
from reasoning_jax import default, experiment, prng, workdir
from reasoning_jax.errors import MissingFileError
from reasoning_jax.experiment import Experiment
from reasoning_jax.json_object import Json
from reasoning_jax.model.decoder import Params
from reasoning_jax.policy import Policy
from reasoning_jax.tokenizer import Tokenizer
from reasoning_jax.training import checkpoint

HAPPY = """best excited friend friends fun glad good happily happy hug hugged hugs joy kind laugh
    laughed laughing love loved loves nice play played playing plays proud smile smiled smiles
    smiling thank thanked""".split()
HAPPY_WORD = re.compile(rf"\b({'|'.join(HAPPY)})\b")
TWO_SENTENCES = re.compile(r'[A-Z][^.!?"\n]+\. [A-Z][^.!?"\n]+\.')
CHOSEN = "fine-tuning on the chosen"
ARMS = {  # beta of the preference loss
    "DPO, beta 0.03": 0.03,
    "DPO, beta 0.1": 0.1,
    "DPO, beta 0.3": 0.3,
    "DPO, beta 1": 1.0,
    CHOSEN: None,
}
COLOURS = dict(zip(ARMS, ("#b5762a", "#c23b4e", "#7a3f9d", "#2f6fb0", "#888888"), strict=True))
OPTIMUM_BETAS = np.geomspace(0.4, 10, 25)
# On two shared cores, for what is said before it begins.
SECONDS_A_RUN = 40.0  # to compile, and to score the pairs by the reference
SECONDS_AN_UPDATE = 0.4
SECONDS_A_BATCH = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    arms: tuple[str, ...]
    beginnings: int  # that the pairs continue
    held_out: int  # that are measured on
    samples: int  # of each, for the pairs
    measured: int  # samples of each that is held out, for a measurement
    reference_samples: int  # of each that is held out, for a seed's best-of-n
    length: int  # tokens of a continuation
    longest: int  # tokens of a beginning, the start token included
    updates: int  # of round 1; each round has twice as many as the one before
    rounds: int
    batch_size: int  # pairs of an update
    sampling_batch_size: int

    @property
    def totals(self) -> list[int]:
        """Updates at the end of each round."""
        return [self.updates * (2**n - 1) for n in range(1, self.rounds + 1)]

    @property
    def sizes(self) -> list[int]:
        """Of best-of-n: 1, 2, 4 ... 64, as far as there are samples."""
        return [1 << i for i in range(7) if 1 << i <= self.reference_samples]


FULL = Size(
    arms=tuple(ARMS),
    beginnings=256,
    held_out=32,
    samples=4,
    measured=8,
    reference_samples=96,
    length=48,
    longest=32,
    updates=5,
    rounds=4,
    batch_size=8,
    sampling_batch_size=256,
)
SMOKE = Size(
    arms=("DPO, beta 0.1",),
    beginnings=16,
    held_out=4,
    samples=4,
    measured=16,
    reference_samples=16,
    length=16,
    longest=32,
    updates=1,
    rounds=2,
    batch_size=8,
    sampling_batch_size=64,
)


def stories() -> Path:
    """The folder of the published model; MissingFileError where there is none."""
    data = os.environ.get("REASONING_DATA") or study.ROOT.parent / "shared" / "data"
    folder = Path(data) / "stories260k"
    if not (folder / "stories260K.bin").exists():
        raise MissingFileError(f"{folder}: stories260K.bin and tok512.model are needed there.")
    return folder


def reward(text: str) -> int:
    """How many happy words a text has."""
    return len(HAPPY_WORD.findall(text.lower()))


# ---- what is trained -----------------------------------------------------------------------------


def config(size: Size, arm: str, seed: int, pairs: Path) -> ConfigDict:
    cfg = default.get_config(algorithm="dpo", tuned="lora")
    cfg.seed = seed
    cfg.model.source = str(stories() / "stories260K.bin")
    cfg.tokenizer.update(name="sentencepiece", path=str(stories() / "tok512.model"))
    # Each side of a pair is a beginning, a continuation and the end token.
    cfg.sequence_length = 2 * (size.longest + size.length + 1)
    cfg.batch_size = size.batch_size
    cfg.log_every = 5
    cfg.algorithm.pairs = str(pairs)
    if ARMS[arm] is None:
        cfg.algorithm.update(dpo_weight=0.0, alpha=1.0)
    else:
        cfg.algorithm.beta = ARMS[arm]
    cfg.rounds.update(count=size.rounds, updates=size.updates, growth=2.0, patience=0)
    cfg.rounds.update(restart=False, min_kept_rows=0)
    cfg.optim.update(learning_rate=5e-4, warmup=0)
    cfg.sampling.update(
        temperature=1.0, max_new_tokens=size.length, batch_size=size.sampling_batch_size
    )
    # No task is measured here, and a run evaluates one at the end of each round.
    cfg.eval.update(num_examples=1, num_test=1, test_every=0)
    return cfg


def rounds(cfg: ConfigDict, directory: Path) -> Iterator[int]:
    """Trains; yields each round whose model is the newest checkpoint meanwhile.

    Of a run that goes on, or is done, those from its newest checkpoint on.
    """
    for event in reasoning_jax.train(cfg, directory):
        if event.phase == "collect" and event.round > 1:
            yield event.round - 1
    yield cfg.rounds.count


# ---- what is sampled -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """The reference, and the beginnings that it and its descendants continue."""

    size: Size
    out: Path
    exp: Experiment
    reference: Policy
    beginnings: list[str]  # those of the pairs first, then those that are held out

    @property
    def held_out(self) -> list[str]:
        return self.beginnings[self.size.beginnings :]

    def policy(self, params: Params) -> Policy:
        return study_kl.without_end(self.exp.policy(params), self.exp.tokenizer.eos_id)

    def continuations(
        self,
        policy: Policy,
        beginnings: Sequence[str],
        samples: int,
        purpose: str,
        seed: int,
        updates: int = 0,
    ) -> list[study_kl.Continuation]:
        """Samples whose random streams belong to this purpose, seed and number of updates."""
        prompts = [np.asarray(self.exp.tokenizer.prompt(text), np.int32) for text in beginnings]
        return study_kl.continuations(
            policy,
            self.reference,
            prompts,
            samples=samples,
            length=self.size.length,
            key=prng.key(seed, purpose, updates),
        )

    def rewards(self, drawn: Sequence[study_kl.Continuation]) -> list[int]:
        return [reward(self.exp.tokenizer.decode(c.tokens)) for c in drawn]


def make_lab(size: Size, out: Path) -> Lab:
    exp = experiment.make(config(size, CHOSEN, 0, out))
    reference = study_kl.without_end(exp.policy(exp.initial_params()), exp.tokenizer.eos_id)
    about = (size, reference, exp.tokenizer)
    beginnings = once(out / "beginnings.json", draw_beginnings, *about)
    return Lab(size=size, out=out, exp=exp, reference=reference, beginnings=beginnings)


def once(path: Path, make: Callable[..., Json], *arguments: object) -> Json:
    """What the file holds; where it is missing, what is made and written there."""
    if not path.exists():
        made = make(*arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write(path, (json.dumps(made) + "\n").encode())
    return json.loads(path.read_text())


def draw_beginnings(size: Size, reference: Policy, tokenizer: Tokenizer) -> list[str]:
    """The first two sentences of the model's own stories, all different."""
    found: dict[str, None] = {}
    start = np.asarray(tokenizer.prompt(""), np.int32)
    for batch in itertools.count():
        drawn = study_kl.continuations(
            reference,
            reference,
            [start],
            samples=size.sampling_batch_size,
            length=size.longest,
            key=prng.key(0, "beginnings", batch),
        )
        for story in drawn:
            match = TWO_SENTENCES.match(tokenizer.decode(story.tokens))
            if match and len(tokenizer.prompt(match[0])) <= size.longest:
                found[match[0]] = None
        if len(found) >= size.beginnings + size.held_out:
            return list(found)[: size.beginnings + size.held_out]
    raise AssertionError


def write_pairs(lab: Lab, seed: int) -> Path:
    """The file of a seed's pairs: of a beginning's samples all two whose rewards differ.

    Samples that are other tokens when their text is read again are left out.
    """
    path = lab.out / f"pairs_{seed}.jsonl"
    if path.exists():
        return path
    tokenizer, samples = lab.exp.tokenizer, lab.size.samples
    training = lab.beginnings[: lab.size.beginnings]
    drawn = lab.continuations(lab.reference, training, samples, "pairs", seed)
    texts = [tokenizer.decode(c.tokens) for c in drawn]
    is_kept = [tokenizer.encode(t) == c.tokens for t, c in zip(texts, drawn, strict=True)]
    lines = []
    for n, beginning in enumerate(training):
        own = [i for i in range(n * samples, (n + 1) * samples) if is_kept[i]]
        for pair in itertools.combinations([texts[i] for i in own], 2):
            rejected, chosen = sorted(pair, key=reward)
            if reward(rejected) < reward(chosen):
                pair = {"prompt": beginning, "chosen": chosen, "rejected": rejected}
                lines.append(json.dumps(pair))
    workdir.write(path, ("\n".join(lines) + "\n").encode())
    return path


# ---- what is measured ----------------------------------------------------------------------------


def run_all(lab: Lab, seeds: int) -> None:
    """Every sample, run and measurement that is missing."""
    for seed in range(seeds):
        once(reference_path(lab.out, seed), reference_rewards, lab, seed)
        pairs = write_pairs(lab, seed)
        for arm in lab.size.arms:
            directory = run_directory(lab.out, arm, seed)
            for round in rounds(config(lab.size, arm, seed, pairs), directory):
                path = measurement_path(lab.out, arm, seed, lab.size.totals[round - 1])
                once(path, measure, lab, directory, arm, seed, round)


def reference_rewards(lab: Lab, seed: int) -> list[list[int]]:
    """[held-out beginnings, reference_samples]."""
    count = lab.size.reference_samples
    drawn = lab.continuations(lab.reference, lab.held_out, count, "reference", seed)
    return np.reshape(lab.rewards(drawn), (-1, count)).tolist()


def measure(lab: Lab, directory: Path, arm: str, seed: int, round: int) -> Json:
    """Rewards and log-ratios of samples of the newest checkpoint, the end of this round."""
    abstract = lab.exp.abstract_state().params
    params, meta = checkpoint.load_params(directory / "checkpoints", abstract)
    if meta["round"] != round + 1:
        raise SystemExit(f"{directory}: the newest checkpoint is not the end of round {round}.")
    updates = lab.size.totals[round - 1]
    policy = lab.policy(params)
    drawn = lab.continuations(policy, lab.held_out, lab.size.measured, arm, seed, updates)
    return {"rewards": lab.rewards(drawn), "log_ratios": [c.log_ratio for c in drawn]}


def run_directory(out: Path, arm: str, seed: int) -> Path:
    return out / f"{study.folder_name(arm)}_{seed}"


def reference_path(out: Path, seed: int) -> Path:
    return out / "measured" / f"reference_{seed}.json"


def measurement_path(out: Path, arm: str, seed: int, updates: int) -> Path:
    return out / "measured" / f"{study.folder_name(arm)}_{seed}_{updates}.json"


class Missing(NamedTuple):
    arm: str  # "" = the reference
    seed: int
    round: int


def unmeasured(size: Size, out: Path, seeds: int) -> list[Missing]:
    """What has no file yet."""
    missing = []
    for seed in range(seeds):
        if not reference_path(out, seed).exists():
            missing.append(Missing("", seed, 0))
        for arm, (round, updates) in itertools.product(size.arms, enumerate(size.totals, 1)):
            if not measurement_path(out, arm, seed, updates).exists():
                missing.append(Missing(arm, seed, round))
    return missing


def cost(size: Size, missing: Sequence[Missing]) -> str:
    """What is left to do, in words."""
    rounds = [m.round for m in missing if m.arm]
    runs = len({(m.arm, m.seed) for m in missing if m.arm})
    updates = sum(size.updates * 2 ** (round - 1) for round in rounds)
    references = (len(missing) - len(rounds)) * size.reference_samples
    samples = (len(rounds) * size.measured + references) * size.held_out
    seconds = runs * SECONDS_A_RUN + updates * SECONDS_AN_UPDATE
    seconds += samples / size.sampling_batch_size * SECONDS_A_BATCH
    return (
        f"{runs} runs, {updates} updates and {samples} measured samples are left: about "
        f"{seconds / 60:.0f} minutes on two cores"
    )


def read(size: Size, out: Path, seeds: int) -> frontier_tables.Results:
    pooled, best = [], []
    bounds = [study_kl.kl_bound(n) for n in size.sizes]
    for seed in range(seeds):
        rewards = np.array(json.loads(reference_path(out, seed).read_text()))
        pooled.append(rewards)
        best.append(np.array([bounds, [study_kl.best_of_n(rewards, n) for n in size.sizes]]).T)
    start = np.mean([curve[0, 1] for curve in best])
    arms: dict[str, list[np.ndarray]] = {}
    for arm in size.arms:
        for seed in range(seeds):
            points = [(0.0, start)]
            for updates in size.totals:
                path = measurement_path(out, arm, seed, updates)
                seen = json.loads(path.read_text())
                points.append((np.mean(seen["log_ratios"]), np.mean(seen["rewards"])))
            arms.setdefault(arm, []).append(np.array(points))
    rewards = np.concatenate(pooled, axis=1)
    optimum = [study_kl.optimum(rewards, beta)[::-1] for beta in OPTIMUM_BETAS[::-1]]
    return frontier_tables.Results(
        totals=size.totals,
        sizes=size.sizes,
        arms=arms,
        best=best,
        best_kl=[study_kl.best_of_n_kl(rewards, n) for n in size.sizes],
        optimum=np.array([(0.0, start), *optimum]),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; what is there is kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="draw the frontier into this file")
    parser.add_argument("--smoke", action="store_true", help="a tiny size")
    args = parser.parse_args(argv)
    size, out = SMOKE if args.smoke else FULL, args.out.resolve()
    if once(out / "size.json", as_json, size) != as_json(size):
        raise SystemExit(f"{out}: what is there is of another size.")
    missing = unmeasured(size, out, args.seeds)
    print(cost(size, missing), flush=True)
    if missing:
        run_all(make_lab(size, out), args.seeds)
    results = read(size, out, args.seeds)
    found = json.dumps(frontier_tables.figures(results), indent=1)
    (out / "frontier.json").write_text(f"{found}\n")
    print(frontier_tables.tables(results))
    if args.plot:
        frontier_tables.plot(results, COLOURS, args.plot)


def as_json(size: Size) -> Json:
    """A size as its file has it."""
    return json.loads(json.dumps(dataclasses.asdict(size)))


if __name__ == "__main__":
    main()
