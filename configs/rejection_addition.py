"""Rejection sampling on n-digit addition: ReST-EM, or RFT, or the baseline of TRICE.

    python -m reasoning_jax.main --config=configs/rejection_addition.py --workdir=runs/rest_em
    python -m reasoning_jax.main --config=configs/rejection_addition.py:rft --workdir=runs/rft
    python -m reasoning_jax.main --config=configs/rejection_addition.py:four_particles \\
        --workdir=runs/four_particles

ReST-EM (the default): four rounds, each from the base model, on at most 10 of 32 samples a
question. RFT: one round on one sample of each path of 100, at temperature 0.7. Four particles: a
minibatch and an update a round, each question weighing 1. Arguments: rest_em, rft or
four_particles; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, method=("rest_em", "rft", "four_particles"), smoke=False)
    c = default.get_config(algorithm="rejection", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.sequence_length = 128
    c.batch_size = 24
    c.rounds.growth = 1.0
    c.rounds.patience = 0
    c.sampling.temperature = 0.7
    c.optim.decay = 0.2
    if args.method == "rest_em":
        c.algorithm.num_samples = 32
        c.algorithm.max_kept = 10
        c.rounds.count = 4
        c.rounds.examples = 500
        c.rounds.updates = 200
    if args.method == "rft":
        c.algorithm.num_samples = 100
        c.algorithm.distinct = True
        c.rounds.count = 1
        c.rounds.examples = 500
        c.rounds.updates = 400
    if args.method == "four_particles":
        c.algorithm.per_question = True
        c.rounds.online = True
        c.rounds.restart = False
        c.rounds.count = 200
        c.rounds.examples = 16
        c.rounds.updates = 1
        c.rounds.min_kept_rows = 0
        c.sampling.temperature = 1.0
        c.optim.learning_rate = 3e-4  # at 1e-3 it forgets the format
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
        c.batch_size = 16
        c.algorithm.num_samples = 4
        c.rounds.count = min(c.rounds.count, 2)
        c.rounds.examples = 16
        c.rounds.updates = 1 if c.rounds.online else 10
        c.rounds.min_kept_rows = 0
        c.eval.every = 1
    return c
