"""DPO on preferences from a file, here 64 made-up ones on sums of one and two digits.

    python -m reasoning_jax.main --config=configs/dpo_jsonl.py --workdir=runs/dpo_jsonl --config.algorithm.pairs=FILE

Each line of FILE is an object with prompt, chosen and rejected. Other losses on the same pairs: config.algorithm.preference is
ipo or ipo_mean, config.algorithm.alpha is 1 (adds the NLL of the chosen side). kto reads prompt, completion and label.
"""

from pathlib import Path

from configs import star_addition


def get_config(arg: str = ""):
    c = star_addition.get_config(arg)
    c.sequence_length = 256  # of both halves of a pair, each with its prompt
    c.batch_size = 16
    c.algorithm.name = "dpo"
    c.algorithm.pairs = str(Path(__file__).with_name("pairs_addition.jsonl"))
    c.algorithm.restart = False
    c.algorithm.examples_per_round = 0
    c.algorithm.num_rounds = 2
    c.algorithm.start_updates = 20
    c.algorithm.min_kept_rows = 0
    c.algorithm.patience = 0
    c.optim.learning_rate = 1e-4
    return c
