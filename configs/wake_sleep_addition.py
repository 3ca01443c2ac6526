"""Reweighted wake-sleep on n-digit addition: a baseline of TRICE.

    python -m reasoning_jax.main --config=configs/wake_sleep_addition.py --workdir=runs/wake_sleep

A round is a minibatch of 16 sums with four hinted rationales each, and one update on those that
reach the answer, by their importance weights. Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="wake_sleep", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.task.num_train = 1500
    c.sequence_length = 128
    c.batch_size = 24
    c.rounds.online = True
    c.rounds.restart = False
    c.rounds.count = 200
    c.rounds.examples = 16
    c.rounds.updates = 1
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.sampling.temperature = 1.0
    c.optim.decay = 0.5
    c.eval.every = 25
    c.eval.test_every = 100
    c.log_every = 1
    if args.smoke:
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 300)
        c.task.num_eval = 50
        c.base.num_updates = 100
        c.base.learning_rate = 1e-2
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 64
        c.checkpoint.every = 5
        c.task.num_train = 64
        c.batch_size = 16
        c.rounds.count = 8
        c.eval.every = 4
    return c
