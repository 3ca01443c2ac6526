"""A form of bAbI by STaR or TRICE, from worked examples of its easy level alone.

    python -m reasoning_jax.main --config=configs/babi.py:two_facts --workdir=runs/babi_star
    python -m reasoning_jax.main --config=configs/babi.py:two_facts,trice --workdir=runs/babi_trice

The base model is shown stories of level 1 with their supporting facts. The rounds ask stories of
all five levels, of which only the answers are known; accuracy is reported level by level.
Arguments: star (the default) or trice; a form (tasks/babi.py), one_fact where there is none; smoke.
"""

from reasoning_jax import config, default
from reasoning_jax.tasks import babi

METHODS = ("star", "trice")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, method=METHODS, form=tuple(babi.FORMS), smoke=False)
    c = default.get_config(algorithm=args.method, task="babi")
    c.task.form = args.form
    c.task.given_levels = (1,)
    c.task.num_train = 8000
    c.base.num_updates = 1000
    c.base.learning_rate = 1e-3
    c.sequence_length = 192
    c.batch_size = 16
    c.sampling.max_new_tokens = 80
    c.eval.num_test = 500
    c.rounds.count = 8
    c.rounds.examples = 2000
    c.rounds.updates = 100
    c.rounds.growth = 1.0
    c.rounds.increment = 20
    c.rounds.patience = 0
    c.optim.decay = 0.2
    if args.method == "trice":  # Monte-Carlo EM over a memory of all chains
        c.task.num_train = 3000
        c.algorithm.control_variate = "none"
        c.algorithm.refresh = 1360
        c.algorithm.max_age = 50
        c.algorithm.measure_every = 0
        c.rounds.examples = 3000
        c.rounds.restart = False
        c.rounds.updates = 200
        c.rounds.increment = 0
        c.rounds.min_kept_rows = 0
        c.sampling.temperature = 1.0
        c.optim.clip_norm = 0.0
    if args.smoke:
        c.model.preset = "tiny"
        c.task.levels = (1, 2)
        c.task.num_train = 128
        c.task.num_held_out = 32
        c.base.num_updates = 60
        c.base.learning_rate = 1e-2
        c.sequence_length = 128
        c.batch_size = 8
        c.sampling.max_new_tokens = 40
        c.sampling.batch_size = 64
        c.checkpoint.every = 5
        c.rounds.count = 2
        c.rounds.examples = 128
        c.rounds.updates = 10
        c.rounds.increment = 0
        c.rounds.min_kept_rows = 0
    if args.smoke and args.method == "trice":
        c.algorithm.refresh = 64
    return c
