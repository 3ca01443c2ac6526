"""GRPO on n-digit addition; as many samples as configs/trice_addition.py:online.

    python -m reasoning_jax.main --config=configs/grpo_addition.py --workdir=runs/grpo_addition
    ... --config.algorithm.kind=rloo                  or dr_grpo
    ... --config=configs/grpo_addition.py:dapo        asymmetric clipping, new questions for groups
                                                      that are all right or wrong, the soft penalty
                                                      of long ones
    ... --config.algorithm.kl=0.04                    with the KL divergence from the base model

Arguments: dapo, smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, dapo=False, smoke=False)
    grader = "rewards" if args.dapo else "exact"
    c = default.get_config(algorithm="policy_gradient", task="addition", grader=grader)
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.task.num_train = 1500
    c.sequence_length = 128
    c.batch_size = 24
    c.algorithm.kind = "grpo"
    c.algorithm.num_samples = 8
    c.rounds.online = True
    c.rounds.restart = False
    c.rounds.count = 200
    c.rounds.examples = 8
    c.rounds.updates = 1
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.sampling.temperature = 1.0
    c.optim.learning_rate = 3e-4
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
        c.rounds.examples = 2
        c.eval.every = 4
    if args.dapo:
        c.algorithm.kind = "dapo"
        c.algorithm.clip_high = 0.28
        c.algorithm.groups = c.rounds.examples
        c.rounds.examples *= 4
        c.grader.overlong = 0.5  # of rewards 0 and 1: the paper's are -1 and 1
        c.grader.overlong_tokens = 16
    return c
