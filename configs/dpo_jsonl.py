"""DPO on preferences from a file, here 64 made-up ones on sums of one and two digits.

    python -m reasoning_jax.main --config=configs/dpo_jsonl.py --workdir=runs/dpo_jsonl \\
        --config.algorithm.pairs=FILE

Each line of FILE is an object with prompt, chosen and rejected. Other losses on the same pairs:
config.algorithm.preference is ipo or ipo_mean, config.algorithm.alpha is 1 (adds the NLL of the
chosen side). kto reads prompt, completion and label. Arguments: smoke.
"""

from pathlib import Path

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="dpo", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.algorithm.pairs = str(Path(__file__).with_name("pairs_addition.jsonl"))
    c.sequence_length = 256  # of both sides of a pair, each with its prompt
    c.batch_size = 16
    c.rounds.count = 2
    c.rounds.restart = False
    c.rounds.updates = 20
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.optim.learning_rate = 1e-4
    c.optim.decay = 0.2
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
    return c
