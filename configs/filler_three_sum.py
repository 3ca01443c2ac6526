"""Filler tokens on 3SUM, which asks for work on all pairs at once (arXiv:2404.15758).

    python -m reasoning_jax.main --config=configs/filler_three_sum.py --workdir=runs/mixed

``mixed`` (the default) trains on rows with fillers and on rows with a symbol of each pair in their
place, half and half; it is asked with fillers. ``fillers`` never sees such symbols, ``immediate``
has them in half of its rows but no fillers, ``worked`` writes them before it answers.
``finetuned`` begins from the base model of ``immediate`` and then has fillers:

    python -m reasoning_jax.main --config=configs/filler_three_sum.py:finetuned \
        --workdir=runs/finetuned --config.base.init_from=runs/immediate/base

Arguments: one of these; smoke.
"""

from reasoning_jax import config, default

ARMS = ("mixed", "fillers", "immediate", "worked", "finetuned")
PAIRS = 15  # of six numbers


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, smoke=False)
    c = default.get_config(algorithm="sft", task="three_sum")
    c.task.worked = {"fillers": 0.0, "worked": 1.0}.get(args.arm, 0.5)
    c.task.num_fillers = 0 if args.arm in ("immediate", "worked") else PAIRS
    c.task.num_train = 100_000
    c.model.preset = "gpt-0.4m"
    c.sequence_length = 32
    c.batch_size = 64
    c.base.num_updates = 0 if args.arm == "finetuned" else 30_000
    c.base.learning_rate = 1e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 1 if args.arm == "finetuned" else 0
    c.rounds.updates = 10_000
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 18 if args.arm == "worked" else 2
    c.eval.num_examples = 500
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 200
        c.task.num_held_out = 30
        c.batch_size = 16
        c.base.num_updates = 10
        c.rounds.updates = 5
        c.sampling.batch_size = 32
    return c
