"""Filler tokens on parity and on 3SUM, which ask for work at many positions at once.

    python -m reasoning_jax.main --config=configs/filler_tokens.py --workdir=runs/mixed

``mixed`` (the default) trains on rows with fillers and on rows with a symbol for each of them in
their place, half and half (arXiv:2404.15758); it is asked with fillers. ``fillers`` never sees such
symbols, ``immediate`` has them in half of its rows but no fillers, ``worked`` writes them before it
answers. ``finetuned`` begins from the base model of ``immediate`` and then has fillers alone:

    python -m reasoning_jax.main --config=configs/filler_tokens.py:finetuned \
        --workdir=runs/finetuned --config.base.init_from=runs/immediate/base

Arguments: one of these; parity or three_sum; smoke.
"""

from reasoning_jax import config, default

ARMS = ("mixed", "fillers", "immediate", "worked", "finetuned")
FILLERS = {"parity": 20, "three_sum": 15}  # 20 bits; the pairs of six numbers


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, task=tuple(FILLERS), smoke=False)
    parity = args.task == "parity"
    c = default.get_config(algorithm="sft", task=args.task)
    c.task.worked = {"fillers": 0.0, "finetuned": 0.0, "worked": 1.0}.get(args.arm, 0.5)
    c.task.num_fillers = 0 if args.arm in ("immediate", "worked") else FILLERS[args.task]
    c.task.num_train = 100_000
    c.model.preset = "gpt-0.4m"
    # With two layers no arm learns parity, with four and more width also the immediate one does.
    c.model.update({"num_layers": 3, "width": 64, "head_dim": 16, "mlp_dim": 64})
    c.sequence_length = 48 if parity else 32
    c.batch_size = 128
    c.base.num_updates = 0 if args.arm == "finetuned" else 3000 if parity else 30_000
    c.base.learning_rate = 2e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 1 if args.arm == "finetuned" else 0
    c.rounds.updates = 500 if parity else 10_000
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = FILLERS[args.task] + 3 if args.arm == "worked" else 2
    c.eval.num_examples = 500
    if args.smoke:
        c.model.update({"preset": "tiny", "width": None, "head_dim": None, "mlp_dim": None})
        c.task.num_train = 200
        c.task.num_held_out = 30
        c.batch_size = 16
        c.base.num_updates = min(c.base.num_updates, 10)
        c.rounds.updates = 5
        c.sampling.batch_size = 32
    return c
