"""TRICE on n-digit addition: from the base model of configs/star_addition.py, with at most half the samples that STaR draws.

    python -m reasoning_jax.main --config=configs/trice_addition.py --workdir=runs/trice_addition

The base model is trained first, as there; --config.base.init_from=runs/star_addition/base --config.base.num_updates=0 takes
the one that a run of it has.
"""

from configs import star_addition


def get_config(arg: str = ""):
    c = star_addition.get_config(arg)
    c.task.num_train = 2000  # chains
    c.algorithm.name = "trice"
    c.algorithm.online = True
    c.algorithm.restart = False
    c.algorithm.num_rounds = 280
    c.algorithm.examples_per_round = 64
    c.algorithm.min_kept_rows = 0
    c.algorithm.patience = 0
    c.algorithm.max_age = 50
    c.sampling.temperature = 1.0
    c.optim.clip_norm = 0.0
    c.eval.every = 40
    c.eval.test_every = 0
    c.log_every = 1
    if arg == "smoke":
        c.task.num_train = 64
        c.algorithm.num_rounds = 8
        c.algorithm.examples_per_round = 16
        c.algorithm.measure_every = 2
        c.eval.every = 4
    return c
