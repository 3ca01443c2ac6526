"""Supervised fine-tuning on n-digit addition: the baselines of the STaR paper.

    python -m reasoning_jax.main --config=configs/sft_addition.py:direct --workdir=runs/sft_direct

``direct`` (the default) trains on the answers of all problems without a rationale; ``given`` trains
on the worked examples of configs/star_addition.py alone, for as many updates. Arguments: direct or
given, smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, data=("direct", "given"), smoke=False)
    c = default.get_config(algorithm="sft", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.algorithm.direct = args.data == "direct"
    c.sequence_length = 128
    c.batch_size = 24
    c.rounds.split = "train" if args.data == "direct" else "given"
    c.rounds.count = 1
    c.rounds.updates = 1500
    c.rounds.growth = 1.0
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    if args.smoke:
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 300)
        c.task.num_eval = 50
        c.batch_size = 16
        c.rounds.updates = 20
        c.rounds.min_kept_rows = 10
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 64
        c.checkpoint.every = 5
    return c
