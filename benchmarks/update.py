"""Updates, ours and other libraries' (see peers.py), on one device.

  python benchmarks/update.py             ours, one line of JSON a case
  PEERS_DIR=... TUNIX_PY=... TRL_PY=... python benchmarks/update.py
                                          beside the others, taking turns, and the ratios

sft      16 sequences of U[64, 256] tokens an update, packed into as many rows of 256 as their
         tokens fill: as in our loop. Tokens a second, as in the next
padded   the same, each sequence padded to 256: the arrays that the others compute
dpo      16 pairs of completions of U[64, 256] tokens behind a prompt of 64, the reference's
         log-probabilities included. Pairs a second
grpo     16 completions of U[64, 256] tokens, 8 of each prompt of 64, without a reference. Tokens
         a second, prompts counted with every completion as the others compute them
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import peers
from peers import Commands, Figures, Model, ragged

COUNT, LENGTH, PROMPT, GROUP = 16, 256, 64, 8  # of an update
CASES = ("sft", "padded", "dpo", "grpo")
METHODS = {"sft": "sft", "padded": "sft", "dpo": "dpo", "grpo": "policy_gradient"}
RATES = dict.fromkeys(CASES, "tokens_per_s") | {"dpo": "pairs_per_s"}
SEQUENCE = {"dpo": 4 * LENGTH, "grpo": 4 * LENGTH}  # tokens of a packed sequence, where not LENGTH
Rows = list[dict[str, np.ndarray]]


def rows_of(case: str, rng: np.random.Generator, updates: int) -> tuple[Rows, int]:
    """Rows for so many updates, and the tokens that the other libraries count in them."""
    from reasoning_jax.training.rows import completion_row, pair_row

    if case in ("sft", "padded"):
        texts = [text for _ in range(updates) for text in ragged(rng, COUNT, LENGTH, LENGTH // 4)]
        rows = [{"tokens": text, "weights": np.ones(len(text), np.float32)} for text in texts]
        return rows, sum(len(text) for text in texts)
    rows = []
    tokens = 0
    for _ in range(updates):
        sides = 2 if case == "dpo" else 1
        completions = ragged(rng, COUNT * sides, LENGTH, LENGTH // 4)
        tokens += sum(PROMPT + len(text) for text in completions)
        count = COUNT if case == "dpo" else COUNT // GROUP
        prompts = rng.integers(1, peers.VOCAB, (count, PROMPT))
        if case == "dpo":
            rows += [pair_row(p, completions[2 * i : 2 * i + 2]) for i, p in enumerate(prompts)]
            continue
        for i, text in enumerate(completions):
            row = completion_row(prompts[i // GROUP], text)
            extra = {"advantage": rng.normal(), "old": -6.2, "normaliser": 1 / len(text)}
            row |= {key: np.float32(value) * row["weights"] for key, value in extra.items()}
            rows.append(row)
    return rows, tokens


def packed_batches(rows: Rows, updates: int, length: int) -> tuple[int, Iterator]:
    """Sequences a batch, and batches of as many as hold the tokens of a mean update."""
    from reasoning_jax.training import packing

    groups, share = packing.grouped(rows, length, True)
    tokens = sum(packing.packed_length(group, share) for group in groups)
    size = max(1, round(tokens / updates / length))
    return size, iter(packing.batches(rows, batch_size=size, length=length, seed=0, share=True))


def padded_batches(rows: Sequence[Mapping[str, np.ndarray]]) -> tuple[int, Iterator]:
    """Rows a batch, and batches of one padded sequence a row."""
    arrays = {}
    for key in ("tokens", "weights"):
        arrays[key] = np.stack([np.pad(row[key], (0, LENGTH - len(row[key]))) for row in rows])
    arrays["segment_ids"] = (arrays["tokens"] > 0).astype(np.int32)
    positions = np.arange(LENGTH, dtype=np.int32)
    arrays["positions"] = np.broadcast_to(positions, arrays["tokens"].shape)
    starts = range(0, len(rows), COUNT)
    return COUNT, iter([{key: x[i : i + COUNT] for key, x in arrays.items()} for i in starts])


def with_reference(rows: Rows, model: Model) -> tuple[Rows, float]:
    """The pairs with the reference's log-likelihoods; and seconds a pair."""
    from reasoning_jax.policy import Policy
    from reasoning_jax.training import preferences

    policy = Policy(
        params=model.state.params,
        model_cfg=model.model_cfg,
        mesh=model.mesh,
        batch_size=8,
        max_length=model.cfg.sequence_length,
    )
    policy.logprobs(rows[:COUNT])  # compiles
    began = time.perf_counter()
    logprobs = policy.logprobs(rows)
    seconds = (time.perf_counter() - began) / len(rows)
    return preferences.attach_reference(rows, logprobs), seconds


def own_figures(case: str, steps: int) -> Figures:
    """One case, in this process."""
    model = peers.make_model(SEQUENCE.get(case, LENGTH), METHODS[case])
    import jax

    from reasoning_jax import algorithms
    from reasoning_jax.model import sharding
    from reasoning_jax.training import optim, train_step

    count = steps + 2  # the first compiles, the second warms up
    rows, tokens = rows_of(case, np.random.default_rng(0), count)
    a_pair = 0.0
    if case == "dpo":
        rows, a_pair = with_reference(rows, model)
    size, stream = (
        padded_batches(rows)
        if case == "padded"
        else packed_batches(rows, count, model.cfg.sequence_length)
    )
    optimizer = optim.make(model.cfg.optim)
    algorithm = algorithms.get(METHODS[case])
    step = train_step.make_train_step(algorithm, model.model_cfg, optimizer, model.cfg)
    rate = sharding.put(np.float32(1e-5), model.mesh)
    current = model.state
    seconds, weighted = [], []
    for _ in range(count):
        began = time.perf_counter()
        batch = next(stream)
        micro_batches = {key: x[None] for key, x in batch.items()}
        on_device = sharding.put(micro_batches, model.mesh, None, "batch", None)
        current, _ = jax.block_until_ready(step(current, on_device, rate))
        seconds.append(time.perf_counter() - began)
        weighted.append(int((batch["weights"] != 0).sum()))
    # A batch counts for its part of all completions' tokens.
    share = statistics.mean(weighted[2:]) / sum((row["weights"] != 0).sum() for row in rows)
    median = statistics.median(seconds[2:])
    pairs = share * len(rows)
    return {
        "script": "update",
        "peer": "ours",
        "case": case,
        "how": f"{size} sequences of {model.cfg.sequence_length}",
        "tokens_per_s": float(share * tokens / median),
        "pairs_per_s": float(pairs / (median + pairs * a_pair)),
        **peers.timing(seconds[2:], seconds[0]),
    }


def commands(case: str, steps: int) -> Commands:
    algorithm = "sft" if case == "padded" else case
    libraries = ("tunix", "trl", "torch") if algorithm == "sft" else ("tunix", "trl")
    arguments = [f"--algo={algorithm}", f"--steps={steps}"]
    if case == "grpo":
        arguments.append("--ref=0")
    of_peers = dict.fromkeys(libraries, arguments)
    return {"ours": peers.ours(__file__, case, steps)} | peers.others("peers_train.py", of_peers)


if __name__ == "__main__":
    peers.main(__doc__, CASES, commands, own_figures, RATES)
