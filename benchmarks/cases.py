"""What the benchmarks of one device time: updates on worked sums, samples of real prompts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from reasoning_jax import algorithms, experiment, prng
from reasoning_jax.model import decoder, paged_attention, pages, sharding
from reasoning_jax.sampling import methods
from reasoning_jax.sampling.sequences import Request
from reasoning_jax.tpu import programs
from reasoning_jax.training import optim, packing, state, train_step

Run = Callable[[int], object]  # what is timed: a function of the repeat's number


def flops(cfg: decoder.ModelConfig, params: decoder.Params, segment_ids: np.ndarray) -> float:
    """Model FLOPs of one update of a batch: (6 N + 6 L n_q d_h S) a token.

    N: the parameters of matrix products: the output matrix counts, the embedding's lookup does not.
    S: the length of the token's own segment. Forward and backward, causal attention counted as the
    half that is needed, nothing for padding or rematerialisation.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    weights = sum(x.size for path, x in leaves if not path[-1].key.endswith("norm"))
    if not cfg.tied:
        weights -= cfg.vocab_size * cfg.width
    sequences = segment_ids.reshape(-1, segment_ids.shape[-1])
    lengths = np.concatenate([np.bincount(sequence)[1:] for sequence in sequences]).astype(float)
    attention = cfg.num_layers * cfg.num_heads * cfg.head_dim * (lengths**2).sum()
    return float(6 * weights * lengths.sum() + 6 * attention)


@dataclasses.dataclass
class Compiled:
    """A function of i, and what it compiles."""

    run: Run
    lower: Callable[[], jax.stages.Lowered]

    def __call__(self, i: int) -> object:
        return self.run(i)


@dataclasses.dataclass
class SampleCase(Compiled):
    """Samples of one full batch of prompts."""

    prompt_lengths: list[int]


@dataclasses.dataclass(frozen=True)
class UpdateCase:
    """Updates, and the useful tokens and model FLOPs of each batch that they cycle through."""

    step: Compiled
    tokens: list[int]
    flops: list[float]


def update_case(exp: experiment.Experiment, first: state.TrainState) -> UpdateCase:
    cfg = exp.cfg
    rollout = exp.rollout(first.params, "benchmark", 0)
    worked = [rollout.worked_row(e, hint=h) for e in exp.load("given") for h in (False, True)]
    rows = [row for row in worked if row is not None]
    packed = packing.batches(rows, batch_size=cfg.batch_size, length=cfg.sequence_length, seed=0)
    stream = iter(packed)
    host = [next(stream) for _ in range(4)]
    micro_batches = [
        {key: x.reshape(cfg.micro_batches, -1, x.shape[-1]) for key, x in batch.items()}
        for batch in host
    ]
    batches = sharding.put(micro_batches, exp.mesh, None, "batch", None)
    optimizer = optim.make(cfg.optim)
    step = train_step.make_train_step(algorithms.get("sft"), exp.model_cfg, optimizer, cfg)
    current = [first]
    rate = sharding.put(np.float32(1e-4), exp.mesh)

    def run(i: int) -> jax.Array:
        current[0], metrics = step(current[0], batches[i % 4], rate)
        return metrics["loss"]

    segments = [batch["segment_ids"] for batch in host]
    return UpdateCase(
        step=Compiled(run=run, lower=lambda: step.lower(current[0], batches[0], rate)),
        tokens=[int((s > 0).sum()) for s in segments],
        flops=[flops(exp.model_cfg, first.params, s) for s in segments],
    )


def cache_bytes(cfg: decoder.ModelConfig, prompt_lengths: Sequence[int], steps: int) -> float:
    """What a step of decoding reads of the cache, in the mean of so many: whole pages."""
    tokens = np.asarray(prompt_lengths)[:, None] + np.arange(1, steps + 1)
    in_use = -(-tokens // pages.PAGE)
    return float(in_use.sum(axis=0).mean() * pages.PAGE * paged_attention.token_bytes(cfg))


def sample_case(
    exp: experiment.Experiment,
    params: decoder.Params,
    method: methods.Method,
    max_new_tokens: int,
    ends: bool,
) -> SampleCase:
    """Samples one full batch of real prompts with the i-th key; ends: stop at the end token."""
    rollout, train = exp.rollout(params, "benchmark", 0), exp.load("train")
    size = exp.cfg.sampling.batch_size
    examples = [train[int(i)] for i in np.linspace(0, len(train) - 1, size)]
    requests = [Request(e.id, 0, rollout.prompt_ids(e)) for e in examples]
    stop_ids = [exp.tokenizer.eos_id if ends else -1]
    policy = exp.policy(params)

    def run(i: int) -> np.ndarray:
        """The completions' lengths."""
        drawn = policy.generate(
            requests,
            key=prng.key(i, "benchmark", 0),
            method=method,
            stop_ids=stop_ids,
            max_new_tokens=max_new_tokens,
        )
        return np.concatenate([batch.lengths for batch in drawn])

    def lower() -> jax.stages.Lowered:
        [step] = [step for step in programs.steps(exp.cfg, exp) if step.kind == "decode"]
        return step.lower()

    lengths = [len(request.prompt_ids) for request in requests]
    return SampleCase(run=run, lower=lower, prompt_lengths=lengths)


class Timed(NamedTuple):
    """By case."""

    first: dict[str, float]  # seconds of the first call
    seconds: dict[str, list[float]]  # of a call in each repeat
    last: dict[str, object]  # the last result


def timed(cases: Mapping[str, Run], repeats: int, least: float) -> Timed:
    """The cases take turns; a repeat is as many calls as last ``least`` seconds."""
    first, warm = {}, {}
    out = Timed(first=first, seconds={name: [] for name in cases}, last={})
    for name, run in cases.items():
        for seconds in (first, warm):  # compile and run, then run
            began = time.perf_counter()
            out.last[name] = jax.block_until_ready(run(0))
            seconds[name] = time.perf_counter() - began
    for repeat in range(repeats):
        for name, run in cases.items():
            count = max(1, round(least / warm[name]))
            began = time.perf_counter()
            for i in range(count):
                out.last[name] = run(repeat * count + i)
            jax.block_until_ready(out.last[name])
            out.seconds[name].append((time.perf_counter() - began) / count)
    return out
