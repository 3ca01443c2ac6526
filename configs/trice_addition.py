"""TRICE on n-digit addition, with a third of the samples that STaR draws there.

    python -m reasoning_jax.main --config=configs/trice_addition.py --workdir=runs/trice_addition
    python -m reasoning_jax.main --config=configs/trice_addition.py:online \\
        --workdir=runs/trice_online

The first is Monte-Carlo EM over a memory of 3,000 chains: a round proposes for 1,360 of them, those
without a right answer first, then makes 200 updates on all valid states (so many that there can be
no control variate). "online" is the paper's Algorithm 1: a minibatch of 64 chains, one proposal
each, one update with the control variate. Arguments: online, smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, online=False, smoke=False)
    c = default.get_config(algorithm="trice", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.task.num_train = 3000  # chains
    c.sequence_length = 128
    c.batch_size = 24
    c.algorithm.control_variate = "none"
    c.algorithm.refresh = 1360
    c.algorithm.max_age = 50
    c.algorithm.measure_every = 0
    c.rounds.count = 8
    c.rounds.examples = 3000
    c.rounds.restart = False
    c.rounds.updates = 200
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.sampling.temperature = 1.0
    c.optim.decay = 0.2
    c.optim.clip_norm = 0.0
    if args.online:
        c.task.num_train = 1500
        c.algorithm.control_variate = "history"
        c.algorithm.refresh = 0
        c.algorithm.measure_every = 10
        c.rounds.online = True
        c.rounds.count = 200
        c.rounds.examples = 64
        c.rounds.updates = 1
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
        c.algorithm.refresh = 32
        c.rounds.count = 2
        c.rounds.examples = 64
        c.rounds.updates = 10
    if args.smoke and args.online:
        c.algorithm.refresh = 0
        c.algorithm.measure_every = 2
        c.rounds.count = 8
        c.rounds.examples = 16
        c.rounds.updates = 1
        c.eval.every = 4
    return c
