"""STaR on n-digit addition: a small model, shown worked examples of short sums, learns longer ones.

    python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition

Expect about 6 minutes on 2 cores: test accuracy from 63 % (22 % on five digits) to 97 % (95 % on
five) after 5 rounds. Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="star", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.sequence_length = 192
    c.batch_size = 12
    c.rounds.count = 5
    c.rounds.examples = 4000
    c.rounds.updates = 100
    c.rounds.growth = 1.0
    c.rounds.increment = 20
    c.optim.decay = 0.2
    if args.smoke:
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 300)
        c.task.num_eval = 50
        c.base.num_updates = 100
        c.base.learning_rate = 1e-2
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 64
        c.sequence_length = 128
        c.checkpoint.every = 5
        c.batch_size = 16
        c.rounds.count = 2
        c.rounds.examples = 128
        c.rounds.updates = 10
        c.rounds.min_kept_rows = 10
    return c
