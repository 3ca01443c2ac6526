"""STaR on n-digit addition: a small model, shown worked examples of short sums, teaches itself the longer ones.

    python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition

Expect about 11 minutes on 2 cores: test accuracy from 33 % (0.4 % on five digits) to 95 % (90 % on five) after 8 rounds.
"""

from configs import default


def get_config(arg: str = ""):
    c = default.get_config()
    c.task.given = (64, 900, 100, 50, 50)
    c.sequence_length = 128
    c.batch_size = 24
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.algorithm.examples_per_round = 4000
    c.algorithm.schedule = "linear"
    c.algorithm.start_updates = 120
    c.algorithm.num_rounds = 8
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    if arg == "smoke":
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 300)
        c.task.num_eval = 50
        c.batch_size = 16
        c.base.num_updates = 100
        c.base.learning_rate = 1e-2
        c.algorithm.num_rounds = 2
        c.algorithm.examples_per_round = 128
        c.algorithm.start_updates = 10
        c.algorithm.min_kept_rows = 10
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 64
        c.checkpoint.every = 5
    elif arg:
        raise ValueError(f"configs/star_addition.py takes the argument smoke, not {arg!r}.")
    return c
