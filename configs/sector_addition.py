"""SECToR on addition: a model that was shown sums of up to 6 digits teaches itself up to 15.

    python -m reasoning_jax.main --config=configs/sector_addition.py --workdir=runs/sector_addition

Expect 8 minutes on a free core: fast accuracy on 15 digits from 5 to 100 % in nine rounds (three
seeds). Arguments: commutativity (both checks), vote or none; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False, checks=("commutativity", "vote", "none"))
    c = default.get_config(algorithm="sector", task="addition")
    c.algorithm.checks = args.checks
    c.task.form = "simplify"
    c.task.max_digits = 15
    c.task.given = (100, 1000, 2000, 2000, 2000, 2000)
    c.task.num_train = 7500
    c.task.num_eval = 100
    c.model.preset = "tiny"
    c.model.width = 128
    c.model.head_dim = 32
    c.model.mlp_dim = 384
    c.base.num_updates = 500
    c.base.learning_rate = 2e-3
    c.base.algorithm.hinted = 0.0
    c.sampling.max_new_tokens = 20
    c.sequence_length = 64
    c.batch_size = 32
    c.rounds.count = 12
    c.rounds.examples = 300
    c.rounds.updates = 80
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.rounds.patience = 0
    c.optim.learning_rate = 5e-4
    c.optim.b2 = 0.98
    c.optim.decay = 0.4
    c.eval.test_every = 0
    if args.smoke:
        c.algorithm.checks = "none"  # so small a model passes no other
        c.task.max_digits = 4
        c.task.given = (60, 200)
        c.task.num_train = 200
        c.task.num_eval = 20
        c.base.num_updates = 150
        c.rounds.count = 2
        c.rounds.examples = 20
        c.rounds.updates = 10
        c.rounds.min_kept_rows = 10
        c.batch_size = 16
        c.checkpoint.every = 5
    if c.algorithm.checks == "none":
        c.algorithm.num_simplifications = 1
    return c
