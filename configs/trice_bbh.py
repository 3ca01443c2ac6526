"""TRICE on a form of BIG-Bench Hard, from worked examples of its easy levels; tested on the published rows.

    python -m reasoning_jax.main --config=configs/trice_bbh.py:object_counting --workdir=runs/trice_object_counting

The argument is a form that has a generator (reasoning_jax/bbh_forms), boolean_expressions where there is none; "FORM,smoke".
"""

from configs import default

# Worked examples of the form's levels, easiest first; the harder levels have none.
GIVEN = {
    "boolean_expressions": (50, 300, 300, 50),
    "navigate": (200, 300, 300, 50),
    "object_counting": (200, 300, 300, 50),
    "web_of_lies": (300, 300, 50),
}


def get_config(arg: str = ""):
    words = [word for word in arg.split(",") if word]
    forms = [word for word in words if word != "smoke"] or ["boolean_expressions"]
    if len(forms) > 1:
        raise ValueError(f"configs/trice_bbh.py takes a form and perhaps smoke, not {arg!r}.")
    c = default.get_config()
    c.task.name = "bbh"
    c.task.form = forms[0]
    c.task.num_train = 1000  # chains
    c.task.num_eval = 250
    c.task.given = GIVEN.get(forms[0], (200, 200, 200))
    c.sequence_length = 128
    c.batch_size = 16
    c.base.num_updates = 400
    c.base.learning_rate = 1e-3
    c.algorithm.name = "trice"
    c.algorithm.online = True
    c.algorithm.restart = False
    c.algorithm.num_rounds = 100
    c.algorithm.examples_per_round = 64
    c.algorithm.min_kept_rows = 0
    c.algorithm.patience = 0
    c.algorithm.max_age = 50
    c.sampling.temperature = 1.0
    c.sampling.max_new_tokens = 64
    c.optim.clip_norm = 0.0
    c.optim.decay = 0.5
    c.eval.every = 25
    c.eval.test_every = 25
    c.log_every = 1
    if "smoke" in words:
        c.model.preset = "tiny"
        c.task.num_train = 64
        c.task.num_eval = 16
        c.task.given = (40, 40)
        c.base.num_updates = 60
        c.base.learning_rate = 1e-2
        c.algorithm.num_rounds = 8
        c.algorithm.examples_per_round = 16
        c.algorithm.measure_every = 2
        c.eval.every = 4
        c.eval.num_test = 32
        c.sampling.max_new_tokens = 32
        c.sampling.batch_size = 64
    return c
