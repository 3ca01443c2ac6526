"""STaR on n-digit addition: a small model, shown worked examples of short sums, teaches itself the longer ones.

    python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition
"""

from configs import default


def get_config(arg: str = ""):
    c = default.get_config()
    with c.unlocked():
        c.task.given = (60, 600, 150, 150, 150)
        c.base.num_updates = 600
        c.algorithm.examples_per_round = 1000
        c.algorithm.schedule = "linear"
        c.algorithm.start_updates = 80
        c.algorithm.num_rounds = 12
        c.sampling.max_new_tokens = 96
        c.sequence_length = 128
        c.batch_size = 48
    if arg == "smoke":
        c.model.preset = "tiny"
    return c
