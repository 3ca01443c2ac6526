"""TRICE on n-digit addition, from the base model of configs/star_addition.py, with half the samples that STaR draws there.

    python -m reasoning_jax.main --config=configs/trice_addition.py --workdir=runs/trice_addition
    python -m reasoning_jax.main --config=configs/trice_addition.py:online --workdir=runs/trice_online

The first is Monte-Carlo EM over a memory of 3,000 chains: a round proposes for 1,360 of them, those without a right answer
first, then makes 200 updates on all valid states (so many that there can be no control variate). "online" is the paper's
Algorithm 1: a minibatch of 64 chains, one proposal each, one update with the control variate.
"""

from configs import star_addition


def get_config(arg: str = ""):
    words = {word for word in arg.split(",") if word}
    if words - {"online", "smoke"}:
        raise ValueError(f"configs/trice_addition.py takes the arguments online and smoke, not {arg!r}.")
    c = star_addition.get_config("smoke" if "smoke" in words else "")
    c.algorithm.name = "trice"
    c.algorithm.control_variate = "none"
    c.algorithm.min_kept_rows = 0
    c.algorithm.patience = 0
    c.algorithm.max_age = 50
    c.algorithm.measure_every = 0
    c.task.num_train = 3000  # chains
    c.algorithm.examples_per_round = 3000
    c.algorithm.refresh = 1360
    c.algorithm.num_rounds = 8
    c.algorithm.restart = False
    c.algorithm.start_updates = 200
    c.algorithm.increment = 0
    c.sampling.temperature = 1.0
    c.optim.clip_norm = 0.0
    if "online" in words:
        c.algorithm.online = True
        c.algorithm.control_variate = "history"
        c.algorithm.measure_every = 10
        c.algorithm.refresh = 0
        c.task.num_train = 1500
        c.algorithm.examples_per_round = 64
        c.algorithm.num_rounds = 200
        c.optim.decay = 0.5
        c.eval.every = 25
        c.eval.test_every = 100
        c.log_every = 1
    if "smoke" in words:
        c.task.num_train = 64
        c.algorithm.examples_per_round = 16 if "online" in words else 64
        c.algorithm.refresh = 0 if "online" in words else 32
        c.algorithm.num_rounds = 8 if "online" in words else 2
        c.algorithm.start_updates = 10
        c.algorithm.measure_every = 2 * ("online" in words)
        c.eval.every = 4 if "online" in words else 1
    return c
