"""Pause tokens after each prompt, on addition (arXiv:2310.02226).

    python -m reasoning_jax.main --config=configs/pause_addition.py --workdir=runs/pause_addition

Both the base model, which learns the scratchpad, and the rounds read ten of them before they
answer. ``--config.forward.stages=base`` or ``rounds`` has them in one of the two. Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="sft", task="addition", forward="pause")
    c.task.max_digits = 3
    c.task.given = (64, 1500, 1500)
    c.sequence_length = 128
    c.batch_size = 32
    c.base.num_updates = 1500
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 3
    c.rounds.updates = 500
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.rounds.patience = 0
    c.sampling.max_new_tokens = 64
    c.eval.num_examples = 300
    if args.smoke:
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 100)
        c.task.num_eval = 30
        c.batch_size = 16
        c.base.num_updates = 10
        c.rounds.count = 2
        c.rounds.updates = 10
        c.rounds.min_kept_rows = 10
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 32
    return c
