"""TRICE on a form of BIG-Bench Hard, from worked examples of its easy levels.

    python -m reasoning_jax.main --config=configs/trice_bbh.py:object_counting \\
        --workdir=runs/counting

It is tested on the published rows. Arguments: a form that has a generator (tasks/bbh_forms),
boolean_expressions where there is none; smoke.
"""

from reasoning_jax import config, default
from reasoning_jax.tasks import bbh_forms

# Worked examples of the form's levels, easiest first; the harder levels have none.
GIVEN = {
    "boolean_expressions": (50, 300, 300, 50),
    "navigate": (200, 300, 300, 50),
    "object_counting": (200, 300, 300, 50),
    "web_of_lies": (300, 300, 50),
}


def get_config(arg: str = ""):
    args = config.parse_arg(arg, form=tuple(bbh_forms.NAMES), smoke=False)
    c = default.get_config(algorithm="trice", task="bbh")
    c.task.form = args.form
    c.task.num_train = 1000  # chains
    c.task.num_eval = 250
    c.task.given = GIVEN.get(args.form, (200, 200, 200))
    c.sequence_length = 128
    c.batch_size = 16
    c.base.num_updates = 400
    c.base.learning_rate = 1e-3
    c.algorithm.max_age = 50
    c.rounds.online = True
    c.rounds.restart = False
    c.rounds.count = 100
    c.rounds.examples = 64
    c.rounds.updates = 1
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.sampling.temperature = 1.0
    c.sampling.max_new_tokens = 64
    c.optim.clip_norm = 0.0
    c.optim.decay = 0.5
    c.eval.every = 25
    c.eval.test_every = 25
    c.log_every = 1
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 64
        c.task.num_eval = 16
        c.task.given = (40, 40)
        c.base.num_updates = 60
        c.base.learning_rate = 1e-2
        c.algorithm.measure_every = 2
        c.rounds.count = 8
        c.rounds.examples = 16
        c.eval.every = 4
        c.eval.num_test = 32
        c.sampling.max_new_tokens = 32
        c.sampling.batch_size = 64
    return c
