"""Sampling, ours and other libraries' (see peers.py), on one device; useful tokens a second.

  python benchmarks/sampling.py             ours, one line of JSON a case
  PEERS_DIR=... TUNIX_PY=... TRL_PY=... python benchmarks/sampling.py
                                            beside the others, taking turns, and the ratios

uniform   32 prompts of U[64, 128] tokens, 128 new tokens each
roomy     the same, with a cache four times longer than needed
queue     512 prompts of U[64, 128] tokens; a token ends a completion with probability 1 / 32, and
          it is cut at 128. The others draw 32 of them
grouped   64 of these prompts, eight samples of each
prefix    8 questions of U[32, 64] tokens behind one prefix of 512, 8 samples of each, 64 new
          tokens; transformers also with the prefix's cache computed once, by hand
"""

from __future__ import annotations

import time

import numpy as np
import peers
from peers import Commands, Figures, ragged

SLOTS = 32
CASES = ("uniform", "roomy", "queue", "grouped", "prefix")
STOP = range(16)  # of 512 tokens that are about as likely
RATE = "useful_tokens_per_s"


def prompts(case: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if case == "prefix":
        prefix = rng.integers(1, peers.VOCAB, 512).astype(np.int32)
        questions = [np.concatenate([prefix, q]) for q in ragged(rng, 8, 64, 32)]
        return [question for question in questions for _ in range(8)]
    if case == "grouped":
        return [prompt for prompt in ragged(rng, 64, 128, 64) for _ in range(8)]
    return ragged(rng, 512 if case == "queue" else SLOTS, 128, 64)


def own_figures(case: str, steps: int) -> Figures:
    """One case, in this process."""
    lengths = {"roomy": 4 * 256, "prefix": 512 + 64 + 64}
    model = peers.make_model(lengths.get(case, 256))
    from reasoning_jax import prng
    from reasoning_jax.policy import Policy
    from reasoning_jax.sampling import engine, methods
    from reasoning_jax.sampling.sequences import Request

    texts = prompts(case)
    new = 64 if case == "prefix" else 128
    ends = case in ("queue", "grouped")
    requests = [Request(i, 0, text) for i, text in enumerate(texts)]
    policy = Policy(
        params=model.state.params,
        model_cfg=model.model_cfg,
        mesh=model.mesh,
        batch_size=64 if case == "prefix" else SLOTS,
        max_length=model.cfg.sequence_length,
    )

    def call(i: int) -> tuple[float, np.ndarray]:
        """Seconds, and the completions' lengths."""
        began = time.perf_counter()
        drawn = policy.generate(
            requests,
            key=prng.key(i, "benchmark", 0),
            method=methods.Temperature(1.0),
            stop_ids=list(STOP) if ends else [-1],
            max_new_tokens=new,
        )
        counts = np.concatenate([batch.lengths for batch in drawn])
        return time.perf_counter() - began, counts

    first, _ = call(0)
    compiled = engine.compilations()
    results = [call(i) for i in range(1, steps + 1)]
    rates = [counts.sum() / seconds for seconds, counts in results]
    counts = np.concatenate([counts for _, counts in results])
    return {
        "script": "sampling",
        "peer": "ours",
        "case": case,
        "rows": len(texts),
        "prompt_mean": float(np.mean([len(text) for text in texts])),
        "mean_len": float(counts.mean()),
        "max_len": int(counts.max()),
        RATE: float(np.median(rates)),
        "compiled_again": engine.compilations() - compiled,
        **peers.timing([seconds for seconds, _ in results], first),
    }


def commands(case: str, steps: int) -> Commands:
    arguments = [f"--repeat={steps}"]
    if case in ("uniform", "roomy"):
        slack = ["--cache-slack=768"] if case == "roomy" else []
        of_peers = {"tunix": ["--case=uniform", *slack], "transformers": ["--case=uniform"]}
    elif case == "prefix":
        of_prefix = ["--case=prefix", "--gen=64"]
        of_peers = dict.fromkeys(("tunix", "transformers"), of_prefix)
        of_peers["transformers, prefix by hand"] = [*of_prefix, "--engine=reuse"]
    else:
        of_peers = dict.fromkeys(("tunix", "transformers"), ["--case=skewed"])
    of_peers = {name: [*own, *arguments] for name, own in of_peers.items()}
    return {"ours": peers.ours(__file__, case, steps)} | peers.others("peers_sample.py", of_peers)


if __name__ == "__main__":
    peers.main(__doc__, CASES, commands, own_figures, dict.fromkeys(CASES, RATE))
